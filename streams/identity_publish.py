"""What the identity stage writes: records of six topics, in one transaction with all input offsets."""

from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaProducer

from models.linking import Send
from streams.batches import Row, batches, owner_of
from streams.publish import Output, Publisher, Refused

# Only the owner of an id writes what is keyed by it to this, so it goes to the partition number that it works on.
OWNED = frozenset(("moves",))

NO_ROWS: list[Row] = []

Place = tuple[str, int]


@dataclass(slots=True)
class Relayed(Output):
    """What one transaction of the identity stage publishes; topics go by their short names."""

    relayed: list[Send] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.relayed or self.dead)


class RelayPublisher(Publisher):
    """The transactional producer of one partition number; `topics` has the full names of all that it writes to."""

    def output(self, partition: int) -> Relayed:
        """An empty output for the next transaction."""
        if self._producer is None:
            raise Refused("the producer is closed")
        return Relayed()

    async def _send(self, producer: AIOKafkaProducer, partition: int, output: Output) -> list[Any]:
        pending: list[Any] = []
        if isinstance(output, Relayed):
            for (topic, place), rows in (await self._by_place(producer, partition, output.relayed)).items():
                pending += [await producer.send_batch(each, topic, partition=place) for each in batches(producer, rows)]
        return pending + await super()._send(producer, partition, output)

    async def _by_place(self, producer: AIOKafkaProducer, partition: int, sends: list[Send]) -> dict[Place, list[Row]]:
        """Records by topic and partition, each in the order in which they came to be."""
        found: dict[Place, list[Row]] = {}
        counts: dict[str, int] = {}
        topic, key, there = "", b"", NO_ROWS
        for send in sends:
            # What is said of one id comes together.
            if send.key != key or send.topic != topic:
                topic, key = send.topic, send.key
                if topic not in counts:
                    counts[topic] = len(await producer.partitions_for(self._topics[topic]))
                place = partition if topic in OWNED else owner_of(key.decode(), counts[topic])
                there = found.setdefault((topic, place), [])
            # The builder wants a list.
            there.append((send.record_ms, key, send.value, list(send.headers)))
        return {(self._topics[topic], place): rows for (topic, place), rows in found.items()}
