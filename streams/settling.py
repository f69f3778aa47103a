"""What is read first at a start: who is who, and touches before conversions.

Who is who: at a start, raw events wait until what the log says of ids by then has been read.

An event that comes out under the right person at once needs no journey that moves, and no conversion that is credited
twice. So a worker that starts behind, as in a replay of years, reads links and Identify records first, and then the
messages between owners that come of them. That is worth some patience, and nothing depends on it: events are let go in
any case after `WAIT_S`, and what is said of ids while the worker runs holds nobody up.

Touches: a visitor's touches and conversions come by way of different partition numbers, of which one is ahead of
another in what it has read. A conversion whose touches are still to come is credited twice, so conversions wait until
the touches that lay there at the start were read: those of their own partition number, and, for a while, of all others
that this worker has.
"""

import time
from collections.abc import Sequence

from faust.types import TP

from streams.transport import Consumer

WAIT_S = 60.0
# What is read up to the ends of then leads to messages between owners. They have come to rest when none came for so
# long; where many come all the time, that is not waited for much longer.
QUIET_S = 1.0
CHASE_S = 5.0
# How long conversions wait for touches of other partition numbers. All get on at the same pace, if they do.
OTHERS_S = 30.0
# How soon to look again where no record comes.
LOOK_EVERY_S = 0.05


class Settling:
    """Holds the topics of `events` back until those of `ids` were read so far."""

    def __init__(self, ids: Sequence[TP], events: Sequence[TP]) -> None:
        self._ids = tuple(ids)
        self._events = tuple(events)
        self._waits = self._said = False
        self._ends: dict[TP, int] = {}
        self._last_s = 0.0
        self._until_s = 0.0

    def __bool__(self) -> bool:
        """Whether events wait."""
        return self._waits

    async def begin(self, consumer: Consumer, applied: Sequence[int]) -> None:
        """After a claim: wait where anything is said of ids beyond the offsets `applied`."""
        found = await consumer.offsets("end", self._ids)
        self._ends = {tp: end for tp, end in found.items() if end is not None}
        self._waits = any(self._ends.get(tp, 0) > at for tp, at in zip(self._ids, applied, strict=True))
        self._last_s, self._said = time.monotonic(), False
        self._until_s = self._last_s + WAIT_S
        self._hold_back(consumer)

    def look(self, consumer: Consumer, read: Sequence[int], said: bool) -> None:
        """Before each step: `read` are the next offsets after it, and `said` whether it takes anything said of ids."""
        if not self:
            return
        now_s = time.monotonic()
        if said or self._said:
            # The step before was about ids: what came of it went out just now.
            self._last_s = now_s
        self._said = said
        if self._ends and all(
            consumer.has_read(tp, at, self._ends.get(tp, 0)) for tp, at in zip(self._ids, read, strict=True)
        ):
            self._ends = {}
            self._until_s = min(self._until_s, now_s + CHASE_S)
        at_rest = not self._ends and now_s - self._last_s >= QUIET_S
        self._waits = not at_rest and now_s < self._until_s
        self._hold_back(consumer)

    def _hold_back(self, consumer: Consumer) -> None:
        for tp in self._events:
            consumer.hold_back(tp, self._waits)


class TouchesFirst:
    """Holds raw conversions back until the raw touches of the start were read, here and where it is shared `behind`."""

    def __init__(self, touches: TP, conversions: TP, behind: set[int]) -> None:
        """`behind`: the partition numbers of this worker that have not read them yet; tasks share one set."""
        self._touches = touches
        self._conversions = conversions
        self._behind = behind
        self._waits = False
        self._end = 0
        self._until_s = 0.0

    def __bool__(self) -> bool:
        """Whether conversions wait."""
        return self._waits

    async def begin(self, consumer: Consumer, applied: int) -> None:
        """After a claim; `applied` is the next offset of the touches."""
        self._end = (await consumer.offsets("end", [self._touches]))[self._touches] or 0
        self._until_s = time.monotonic() + OTHERS_S
        if self._end > applied:
            self._behind.add(self._touches.partition)
        else:
            self.leave()
        self._waits = True
        self._hold_back(consumer)

    def look(self, consumer: Consumer, read: int) -> None:
        """Before each step: `read` is the next offset of the touches after it."""
        if not self:
            return
        if self._is_behind() and consumer.has_read(self._touches, read, self._end):
            self.leave()
            self._until_s = time.monotonic() + OTHERS_S
        self._waits = self._is_behind() or (bool(self._behind) and time.monotonic() < self._until_s)
        self._hold_back(consumer)

    def leave(self) -> None:
        """Let nobody wait for this partition number any more."""
        self._behind.discard(self._touches.partition)

    def _is_behind(self) -> bool:
        return self._touches.partition in self._behind

    def _hold_back(self, consumer: Consumer) -> None:
        consumer.hold_back(self._conversions, self._waits)
