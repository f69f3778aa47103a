"""Named checks behind `/livez` and `/readyz`: each answers with a problem in words, or with None.

Live means: a restart would mend nothing. Ready means: credits flow, and nothing is wrong that a person must see.
A check is a plain function that reads what the worker knows already; what takes a question over the network is asked
elsewhere, by a timer, and handed in through `Reported`, which turns stale by itself when the timer stops.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

Ask = Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check says; `detail` is empty where it is fine."""

    name: str
    ok: bool
    detail: str = ""


class Health:
    """The checks of one worker, in the order they were added."""

    def __init__(self) -> None:
        self._ready: dict[str, Ask] = {}
        self._live: dict[str, Ask] = {}

    def add(self, name: str, ask: Ask, *, live: bool = False) -> None:
        """Add a check to readiness, and to liveness too where only a restart mends it. Names are unique."""
        if name in self._ready:
            raise ValueError(f"there is a check named {name!r} already")
        self._ready[name] = ask
        if live:
            self._live[name] = ask

    def readiness(self) -> list[Finding]:
        """Ask every check."""
        return [_asked(name, ask) for name, ask in self._ready.items()]

    def liveness(self) -> list[Finding]:
        """Ask the checks that only a restart mends."""
        return [_asked(name, ask) for name, ask in self._live.items()]


def _asked(name: str, ask: Ask) -> Finding:
    try:
        problem = ask()
    except Exception as error:  # a broken check must show as a failing one, never as a page that cannot be built
        problem = f"the check itself failed: {error!r}"
    return Finding(name, problem is None, problem or "")


class Reported:
    """A check whose answer comes from a timer: stale after `age_max_s`, and failing until it was first reported."""

    def __init__(self, age_max_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._age_max_s, self._now_s = age_max_s, now_s
        self._problem: str | None = "not asked yet"
        self._at_s: float | None = None

    def say(self, problem: str | None) -> None:
        """Report what was found just now; None is fine."""
        self._problem, self._at_s = problem, self._now_s()

    def __call__(self) -> str | None:
        if self._at_s is not None and self._now_s() - self._at_s > self._age_max_s:
            return f"last asked {self._now_s() - self._at_s:.0f} s ago"
        return self._problem


class DeadLetterTrip:
    """Trips while more than `share` of the last `window` records, and of at least `least`, were dead letters.

    One bad producer is no reason to be unready, but where most records are bad the topic holds something else than
    it should, and a person must look. It falls back when good records come again.
    """

    def __init__(self, share: float = 0.5, window: int = 10_000, least: int = 100) -> None:
        self._share, self._window, self._least = share, window, least
        self._steps: deque[tuple[int, int]] = deque()
        self._records = self._dead = 0

    def add(self, records: int, dead: int) -> None:
        """Count a step of `records` records, `dead` of them dead letters; a step without records is nothing."""
        if records <= 0:
            return
        self._steps.append((records, dead))
        self._records += records
        self._dead += dead
        while self._records - self._steps[0][0] >= self._window:
            gone = self._steps.popleft()
            self._records -= gone[0]
            self._dead -= gone[1]

    def __call__(self) -> str | None:
        if self._records < self._least or self._dead <= self._share * self._records:
            return None
        return f"{self._dead} of the last {self._records} records were dead letters: see `touchstream dead-letters ls`"
