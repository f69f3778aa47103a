"""Which log a store was made from: the cluster, and the ids and partition counts of its topics.

Kept beside `applied` of every partition. Offsets mean something in one log only: a store that meets another cluster,
a topic that was deleted and made again, or another number of partitions would read on in the middle of nowhere.
"""

import uuid
from collections.abc import Mapping
from io import BytesIO
from typing import Any, NamedTuple

import msgspec
from aiokafka.errors import IncompatibleBrokerVersion, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from streams.settings import Settings
from streams.topics import admin_client, topics_of

# The subkey of a partition under which the store keeps it.
ORIGIN = b"origin"


class Topic(NamedTuple):
    """A topic's id, empty where the brokers are too old to tell (before 3.1), and its number of partitions."""

    id: str
    partitions: int


class Origin(msgspec.Struct, frozen=True):
    """The log of one prefix; `topics` by full name."""

    cluster: str
    topics: dict[str, Topic]

    def text(self) -> bytes:
        """What is stored."""
        return msgspec.json.encode(self)

    @classmethod
    def parse(cls, text: bytes) -> "Origin":
        """Raises msgspec.DecodeError where the text is none of ours."""
        return msgspec.json.decode(text, type=cls)

    def differences(self, stored: "Origin") -> list[str]:
        """In words, where this log is not the one that a store was made from; an id that is not known fits any."""
        found = []
        if self.cluster and stored.cluster and self.cluster != stored.cluster:
            found.append(f"the cluster is {self.cluster}, not {stored.cluster}")
        for name, now in self.topics.items():
            then = stored.topics.get(name)
            if then is None:
                found.append(f"{name} was not there")
            elif now.partitions != then.partitions:
                found.append(f"{name} has {now.partitions} partitions, not {then.partitions}")
            elif now.id and then.id and now.id != then.id:
                found.append(f"{name} was deleted and made again")
        return found


async def read_origin(settings: Settings, stage: str = "credit") -> Origin:
    """Ask Kafka for the log of a stage.

    Raises ConnectError where no broker answers, KafkaError where one answers with an error.
    """
    topics = topics_of(settings)
    wanted = (topics.touches, topics.conversions, topics.moves, topics.credits)
    if stage == "identity":
        wanted = (topics.links, topics.identities, topics.raw_touches, topics.raw_conversions)
    async with admin_client(settings) as client:
        cluster = str((await client.describe_cluster())["cluster_id"] or "")
        counts = {t["topic"]: _partitions_of(t) for t in await client.describe_topics(list(wanted))}
        ids = await _topic_ids(client, wanted)
    return Origin(cluster, {name: Topic(ids.get(name, ""), counts[name]) for name in wanted})


def _partitions_of(topic: Mapping[str, Any]) -> int:
    """How many partitions a topic has. A broker that has just started need not know it yet: that is no other log."""
    if topic["error_code"]:
        raise for_code(topic["error_code"])(topic["topic"])
    return len(topic["partitions"])


async def _topic_ids(client: Any, names: tuple[str, ...]) -> Mapping[str, str]:
    try:
        answer = (await client._send_request(_MetadataRequest(names))).to_object()
    except (IncompatibleBrokerVersion, NotImplementedError):
        return {}
    return {topic["name"]: str(topic["id"]) for topic in answer["topics"] if not topic["error"] and topic["id"].int}


# Metadata of version 12 (KIP-516): aiokafka ends at version 5, which knows no topic ids.


class _Uuid(AbstractType[uuid.UUID]):  # type: ignore[misc]
    @classmethod
    def encode(cls, value: uuid.UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> uuid.UUID:
        return uuid.UUID(bytes=data.read(16))


_PARTITION = (
    ("error", Int16),
    ("partition", Int32),
    ("leader", Int32),
    ("leader_epoch", Int32),
    ("replicas", CompactArray(Int32)),
    ("isr", CompactArray(Int32)),
    ("offline", CompactArray(Int32)),
    ("tags", TaggedFields),
)
_TOPIC = (
    ("error", Int16),
    ("name", CompactString("utf-8")),
    ("id", _Uuid),
    ("is_internal", Boolean),
    ("partitions", CompactArray(*_PARTITION)),
    ("operations", Int32),
    ("tags", TaggedFields),
)
_BROKER = (
    ("node", Int32),
    ("host", CompactString("utf-8")),
    ("port", Int32),
    ("rack", CompactString("utf-8")),
    ("tags", TaggedFields),
)


class _MetadataResponse12(Response):  # type: ignore[misc]  # aiokafka has no stubs
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_ms", Int32),
        ("brokers", CompactArray(*_BROKER)),
        ("cluster", CompactString("utf-8")),
        ("controller", Int32),
        ("topics", CompactArray(*_TOPIC)),
        ("tags", TaggedFields),
    )


class _MetadataRequest12(RequestStruct):  # type: ignore[misc]  # aiokafka has no stubs
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 12
    RESPONSE_TYPE = _MetadataResponse12
    SCHEMA = Schema(
        ("topics", CompactArray(("id", _Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _MetadataRequest(Request[_MetadataRequest12]):  # type: ignore[misc]  # aiokafka has no stubs
    API_KEY = 3

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def build(self, request_struct_class: type[_MetadataRequest12]) -> _MetadataRequest12:
        topics: list[tuple[uuid.UUID, str, dict[int, bytes]]] = [(uuid.UUID(int=0), name, {}) for name in self._names]
        return request_struct_class(topics, False, False, {})
