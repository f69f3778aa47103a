"""`touchstream forget` beside running workers: the money stays, the person goes, and does not come back."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from redis import Redis

from streams.settings import Settings, load_settings
from streams.topics import apply, names, topics_of
from tests.support import product, readers, stages

CONFIG = """
[attribution]
models = ["linear", "last_touch"]
[web]
port = 0
[identity]
enabled = {enabled}
email_key = "a secret of this test"
"""
START_MS = 1_714_564_800_000
MINUTE_MS = 60_000
Row = dict[str, Any]


@dataclass
class Place:
    """Servers and settings for workers that come and go."""

    settings: Settings
    where: tuple[object, ...]
    partitioner: Mapping[str, str] = field(default_factory=lambda: {"partitioner": "murmur2_random"})

    def work(self) -> AbstractContextManager[product.Running]:
        return product.running("run", *self.where)

    def send(self, topic: str, *records: Row) -> None:
        producer = Producer({"bootstrap.servers": readers.hosts(self.settings.kafka.broker), **self.partitioner})
        for record in records:
            producer.produce(names(self.settings)[topic], json.dumps(record), record.get("person_id"))
        assert producer.flush(60) == 0

    def settle(self, running: product.Running) -> None:
        stages.until_settled(self.settings, running.check_alive)

    def forget(self, *arguments: object) -> Row:
        done = product.touchstream("forget", *arguments, "--json", *self.where)
        assert done.code == 0, done.said()
        found: Row = json.loads(done.stdout)
        return found

    def rows(self) -> list[Row]:
        """The final view; both readers of the contract agree on it."""
        records = readers.read_topic(self.settings.kafka.broker, topics_of(self.settings).credits)
        assert readers.repeated(records) == []
        rows = readers.append_only_view(records)
        assert rows == readers.upsert_view(records)
        return rows

    def published(self) -> int:
        """How many credits were ever published, whatever compaction leaves of them."""
        records = readers.read_topic(self.settings.kafka.broker, topics_of(self.settings).credits)
        return sum(1 for _ in records)

    def dead(self) -> list[str]:
        records = readers.read_topic(self.settings.kafka.broker, topics_of(self.settings).dead_letters)
        return [readers.dead_letter(record).reason for record in records]

    def redis(self) -> Redis:
        return Redis.from_url(self.settings.redis.url)

    def keys_with(self, *texts: str) -> list[bytes]:
        """The keys in Redis that hold one of the texts, in their name or value."""
        with self.redis() as redis:
            found = {key: redis.get(key) or b"" for key in redis.scan_iter()}
        return [key for key, value in found.items() for text in texts if text.encode() in key + b"\0" + value]


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[str, str]]:
    """A broker that never compacts meanwhile, as a test counts what was published; and a Redis."""
    from streams import embedded  # noqa: PLC0415  (needs the demo extra, which the slow suite does not)

    with embedded.broker(cleaner_backoff_ms=3_600_000) as kafka, embedded.valkey() as redis:
        yield kafka.url, redis.url


def place(servers: tuple[str, str], folder: Path, prefix: str, *, identity: bool) -> Place:
    config = folder / "touchstream.toml"
    config.write_text(CONFIG.format(enabled=str(identity).lower()))
    kafka, redis = servers
    settings = load_settings(config, {"kafka.broker": kafka, "redis.url": redis, "kafka.prefix": prefix})
    asyncio.run(apply(settings))
    return Place(settings, ("--broker", kafka, "--redis", redis, "--prefix", prefix, "--config", config))


def touch(event_id: str, minute: int, channel: str, **whose: str) -> Row:
    return {"event_id": event_id, "occurred_at": START_MS + minute * MINUTE_MS, "channel": channel, **whose}


def sale(conversion_id: str, minute: int, value: str, **whose: str) -> Row:
    return {"conversion_id": conversion_id, "occurred_at": START_MS + minute * MINUTE_MS, "value": value, **whose}


def money(rows: list[Row]) -> list[tuple[str, str, str, float, int]]:
    names_ = ("conversion_id", "attribution_model", "touch_id", "share", "value_micros")
    return sorted(tuple(row[name] for name in names_) for row in rows)  # type: ignore[misc]


def test_forgotten_for_good(servers: tuple[str, str], tmp_path: Path) -> None:
    """The credits keep keys, shares and money and lose the person; Redis holds nothing of the person; what comes later
    is dropped; explain and journey say forgotten; and a rebuild of an emptied Redis changes and publishes nothing."""
    here = place(servers, tmp_path, "forget", identity=False)
    with here.work() as running:
        here.send(
            "touches", touch("ad", 0, "Display", person_id="ada@home"), touch("mail", 1, "Email", person_id="bob")
        )
        here.send("touches", touch("web", 1, "Referral", person_id="ada@home"))
        here.settle(running)
        here.send("conversions", sale("first", 2, "7", person_id="ada@home"), sale("bobs", 2, "3", person_id="bob"))
        here.settle(running)
        before = here.rows()
        done = here.forget("ada@home", "--id")
        assert (done["person_id"], done["done"], done["ids"], done["conversions"]) == ("ada@home", True, 1, 1)
        after = here.rows()
        assert money(after) == money(before)
        assert {(row["conversion_id"], row["person_id"]) for row in after} == {
            ("first", "(forgotten)"),
            ("bobs", "bob"),
        }
        assert here.keys_with("ada@home") == []
        count = here.published()
        here.send("touches", touch("new", 3, "Email", person_id="ada@home"))
        here.send("conversions", sale("second", 4, "9", person_id="ada@home"))
        here.send("conversions", sale("first", 4, "9", person_id="ada@home", action="restate"))
        here.settle(running)
        assert here.forget("ada@home", "--id")["conversions"] == 0
        assert (here.published(), here.keys_with("ada@home"), here.dead()) == (count, [], [])
        for command in (("journey", "ada@home"), ("explain", "first"), ("explain", "first", "--person", "ada@home")):
            told = product.touchstream(*command, *here.where)
            assert (told.code, told.stdout) == (1, ""), told.said()
            assert told.stderr.startswith("error[T251] forgotten\n"), told.said()
    with here.redis() as redis:
        redis.flushdb()
    with here.work() as running:
        here.settle(running)
        assert (here.rows(), here.published(), here.keys_with("ada@home"), here.dead()) == (after, count, [], [])
        here.send("conversions", sale("third", 5, "9", person_id="ada@home"), sale("bobs2", 5, "1", person_id="bob"))
        here.settle(running)
        assert {row["conversion_id"] for row in here.rows()} == {"first", "bobs", "bobs2"}
        assert here.keys_with("ada@home") == []


def test_nobody_works(servers: tuple[str, str], tmp_path: Path) -> None:
    """Without workers the command says within its deadline that it is not done yet, and that it will be; once they are
    there it is done, also for somebody whose producer has put the records into other partitions."""
    here = place(servers, tmp_path, "idle", identity=False)
    asked = product.touchstream("forget", "ada", "--deadline", "300ms", *here.where)
    assert asked.code == 1
    assert "error[T250] the person is not forgotten yet" in asked.stderr
    assert here.forget("ada", "--no-wait")["done"] is False
    with here.work() as running:
        assert here.forget("ada")["done"] is True
        elsewhere = replace(here, partitioner={"partitioner": "fnv1a"})
        people = [f"person-{number}" for number in range(4)]
        elsewhere.send("conversions", *(sale(f"of-{each}", 0, "1", person_id=each) for each in people))
        here.settle(running)
        assert [here.forget(each)["conversions"] for each in people] == [1] * len(people)
        assert here.keys_with("person-") == []


def test_all_ids_of_a_person_are_forgotten(servers: tuple[str, str], tmp_path: Path) -> None:
    """Named by e-mail address, a person is forgotten under all ids, in both stages; what comes for any of them is
    dropped, a correction that names nobody too; and a rebuild of an emptied Redis changes and publishes nothing."""
    here = place(servers, tmp_path, "people", identity=True)
    person, device, address = "ada-lovelace", "device-of-ada", "ada@analytical.example"
    with here.work() as running:
        here.send(
            "raw-touches", touch("ad", 0, "Display", anonymous_id=device), touch("web", 1, "Email", user_id=person)
        )
        here.send("raw-conversions", sale("first", 2, "7", anonymous_id=device), sale("bobs", 2, "3", user_id="bob"))
        here.settle(running)
        here.send("identities", {"anonymous_id": device, "email": address, "occurred_at": START_MS})
        here.send("identities", {"user_id": person, "email": address, "occurred_at": START_MS})
        here.settle(running)
        before = here.rows()
        assert {(row["conversion_id"], row["person_id"]) for row in before} == {("first", person), ("bobs", "bob")}
        assert here.keys_with(person, device, "email:")
        done = here.forget(address)
        assert (done["done"], done["ids"], done["conversions"]) == (True, 3, 1)
        here.settle(running)
        after, count = here.rows(), here.published()
        assert money(after) == money(before)
        assert {row["person_id"] for row in after} == {"(forgotten)", "bob"}
        here.send("raw-touches", touch("again", 3, "Email", anonymous_id=device))
        here.send("raw-conversions", sale("second", 4, "9", user_id=person, email=address))
        here.send("raw-conversions", sale("first", 5, "1", action="restate"))
        here.send("identities", {"user_id": person, "anonymous_id": "device-2-of-ada", "occurred_at": START_MS})
        here.settle(running)
        assert (here.published(), here.dead()) == (count, [])
        assert here.keys_with(person, device, "of-ada", "email:") == []
        for id_ in (person, f"anonymous:{device}"):
            told = product.touchstream("journey", id_, *here.where)
            assert told.stderr.startswith("error[T251] forgotten\n"), told.said()
    with here.redis() as redis:
        redis.flushdb()
    with here.work() as running:
        here.settle(running)
        assert (here.rows(), here.published(), here.dead()) == (after, count, [])
        assert here.keys_with(person, device, "of-ada", "email:") == []
