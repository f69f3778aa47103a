"""The doctor finds what would make credits wrong, says so with a fix, and ends with the right exit code."""

import asyncio
from dataclasses import replace

import pytest
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis

from streams import topics
from streams.doctor import Check, examine, exit_code, topic_checks
from streams.murmur import partition_of
from streams.settings import Settings, load_settings
from streams.topics import TABLE, Cluster, Found, name_of, wanted_settings

PAIRS = [("embedded_broker", "embedded_valkey"), pytest.param(("kafka", "debian_redis"), marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Addresses of Kafka and Redis: the embedded ones, and in the slow suite Apache's and Debian's."""
    broker, redis = (request.getfixturevalue(name) for name in request.param)
    return str(broker.url), str(redis.url)


@pytest.fixture
def broker(pair: tuple[str, str]) -> str:
    return pair[0]


@pytest.fixture
def redis(pair: tuple[str, str]) -> str:
    return pair[1]


def settings_for(broker: str, redis: str, prefix: str) -> Settings:
    return load_settings(None, {"kafka.broker": broker, "kafka.prefix": prefix, "redis.url": redis}, {})


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def well() -> Cluster:
    settings = Settings()
    found = {name_of(settings, t.name): Found(1 if t.single else 4, wanted_settings(t, settings), {}) for t in TABLE}
    return Cluster(1, found)


def test_a_cluster_as_it_should_be_is_all_ok() -> None:
    """No check of the topics complains where nothing differs."""
    assert {check.status for check in topic_checks(Settings(), well())} == {"ok"}


@pytest.mark.parametrize(
    ("topic", "setting", "value", "check", "status"),
    [
        ("touches", "message.timestamp.type", "CreateTime", "record time", "FAIL"),
        ("conversions", "retention.ms", "3600000", "retention", "FAIL"),
        ("credits", "cleanup.policy", "delete", "clean-up", "FAIL"),
        ("touches", "cleanup.policy", "compact", "clean-up", "FAIL"),
        ("dead-letters", "max.message.bytes", "1048588", "record size", "warn"),
    ],
)
def test_each_wrong_setting_is_told_by_its_check(topic: str, setting: str, value: str, check: str, status: str) -> None:
    """The check names topic, setting and both values, and says how to mend it."""
    cluster, name = well(), f"touchstream.{topic}"
    found = cluster.topics[name]
    wrong = replace(
        cluster, topics={**cluster.topics, name: replace(found, settings={**found.settings, setting: value})}
    )
    checks = by_name(topic_checks(Settings(), wrong))
    assert checks[check].status == status
    assert f"{name} {setting}={value}" in checks[check].detail
    assert checks[check].fix
    assert [each.name for each in checks.values() if each.status != "ok"] == [check]


def test_unequal_partition_counts_fail() -> None:
    """A fifth partition of conversions would get its journeys from nowhere."""
    cluster, name = well(), "touchstream.conversions"
    wrong = replace(cluster, topics={**cluster.topics, name: replace(cluster.topics[name], partitions=5)})
    check = by_name(topic_checks(Settings(), wrong))["partitions"]
    assert (check.status, check.detail) == ("FAIL", "touchstream.conversions has 5, not 4")


@pytest.mark.parametrize(
    ("statuses", "reachable", "code"),
    [
        (["ok", "warn"], [True, True], 0),
        (["ok", "FAIL"], [True, True], 1),
        (["FAIL", "ok"], [False, True], 1),
        (["FAIL", "FAIL"], [False, False], 3),
    ],
)
def test_exit_codes_follow_the_contract(statuses: list[str], reachable: list[bool], code: int) -> None:
    """A warning is fine, one failure is a finding, and 3 means that neither server answers."""
    checks = [Check("c", s, "", reachable=r) for s, r in zip(statuses, reachable, strict=True)]  # type: ignore[arg-type]
    assert exit_code(checks) == code


def test_a_line_has_status_name_detail_and_where_needed_the_fix() -> None:
    """The fix stands under a line that complains, and nowhere else."""
    assert Check("redis", "ok", "fine", "do it").line() == "ok    redis               fine"
    assert Check("redis", "FAIL", "bad", "do it").line().splitlines()[1].strip() == "fix: do it"


@pytest.mark.parametrize(
    ("key", "partition"), [(b"21", 1173551340), (b"foobar", 1357151166), (b"a-little-bit-long-string", 1161502112)]
)
def test_partitions_are_those_of_kafkas_own_producers(key: bytes, partition: int) -> None:
    """Known answers of Kafka's Java client (UtilsTest.testMurmur2), its sign bit cleared."""
    assert partition_of(key, 2**31) == partition


async def test_a_set_up_pair_of_servers_passes(broker: str, redis: str) -> None:
    """After `topics apply` on the embedded pair nothing fails, and Redis' clock is near."""
    settings = settings_for(broker, redis, "well")
    await topics.apply(settings, 3)
    checks = await examine(settings)
    assert [check.line() for check in checks if check.status != "ok"] == []
    assert {"versions", "kafka", "topics", "partitions", "routing", "redis", "journeys kept", "clock"} <= set(
        by_name(checks)
    )
    assert exit_code(checks) == 0


async def test_a_record_in_the_wrong_partition_is_named(broker: str, redis: str) -> None:
    """A producer with another partitioner is found by reading the last records."""
    settings = settings_for(broker, redis, "routing")
    await topics.apply(settings, 3)
    right = partition_of(b"ann", 3)
    async with AIOKafkaProducer(**settings.kafka.client_options()) as producer:
        for partition in (right, (right + 1) % 3):
            await producer.send_and_wait("routing.touches", b"{}", b"ann", partition=partition)
    check = by_name(await examine(settings))["routing"]
    assert check.status == "FAIL"
    assert (
        f"1 of 2 sampled records are in another partition than their key's: routing.touches[{(right + 1) % 3}] offset 0"
        == (check.detail)
    )


async def test_a_redis_that_may_forget_fails(broker: str, redis: str) -> None:
    """Any eviction policy but noeviction is a failure."""
    async with Redis.from_url(redis) as client:
        await client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            check = by_name(await examine(settings_for(broker, redis, "evict")))["journeys kept"]
        finally:
            await client.config_set("maxmemory-policy", "noeviction")
    assert check.status == "FAIL"
    assert "allkeys-lru" in check.detail


async def test_missing_topics_fail_with_the_command_that_makes_them(broker: str, redis: str) -> None:
    """Before `topics apply` the doctor says what to type."""
    check = by_name(await examine(settings_for(broker, redis, "none")))["topics"]
    assert (check.status, check.fix) == ("FAIL", "touchstream topics apply")


async def test_servers_that_are_away_are_findings(unused_tcp_port: int) -> None:
    """Neither Kafka nor Redis: two failures with a fix each, exit code 3, and no exception."""
    away = f"127.0.0.1:{unused_tcp_port}"
    async with asyncio.timeout(60):
        checks = await examine(settings_for(f"kafka://{away}", f"redis://{away}/0", "away"))
    assert [(check.name, bool(check.fix)) for check in checks if check.status == "FAIL"] == [
        ("kafka", True),
        ("redis", True),
    ]
    assert exit_code(checks) == 3
