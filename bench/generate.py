"""The benchmark's data: seeded touches and conversions, keyed by person, in event-time order.

Every twentieth touch is followed by a conversion of the same person 50 ms later. People are drawn with a skew
(`u ** 1.5`), so the busiest has some hundreds of touches. The whole set spans less than the lookback. Touches of a
chunk are on the broker before the chunk's conversions, so record time (LogAppendTime) and event time agree on order.
"""

import json
import random
import sys
import time
from dataclasses import asdict, dataclass

import msgspec
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

SEED = 7
START_MS = 1_760_000_000_000
CHUNK = 20_000
CHANNELS = [
    "paid_search",
    "organic_search",
    "email",
    "paid_social",
    "display",
    "affiliate",
    "referral",
    "direct",
    "webinar",
    "event",
]


@dataclass(frozen=True)
class DataSet:
    """What was produced, and how many outputs a correct system gives for it."""

    touches: int
    conversions: int
    grouped: int
    flat: int
    late: int = 0
    duplicates: int = 0

    @property
    def events(self) -> int:
        """Input records that each system has to read."""
        return self.touches + self.conversions + self.duplicates


@dataclass(frozen=True)
class Naming:
    """Whom records name, and how: touches an id under `field`, of which `start` comes before the person in their key;
    conversions the person under `whole`. `kind` goes before the names of the topics."""

    kind: str = ""
    field: str = "person_id"
    start: str = ""
    whole: str = "person_id"


PERSONS = Naming()
USERS = Naming("raw-", "user_id", "", "user_id")
VISITORS = Naming("raw-", "anonymous_id", "anonymous:", "user_id")


def generate(
    broker: str,
    prefix: str,
    touches: int,
    partitions: int = 4,
    late: float = 0.0,
    duplicates: float = 0.0,
    naming: Naming = PERSONS,
) -> DataSet:
    """Fill `<prefix>.touches` and `<prefix>.conversions`, made where missing; `late` and `duplicates` are fractions.

    A late touch keeps its event time and is produced a fifth of the data set later; a duplicate is the same record
    again.
    """
    touches_topic, conversions_topic = f"{prefix}.{naming.kind}touches", f"{prefix}.{naming.kind}conversions"
    _create(broker, [touches_topic, conversions_topic], partitions)
    producer = Producer(
        {
            "bootstrap.servers": broker,
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 20,
            "batch.size": 1_000_000,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    draw, spoil = random.Random(SEED), random.Random(SEED + 1)
    encode = msgspec.json.Encoder().encode
    seen: dict[str, int] = {}
    waiting: list[tuple[int, str, bytes]] = []
    conversions: list[tuple[str, bytes]] = []
    flat = late_count = duplicate_count = conversion_count = 0
    for i in range(touches):
        person = f"p{int(touches // 10 * draw.random() ** 1.5):07d}"
        occurred_ms = START_MS + i * 100
        key = naming.start + person
        payload = encode({naming.field: person, **_touch(i, occurred_ms, draw)})
        seen[person] = seen.get(person, 0) + 1
        if late and spoil.random() < late:
            waiting.append((i + touches // 5, key, payload))
            late_count += 1
        else:
            producer.produce(touches_topic, key=key, value=payload)
        if duplicates and spoil.random() < duplicates:
            producer.produce(touches_topic, key=key, value=payload)
            duplicate_count += 1
        if i % 20 == 19:
            conversions.append((person, encode({naming.whole: person, **_conversion(i, occurred_ms + 50, draw)})))
            flat += 3 * seen[person] + 2
            conversion_count += 1
        if i % 1_000 == 0:
            producer.poll(0)
        if (i + 1) % CHUNK == 0:
            while waiting and waiting[0][0] <= i:
                _, key, value = waiting.pop(0)
                producer.produce(touches_topic, key=key, value=value)
            _release(producer, conversions_topic, conversions)
    for _, key, value in waiting:
        producer.produce(touches_topic, key=key, value=value)
    _release(producer, conversions_topic, conversions)
    return DataSet(touches, conversion_count, 5 * conversion_count, flat, late_count, duplicate_count)


def _release(producer: Producer, topic: str, conversions: list[tuple[str, bytes]]) -> None:
    _flush(producer)
    for key, value in conversions:
        producer.produce(topic, key=key, value=value)
    conversions.clear()
    _flush(producer)


def _flush(producer: Producer) -> None:
    left = producer.flush(60)
    if left:
        raise RuntimeError(f"{left} records were not produced within 60 s")


def _touch(i: int, occurred_ms: int, draw: random.Random) -> dict[str, object]:
    channel = draw.choice(CHANNELS)
    return {
        "event_id": f"t{i:09d}",
        "occurred_at": occurred_ms,
        "channel": channel,
        "campaign": f"cmp_{draw.randrange(200):03d}",
        "source": "google",
        "medium": "cpc",
        "content": f"ad_{draw.randrange(50)}",
        "url": f"https://shop.example/landing/{draw.randrange(1000)}?utm_source=google",
    }


def _conversion(i: int, occurred_ms: int, draw: random.Random) -> dict[str, object]:
    return {
        "conversion_id": f"c{i:09d}",
        "event_id": f"c{i:09d}",
        "occurred_at": occurred_ms,
        "type": "order",
        "value": f"{draw.random() * 200 + 5:.2f}",
        "currency": "USD",
    }


def _create(broker: str, topics: list[str], partitions: int) -> None:
    config = {"retention.ms": "-1", "message.timestamp.type": "LogAppendTime"}
    new = [NewTopic(t, partitions, 1, config=config) for t in topics]
    admin = AdminClient({"bootstrap.servers": broker})  # a name of its own: collected, it cancels its futures
    there = admin.list_topics(timeout=30).topics
    missing = [topic for topic in new if topic.topic not in there]
    for future in admin.create_topics(missing).values() if missing else ():
        future.result(30)


if __name__ == "__main__":
    began = time.monotonic()
    made = generate(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    print(json.dumps(asdict(made)), f"{time.monotonic() - began:.1f} s")
