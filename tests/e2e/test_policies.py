"""A policy that changes while two workers run, of which one has the old file and one the new."""

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from redis import Redis

from models.schedule import LEAD_MS
from models.times import format_time
from streams.settings import Settings, load_settings
from streams.topics import apply, names, topics_of
from tests.support import product, readers, stages

CONFIG = """
[attribution]
models = ["{attribution_model}"]
{more}
[web]
port = 0
[identity]
enabled = false
"""
PEOPLE = 8
Row = dict[str, Any]


@dataclass
class Place:
    """Servers, and files that differ in their policies."""

    settings: Settings
    folder: Path
    where: tuple[object, ...]
    producer: Producer

    def file(self, name: str, attribution_model: str, more: str = "") -> Path:
        path = self.folder / f"{name}.toml"
        path.write_text(CONFIG.format(attribution_model=attribution_model, more=more))
        return path

    def work(self, file: Path) -> AbstractContextManager[product.Running]:
        return product.running("run", *self.where, "--config", file)

    def refused(self, file: Path) -> str:
        done = product.touchstream("run", *self.where, "--config", file)
        assert done.code == 2, done.said()
        return done.stderr

    def send(self, topic: str, *records: Row) -> None:
        for record in records:
            self.producer.produce(names(self.settings)[topic], json.dumps(record), record["person_id"])
        assert self.producer.flush(60) == 0

    def settle(self, *running: product.Running) -> None:
        def check_alive() -> None:
            for each in running:
                each.check_alive()

        stages.until_settled(self.settings, check_alive)

    def rows(self) -> list[Row]:
        """The final view; both readers of the contract agree on it."""
        records = readers.read_topic(self.settings.kafka.broker, topics_of(self.settings).credits)
        assert readers.repeated(records) == []
        rows = readers.append_only_view(records)
        assert rows == readers.upsert_view(records)
        return rows

    def record_times(self) -> dict[str, int]:
        """Conversion id → record time, as the broker stamped it."""
        records = readers.read_topic(self.settings.kafka.broker, topics_of(self.settings).conversions)
        return {json.loads(record.value or b"{}")["conversion_id"]: record.timestamp_ms for record in records}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    from streams import embedded  # noqa: PLC0415  (needs the demo extra, which the slow suite does not)

    with embedded.broker(cleaner_backoff_ms=3_600_000) as kafka, embedded.valkey() as redis:
        settings = load_settings(
            None, {"kafka.broker": kafka.url, "redis.url": redis.url, "kafka.prefix": "policies"}, {}
        )
        asyncio.run(apply(settings))
        producer = Producer({"bootstrap.servers": readers.hosts(kafka.url), "partitioner": "murmur2_random"})
        where = ("--broker", kafka.url, "--redis", redis.url, "--prefix", "policies")
        yield Place(settings, tmp_path, where, producer)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def touch(number: int, event_id: str, at_ms: int) -> Row:
    person = f"person-{number}"
    return {"event_id": f"{event_id}-{number}", "person_id": person, "occurred_at": at_ms, "channel": "Email"}


@pytest.mark.slow  # two minutes: policies are announced half a minute ahead
def test_a_policy_counts_from_its_time_whoever_works(place: Place) -> None:
    """Conversions recorded before the time are credited by the old policy and the others by the new one, on the worker
    with the old file too; late touches restate each under its own; an emptied store is built again to the same view."""
    began_ms = now_ms()
    old = place.file("old", "linear")
    with place.work(old) as first:
        place.send("touches", *(touch(n, e, began_ms - at) for n in range(PEOPLE) for e, at in (("a", 9), ("b", 5))))
        place.settle(first)
        # Longer than a start takes: the announcement has to be made half a minute ahead.
        starts_ms = (now_ms() // 1000 + LEAD_MS // 1000 + 10) * 1000
        new = place.file("new", "last_touch", f'effective_from = "{format_time(starts_ms)}"')
        with place.work(new) as second:
            for number in itertools.count():
                # Not a wait: records of all seconds up to the time and past it, for every partition.
                sent_ms = now_ms()
                sale = {"conversion_id": f"c{number}", "occurred_at": sent_ms, "value": "1"}
                place.send("conversions", {**sale, "person_id": f"person-{number % PEOPLE}"})
                for each in (first, second):
                    each.check_alive()
                if sent_ms > starts_ms + 3_000:
                    break
                time.sleep(0.1)
            place.settle(first, second)
            check_by_time(place, starts_ms, touches=2)
            place.send("touches", *(touch(n, "late", began_ms - 1) for n in range(PEOPLE)))
            place.settle(first, second)
            check_by_time(place, starts_ms, touches=3)
    before = place.rows()
    with Redis.from_url(place.settings.redis.url) as redis:
        redis.flushall()
    assert "error[T128] this policy is not in force any more" in place.refused(old)
    changed = place.file("changed", "first_touch", f'effective_from = "{format_time(starts_ms)}"')
    assert "error[T127] this policy cannot take effect" in place.refused(changed)
    with place.work(new) as running:
        place.settle(running)
        assert place.rows() == before
        place.send("touches", *(touch(n, "later", began_ms - 2) for n in range(PEOPLE)))
        place.settle(running)
        check_by_time(place, starts_ms, touches=4)


def check_by_time(place: Place, starts_ms: int, touches: int) -> None:
    """Each conversion has the credits of the policy of its record time, and both kinds are there."""
    rows, at_ms = place.rows(), place.record_times()
    of: dict[str, list[Row]] = {}
    for row in rows:
        of.setdefault(row["conversion_id"], []).append(row)
    assert of.keys() == at_ms.keys()
    for conversion_id, credited in of.items():
        by_new = at_ms[conversion_id] >= starts_ms
        wanted = {"last_touch"} if by_new else {"linear"}
        assert {row["attribution_model"] for row in credited} == wanted, (at_ms[conversion_id] - starts_ms, credited)
        assert len(credited) == (1 if by_new else touches)
        assert sum(row["value_micros"] for row in credited) == 1_000_000
    versions = {row["attribution_model"]: row["policy_version"] for row in rows}
    assert len(versions) == len(set(versions.values())) == 2
