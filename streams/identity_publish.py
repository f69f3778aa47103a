"""What the identity stage writes: records of six topics, in one transaction with all input offsets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaProducer

from models.linking import Deliveries, Send
from streams.batches import Row, batches
from streams.compiled import NO_PACKED_HEADERS, CompiledPublisher, packed, varint, written
from streams.native import Batches
from streams.publish import BATCH_BYTES, Output, Publisher, Refused

# Only the owner of an id writes what is keyed by it to this, so it goes to the partition number that it works on.
OWNED = frozenset(("moves",))

NO_ROWS: list[Row] = []
NO_HEADERS: list[tuple[str, bytes | None]] = []
# The topics that records go to, by their short names.
WRITTEN = ("links", "moves", "touches", "conversions", "raw-touches", "raw-conversions")

Place = tuple[str, int]


@dataclass(slots=True)
class Relayed(Output):
    """What one transaction of the identity stage publishes; topics go by their short names."""

    relayed: list[Send | Deliveries] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.relayed or self.dead)

    def records(self) -> Iterator[Send]:
        """Record by record."""
        for each in self.relayed:
            if isinstance(each, Send):
                yield each
            else:
                yield from each.sends()


class RelayPublisher(Publisher):
    """The transactional producer of one partition number; `topics` has the full names of all that it writes to."""

    def output(self, partition: int) -> Relayed:
        """An empty output for the next transaction."""
        if self._producer is None:
            raise Refused("the producer is closed")
        return Relayed()

    async def _send(self, producer: AIOKafkaProducer, partition: int, output: Output) -> list[Any]:
        pending: list[Any] = []
        if isinstance(output, Relayed) and output.relayed:
            counts = {topic: len(await producer.partitions_for(self._topics[topic])) for topic in WRITTEN}
            for (topic, place), full in self._by_place(producer, partition, output, counts).items():
                name = self._topics[topic]
                pending += [await producer.send_batch(each, name, partition=place) for each in full]
        return pending + await super()._send(producer, partition, output)

    def _by_place(
        self, producer: AIOKafkaProducer, partition: int, output: Relayed, counts: Mapping[str, int]
    ) -> dict[Place, list[Any]]:
        """Records as batches by topic and partition, each in the order in which they came to be."""
        found: dict[Place, list[Row]] = {}
        topic, key, there = "", b"", NO_ROWS
        for send in output.records():
            # What is said of one id comes together.
            if send.key != key or send.topic != topic:
                topic, key = send.topic, send.key
                place = partition if topic in OWNED else self._owner_of(key, counts[topic])
                there = found.setdefault((topic, place), [])
            # The builder wants a list.
            headers = list(send.headers) if send.headers else NO_HEADERS
            there.append((send.record_ms, key, send.value, headers))
        return {place: batches(producer, rows) for place, rows in found.items()}


class CompiledRelayPublisher(CompiledPublisher, RelayPublisher):
    """The same, whose batches the compiled part writes."""

    def _by_place(
        self, producer: AIOKafkaProducer, partition: int, output: Relayed, counts: Mapping[str, int]
    ) -> dict[Place, list[Any]]:
        found: dict[Place, Batches] = {}
        append, deliver, owner_of = self._native.append, self._native.deliver, self._native.owner_of
        for each in output.relayed:
            topic = "touches" if isinstance(each, Deliveries) else each.topic
            place = topic, partition if topic in OWNED else owner_of(each.key, counts[topic])
            there = found.get(place)
            if there is None:
                there = found[place] = self._native.batches(BATCH_BYTES)
            if isinstance(each, Deliveries):
                deliver(there, each.key, each.tail, each.touches)
            else:
                headers = _packed_headers(each.headers) if each.headers else NO_PACKED_HEADERS
                append(there, each.record_ms, each.key, each.value, headers)
        return {place: written(self._native, there) for place, there in found.items()}


def _packed_headers(headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    return varint(len(headers)) + b"".join([packed(name) + packed(content) for name, content in headers])
