"""`touchstream doctor`: what can be wrong around a worker, asked before it starts, with what to do.

Each check is a line: ok, warn (works, but look at it) or FAIL (credits would be wrong, or nothing would run).
"""

import asyncio
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

from streams.errors import EXIT_CONNECT, EXIT_FINDING, EXIT_FINE, REDIS_FIX, ConnectError
from streams.murmur import partition_of
from streams.native import describe, load
from streams.settings import Settings
from streams.topics import INPUTS, Cluster, Difference, admin_client, compare, name_of, read_cluster

if TYPE_CHECKING:
    from redis.asyncio import Redis

Status = Literal["ok", "warn", "FAIL"]
FAUST = "0.15.3"  # the batch transport rests on private methods of this very version
SAMPLE_RECORDS = 500  # of each input partition: enough to see a foreign partitioner, read within a second
SAMPLE_SECONDS = 20
REDIS_SECONDS = 5.0
SKEW_WARN_MS = 1_000  # a latency metric with a larger error than this says nothing any more


@dataclass(frozen=True)
class Check:
    """One finding. `reachable` is False for the two checks that mean a server does not answer."""

    name: str
    status: Status
    detail: str
    fix: str = ""
    reachable: bool = True

    def line(self) -> str:
        text = f"{self.status:<4}  {self.name:<18}  {self.detail}"
        return f"{text}\n      {'':<18}  fix: {self.fix}" if self.fix and self.status != "ok" else text

    def as_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "reachable"}


async def examine(settings: Settings) -> list[Check]:
    """All checks, in the order of a worker's start. A server that is away is a finding, not an exception."""
    kafka, redis = await asyncio.gather(_kafka(settings), _redis(settings))
    return [_versions(), _hot_path(settings), *kafka, *redis]


def exit_code(checks: Iterable[Check]) -> int:
    """3 where neither Kafka nor Redis answers, 1 where anything fails, else 0."""
    found = list(checks)
    if sum(not check.reachable for check in found) == 2:
        return EXIT_CONNECT
    return EXIT_FINDING if any(check.status == "FAIL" for check in found) else EXIT_FINE


def _versions() -> Check:
    names = ("touchstream", "faust-streaming", "aiokafka", "redis")
    text = ", ".join([f"Python {platform.python_version()}", *(f"{name} {_installed(name)}" for name in names)])
    if _installed("faust-streaming") == FAUST:
        return Check("versions", "ok", text)
    return Check("versions", "FAIL", text, f"install faust-streaming=={FAUST}: no other version is known to work")


def _hot_path(settings: Settings) -> Check:
    wanted = settings.processing.native
    fix = "build it with `make setup`, or install the wheel of native/; credits are the same without it"
    return Check("hot path", "ok" if load(wanted) or not wanted else "warn", describe(wanted), fix)


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


async def _kafka(settings: Settings) -> list[Check]:
    try:
        async with admin_client(settings) as client:
            cluster = await read_cluster(client, settings)
    except ConnectError as error:
        return [Check("kafka", "FAIL", f"{error.where}: {error.why}", error.fix, reachable=False)]
    found = f"{settings.kafka.broker}, {cluster.brokers} broker{'s' if cluster.brokers != 1 else ''}"
    checks = [Check("kafka", "ok", found), *topic_checks(settings, cluster)]
    return [*checks, await _misrouted(settings, cluster)]


@dataclass(frozen=True)
class _Question:
    """A check of the topics: which differences answer it, and what it says when there are none."""

    name: str
    settings: tuple[str, ...]
    fine: str
    status: Status = "FAIL"


_QUESTIONS = (
    _Question("record time", ("message.timestamp.type",), "inputs carry LogAppendTime, credits their cause's time"),
    _Question("retention", ("retention.ms",), "long enough to rebuild every journey from the inputs"),
    _Question("clean-up", ("cleanup.policy", "delete.retention.ms"), "credits are compacted, inputs are not"),
    _Question("record size", ("max.message.bytes",), "large records get in and become dead letters", "warn"),
)


def topic_checks(settings: Settings, cluster: Cluster) -> list[Check]:
    """What the topics' differences to the table mean, as checks: a pure function."""
    found = compare(settings, cluster)
    missing = [each for each in found if each.kind == "missing"]
    return [
        _topics_there(missing, len(cluster.topics)),
        _partitions(found),
        *(_answer(question, found) for question in _QUESTIONS),
    ]


def _topics_there(missing: list[Difference], there: int) -> Check:
    if not missing:
        return Check("topics", "ok", f"all {there} are there")
    return Check("topics", "FAIL", "missing: " + ", ".join(each.topic for each in missing), missing[0].fix)


def _partitions(found: list[Difference]) -> Check:
    wrong = [each for each in found if each.kind == "partitions"]
    if not wrong:
        return Check("partitions", "ok", "touches, conversions and credits have equally many")
    detail = ", ".join(f"{each.topic} has {each.found}, not {each.wanted}" for each in wrong)
    return Check("partitions", "FAIL", detail, wrong[0].fix)


def _answer(question: _Question, found: list[Difference]) -> Check:
    wrong = [each for each in found if each.kind == "config" and each.setting in question.settings]
    if not wrong:
        return Check(question.name, "ok", question.fine)
    detail = ", ".join(f"{each.topic} {each.setting}={each.found}, not {each.wanted}" for each in wrong)
    return Check(question.name, question.status, detail, wrong[0].fix)


async def _misrouted(settings: Settings, cluster: Cluster) -> Check:
    from aiokafka.errors import KafkaError  # noqa: PLC0415

    names = {name_of(settings, topic) for topic in INPUTS}
    counts = {name: found.partitions for name, found in cluster.topics.items() if name in names}
    if not counts:
        return Check("routing", "ok", "no input topics yet, so nothing to sample")
    try:
        read, wrong = await sample_routing(settings, counts)
    except (KafkaError, OSError, TimeoutError) as error:
        return Check("routing", "warn", f"the inputs could not be sampled: {error or type(error).__name__}")
    if not wrong:
        return Check("routing", "ok", f"{read} records sampled, each in the partition of its key")
    fix = "have producers partition by murmur2 of the key (librdkafka: partitioner=murmur2_random)"
    detail = f"{len(wrong)} of {read} sampled records are in another partition than their key's: {wrong[0]}"
    return Check("routing", "FAIL", detail, fix)


async def sample_routing(settings: Settings, counts: Mapping[str, int]) -> tuple[int, list[str]]:
    """Read the last records of each partition: (how many have a key, positions of those that are misrouted).

    counts: the partitions of each topic to sample.
    """
    from aiokafka import AIOKafkaConsumer, TopicPartition  # noqa: PLC0415

    consumer = AIOKafkaConsumer(**settings.kafka.client_options(), enable_auto_commit=False)
    try:
        async with asyncio.timeout(SAMPLE_SECONDS):
            await consumer.start()
            partitions = [TopicPartition(name, p) for name, count in counts.items() for p in range(count)]
            return await _sample(consumer, partitions, counts)
    finally:
        await consumer.stop()


async def _sample(consumer: Any, partitions: list[Any], counts: Mapping[str, int]) -> tuple[int, list[str]]:
    consumer.assign(partitions)
    ends = await consumer.end_offsets(partitions)
    begins = await consumer.beginning_offsets(partitions)
    for tp in partitions:
        consumer.seek(tp, max(begins[tp], ends[tp] - SAMPLE_RECORDS))
    keyed, wrong = 0, []
    while [tp for tp in partitions if await consumer.position(tp) < ends[tp]]:
        for tp, records in (await consumer.getmany(timeout_ms=200)).items():
            with_key = [record for record in records if record.key is not None]
            keyed += len(with_key)
            wrong += [_place(r) for r in with_key if partition_of(r.key, counts[tp.topic]) != tp.partition]
    return keyed, wrong


def _place(record: Any) -> str:
    return f"{record.topic}[{record.partition}] offset {record.offset}"


async def _redis(settings: Settings) -> list[Check]:
    from redis.exceptions import RedisError  # noqa: PLC0415

    from state.connection import connect  # noqa: PLC0415

    client = connect(settings.redis.url, REDIS_SECONDS)
    try:
        return await _redis_checks(client, settings)
    except (RedisError, OSError, TimeoutError) as error:
        detail = f"{settings.redis.shown()}: {error or type(error).__name__}"
        return [Check("redis", "FAIL", detail, REDIS_FIX, reachable=False)]
    finally:
        await client.aclose()


async def _redis_checks(client: "Redis", settings: Settings) -> list[Check]:
    from state.health import WARNING  # noqa: PLC0415
    from state.route import Route  # noqa: PLC0415

    info = await client.info("server")
    kind = "Valkey" if "valkey_version" in info else "Redis"
    number = info.get("valkey_version") or info.get("redis_version", "?")
    checks = [Check("redis", "ok", f"{settings.redis.shown()}, {kind} {number}")]
    route = Route(settings.redis.url, REDIS_SECONDS)
    try:
        found = await route.problems()
    finally:
        await route.close()
    fix = "redis-cli config set maxmemory-policy noeviction, and give it memory enough"
    for text in found:
        status: Status = "warn" if text.startswith(WARNING) else "FAIL"
        checks.append(Check("journeys kept", status, text.removeprefix(WARNING), fix))
    if not found:
        checks.append(Check("journeys kept", "ok", "noeviction, and no key was ever evicted"))
    return [*checks, await _clock(client)]


async def _clock(client: "Redis") -> Check:
    """Redis' clock against ours; half of the round trip is the error of the measurement."""
    before = time.time()
    seconds, micros = await client.time()
    after = time.time()
    skew_ms = abs(seconds + micros / 1e6 - (before + after) / 2) * 1000
    detail = f"{skew_ms:.0f} ms apart from Redis (± {(after - before) * 500:.0f} ms)"
    if skew_ms <= SKEW_WARN_MS:
        return Check("clock", "ok", detail)
    return Check("clock", "warn", detail, "run NTP on both machines; credits stay right, latency metrics do not")
