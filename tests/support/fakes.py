"""Fakes for the edges of a partition task: a Kafka of one partition number, transport, publisher, store and clock.

They behave, they are not told what to answer: offsets have gaps where transaction markers lie, a producer is fenced by
its epoch, a transaction is visible as a whole or not at all. What takes effect is written into one ledger in the order
in which it took effect (`published`, `saved`, `acked`), so that a wrong order fails a test.
"""

import asyncio
import selectors
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple
from unittest import mock

from faust.types import TP

from state.memory import MemoryStore
from state.store import Writes
from streams import credit_task, decode, patience, step
from streams.native import Native
from streams.publish import DeadLetter, Output, Refused, Superseded, Uncertain
from streams.topics import Topics
from streams.transport import BATCHES_IN_FLIGHT, Batch
from tests.support.read_back import new_output, published

TOPICS = Topics("touches", "conversions", "moves", "credits", "dead-letters")
TOUCHES, CONVERSIONS, MOVES = (TP(topic, 0) for topic in (TOPICS.touches, TOPICS.conversions, TOPICS.moves))
START_MS = 1_714_564_800_000  # 2024-05-01T12:00:00Z

Header = tuple[str, bytes | None]


class LogRecord(NamedTuple):
    """A record as aiokafka hands it out, as far as anybody looks."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header] = ()


class Credit(NamedTuple):
    """A record of the credits topic; `transaction` numbers the transaction that brought it, `home` is its partition."""

    offset: int
    timestamp: int
    key: bytes
    value: bytes | None
    transaction: int
    home: int = 0


Ledger = list[tuple[Any, ...]]


async def _go_on(_: str) -> None:
    """A pause before something takes effect, as short as can be; a test may put a longer one in its place."""
    await asyncio.sleep(0)


@dataclass
class Log:
    """One partition of a topic: its records, the next offset, and where it starts."""

    records: list[LogRecord] = field(default_factory=list)
    end: int = 0
    start: int = 0

    def append(
        self, key: bytes | None, value: bytes | None, record_ms: int, headers: Sequence[Header] = ()
    ) -> LogRecord:
        """A record at the end."""
        record = LogRecord(self.end, record_ms, key, value, headers)
        self.records.append(record)
        self.end += 1
        return record

    def gap(self, count: int = 1) -> None:
        """Offsets without a record, as markers of a producer's transactions take them."""
        self.end += count

    def since(self, offset: int, count: int | None = None) -> list[LogRecord]:
        """Records at or beyond the offset, at most `count`."""
        first = bisect_left(self.records, max(offset, self.start), key=attrgetter("offset"))
        return self.records[first:] if count is None else self.records[first : first + count]


class Kafka:
    """What outlives a worker: the input logs, the group's offsets, and what read_committed readers see."""

    def __init__(self) -> None:
        self.logs = {TOUCHES: Log(), CONVERSIONS: Log(), MOVES: Log()}
        self.committed: dict[str, int] = {}
        self.credits: list[Credit] = []
        self.dead: list[DeadLetter] = []
        self.epoch = 0
        self.transactions = 0
        self.ledger: Ledger = []

    def end(self) -> tuple[int, ...]:
        """The next offset after the last record of each input topic."""
        return tuple(log.records[-1].offset + 1 if log.records else log.start for log in self.logs.values())

    def publish(self, output: Output, offsets: Mapping[str, int]) -> None:
        """One transaction, whole."""
        self.transactions += 1
        publications = published(output)
        for publication in publications:
            record_ms = publication.source.record_ms
            for home in publication.homes or [0]:
                for key, value in publication.records:
                    self.credits.append(Credit(len(self.credits), record_ms, key, value, self.transactions, home))
        self._send(output.sends)
        self.dead += output.dead
        self.committed.update(offsets)
        self.ledger.append(
            ("published", sum(len(p.records) for p in publications), len(output.dead), tuple(offsets.values()))
        )

    def _send(self, sends: Sequence[tuple[str, bytes, bytes]]) -> None:
        """Records for `moves`, and the marker behind them; the broker's clock stands at the latest record time."""
        assert {kind for kind, _, _ in sends} <= {"moves"}
        now_ms = max((log.records[-1].timestamp for log in self.logs.values() if log.records), default=START_MS)
        for _, key, value in sends:
            self.logs[MOVES].append(key, value, now_ms)
        if sends:
            self.logs[MOVES].gap()


class Publisher:
    """The transactional producer of one worker. `faults` holds what the next commits meet: see `commit`."""

    def __init__(self, kafka: Kafka, crash_point: Callable[[str], None] = lambda _: None) -> None:
        self._kafka = kafka
        self._crash_point = crash_point
        self._epoch: int | None = None
        self.faults: deque[str] = deque()
        self.pause: Callable[[str], Awaitable[None]] = _go_on
        # The compiled part, where credits shall go through it.
        self.native: Native | None = None

    def output(self, partition: int) -> Output:
        """An empty output that keeps its publications, as objects or as record batches."""
        return new_output(self.native, partition)

    async def start(self) -> None:
        await asyncio.sleep(0)
        self._kafka.epoch += 1
        self._epoch = self._kafka.epoch

    async def stop(self) -> None:
        self._epoch = None

    async def commit(self, partition: int, output: Output, offsets: Mapping[str, int]) -> None:
        """Faults: `refused` (aborted), `lost` and `unanswered` (uncertain: it did not or did go through)."""
        if self._epoch is None:
            raise Refused("the producer is closed")
        fault = self.faults.popleft() if self.faults else ""
        await asyncio.sleep(0)
        self._crash_point("sent")
        if fault == "refused":
            raise Refused("a batch was refused")
        await self.pause("commit")
        if self._epoch != self._kafka.epoch:
            raise Superseded("another producer took over")
        if fault != "lost":
            self._kafka.publish(output, offsets)
        if fault:
            raise Uncertain("no answer to the commit")


class Store:
    """A memory store that notes what it saved. `faults` holds exceptions that the next calls raise.

    A fault that is a pair (`"after"`, exception) strikes when the call has taken effect: its reply was lost.
    """

    def __init__(self, memory: MemoryStore, ledger: Ledger) -> None:
        self.memory = memory
        self.faults: deque[Exception | tuple[str, Exception]] = deque()
        self.before: Callable[[str], None] = lambda _: None
        self.pause: Callable[[str], Awaitable[None]] = _go_on
        self._ledger = ledger

    async def claim(self, partition: int, token: bytes) -> bytes | None:
        applied: bytes | None = await self._call("claim", lambda: self.memory.claim(partition, token))
        return applied

    async def begin(self, partition: int, token: bytes, applied: bytes) -> None:
        await self._call("begin", lambda: self.memory.begin(partition, token, applied))

    async def load(self, partition: int, token: bytes, applied: bytes, subkeys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = await self._call(
            "load", lambda: self.memory.load(partition, token, applied, subkeys)
        )
        return found

    async def save(
        self, partition: int, token: bytes, applied: bytes, next_applied: bytes, writes: Writes
    ) -> list[bytes]:
        async def save() -> list[bytes]:
            grown = await self.memory.save(partition, token, applied, next_applied, writes)
            self._ledger.append(("saved", next_applied))
            return grown

        grown: list[bytes] = await self._call("save", save)
        return grown

    async def drop(self, partition: int, token: bytes) -> None:
        await self._call("drop", lambda: self.memory.drop(partition, token))

    async def _call(self, name: str, act: Callable[[], Any]) -> Any:
        await self.pause(name)
        self.before(name)
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        result = await act()
        if fault is not None:
            raise fault[1]
        return result


@dataclass
class Message:
    """What Faust sees of a batch."""

    value: Batch
    acked: bool = False


@dataclass
class Event:
    """A batch on its way to the task."""

    message: Message


class Chunk(NamedTuple):
    """Records on their way from the fetcher to the transport: fetched from one position to another, for one claim."""

    records: list[LogRecord]
    start: int
    end: int
    incarnation: int


class Consumer:
    """The batch transport of one worker, as far as a partition task knows it.

    A fetch moves the position when it is asked for (`ask`); its records come later (`land`), perhaps after a claim has
    moved the position elsewhere. `batch` hands a part of what came out. The rules are those of `streams.transport`:
    what comes is accepted only of the present claim, and only if it begins where the last one ended; nothing is fetched
    of what is held back; few batches are in flight; an incarnation a claim.
    """

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._claimed = True
        self._next: dict[TP, int] = {}
        self._position: dict[TP, int] = {}
        self._reached: dict[TP, int] = {}
        self._flying: dict[TP, Chunk] = {}
        self._taken: defaultdict[TP, list[LogRecord]] = defaultdict(list)
        self._incarnation = 0
        self._in_flight = 0
        self.held_back: set[TP] = set()
        self.handed: list[Message] = []
        self.put_back = 0
        self.went_back = False
        # What the broker has told of beyond what was handed out.
        self.to_come = 0

    # -- what the task asks

    async def offsets(self, kind: str, tps: Iterable[TP]) -> dict[TP, int | None]:
        await asyncio.sleep(0)
        logs = self._kafka.logs
        ask: dict[str, Callable[[TP], int | None]] = {
            "committed": lambda tp: self._kafka.committed.get(tp.topic),
            "beginning": lambda tp: logs[tp].start,
            "end": lambda tp: logs[tp].end if tp in logs else len(self._kafka.credits),
        }
        return {tp: ask[kind](tp) for tp in tps}

    async def first_record_ms(self, tp: TP) -> int | None:
        await asyncio.sleep(0)
        return next((record.timestamp for record in self._kafka.logs[tp].since(0)), None)

    def partitions(self, topic: str) -> int:
        return 1

    def known_end(self, tp: TP) -> int | None:
        return self._kafka.logs[tp].end

    def is_to_come(self, partition: int, records: int) -> bool:
        return records <= self.to_come

    def incarnation(self, partition: int) -> int:
        return self._incarnation

    def hold_back(self, tp: TP, yes: bool) -> None:
        (self.held_back.add if yes else self.held_back.discard)(tp)

    def has_read(self, tp: TP, processed: int, end: int) -> bool:
        """Not what has been fetched counts, but what was accepted; the position runs ahead of what is on its way."""
        return processed >= end or (
            self._next[tp] == processed and tp not in self._flying and self._position[tp] >= end
        )

    def ack(self, message: Message) -> None:
        if not message.acked:
            message.acked = True
            self._kafka.ledger.append(("acked", message.value.incarnation))
            if message.value.incarnation == self._incarnation:
                self._in_flight -= 1

    def invalidate(self, partition: int) -> None:
        self._incarnation += 1
        self._in_flight = 0
        self._taken.clear()
        self.held_back.clear()

    async def reseek(self, partition: int, starts: Mapping[TP, int]) -> None:
        self._claimed = False
        self.invalidate(partition)
        await asyncio.sleep(0)
        self.seek(starts)

    # -- what a test does

    def assign(self) -> None:
        """What a rebalance does before the claim: positions are where Kafka's group protocol says they are."""
        self._claimed = False
        self.invalidate(0)
        for tp in self._kafka.logs:
            self._position[tp] = self._kafka.committed.get(tp.topic, 0)

    def seek(self, starts: Mapping[TP, int]) -> None:
        """Where a claim said that reading starts; from now on records are accepted."""
        self._taken.clear()
        for places in (self._next, self._reached, self._position):
            places.update(starts)
        self._claimed = True
        self.went_back = False

    def go_back(self) -> bool:
        """Break the promise: hand out again what was done already, without a claim. False where nothing was done, or
        the promise is broken already.
        """
        done = [m.value for m in self.handed if m.acked and m.value.incarnation == self._incarnation]
        if not done or self.went_back:
            return False
        tp, records = next((tp, part) for tp, part in zip(self._kafka.logs, done[0].parts, strict=True) if part)
        self._taken[tp].clear()
        self._flying.pop(tp, None)
        self._next[tp] = self._reached[tp] = self._position[tp] = records[0].offset
        self.went_back = True
        return True

    def fetch(self, tp: TP, count: int) -> None:
        """Take up to so many records at once; at the end of the log the position moves past markers too."""
        self.ask(tp, count)
        self.land(tp)

    def ask(self, tp: TP, count: int) -> None:
        """Begin a fetch of up to so many records."""
        if tp in self.held_back or tp in self._flying or tp not in self._position:
            return
        log, start = self._kafka.logs[tp], self._position[tp]
        if start >= log.end:
            return
        records = log.since(start, count)
        ends_there = not records or records[-1].offset == log.records[-1].offset
        self._position[tp] = log.end if ends_there else records[-1].offset + 1
        self._flying[tp] = Chunk(records, start, self._position[tp], self._incarnation)

    def land(self, tp: TP) -> None:
        """A fetch that was begun comes in; what may not be accepted is put back."""
        chunk = self._flying.pop(tp, None)
        if chunk is None:
            return
        current = self._claimed and chunk.incarnation == self._incarnation
        if not current or chunk.start != self._reached.get(tp):
            self.put_back += len(chunk.records)
            self._position[tp] = self._reached.get(tp, self._position[tp])
            return
        self._reached[tp] = chunk.end
        if chunk.records:
            self._taken[tp] += chunk.records
            self._next[tp] = chunk.records[-1].offset + 1

    def batch(self, touches: int, conversions: int, moves: int = 9) -> Event | None:
        """Hand out so many of the records that were fetched; None where there are none or the window is full."""
        if not self._claimed or self._in_flight >= BATCHES_IN_FLIGHT:
            return None
        parts = []
        for tp, count in ((TOUCHES, touches), (CONVERSIONS, conversions), (MOVES, moves)):
            taken = self._taken[tp]
            parts.append(taken[:count])
            self._taken[tp] = taken[count:]
        if not any(parts):
            return None
        self._in_flight += 1
        message = Message(Batch(0, tuple(parts), self._incarnation))
        self.handed.append(message)
        return Event(message)


# Time


class Clock:
    """Machine time of a simulation, seconds; stands in for the `time` module."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s

    perf_counter = monotonic


class _Selector(selectors.SelectSelector):
    """Where asyncio would sleep, the clock moves on instead."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("every task waits, and no timer is set: nothing can happen any more")
        if timeout > 0:
            self._clock.now_s += timeout
        return []  # nothing outside is waited for, so the system need not be asked


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time; the same program takes the same course each time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(_Selector(clock))
        self._clock = clock

    def time(self) -> float:
        return self._clock.now_s


@contextmanager
def virtual_time() -> Iterator[asyncio.Runner]:
    """A runner of coroutines in virtual time, in which the processor and the decoder live too."""
    clock = Clock()
    with (
        mock.patch.object(credit_task, "time", clock),
        mock.patch.object(step, "time", clock),
        mock.patch.object(decode, "time", clock),
        mock.patch.object(patience, "time", clock),
        asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner,
    ):
        yield runner
