"""The trip wire: a partition that gets more dead letters than records of use stops, until a person says go on.

A topic that suddenly holds something else (another format, another team's records) would fill the dead letters with
all of it, and hide what is wrong behind a busy worker. So where more than half of the last 1,000 records of a partition
are dead, nothing more of it is published. That stands in the store, beside `applied`, so that a restart or another
worker does not begin anew; `touchstream dead-letters accept` changes it there, and the owner of the partition goes on.
Accepted, the wire is loose until half of the last 1,000 records are good again.

    (nothing)  -- owner -->  tripped  -- accept, if it still says so -->  accepted  -- owner -->  (nothing)
"""

from collections import deque
from collections.abc import Iterable, Sequence

from streams.decode import Taken
from streams.publish import DeadLetter

# The subkey of a partition under which the store keeps it.
TRIP = b"trip"
TRIPPED, ACCEPTED = b"tripped: ", b"accepted: "
WINDOW = 1_000


class Tripped(Exception):
    """More than half of the last records are dead letters; nothing of this step was published."""


class TripWire:
    """Watches one partition number from a claim on. `stored` is what the store keeps under `TRIP`."""

    def __init__(self, stored: bytes | None = None) -> None:
        self.loose = stored is not None and stored.startswith(ACCEPTED)
        self._last: deque[bool] = deque(maxlen=WINDOW)
        self._dead = 0

    def trips(self, flags: Sequence[bool]) -> bool:
        """Take the records of a step in their order, True for dead ones; whether more than half were at any time."""
        last, dead = self._last, self._dead
        tripped = False
        if dead + sum(flags) > WINDOW // 2:
            for flag in flags:
                dead += flag - (last[0] if len(last) == WINDOW else 0)
                last.append(flag)
                tripped = tripped or dead > WINDOW // 2
        else:
            last.extend(flags[-WINDOW:])
        self._dead = sum(last)
        return tripped and not self.loose

    def heals(self) -> bool:
        """Whether an accepted flood is over; the wire is tight from then on."""
        if self.loose and len(self._last) == WINDOW and self._dead <= WINDOW // 2:
            self.loose = False
            return True
        return False

    @property
    def is_calm(self) -> bool:
        """Good records change nothing."""
        return not self.loose and not self._dead


def flags_of(taken: Taken, dead: Iterable[DeadLetter], touches: str, conversions: str) -> list[bool]:
    """The records of a step in the order of their offsets, touches first: True for those that are dead letters.

    Corrections that waited in vain are left out: they came long ago. So are moves, which are our own.
    """
    dead_touches = {letter.offset for letter in dead if letter.topic == touches}
    dead_conversions = {letter.offset for letter in dead if letter.topic == conversions}
    good = (*(touch[0] for touch in taken.touches), *(offset for offset, _ in taken.filtered))
    offsets = sorted([*good, *dead_touches])
    return [o in dead_touches for o in offsets] + [held.offset in dead_conversions for held in taken.conversions]
