"""Readers of what the product publishes, as a user would write them, and as the contract describes them.

The append-only reader keeps the highest revision of each (conversion, attribution model); the upsert reader
keeps the last value of each key and forgets tombstones. Both must end with the same rows.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

READ_SECONDS = 120  # for a reader that waits; a fence, not a claim
POLL_SECONDS = 0.2
ERROR_HEADERS = "__connect.errors."
REASON_HEADER = "touchstream-reason"

Row = dict[str, Any]
Header = tuple[str, bytes | None]


class Read(NamedTuple):
    """One record as it lies in the topic."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()

    def last_header(self, name: str) -> str:
        """The text of the last header of that name, which is the one added last; KeyError where absent."""
        found = [value for key, value in self.headers if key == name]
        if not found:
            raise KeyError(name)
        return (found[-1] or b"").decode()


class DeadLetter(NamedTuple):
    """A dead letter taken apart: the original's place and content, and what was added to it."""

    topic: str
    partition: int
    offset: int
    reason: str
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    errors: dict[str, str]


# From the topic


class TopicReader:
    """Reads one topic from its beginning with `read_committed`, remembering everything."""

    def __init__(self, broker: str, topic: str) -> None:
        self.records: list[Read] = []
        self._consumer = Consumer(
            {
                "bootstrap.servers": hosts(broker),
                "group.id": f"reader-of-{topic}",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.message.max.bytes": 8 * 1024 * 1024,
                "fetch.wait.max.ms": 50,
            }
        )
        metadata = self._consumer.list_topics(topic, timeout=READ_SECONDS).topics[topic]
        if metadata.error is not None:
            raise LookupError(f"{topic}: {metadata.error}")
        self._topic = topic
        self._partitions = sorted(metadata.partitions)
        self._next = dict.fromkeys(self._partitions, 0)
        self._consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in self._partitions])

    def to_end(self, deadline_s: float = READ_SECONDS) -> list[Read]:
        """Read on to where the topic ends now (the last stable offsets); all records so far."""
        ends = {p: self._end(p) for p in self._partitions}
        self._poll_until(lambda: all(self._next[p] >= end for p, end in ends.items()), deadline_s)
        return self.records

    def until(
        self,
        done: Callable[[Sequence[Read]], bool],
        deadline_s: float = READ_SECONDS,
        alive: Callable[[], None] = lambda: None,
    ) -> list[Read]:
        """Read on until `done` holds; `alive` may raise meanwhile. AssertionError after the deadline."""
        self._poll_until(lambda: done(self.records), deadline_s, alive)
        return self.records

    def close(self) -> None:
        self._consumer.close()

    def _poll_until(
        self,
        done: Callable[[], bool],
        deadline_s: float,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        deadline = time.monotonic() + deadline_s
        while not done():
            alive()
            assert time.monotonic() < deadline, f"after {deadline_s} s only {len(self.records)} records"
            for message in self._consumer.consume(1_000, POLL_SECONDS):
                self._take(message)

    def _end(self, partition: int) -> int:
        where = TopicPartition(self._topic, partition)
        return int(self._consumer.get_watermark_offsets(where, timeout=READ_SECONDS)[1])

    def _take(self, message: Message) -> None:
        """Remember a record. A partition's end is told as an error, with the offset after all markers."""
        error, partition, offset = message.error(), message.partition(), message.offset()
        assert partition is not None
        assert offset is not None
        if error is None:
            self.records.append(_read(message, partition, offset))
            self._next[partition] = offset + 1
        elif error.code() == KafkaError._PARTITION_EOF:
            self._next[partition] = offset
        elif not error.retriable():
            raise OSError(str(error))


def _read(message: Message, partition: int, offset: int) -> Read:
    listed: list[tuple[str, str | bytes | None]] = list(message.headers() or [])  # type: ignore[arg-type]
    headers = tuple((name, _bytes(value)) for name, value in listed)
    return Read(partition, offset, message.timestamp()[1], _bytes(message.key()), _bytes(message.value()), headers)


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


@contextmanager
def reader(broker: str, topic: str) -> Iterator[TopicReader]:
    """A TopicReader that is closed at the end of the block."""
    opened = TopicReader(broker, topic)
    try:
        yield opened
    finally:
        opened.close()


def read_topic(broker: str, topic: str) -> list[Read]:
    """All committed records of a topic, by partition and offset."""
    with reader(broker, topic) as opened:
        return sorted(opened.to_end(), key=lambda r: (r.partition, r.offset))


def hosts(broker: str) -> str:
    """`kafka://a:9092;kafka://b:9092` as librdkafka wants it: `a:9092,b:9092`."""
    return ",".join(part.split("://")[-1] for part in broker.split(";"))


# The two readers of the contract


def append_only_view(records: Iterable[Read]) -> list[Row]:
    """Per (conversion_id, attribution_model) the records of the highest revision; tombstones say nothing.

    ValueError where the kept set has other than `set_size` records: no reader could know that it has all.
    """
    newest: dict[tuple[str, str], tuple[int, list[Row]]] = {}
    for record in records:
        if record.value is None:
            continue
        row = json.loads(record.value)
        name = (row["conversion_id"], row["attribution_model"])
        revision, rows = newest.get(name, (-1, []))
        if row["revision"] > revision:
            newest[name] = (row["revision"], [row])
        elif row["revision"] == revision:
            rows.append(row)
    for name, (revision, rows) in newest.items():
        if any(row["set_size"] != len(rows) for row in rows):
            raise ValueError(f"{name} revision {revision}: {len(rows)} records, set_size {rows[0]['set_size']}")
    return in_order(row for _, rows in newest.values() for row in rows)


def upsert_view(records: Iterable[Read]) -> list[Row]:
    """The last value of each key, without those whose last is a tombstone.

    ValueError for a key in two partitions (no reader could order its versions), without a key, or with one
    that is not the record's credit_id.
    """
    latest: dict[bytes, bytes | None] = {}
    places: dict[bytes, int] = {}
    for record in sorted(records, key=lambda r: (r.partition, r.offset)):
        if record.key is None:
            raise ValueError(f"a credit without a key at {record.partition}/{record.offset}")
        if places.setdefault(record.key, record.partition) != record.partition:
            raise ValueError(f"{record.key!r} lies in partitions {places[record.key]} and {record.partition}")
        latest[record.key] = record.value
    rows = {key: json.loads(value) for key, value in latest.items() if value is not None}
    for key, row in rows.items():
        if key.decode() != row["credit_id"]:
            raise ValueError(f"key {key!r} on credit {row['credit_id']!r}")
    return in_order(rows.values())


def in_order(rows: Iterable[Row]) -> list[Row]:
    """The order of the final view: conversion_id, attribution_model, position."""
    return sorted(rows, key=lambda row: (row["conversion_id"], row["attribution_model"], row["position"]))


def repeated(records: Iterable[Read]) -> list[tuple[bytes, int]]:
    """(key, revision) pairs that were published more than once: exactly-once allows none."""
    counts: dict[tuple[bytes, int], int] = defaultdict(int)
    for record in records:
        if record.value is not None and record.key is not None:
            counts[record.key, json.loads(record.value)["revision"]] += 1
    return [pair for pair, count in counts.items() if count > 1]


# Dead letters


def dead_letter(record: Read) -> DeadLetter:
    """Take a dead letter apart; KeyError for one without the headers of the contract."""
    added = next((i for i, (name, _) in enumerate(record.headers) if _is_ours(name)), len(record.headers))
    errors = {
        name.removeprefix(ERROR_HEADERS): (value or b"").decode()
        for name, value in record.headers[added:]
        if name.startswith(ERROR_HEADERS)
    }
    return DeadLetter(
        errors["topic"],
        int(errors["partition"]),
        int(errors["offset"]),
        record.last_header(REASON_HEADER),
        record.key,
        record.value,
        record.headers[:added],
        errors,
    )


def _is_ours(name: str) -> bool:
    return name.startswith(ERROR_HEADERS) or name == REASON_HEADER
