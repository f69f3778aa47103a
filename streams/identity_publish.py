"""What the identity stage writes: records of six topics, in one transaction with all input offsets."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer

from models.linking import Send
from streams.murmur import partition_of
from streams.publish import Output, Publisher, Refused

# murmur2 in Python costs as much as the rest of an event; the people of today come again and again.
PLACES_MAX = 1 << 17

# Only the owner of an id writes what is keyed by it to these, so it goes to the partition number that it works on.
OWNED = frozenset(("touches", "conversions", "moves"))
# Journeys by account are kept wherever the account's partition is.
OWNED_BY_ACCOUNT = frozenset(("moves",))

Place = tuple[str, int]


@lru_cache(PLACES_MAX)
def owner_of(text: str, partitions: int) -> int:
    """The partition number that owns an id or a conversion's key, remembered."""
    return partition_of(text.encode(), partitions)


@dataclass(slots=True)
class Relayed(Output):
    """What one transaction of the identity stage publishes; topics go by their short names."""

    relayed: list[Send] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.relayed or self.dead)


class RelayPublisher(Publisher):
    """The transactional producer of one partition number; `topics` has the full names of all that it writes to.

    `owned` are those topics whose records go to that partition number; all others go to that of their key.
    """

    owned = OWNED

    def output(self, partition: int) -> Relayed:
        """An empty output for the next transaction."""
        if self._producer is None:
            raise Refused("the producer is closed")
        return Relayed()

    async def _send(self, producer: AIOKafkaProducer, partition: int, output: Output) -> list[Any]:
        pending: list[Any] = []
        if isinstance(output, Relayed):
            for (topic, place), sends in (await self._by_place(producer, partition, output.relayed)).items():
                pending += [
                    await producer.send_batch(batch, topic, partition=place) for batch in _batches(producer, sends)
                ]
        return pending + await super()._send(producer, partition, output)

    async def _by_place(self, producer: AIOKafkaProducer, partition: int, sends: list[Send]) -> dict[Place, list[Send]]:
        """Records by topic and partition, each in the order in which they came to be."""
        found: dict[Place, list[Send]] = {}
        counts: dict[str, int] = {}
        for send in sends:
            topic = send.topic
            place = partition
            if topic not in self.owned:
                if topic not in counts:
                    counts[topic] = len(await producer.partitions_for(self._topics[topic]))
                place = owner_of(send.key.decode(), counts[topic])
            there = found.get((topic, place))
            if there is None:
                there = found[topic, place] = []
            there.append(send)
        return {(self._topics[topic], place): records for (topic, place), records in found.items()}


def _batches(producer: AIOKafkaProducer, sends: list[Send]) -> list[Any]:
    """Records of one partition as Kafka batches; `send` for each of them would cost ten times as much."""
    full: list[Any] = []
    batch = producer.create_batch()
    # The C builder directly: BatchBuilder.append costs three times as much.
    append, count = batch._builder.append, 0
    for send in sends:
        headers = list(send.headers)
        if append(count, send.record_ms, send.key, send.value, headers) is None:
            full.append(_closed(batch, count))
            batch = producer.create_batch()
            append, count = batch._builder.append, 0
            append(0, send.record_ms, send.key, send.value, headers)
        count += 1
    full.append(_closed(batch, count))
    return full


def _closed(batch: Any, count: int) -> Any:
    # Its builder was filled directly, so the batch does not know its count.
    batch._relative_offset = count
    batch.close()
    return batch
