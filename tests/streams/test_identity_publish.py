"""The identity stage's publisher on a real broker: where its records lie, and that a transaction is all or nothing."""

import asyncio
import uuid

import pytest
from aiokafka.partitioner import DefaultPartitioner
from confluent_kafka import Consumer, TopicPartition

from models.linking import Send
from models.outcome import Reason
from streams import embedded, topics
from streams.identity_publish import CompiledRelayPublisher, Relayed, RelayPublisher
from streams.native import Native, describe, load
from streams.publish import BATCH_BYTES, DeadLetter, Superseded
from streams.settings import Settings, load_settings

PARTITIONS = 3
NOW_MS = 1_760_000_000_000


@pytest.fixture
def settings(embedded_broker: embedded.Broker) -> Settings:
    found = load_settings(
        None, {"kafka.broker": embedded_broker.url, "kafka.prefix": f"relay-{uuid.uuid4().hex[:8]}"}, {}
    )
    asyncio.run(topics.ensure(found, PARTITIONS))
    return found


@pytest.fixture(params=[False, True], ids=["python", "compiled"])
def native(request: pytest.FixtureRequest) -> Native | None:
    """Who writes the batches."""
    found = load() if request.param else None
    if request.param and found is None:
        pytest.skip(describe(True))
    return found


def publisher(settings: Settings, native: Native | None = None) -> RelayPublisher:
    prefix = settings.kafka.prefix
    names = {**topics.names(settings), "dead_letters": topics.name_of(settings, "dead-letters")}
    given = (settings.kafka.client_options(), f"{prefix}.identity.0", f"{prefix}.identity", names, _no_crash)
    return RelayPublisher(*given) if native is None else CompiledRelayPublisher(*given, native)


def _no_crash(point: str) -> None:
    """Nothing dies here."""


def filled(*sends: Send) -> Relayed:
    output = Relayed()
    output.relayed.extend(sends)
    return output


def committed_rows(settings: Settings, topic: str) -> list[tuple[int, bytes | None, bytes | None, list[object]]]:
    """(partition, key, value, headers) of what read_committed readers see."""
    name = topics.name_of(settings, topic)
    reader = Consumer(
        {
            "bootstrap.servers": ",".join(settings.kafka.bootstrap_servers()),
            "group.id": uuid.uuid4().hex,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    try:
        reader.assign([TopicPartition(name, p, 0) for p in range(PARTITIONS)])
        found, open_partitions = [], set(range(PARTITIONS))
        while open_partitions:
            record = reader.poll(30)
            assert record is not None, "the broker has no more to say"
            if record.error():
                open_partitions.discard(record.partition())
            else:
                found.append((record.partition(), record.key(), record.value(), record.headers() or []))
        return found
    finally:
        reader.close()


def test_records_lie_where_kafka_s_partitioner_puts_their_keys(settings: Settings, native: Native | None) -> None:
    """Hundreds of keys over several topics, with headers; each in the partition of murmur2, in the order they came."""
    keys = [f"anonymous:ä{i}".encode() for i in range(300)]
    sends = [Send("raw-touches", key, b"%d" % i, [("touchstream-hops", b"1")], NOW_MS) for i, key in enumerate(keys)]
    sends.append(Send("raw-conversions", b"c1", b"none", [("null", None), ("é", b"")], NOW_MS))
    sends += [Send("links", b"u1", b"first", (), NOW_MS), Send("links", b"u1", b"second", (), NOW_MS)]

    async def work() -> None:
        mine = publisher(settings, native)
        await mine.start()
        try:
            await mine.commit(0, filled(*sends), {topics.name_of(settings, "links"): 0})
        finally:
            await mine.stop()

    asyncio.run(work())
    rows = committed_rows(settings, "raw-touches")
    assert sorted(key for _, key, _, _ in rows if key) == sorted(keys)
    partitioner, everywhere = DefaultPartitioner(), list(range(PARTITIONS))
    assert all(partition == partitioner(key, everywhere, everywhere) for partition, key, _, _ in rows)
    assert {partition for partition, *_ in rows} == set(everywhere)
    for partition in everywhere:
        values = [int(value or b"") for p, _, value, _ in rows if p == partition]
        assert values == sorted(values)
    assert all(headers == [("touchstream-hops", b"1")] for *_, headers in rows)
    (correction,) = committed_rows(settings, "raw-conversions")
    assert correction[1:] == (b"c1", b"none", [("null", None), ("é", b"")])
    assert [value for _, _, value, _ in committed_rows(settings, "links")] == [b"first", b"second"]


def test_more_than_one_batch_and_records_larger_than_one(settings: Settings, native: Native | None) -> None:
    """What does not fit into one Kafka batch takes several, and a record of more than a batch goes alone."""
    small = b"x" * (BATCH_BYTES // 3)
    sends = [Send("touches", b"u1", b"%d" % i + small, (), NOW_MS) for i in range(5)]
    sends.insert(2, Send("touches", b"u1", b"y" * (BATCH_BYTES + 5), (), NOW_MS))

    async def work() -> None:
        mine = publisher(settings, native)
        await mine.start()
        try:
            await mine.commit(0, filled(*sends), {topics.name_of(settings, "links"): 0})
        finally:
            await mine.stop()

    asyncio.run(work())
    assert [value for _, _, value, _ in committed_rows(settings, "touches")] == [send.value for send in sends]


def test_a_fenced_worker_publishes_nothing(settings: Settings) -> None:
    """Records, dead letters and offsets of a worker that lost the partition are not seen; its successor's are."""
    links = topics.name_of(settings, "links")

    async def work() -> int | None:
        old, new = publisher(settings), publisher(settings)
        await old.start()
        await new.start()
        try:
            lost = filled(Send("moves", b"u2", b"lost", (), NOW_MS))
            lost.dead.append(DeadLetter(links, 0, 5, b"k", b"v", [], Reason.BAD_MERGE, "why"))
            with pytest.raises(Superseded):
                await old.commit(0, lost, {links: 9})
            await new.commit(0, filled(Send("moves", b"u2", b"kept", (), NOW_MS)), {links: 4})
        finally:
            await old.stop()
            await new.stop()
        return _offset(settings, links)

    assert asyncio.run(work()) == 4
    assert [value for _, _, value, _ in committed_rows(settings, "moves")] == [b"kept"]
    assert committed_rows(settings, "dead-letters") == []


def _offset(settings: Settings, topic: str) -> int | None:
    group = Consumer(
        {
            "bootstrap.servers": ",".join(settings.kafka.bootstrap_servers()),
            "group.id": f"{settings.kafka.prefix}.identity",
        }
    )
    try:
        (found,) = group.committed([TopicPartition(topic, 0)], timeout=30)
        return int(found.offset)
    finally:
        group.close()
