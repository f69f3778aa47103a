"""The part of the fault suite that needs no servers: seeded worlds of 5,000 people, against the oracle.

Alone: `python -m tests.worlds.run --people 5000 --seeds 20 --jobs 2`.
"""

import sys
import time
from dataclasses import dataclass

from tests.worlds import run
from tests.worlds.run import Result

PEOPLE = 5_000
NAME = f"worlds of {PEOPLE:,} people"
ALL = range(20)
# One whose ids are resolved outside, and one that goes through the identity stage.
SOME = range(1, 3)
JOBS = 2


@dataclass(frozen=True)
class Played:
    """What came of the worlds, and what is wrong: empty where all is well."""

    result: Result
    seconds: float
    wrong: list[str]

    @property
    def is_clean(self) -> bool:
        """Whether worlds ran, and every reader in them had what the oracle computes."""
        return bool(self.result.worlds) and not self.wrong

    def lines(self) -> list[str]:
        """What the report says of them."""
        worlds, seen = self.result.worlds, self.result.seen
        came_up = ", ".join(f"{seen[name]:,} {name}" for name in ("quiet points", "credits", "merged", "crash"))
        head = f"{NAME}: {worlds}, {len(self.result.failures)} failed; {came_up}; {self.seconds:.0f} s"
        return [head, *self.wrong]


def play(full: bool) -> Played:
    """All of them, or a tenth."""
    started_s = time.monotonic()
    result = run.many(ALL if full else SOME, JOBS, _say, PEOPLE)
    return Played(result, time.monotonic() - started_s, run.verdict(result))


def _say(result: Result) -> None:
    print(f"{NAME}: {result.worlds}, {len(result.failures)} failed", file=sys.stderr)
