"""The journeys of July 2018 through the product, credit by credit against the oracle."""

import tomllib
from collections import defaultdict
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from tests.support import oracle, product, readers, real_data

pytestmark = pytest.mark.shared

RULE_BASED = [
    "first_touch",
    "last_touch",
    "last_non_direct",
    "linear",
    "position_based",
    "j_shaped",
    "inverse_j",
    "time_decay",
]
CONFIG = f"""
[attribution]
models = {RULE_BASED}
lookback = "30d"
"""
SEEDS = (20180701, 20180731)
METADATA_SECONDS = 30

Row = dict[str, Any]


@pytest.fixture(scope="module")
def data() -> real_data.RealData:
    return real_data.required()


@pytest.fixture(scope="module")
def expected(data: real_data.RealData) -> list[Row]:
    touches, conversions = real_data.records(data.touches), real_data.records(data.conversions)
    return oracle.final_view(touches, conversions, tomllib.loads(CONFIG))


@pytest.fixture(scope="module")
def first(data: real_data.RealData, tmp_path_factory: pytest.TempPathFactory) -> product.Replayed:
    """The replay that all others are compared with."""
    return product.replay(tmp_path_factory.mktemp("first"), data.touches, data.conversions, CONFIG)


def test_every_credit_is_the_oracles(first: product.Replayed, expected: list[Row]) -> None:
    """Each credit of each conversion and attribution model is the oracle's in every field."""
    ignored = (*oracle.NOT_THE_ORACLES, "reason")
    got = oracle.comparable(first.rows(), without=ignored)
    for number, (one, other) in enumerate(zip_longest(got, oracle.comparable(expected, without=ignored))):
        assert one == other, f"row {number}"


def test_every_conversion_and_every_sum_is_exact(first: product.Replayed, data: real_data.RealData) -> None:
    """Under each attribution model all 1,838 conversions are there, each with its value, 11,423.5 in all."""
    values = {c["conversion_id"]: oracle.micros(c["value"]) for c in real_data.records(data.conversions)}
    sums: dict[str, dict[str, int]] = {name: defaultdict(int) for name in RULE_BASED}
    for row in first.rows():
        sums[row["attribution_model"]][row["conversion_id"]] += row["value_micros"]
    assert len(values) == real_data.CONVERSIONS
    for name, by_conversion in sums.items():
        assert by_conversion == values, name
        assert sum(by_conversion.values()) == real_data.TOTAL_MICROS, name


def test_the_same_input_gives_the_same_bytes(first: product.Replayed, data: real_data.RealData, tmp_path: Path) -> None:
    """A second replay, and those of both files shuffled, write the same file byte for byte."""
    assert first.rows()
    wanted = first.credits.read_bytes()
    again = product.replay(tmp_path / "again", data.touches, data.conversions, CONFIG)
    assert again.finished.code == 0, again.finished.said()
    assert again.credits.read_bytes() == wanted
    for seed in SEEDS:
        print(f"seed {seed}")
        touches, conversions = _shuffled(data, seed)
        mixed = product.replay(tmp_path / str(seed), touches, conversions, CONFIG)
        assert mixed.finished.code == 0, mixed.finished.said()
        assert mixed.credits.read_bytes() == wanted, f"seed {seed}"


def test_both_readers_of_the_topic_see_the_file(
    first: product.Replayed, data: real_data.RealData, embedded_pair: tuple[str, str], tmp_path: Path
) -> None:
    """On the credits topic of the embedded broker both readers of the contract give the rows of the file."""
    _check_topic(first, data, embedded_pair, tmp_path)


@pytest.mark.slow
def test_apache_kafka_and_debian_redis_give_the_same_bytes(
    first: product.Replayed, data: real_data.RealData, kafka: Any, debian_redis: Any, tmp_path: Path
) -> None:
    """On Apache Kafka and Debian's Redis the file is the same, and so are the two readers' views."""
    _check_topic(first, data, (kafka.url, debian_redis.url), tmp_path)


@pytest.fixture
def embedded_pair() -> Iterator[tuple[str, str]]:
    """URLs of an embedded broker and an embedded Valkey of this test's own."""
    from streams import embedded  # noqa: PLC0415  (needs the demo extra, which the slow suite does not)

    with embedded.broker() as kafka, embedded.valkey() as redis:
        yield kafka.url, redis.url


def _check_topic(first: product.Replayed, data: real_data.RealData, servers: tuple[str, str], folder: Path) -> None:
    broker, redis = servers
    touches, conversions = _shuffled(data, SEEDS[0])
    before = _topics(broker)
    there = ("--broker", broker, "--redis", redis, "--keep")
    mixed = product.replay(folder, touches, conversions, CONFIG, *there)
    assert mixed.finished.code == 0, mixed.finished.said()
    assert mixed.credits.read_bytes() == first.credits.read_bytes()
    (topic,) = (name for name in _topics(broker) - before if name.endswith(".credits"))
    records = readers.read_topic(broker, topic)
    assert readers.repeated(records) == []
    rows = readers.append_only_view(records)
    assert rows == readers.upsert_view(records)
    without_revision = [{k: v for k, v in row.items() if k != "revision"} for row in rows]
    assert without_revision == first.rows()


def _shuffled(data: real_data.RealData, seed: int) -> tuple[list[str], list[str]]:
    return real_data.shuffled(data.touches, seed), real_data.shuffled(data.conversions, seed + 1)


def _topics(broker: str) -> set[str]:
    client = AdminClient({"bootstrap.servers": readers.hosts(broker)})
    return set(client.list_topics(timeout=METADATA_SECONDS).topics)
