"""A Kafka of many partitions in this process, as the tasks of a stage see it: logs, group offsets, transactions.

Transactions are visible as a whole or not at all, and leave a marker's gap in each log they wrote to. Whoever starts a
producer fences the one before it. Record times are those of the world's clock, which moves on with each append.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from faust.types import TP

from streams.identity_publish import OWNED, Relayed
from streams.murmur import partition_of
from streams.native import load
from streams.publish import DeadLetter, Output, Superseded, Uncertain
from tests.support.read_back import new_output, published

Header = tuple[str, bytes | None]
_offset = attrgetter("offset")


class LogRecord(NamedTuple):
    """A record as aiokafka hands it out, as far as anybody looks."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header] = ()


@dataclass
class Log:
    """One partition of a topic."""

    records: list[LogRecord] = field(default_factory=list)
    end: int = 0

    def since(self, offset: int) -> list[LogRecord]:
        """Records at or beyond the offset."""
        return self.records[bisect_left(self.records, offset, key=_offset) :]

    def reaches(self, offset: int, end: int) -> bool:
        """Whether there is a record at or beyond `offset` and below `end`."""
        first = bisect_left(self.records, offset, key=_offset)
        return first < len(self.records) and self.records[first].offset < end


class Kafka:
    """What outlives a worker. `partitions` is the same of every topic."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.now_ms = 0
        self.logs: defaultdict[TP, Log] = defaultdict(Log)
        self.committed: dict[tuple[str, TP], int] = {}
        self.epochs: defaultdict[str, int] = defaultdict(int)
        self.dead: list[DeadLetter] = []
        # Every append in its order, for readers of whole topics.
        self.appended: defaultdict[str, list[tuple[int, LogRecord]]] = defaultdict(list)

    def append(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        at_ms: int = 0,
        headers: Sequence[Header] = (),
        partition: int | None = None,
    ) -> LogRecord:
        """A record at the end of its partition, not before `at_ms`, and later than every other one."""
        self.now_ms = max(self.now_ms + 1, at_ms)
        if partition is None:
            partition = partition_of(key or str(self.now_ms).encode(), self.partitions)
        log = self.logs[TP(topic, partition)]
        record = LogRecord(log.end, self.now_ms, key, value, headers)
        log.records.append(record)
        log.end += 1
        self.appended[topic].append((partition, record))
        return record

    def publish(self, group: str, partition: int, output: Output, offsets: Mapping[str, int]) -> None:
        """One transaction, whole."""
        written = set()
        for publication in published(output):
            for home in publication.homes or [partition]:
                written.add(TP("credits", home))
                for key, value in publication.records:
                    self.append("credits", key, value, partition=home)
        for topic, key, value in output.sends:
            self.append(topic, key, value)
            written.add(TP(topic, partition_of(key, self.partitions)))
        for tp in written:
            self.logs[tp].end += 1
        self.dead += output.dead
        self.committed.update({(group, TP(topic, partition)): offset for topic, offset in offsets.items()})


class Publisher:
    """The transactional producer of one worker. `fault` is what the next commit meets: `lost` or `unanswered`."""

    def __init__(self, kafka: Kafka, group: str, partition: int, crash_point: Callable[[str], None]) -> None:
        self._kafka, self._group = kafka, group
        self._id = f"{group}.{partition}"
        self._epoch = -1
        self._crash_point = crash_point
        self.fault = ""

    def output(self, partition: int) -> Output:
        # Workers with the compiled part and without take turns: they must be able to follow each other.
        return new_output(load() if self._epoch % 2 else None, partition)

    async def start(self) -> None:
        self._kafka.epochs[self._id] += 1
        self._epoch = self._kafka.epochs[self._id]

    async def stop(self) -> None:
        self._epoch = -1

    async def commit(self, partition: int, output: Output, offsets: Mapping[str, int]) -> None:
        self._crash_point("sent")
        if self._epoch != self._kafka.epochs[self._id]:
            raise Superseded("another producer took over")
        fault, self.fault = self.fault, ""
        if fault != "lost":
            self._publish(partition, output, offsets)
        if fault:
            raise Uncertain("no answer to the commit")

    def _publish(self, partition: int, output: Output, offsets: Mapping[str, int]) -> None:
        self._kafka.publish(self._group, partition, output, offsets)


class RelayPublisher(Publisher):
    """The producer of the identity stage: what it says of an id that it owns stays in its own partition number."""

    def output(self, partition: int) -> Relayed:
        return Relayed()

    def _publish(self, partition: int, output: Output, offsets: Mapping[str, int]) -> None:
        for send in output.records() if isinstance(output, Relayed) else ():
            home = partition if send.topic in OWNED else None
            self._kafka.append(send.topic, send.key, send.value, headers=send.headers, partition=home)
        super()._publish(partition, output, offsets)


class Consumer:
    """What a task asks of the transport."""

    def __init__(self, kafka: Kafka, group: str) -> None:
        self._kafka, self._group = kafka, group
        self.held_back: set[TP] = set()

    async def offsets(self, kind: str, tps: Iterable[TP]) -> dict[TP, int | None]:
        ask: dict[str, Callable[[TP], int | None]] = {
            "committed": lambda tp: self._kafka.committed.get((self._group, tp)),
            "beginning": lambda tp: 0,
            "end": lambda tp: self._kafka.logs[tp].end,
        }
        return {tp: ask[kind](tp) for tp in tps}

    async def first_record_ms(self, tp: TP) -> int | None:
        return next((record.timestamp for record in self._kafka.logs[tp].records), None)

    def partitions(self, topic: str) -> int:
        return self._kafka.partitions

    def known_end(self, tp: TP) -> int:
        return self._kafka.logs[tp].end

    def incarnation(self, partition: int) -> int:
        return 0

    def hold_back(self, tp: TP, yes: bool) -> None:
        (self.held_back.add if yes else self.held_back.discard)(tp)

    def has_read(self, tp: TP, processed: int, end: int) -> bool:
        """What lies below the end are markers only."""
        return processed >= end or not self._kafka.logs[tp].reaches(processed, end)

    def ack(self, message: Any) -> None:
        """Nothing is in flight here."""

    def invalidate(self, partition: int) -> None:
        self.held_back.clear()
