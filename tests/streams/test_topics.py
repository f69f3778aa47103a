"""The table of topics against a cluster: what differs, what is created, and what is never touched."""

import asyncio
import re

import pytest
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from streams import topics
from streams.errors import ConnectError, RunFailed, UsageError, render
from streams.settings import Settings, load_settings
from streams.topics import TABLE, Cluster, Found, compare, name_of, satisfied, wanted_settings

DAY_MS = 86_400_000
# Topics that only Touchstream writes.
OWN = {"moves", "links"}


@pytest.fixture(scope="module", params=["embedded_broker", pytest.param("kafka", marks=pytest.mark.slow)])
def broker(request: pytest.FixtureRequest) -> str:
    """The embedded broker, and in the slow suite Apache Kafka: both must take and give the same settings."""
    return str(request.getfixturevalue(request.param).url)


def settings_for(broker: str, prefix: str, **more: str) -> Settings:
    given = {name.replace("__", "."): value for name, value in more.items()}
    return load_settings(None, {"kafka.broker": broker, "kafka.prefix": prefix, **given}, {})


def complete(settings: Settings, partitions: int = 4) -> Cluster:
    """A cluster in which everything is as the table says."""
    return Cluster(
        1,
        {
            name_of(settings, topic.name): Found(
                1 if topic.single else partitions, wanted_settings(topic, settings), {}
            )
            for topic in TABLE
        },
    )


def altered(cluster: Cluster, name: str, **settings: str) -> Cluster:
    found = cluster.topics[name]
    changed = {key.replace("_", "."): value for key, value in settings.items()}
    return Cluster(
        cluster.brokers,
        {**cluster.topics, name: Found(found.partitions, {**found.settings, **changed}, found.own)},
    )


def test_the_table_holds_every_topic_of_the_contract() -> None:
    """Section 1 of the contract names ten topics, with letters, digits, - and dots only; the others are our own."""
    assert {topic.name for topic in TABLE} - OWN == {
        "touches", "conversions", "raw-touches", "raw-conversions", "identities", "costs", "credits",
        "dead-letters", "policies", "weights",
    }  # fmt: skip
    assert {topic.name for topic in TABLE} >= OWN
    assert all(re.fullmatch(r"[a-z0-9.-]+", name) for name in topics.names(Settings()).values())


def test_retention_of_inputs_follows_the_policy() -> None:
    """A touch is kept for the longest lookback plus the allowed lateness plus a day."""
    settings = load_settings(None, {"attribution.lookback": "60d", "attribution.allowed_lateness": "10d"}, {})
    assert wanted_settings(TABLE[0], settings)["retention.ms"] == str(71 * DAY_MS)
    assert wanted_settings(TABLE[0], settings, keep_forever=True)["retention.ms"] == "-1"


def test_merges_are_known_for_longer_than_what_they_moved() -> None:
    """A merge outlives the touches of its time by as long as corrections are taken."""
    settings = load_settings(None, {"attribution.lookback": "60d", "attribution.corrections": "100d"}, {})
    kept = {topic.name: wanted_settings(topic, settings).get("retention.ms", "") for topic in TABLE}
    assert int(kept["moves"]) - int(kept["touches"]) == 100 * DAY_MS


def test_a_cluster_as_the_table_says_has_no_differences() -> None:
    """Nothing to do is nothing found, whatever the number of partitions."""
    settings = Settings()
    assert compare(settings, complete(settings)) == []
    assert compare(settings, complete(settings, 12)) == []


def test_missing_topics_take_the_partitions_of_those_that_exist() -> None:
    """Conversions are created with as many partitions as touches have."""
    settings = Settings()
    cluster = Cluster(1, {name_of(settings, "touches"): complete(settings, 6).topics["touchstream.touches"]})
    found = {each.topic: each for each in compare(settings, cluster)}
    assert found["touchstream.conversions"].wanted == "6"
    assert found["touchstream.policies"].wanted == "1"
    assert compare(settings, Cluster(1, {}))[0].wanted == "4"


def test_other_partition_counts_block() -> None:
    """touches, conversions and credits must have equally many, and nothing can mend it in place."""
    settings = Settings()
    cluster = complete(settings)
    odd = {**cluster.topics, "touchstream.credits": Found(5, cluster.topics["touchstream.credits"].settings, {})}
    (found,) = compare(settings, Cluster(1, odd))
    assert (found.topic, found.kind, found.wanted, found.found) == ("touchstream.credits", "partitions", "4", "5")
    assert found.blocking


def test_a_wrong_setting_is_found_and_can_be_mended() -> None:
    """CreateTime on an input, short retention, and credits without compaction are differences."""
    settings = Settings()
    cluster = altered(complete(settings), "touchstream.touches", message_timestamp_type="CreateTime")
    cluster = altered(cluster, "touchstream.conversions", retention_ms="1000")
    cluster = altered(cluster, "touchstream.credits", cleanup_policy="delete")
    found = [(each.topic, each.setting, each.blocking) for each in compare(settings, cluster)]
    assert found == [
        ("touchstream.touches", "message.timestamp.type", False),
        ("touchstream.conversions", "retention.ms", False),
        ("touchstream.credits", "cleanup.policy", False),
    ]


@pytest.mark.parametrize(
    ("setting", "wanted", "found", "enough"),
    [
        ("retention.ms", "1000", "-1", True),
        ("retention.ms", "-1", "1000", False),
        ("retention.ms", "1000", "2000", True),
        ("retention.ms", "1000", "999", False),
        ("max.message.bytes", "10", "", False),
        ("cleanup.policy", "compact,delete", "delete,compact", True),
        ("cleanup.policy", "compact", "compact,delete", False),
        ("message.timestamp.type", "LogAppendTime", "CreateTime", False),
    ],
)
def test_more_is_never_a_difference(setting: str, wanted: str, found: str, enough: bool) -> None:
    """More retention or bytes than needed will do, -1 is endless, and the order of policies says nothing."""
    assert satisfied(setting, wanted, found) is enough


@pytest.mark.parametrize("count", [0, -1, 10_001])
def test_impossible_partition_counts_are_usage_errors(count: int) -> None:
    """--partitions is checked before the cluster is asked."""
    with pytest.raises(UsageError):
        topics.check_partitions(count)


async def test_apply_creates_what_plan_shows_and_then_there_is_nothing_left(broker: str) -> None:
    """On a real broker: ten missing, apply, none missing; and the settings are those of the table."""
    settings = settings_for(broker, "apply")
    assert {each.kind for each in await topics.plan(settings)} == {"missing"}
    assert len(await topics.apply(settings, partitions=3)) == len(TABLE)
    assert await topics.plan(settings) == []
    async with topics.admin_client(settings) as client:
        found = (await topics.read_cluster(client, settings)).topics
    assert found["apply.touches"].partitions == found["apply.credits"].partitions == 3
    assert found["apply.touches"].settings["message.timestamp.type"] == "LogAppendTime"
    assert set(found["apply.credits"].settings["cleanup.policy"].split(",")) == {"compact", "delete"}


async def test_apply_mends_a_setting_and_keeps_those_that_others_made(broker: str) -> None:
    """A longer lookback raises the retention; a setting that the user made on the topic stays."""
    settings = settings_for(broker, "mend")
    await topics.ensure(settings_for(broker, "mend", attribution__lookback="1d"), 2)
    await set_topic(settings, "mend.touches", {"retention.ms": "1000", "segment.ms": "123456"})
    async with asyncio.timeout(60):  # with KRaft a broker tells a change some milliseconds after it was made
        while "retention.ms" not in {each.setting for each in await topics.plan(settings)}:
            pass
    await topics.apply(settings)
    assert await topics.plan(settings) == []
    async with topics.admin_client(settings) as client:
        own = (await topics.read_cluster(client, settings)).topics["mend.touches"].own
    assert own["segment.ms"] == "123456"


async def set_topic(settings: Settings, name: str, values: dict[str, str]) -> None:
    async with topics.admin_client(settings) as client:
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, values)])


async def test_apply_changes_nothing_where_a_difference_blocks(broker: str) -> None:
    """With unequal partition counts nothing is created beside them."""
    settings = settings_for(broker, "blocked")
    await create(settings, "blocked.touches", 3)
    await create(settings, "blocked.conversions", 2)
    assert any(each.blocking for each in await topics.apply(settings))
    async with topics.admin_client(settings) as client:
        assert set((await topics.read_cluster(client, settings)).topics) == {
            "blocked.touches",
            "blocked.conversions",
        }


async def create(settings: Settings, name: str, partitions: int) -> None:
    async with topics.admin_client(settings) as client:
        await client.create_topics([NewTopic(name, partitions, 1)])


async def test_ensure_keeps_records_for_ever_and_may_be_repeated(broker: str) -> None:
    """Demo and replay send records that are old by event time, so nothing may be deleted by age."""
    settings = settings_for(broker, "ensure")
    await topics.ensure(settings, 2)
    await topics.ensure(settings, 2)
    async with topics.admin_client(settings) as client:
        found = (await topics.read_cluster(client, settings)).topics
    kept = [each.settings["retention.ms"] for name, each in found.items() if name.endswith(("touches", "credits"))]
    assert kept == ["-1"] * 3
    with pytest.raises(RunFailed, match="other partition counts"):
        await topics.ensure(settings, 3)


async def test_delete_removes_the_topics_of_one_prefix_only(broker: str) -> None:
    """What replay cleans up is its own."""
    mine, other = settings_for(broker, "mine"), settings_for(broker, "mine.too")
    await topics.ensure(mine, 1)
    await topics.ensure(other, 1)
    await topics.delete(mine)
    async with topics.admin_client(mine) as client:
        assert not (await topics.read_cluster(client, mine)).topics
        assert len((await topics.read_cluster(client, other)).topics) == len(TABLE)


async def test_a_broker_that_is_away_is_one_block_and_exit_code_3(unused_tcp_port: int) -> None:
    """Connection refused becomes ConnectError with the address and a way out."""
    with pytest.raises(ConnectError) as caught:
        await topics.plan(settings_for(f"kafka://127.0.0.1:{unused_tcp_port}", "away"))
    text = render(caught.value, colour=False)
    assert caught.value.exit_code == 3
    assert f"127.0.0.1:{unused_tcp_port}" in text
    assert "fix:" in text
