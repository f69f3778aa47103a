"""A drawn world through a running `touchstream run`, compared with the oracle: for tests of how it is connected.

The test's own part goes around what is under test: it writes and reads by `broker`, the open way in.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, Message, Producer
from redis import Redis
from redis.cluster import RedisCluster

from state import keys
from streams.step import Applied
from tests.support import oracle, product, readers, worlds

APPLIED_SECONDS = 120.0  # a fence, not a claim
POLL_S = 0.02
FLUSH_S = 30.0
ATTRIBUTION = '[attribution]\nmodels = ["linear", "last_touch"]\n[web]\nport = 0\n'
POLICY = {
    "attribution": {
        "models": ["linear", "last_touch"], "lookback": "30d", "max_touches": 500, "allowed_lateness": "7d",
    },
    "processing": {"settle": "250ms"},
}  # fmt: skip
Store = Redis | RedisCluster
Ends = dict[tuple[str, int], int]


def check_run(
    config: Path,
    broker: str,
    store: Store,
    prefix: str,
    seed: int,
    *,
    people: int = 40,
    env: Mapping[str, str] | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> int:
    """Run workers with this file until a drawn world is applied, twice a half; the number of credits, all right.

    `meanwhile` is called between the two halves. The attribution of the file has to be ATTRIBUTION.
    """
    world = worlds.draw(seed, people=people)
    names = {name: f"{prefix}.{name}" for name in ("touches", "conversions", "credits")}
    halves = [(world.touches[n::2], world.conversions[n::2]) for n in (0, 1)]
    ends: Ends = {}
    with product.running("run", "--config", config, env=env) as running:
        for number, half in enumerate(halves):
            for topic, records in zip((names["touches"], names["conversions"]), half, strict=True):
                _send(broker, topic, records, ends)
            _await_applied(store, prefix, names, ends, running)
            if number == 0:
                meanwhile()
        assert product.stop(running.process) == 0, running.said()
    logs = [_logged(broker, names[name]) for name in ("touches", "conversions")]
    expected = oracle.comparable(oracle.final_view(logs[0], logs[1], POLICY), without=_WITHOUT)
    records = readers.read_topic(broker, names["credits"])
    assert readers.repeated(records) == []
    view = readers.append_only_view(records)
    assert readers.upsert_view(records) == view
    got = oracle.comparable(view, without=_WITHOUT)
    assert expected
    assert got == expected
    return len(got)


_WITHOUT = (*oracle.NOT_THE_ORACLES, "reason")


def _send(broker: str, topic: str, records: list[worlds.Record], ends: Ends) -> None:
    def delivered(error: KafkaError | None, message: Message) -> None:
        assert error is None, str(error)
        place = (topic, message.partition() or 0)
        ends[place] = max(ends.get(place, 0), (message.offset() or 0) + 1)

    producer = Producer({"bootstrap.servers": readers.hosts(broker), "partitioner": "murmur2_random", "acks": "all"})
    for record in records:
        producer.produce(topic, worlds.line(record).encode(), record["person_id"].encode(), on_delivery=delivered)
    assert producer.flush(FLUSH_S) == 0, "the broker did not take the input"


def _await_applied(store: Store, prefix: str, names: Mapping[str, str], ends: Ends, running: product.Running) -> None:
    deadline = time.monotonic() + APPLIED_SECONDS
    for partition in sorted({partition for _, partition in ends}):
        wanted = [ends.get((names[name], partition), 0) for name in ("touches", "conversions")]
        while _applied(store, prefix, partition) != wanted:
            running.check_alive()
            assert time.monotonic() < deadline, f"partition {partition} is not at {wanted}\n{running.said()}"
            time.sleep(POLL_S)


def _applied(store: Store, prefix: str, partition: int) -> list[int]:
    text: Any = store.get(keys.prefix(prefix, partition) + keys.APPLIED)
    return [] if text is None else list(Applied.parse(text).offsets[:2])


def _logged(broker: str, topic: str) -> list[dict[str, Any]]:
    """The records of an input topic as the oracle wants them, with the record times of the log."""
    return [
        {**json.loads(r.value or b""), "_record_ms": r.timestamp_ms, "_order": r.offset}
        for r in readers.read_topic(broker, topic)
    ]
