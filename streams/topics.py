"""Every topic of the product in one table, and what it takes to bring a cluster there.

`plan` compares the table with the cluster and changes nothing; `apply` creates what is missing and mends
settings. Neither ever changes the partitions of a topic that exists: its keys would move to other partitions,
and journeys would be torn in two. The way out of a wrong count is a new prefix and a replay.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from models.durations import DAY_MS
from models.rules import TOPICS_MARGIN_MS
from streams.errors import ConnectError, RunFailed, UsageError
from streams.settings import Settings

FOREVER = -1
PARTITIONS_DEFAULT = 4
REPLICATION_WANTED = 3
CONNECT_SECONDS = 10  # a broker that does not answer within this is reported as unreachable
LOOK_SECONDS = 0.02  # between two looks at a change that takes milliseconds
READY_SECONDS = 30  # a created topic shows up in the metadata within milliseconds; longer means trouble
DEAD_LETTERS_MS = 30 * DAY_MS
TOMBSTONES_MS = 7 * DAY_MS  # an upsert reader that is down for longer than this misses deletions
# A record may have 1 MiB. A topic takes four, so that a larger one reaches us and becomes a dead letter
# `too-large` with all its bytes, where otherwise its producer would see an error and we would see nothing.
INPUT_BYTES = 4 * 1024 * 1024
DEAD_LETTER_BYTES = INPUT_BYTES + 64 * 1024
OUTPUT_BYTES = 1024 * 1024 + 12  # Kafka's own default, stated so that a lower one of the cluster shows up

Cleanup = Literal["delete", "compact", "compact,delete"]
Retention = Literal["inputs", "moves", "for ever", "credits", "dead-letters", "none"]
Kind = Literal["missing", "partitions", "config"]


@dataclass(frozen=True)
class Topic:
    """One row of the table. `single` topics need one order for all workers, so they have one partition."""

    name: str
    key: str
    cleanup: Cleanup
    retention: Retention = "none"
    append_time: bool = True
    bytes_max: int = INPUT_BYTES
    co_partitioned: bool = False
    single: bool = False


TABLE = (
    Topic("touches", "person_id", "delete", "inputs", co_partitioned=True),
    Topic("conversions", "person_id", "delete", "inputs", co_partitioned=True),
    Topic("moves", "person_id", "delete", "moves", co_partitioned=True),
    Topic("raw-touches", "any id", "delete", "inputs", co_partitioned=True),
    Topic("raw-conversions", "any id", "delete", "inputs", co_partitioned=True),
    Topic("identities", "all ids of the record", "compact", co_partitioned=True),
    # Never compacted, as an id has many links; kept for ever, as what is known of ids is made of them.
    Topic("links", "any id", "delete", "for ever", co_partitioned=True),
    Topic("costs", "campaign|channel|date|currency", "compact"),
    # A credit carries the record time of what caused it, so its topic keeps the producer's time.
    Topic("credits", "credit_id", "compact,delete", "credits", False, OUTPUT_BYTES, co_partitioned=True),
    Topic("dead-letters", "the original key", "delete", "dead-letters", True, DEAD_LETTER_BYTES),
    Topic("policies", "version", "compact", single=True),
    Topic("weights", "attribution model|version", "compact", single=True),
)
INPUTS = ("touches", "conversions")


@dataclass(frozen=True)
class Difference:
    """One thing in which the cluster is not as the table says.

    `blocking`: `apply` cannot mend it. `found` is empty for a missing topic.
    """

    topic: str
    kind: Kind
    setting: str
    wanted: str
    found: str = ""
    blocking: bool = False
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Found:
    """A topic as the cluster has it: the number of partitions, and its settings, defaults included.

    `own` are the settings made on the topic itself: changing one means sending all of them again.
    """

    partitions: int
    settings: Mapping[str, str]
    own: Mapping[str, str]


@dataclass(frozen=True)
class Cluster:
    """What `plan` needs to know of a cluster; `topics` only has those of our prefix."""

    brokers: int
    topics: Mapping[str, Found]


def name_of(settings: Settings, topic: str) -> str:
    """The full name of a topic of the table: `touches` → `touchstream.touches`."""
    return f"{settings.kafka.prefix}.{topic}"


def names(settings: Settings) -> dict[str, str]:
    """All full names by their short ones."""
    return {topic.name: name_of(settings, topic.name) for topic in TABLE}


@dataclass(frozen=True, slots=True)
class Topics:
    """Full names of the topics that workers read and write."""

    touches: str
    conversions: str
    moves: str
    credits: str
    dead_letters: str
    links: str = ""
    identities: str = ""
    raw_touches: str = ""
    raw_conversions: str = ""


def topics_of(settings: Settings) -> Topics:
    """The topics of the workers under these settings."""
    return Topics(*(name_of(settings, field.name.replace("_", "-")) for field in fields(Topics)))


def group_of(settings: Settings, stage: str = "credit") -> str:
    """The consumer group of a stage: `credit` or `identity`."""
    return f"{settings.kafka.prefix}.{stage}"


def wanted_settings(topic: Topic, settings: Settings, keep_forever: bool = False) -> dict[str, str]:
    """The Kafka settings of a topic. `keep_forever` is for demo and replay, whose records are old."""
    wanted = {
        # What a replay publishes is read once, all of it: compaction would take earlier revisions away.
        "cleanup.policy": "delete" if keep_forever and topic.name == "credits" else topic.cleanup,
        "message.timestamp.type": "LogAppendTime" if topic.append_time else "CreateTime",
        "max.message.bytes": str(topic.bytes_max),
    }
    if topic.retention != "none":
        wanted["retention.ms"] = str(FOREVER if keep_forever else retention_ms(topic, settings))
    if topic.name == "credits":
        wanted["delete.retention.ms"] = str(TOMBSTONES_MS)
    return wanted


def retention_ms(topic: Topic, settings: Settings) -> int:
    """How long a topic has to keep its records, in milliseconds.

    Inputs: as long as a touch can still count for a conversion, because a lost Redis is rebuilt from them. Moves:
    longer by `corrections`, as what comes for a person who was merged has to find the way for that long.
    """
    if topic.retention == "for ever":
        return FOREVER
    if topic.retention == "credits":
        return settings.credits.retention
    if topic.retention == "dead-letters":
        return DEAD_LETTERS_MS
    policy = settings.policy()
    longer_ms = policy.corrections_ms if topic.retention == "moves" else 0
    return policy.retention_ms + longer_ms + TOPICS_MARGIN_MS


def compare(settings: Settings, cluster: Cluster, partitions: int | None = None) -> list[Difference]:
    """The differences between the table and a cluster: a pure function of the two.

    partitions: for the topics that must have equally many; None takes the number of those that exist, else 4.
    """
    count = partitions_wanted(settings, cluster, partitions)
    return [
        difference
        for topic in TABLE
        for difference in _differences(topic, settings, cluster.topics.get(name_of(settings, topic.name)), count)
    ]


def partitions_wanted(settings: Settings, cluster: Cluster, asked: int | None = None) -> int:
    """What was asked for; else the count of the first co-partitioned topic that exists; else 4."""
    if asked is not None:
        return asked
    existing = (cluster.topics.get(name_of(settings, topic.name)) for topic in TABLE if topic.co_partitioned)
    return next((found.partitions for found in existing if found), PARTITIONS_DEFAULT)


def _differences(topic: Topic, settings: Settings, found: Found | None, count: int) -> Iterable[Difference]:
    name = name_of(settings, topic.name)
    wanted = 1 if topic.single else count
    if found is None:
        yield Difference(name, "missing", "partitions", str(wanted), fix="touchstream topics apply")
        return
    if (topic.co_partitioned or topic.single) and found.partitions != wanted:
        fix = "the count is fixed for the life of a prefix: choose a new kafka.prefix and replay into it"
        yield Difference(name, "partitions", "partitions", str(wanted), str(found.partitions), True, fix)
    for setting, value in wanted_settings(topic, settings).items():
        if not satisfied(setting, value, found.settings.get(setting, "")):
            now = found.settings.get(setting, "unknown")
            yield Difference(name, "config", setting, value, now, fix="touchstream topics apply")


def satisfied(setting: str, wanted: str, found: str) -> bool:
    """Whether a topic's setting will do: more retention or more bytes than needed is never a difference."""
    if setting == "cleanup.policy":
        return set(wanted.split(",")) == {part.strip() for part in found.split(",")}
    if setting.endswith((".ms", ".bytes")):
        return _number(found) >= _number(wanted)
    return wanted == found


def _number(text: str) -> float:
    """A size or time of Kafka; -1 is endless, and what cannot be read is too little."""
    try:
        return float("inf") if int(text) == FOREVER else int(text)
    except ValueError:
        return float("-inf")


async def plan(settings: Settings, partitions: int | None = None) -> list[Difference]:
    """What the cluster lacks. Raises ConnectError if it does not answer."""
    async with admin_client(settings) as client:
        return compare(settings, await read_cluster(client, settings), partitions)


async def apply(settings: Settings, partitions: int | None = None, replication: int | None = None) -> list[Difference]:
    """Create the missing topics and mend settings; the differences that were there before are returned.

    Nothing is changed when any of them is blocking: half a set of topics with unequal counts helps no one.
    """
    async with admin_client(settings) as client:
        cluster = await read_cluster(client, settings)
        found = compare(settings, cluster, partitions)
        if not any(difference.blocking for difference in found):
            await _create(client, settings, cluster, partitions, replication=replication)
            await _alter(client, cluster, found)
            await _until_mended(client, settings, partitions)
        return found


async def ensure(settings: Settings, partitions: int = PARTITIONS_DEFAULT) -> None:
    """Create what is missing with endless retention, for demo and replay; what exists stays as it is.

    Raises RunFailed if topics of the prefix exist with other partition counts.
    """
    async with admin_client(settings) as client:
        cluster = await read_cluster(client, settings)
        found = compare(settings, cluster, partitions)
        if blocked := next((difference for difference in found if difference.blocking), None):
            where = f"{blocked.topic}: {blocked.found} partitions where {blocked.wanted} are wanted"
            raise RunFailed("T201", "topics with other partition counts are there already", where, "", blocked.fix)
        await _create(client, settings, cluster, partitions, keep_forever=True)


async def delete(settings: Settings) -> None:
    """Remove every topic of the prefix; replay does this with a prefix of its own. Returns once they are gone."""
    async with admin_client(settings) as client:
        deadline = time.monotonic() + READY_SECONDS
        present = (await read_cluster(client, settings)).topics
        if present:
            await client.delete_topics(sorted(present))
        while present := (await read_cluster(client, settings)).topics:
            if time.monotonic() > deadline:
                fix = "may this user delete topics? does the cluster allow it (delete.topic.enable)?"
                raise RunFailed("T205", "topics could not be deleted", ", ".join(sorted(present)), "", fix)
            await asyncio.sleep(LOOK_SECONDS)


async def _create(
    client: Any,
    settings: Settings,
    cluster: Cluster,
    partitions: int | None,
    *,
    replication: int | None = None,
    keep_forever: bool = False,
) -> None:
    from aiokafka.admin import NewTopic  # noqa: PLC0415  (aiokafka takes a tenth of a second to import)

    count = partitions_wanted(settings, cluster, partitions)
    copies = replication or min(REPLICATION_WANTED, cluster.brokers)
    new = [
        NewTopic(
            name_of(settings, topic.name),
            1 if topic.single else count,
            copies,
            topic_configs=wanted_settings(topic, settings, keep_forever),
        )
        for topic in TABLE
        if name_of(settings, topic.name) not in cluster.topics
    ]
    if new:
        _refuse_errors(await client.create_topics(new))
        await _until_visible(client, {topic.name for topic in new})


def _refuse_errors(response: Any) -> None:
    """Kafka answers for each topic alone; one that came into being meanwhile is as good as ours."""
    from aiokafka.errors import TopicAlreadyExistsError, for_code  # noqa: PLC0415

    for name, code, *message in response.topic_errors:
        if code and for_code(code) is not TopicAlreadyExistsError:
            why = f"{for_code(code).__name__}: {message[0] if message else ''}".rstrip(": ")
            fix = "may this user create topics? is --replication above the number of brokers?"
            raise RunFailed("T202", "a topic could not be created", name, why, fix)


async def _until_visible(client: Any, wanted: set[str]) -> None:
    """Return once every partition of these topics has a leader, so that a client's first record is not refused."""
    deadline = time.monotonic() + READY_SECONDS
    while missing := [t["topic"] for t in await client.describe_topics(sorted(wanted)) if not _led(t)]:
        if time.monotonic() > deadline:
            raise RunFailed("T202", "a created topic does not come up", ", ".join(missing), "", "look into Kafka's log")
        await asyncio.sleep(LOOK_SECONDS)


def _led(topic: dict[str, Any]) -> bool:
    partitions = topic["partitions"]
    return not topic["error_code"] and bool(partitions) and all(part["leader"] >= 0 for part in partitions)


async def _alter(client: Any, cluster: Cluster, differences: Iterable[Difference]) -> None:
    """Send all own settings of each changed topic: the request replaces them as a whole."""
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType  # noqa: PLC0415
    from aiokafka.errors import for_code  # noqa: PLC0415

    changed: dict[str, dict[str, str]] = {}
    for each in differences:
        if each.kind == "config":
            changed.setdefault(each.topic, dict(cluster.topics[each.topic].own))[each.setting] = each.wanted
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, own) for name, own in changed.items()]
    for response in await client.alter_configs(resources) if resources else []:
        for code, message, _kind, name in response.resources:
            if code:
                why = f"{for_code(code).__name__}: {message or ''}".rstrip(": ")
                raise RunFailed("T203", "settings of a topic could not be changed", name, why)


async def _until_mended(client: Any, settings: Settings, partitions: int | None) -> None:
    """Return once the broker tells what the controller was told: with KRaft that takes some milliseconds."""
    deadline = time.monotonic() + READY_SECONDS
    while left := compare(settings, await read_cluster(client, settings), partitions):
        if time.monotonic() > deadline:
            where = f"{left[0].topic}: {left[0].setting} is {left[0].found}, not {left[0].wanted}"
            raise RunFailed("T204", "the cluster does not take what was sent", where, "", "look into its log")
        await asyncio.sleep(LOOK_SECONDS)


async def read_cluster(client: Any, settings: Settings) -> Cluster:
    """The brokers and the topics of the prefix with all their settings."""
    known = set(names(settings).values())
    described = [
        topic for topic in await client.describe_topics() if topic["topic"] in known and not topic["error_code"]
    ]
    brokers = len((await client.describe_cluster())["brokers"])
    effective, own = await _read_settings(client, [topic["topic"] for topic in described])
    return Cluster(
        brokers,
        {
            topic["topic"]: Found(
                len(topic["partitions"]), effective.get(topic["topic"], {}), own.get(topic["topic"], {})
            )
            for topic in described
        },
    )


TOPIC_SOURCE = 1  # `config_source` DYNAMIC_TOPIC_CONFIG in DescribeConfigs since version 1 (KIP-226)


async def _read_settings(client: Any, topics: list[str]) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """Per topic: the settings in force, and those made on the topic itself."""
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType  # noqa: PLC0415

    effective: dict[str, dict[str, str]] = {}
    own: dict[str, dict[str, str]] = {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in topics]
    for response in await client.describe_configs(resources) if resources else []:
        for resource in response.to_object()["resources"]:
            name = resource["resource_name"]
            entries = resource["config_entries"]
            effective[name] = {e["config_names"]: e["config_value"] or "" for e in entries}
            own[name] = {e["config_names"]: e["config_value"] or "" for e in entries if _is_own(e)}
    return effective, own


def _is_own(entry: dict[str, Any]) -> bool:
    if "config_source" in entry:
        return bool(entry["config_source"] == TOPIC_SOURCE)
    return not entry.get("is_default", False) and not entry.get("read_only", False)


@asynccontextmanager
async def admin_client(settings: Settings) -> AsyncIterator[Any]:
    """A started admin client. Raises ConnectError with the brokers' names if none answers in time."""
    from aiokafka.admin import AIOKafkaAdminClient  # noqa: PLC0415
    from aiokafka.errors import KafkaError  # noqa: PLC0415

    client = AIOKafkaAdminClient(**settings.kafka.client_options())
    try:
        with _causes() as causes:
            async with asyncio.timeout(CONNECT_SECONDS):
                await client.start()
    except (KafkaError, OSError, TimeoutError) as error:
        await client.close()
        raise unreachable(settings, causes.last or error) from error
    try:
        yield client
    finally:
        await client.close()


class _Causes(logging.Filter):
    """Keeps why a broker could not be used: aiokafka logs it, and raises an error that does not say it."""

    def __init__(self) -> None:
        super().__init__()
        self.last: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Take an error out of the log; the block for people will tell it."""
        args = record.args if isinstance(record.args, tuple) else ()
        found = [each for each in args if isinstance(each, BaseException)]
        self.last = found[-1] if found else self.last
        return not found


@contextmanager
def _causes() -> Iterator[_Causes]:
    log, causes = logging.getLogger("aiokafka"), _Causes()
    log.addFilter(causes)
    try:
        yield causes
    finally:
        log.removeFilter(causes)


def unreachable(settings: Settings, error: BaseException) -> ConnectError:
    """The block for a Kafka that does not answer, or lets nobody in with these settings."""
    from aiokafka.errors import AuthenticationFailedError, SaslAuthenticationFailed  # noqa: PLC0415

    name, where = type(error).__name__, settings.kafka.broker
    why = f"{name}: {str(error).removeprefix(f'{name}: ')}".rstrip(": ")
    if isinstance(error, SaslAuthenticationFailed | AuthenticationFailedError):
        fix = "look at username, mechanism and password under kafka.security"
        return ConnectError("T304", "Kafka does not accept the user or the password", where, why, fix)
    if isinstance(error, ssl.SSLError):
        fix = "name the authority that signed the brokers' certificates as kafka.security.ca_file"
        return ConnectError("T305", "there is no trusted TLS connection to Kafka", where, why, fix)
    fix = "see that Kafka runs there, or set kafka.broker (--broker kafka://host:9092)"
    return ConnectError("T301", "Kafka does not answer", where, why, fix)


def check_partitions(partitions: int) -> int:
    """Refuse counts that cannot be: at least 1, and at most 10,000, which Kafka itself would not bear."""
    if not 1 <= partitions <= 10_000:
        raise UsageError("T111", "partitions must be between 1 and 10000", f"--partitions {partitions}")
    return partitions
