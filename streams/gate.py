"""The gate: a conversion waits until the touches that were in the log before it have been processed.

First in, first out, dead letters included: offsets are committed up to the first record that still waits, so nothing
behind it may take effect before it.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.crediting import Event
from streams.publish import DeadLetter

# Says whether every touch below this offset has been processed.
Processed = Callable[[int], bool]


@dataclass(slots=True)
class Held:
    """A record of the conversions topic on its way: either an event or what is wrong with it."""

    offset: int
    record_ms: int
    arrived_s: float
    event: Event | None
    dead: DeadLetter | None = None
    end: int | None = None  # the end of the touches, asked for after `settle` had passed


class Pace:
    """How many conversions a step may release, so that its credits stay near an aim whatever the paths are like.

    Credits of a step are kept in memory and sent in one transaction, which has a timeout. How many a conversion gives
    is known only afterwards, so the number follows what the last step came to, and at most doubles.
    """

    def __init__(self, aim: int = 50_000, most: int = 2_000, first: int = 250) -> None:
        self._aim = aim
        self._most = most
        self.count = first

    def saw(self, released: int, credits: int) -> None:
        """A step released so many conversions, and they gave so many credits."""
        if released:
            fitting = self._aim * released // max(credits, released)
            self.count = max(1, min(self._most, fitting, 2 * self.count))


class Gate:
    """Held records of one partition number. `arrived_s` and `now_s` are of one monotonic clock."""

    def __init__(self, settle_ms: int, held_max: int) -> None:
        self._settle_ms = settle_ms
        self._settle_s = settle_ms / 1000
        self._held_max = held_max
        self._held: deque[Held] = deque()
        self._front_ms = -1

    def __len__(self) -> int:
        return len(self._held)

    @property
    def is_full(self) -> bool:
        """No more conversions should be fetched for now."""
        return len(self._held) >= self._held_max

    def first_offset(self, otherwise: int) -> int:
        """The offset of the first record that waits: offsets may be committed up to here."""
        return self._held[0].offset if self._held else otherwise

    def hold(self, records: Sequence[Held]) -> None:
        """Take records in the order of their offsets."""
        self._held.extend(records)

    def touches_reached(self, record_ms: int) -> None:
        """All touches up to this record time have been taken."""
        self._front_ms = max(self._front_ms, record_ms)

    def overdue(self, now_s: float) -> list[Held]:
        """Those for which `settle` has passed and no younger touch came: only the end of the touches can tell."""
        late_s = now_s - self._settle_s
        head = self._held[0] if self._held else None
        if head is None or head.end is not None or head.arrived_s > late_s or self._is_passed(head):
            return []
        return [held for held in self._held if held.arrived_s <= late_s]

    def release(self, now_s: float, processed: Processed, count_max: int) -> list[Held]:
        """Take out those whose touches are all there, at most `count_max`."""
        ready: list[Held] = []
        while self._held and len(ready) < count_max and self._may_go(self._held[0], now_s, processed):
            ready.append(self._held.popleft())
        return ready

    def wait_s(self, now_s: float, longest_s: float) -> float:
        """How long there is nothing to do here."""
        if not self._held:
            return longest_s
        due = self._held[0].arrived_s + self._settle_s - now_s
        return min(max(due, 0.005), longest_s)

    def _is_passed(self, held: Held) -> bool:
        """A touch was taken that is younger in record time than the conversion, by more than the settle time."""
        return self._front_ms >= held.record_ms + self._settle_ms

    def _may_go(self, held: Held, now_s: float, processed: Processed) -> bool:
        if self._is_passed(held):
            return True
        if held.end is None or now_s - held.arrived_s < self._settle_s:
            return False
        return processed(held.end)
