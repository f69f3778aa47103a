"""The journeys of July 2018 with every person split into anonymous ids, and put together by the identity stage."""

import asyncio
import contextlib
import json
import random
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from streams.settings import load_settings
from streams.topics import apply, topics_of
from tests.support import oracle, product, readers, real_data, stages

pytestmark = [pytest.mark.shared, pytest.mark.slow]

CONFIG = """
[attribution]
models = ["first_touch", "linear", "position_based", "time_decay"]
lookback = "30d"
[web]
port = 0
"""
SEED = 20180715
PREFIX = "split"
IDS_MOST = 4

Record = tuple[str, str]
_URL = re.compile(r"metrics and probes on (\S+)")


@pytest.fixture(scope="module")
def data() -> real_data.RealData:
    return real_data.required()


@pytest.fixture(scope="module")
def unsplit(data: real_data.RealData, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The final view of the data as it is."""
    return product.replay(tmp_path_factory.mktemp("unsplit"), data.touches, data.conversions, CONFIG).rows()


@pytest.fixture
def embedded_pair() -> Iterator[tuple[str, str]]:
    from streams import embedded  # noqa: PLC0415  (needs the demo extra, which the slow suite does not)

    with embedded.broker() as kafka, embedded.valkey() as redis:
        yield kafka.url, redis.url


def test_people_split_into_ids_and_identified_at_random_times(
    data: real_data.RealData,
    unsplit: list[dict[str, Any]],
    embedded_pair: tuple[str, str],
    tmp_path: Path,
) -> None:
    """Raw events under random anonymous ids, with Identify records at random times between them, end in the same final
    view as the events of whole persons: ids resolved, journeys moved, credits restated."""
    print(f"seed {SEED}")
    broker, redis = embedded_pair
    config = tmp_path / "touchstream.toml"
    config.write_text(CONFIG)
    settings = load_settings(config, {"kafka.broker": broker, "redis.url": redis, "kafka.prefix": PREFIX})
    asyncio.run(apply(settings))
    where = ("--broker", broker, "--redis", redis, "--prefix", PREFIX, "--config", config)
    with product.running("run", "--workers", "2", *where) as command:
        _send(broker, topics_of(settings), split(data, random.Random(SEED)))
        stages.until_settled(settings, command.check_alive)
        pages = [urllib.request.urlopen(f"{url}/metrics").read().decode() for url in _URL.findall(command.said())]
        assert product.stop(command.process) == 0, command.said()
    assert len(pages) == 4  # two workers for each stage, and none takes its keys for another's
    assert all("touchstream_misrouted_total 0.0" in page for page in pages)
    records = readers.read_topic(broker, topics_of(settings).credits)
    assert readers.repeated(records) == []
    rows = readers.append_only_view(records)
    assert rows == readers.upsert_view(records)
    got = oracle.comparable([{k: v for k, v in row.items() if k != "revision"} for row in rows])
    wanted = oracle.comparable(unsplit)
    assert len(got) == len(wanted)
    for number, (one, other) in enumerate(zip(got, wanted, strict=True)):
        assert one == other, f"row {number}"


def split(data: real_data.RealData, rng: random.Random) -> list[Record]:
    """(kind of topic, value) in a random order: raw events that name an anonymous id each, and who those are."""
    ids: dict[str, list[str]] = {}
    records: list[Record] = []
    for kind, lines in (("raw_touches", data.touches), ("raw_conversions", data.conversions)):
        for line in lines:
            person = json.loads(line)["person_id"]
            if person not in ids:
                ids[person] = [f"{person}-{n}" for n in range(rng.randint(1, IDS_MOST))]
            id_ = rng.choice(ids[person])
            records.append((kind, line.replace(f'"person_id":"{person}"', f'"anonymous_id":"{id_}"', 1)))
    for person, names in ids.items():
        records += [
            ("identities", json.dumps({"anonymous_id": name, "user_id": person, "occurred_at": "2018-08-01T00:00:00Z"}))
            for name in names
        ]
    rng.shuffle(records)
    return records


def _send(broker: str, topics: Any, records: list[Record]) -> None:
    producer = Producer({"bootstrap.servers": readers.hosts(broker), "linger.ms": 20})
    for number, (kind, value) in enumerate(records):
        key = str(number) if kind == "identities" else None
        while True:
            with contextlib.suppress(BufferError):
                producer.produce(getattr(topics, kind), value, key)
                break
            producer.poll(0.1)
    assert producer.flush(60) == 0
