"""Raw events through the identity stage: who is who, journeys that move, credits that follow."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
"""
KEY = "a secret of this test"
ADDRESS = "Bo.Ek@example.com"
START_MS = 1_714_564_800_000
MINUTE_MS = 60_000


@dataclass
class Live:
    """A running product and what a producer and a reader see of it."""

    settings: Settings
    where: tuple[object, ...]
    alive: Callable[[], None]

    def send(self, topic: str, *records: dict[str, Any]) -> None:
        producer = Producer({"bootstrap.servers": readers.hosts(self.settings.kafka.broker)})
        for record in records:
            key = json.dumps(record) if topic == "identities" else None
            producer.produce(names(self.settings)[topic], json.dumps(record), key)
        assert producer.flush(60) == 0

    def settle(self) -> None:
        stages.until_settled(self.settings, self.alive)

    def credits(self) -> list[Any]:
        return readers.read_topic(self.settings.kafka.broker, topics_of(self.settings).credits)

    def rows(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """The final view by conversion and attribution model; both readers of the contract agree on it."""
        records = self.credits()
        assert readers.repeated(records) == []
        rows = readers.append_only_view(records)
        assert rows == readers.upsert_view(records)
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in rows:
            found.setdefault((row["conversion_id"], row["attribution_model"]), []).append(row)
        return found


@contextlib.contextmanager
def running(folder: Path, config_text: str) -> Iterator[Live]:
    """The product over an embedded broker and Redis; both stages run."""
    from streams import embedded  # noqa: PLC0415  (needs the demo extra, which the slow suite does not)

    config = folder / "touchstream.toml"
    config.write_text(config_text)
    with embedded.broker() as kafka, embedded.valkey() as redis:
        settings = load_settings(config, {"kafka.broker": kafka.url, "redis.url": redis.url})
        asyncio.run(apply(settings))
        where = ("--broker", kafka.url, "--redis", redis.url, "--config", config)
        with product.running("run", *where, env={"TOUCHSTREAM_IDENTITY__EMAIL_KEY": KEY}) as command:
            yield Live(settings, where, command.check_alive)
            assert product.stop(command.process) == 0, command.said()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with running(tmp_path, CONFIG) as found:
        yield found


def test_a_person_is_found_out_and_everything_follows(live: Live) -> None:
    """Anonymous journeys are credited, then merged over an e-mail address into the user's; credits, explain and journey
    follow, each conversion's credits stay in their partition, and the address itself is nowhere but in what came in."""
    live.send(
        "raw-touches",
        {"event_id": "ad", "anonymous_id": "a", "occurred_at": START_MS, "channel": "Display"},
        {"event_id": "mail", "anonymous_id": "b", "occurred_at": START_MS + MINUTE_MS, "channel": "Email"},
        {"event_id": "web", "user_id": "bo", "occurred_at": START_MS + 2 * MINUTE_MS, "channel": "Direct"},
    )
    live.settle()
    live.send(
        "raw-conversions",
        {"conversion_id": "first", "anonymous_id": "a", "occurred_at": START_MS + 3 * MINUTE_MS, "value": "7"},
        {"conversion_id": "second", "user_id": "bo", "occurred_at": START_MS + 4 * MINUTE_MS, "value": "10"},
    )
    live.settle()
    rows = live.rows()
    assert {r["person_id"] for r in rows["first", "linear"]} == {"anonymous:a"}
    assert [r["touch_id"] for r in rows["first", "linear"]] == ["ad"]
    assert [r["touch_id"] for r in rows["second", "linear"]] == ["web"]
    live.send(
        "identities",
        {"anonymous_id": "a", "email": ADDRESS, "occurred_at": START_MS},
        {"anonymous_id": "b", "email": f" {ADDRESS.upper()} ", "occurred_at": START_MS},
        {"user_id": "bo", "email": ADDRESS, "occurred_at": START_MS},
    )
    live.settle()
    _check_followed(live)
    live.send(
        "raw-conversions",
        {"conversion_id": "first", "action": "restate", "occurred_at": START_MS + 5 * MINUTE_MS, "value": "8"},
    )
    live.settle()
    rows = live.rows()
    for conversion, value in (("first", 8_000_000), ("second", 10_000_000)):
        linear = rows[conversion, "linear"]
        assert {r["person_id"] for r in linear} == {"bo"}
        assert [r["touch_id"] for r in linear] == ["ad", "mail", "web"]
        assert sum(r["value_micros"] for r in linear) == value
    places: dict[str, set[int]] = {}
    for record in live.credits():
        places.setdefault(record.key.split(b"|")[0].decode(), set()).add(record.partition)
    assert {len(each) for each in places.values()} == {1}, places
    _check_address_is_nowhere(live)


def _check_followed(live: Live) -> None:
    explained = product.touchstream("explain", "first", "--json", *live.where)
    assert explained.code == 0, explained.said()
    document = json.loads(explained.stdout)
    assert document["matches_published"] is True
    # The topic is compacted, so that only the last one is sure to be there.
    assert document["revisions"][-1]["cause"]["kind"] == "move"
    found = product.touchstream("journey", "anonymous:a", "--json", *live.where)
    assert found.code == 0, found.said()
    journey = json.loads(found.stdout)["journey"]
    assert journey["key"] == "bo"
    assert journey["merged"][0] == "anonymous:a"
    assert journey["touches"] == 3
    env = {"TOUCHSTREAM_IDENTITY__EMAIL_KEY": KEY}
    shown = product.touchstream("identity", "show", ADDRESS, "--email", "--json", *live.where, env=env)
    assert shown.code == 0, shown.said()
    person = json.loads(shown.stdout)
    assert person["person_id"] == "bo"
    above = {each["id"]: each["up"] for each in person["ids"]}
    email = next(id_ for id_ in above if id_.startswith("email:"))
    assert above.keys() == {"bo", email, "anonymous:a", "anonymous:b"}
    assert above["bo"] is None
    assert above[email] == "bo"
    # An anonymous id that was linked after the address points past it.
    assert {above["anonymous:a"], above["anonymous:b"]} <= {email, "bo"}
    unknown = product.touchstream("identity", "show", "nobody", *live.where)
    assert unknown.code == 1
    assert "T246" in unknown.stderr


def _check_address_is_nowhere(live: Live) -> None:
    parts = [ADDRESS.lower().encode(), ADDRESS.encode()]
    for name in ("links", "moves", "touches", "conversions", "credits", "dead-letters"):
        for record in readers.read_topic(live.settings.kafka.broker, names(live.settings)[name]):
            assert not any(part in (record.key or b"") + (record.value or b"") for part in parts), name
    with Redis.from_url(live.settings.redis.url) as redis:
        for key in redis.scan_iter():
            assert not any(part in key + (redis.dump(key) or b"") for part in parts), key
