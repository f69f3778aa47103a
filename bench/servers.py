"""Apache Kafka (one KRaft node) and Debian's redis-server, on loopback and free ports, for one benchmark.

The jars are those of `tests/support/servers.py`. The settings are not: a benchmark wants a broker with the heap,
rebalance delay and session times of production, and Redis synced each second, as `docker-compose.yml` has it.
"""

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from bench.processes import Child
from streams.servers import free_port
from tests.support.servers import jars

START_SECONDS = 60.0


class Kafka:
    """One broker and controller in one process, formatted afresh in `directory`."""

    def __init__(self, directory: Path) -> None:
        port, controller = free_port(), free_port()
        self.bootstrap = f"127.0.0.1:{port}"
        directory.mkdir(parents=True)
        properties = directory / "server.properties"
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(directory / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "auto.create.topics.enable": "false",
            "log.segment.delete.delay.ms": "1000",
        }
        properties.write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
        classes = str(jars() / "*")
        cluster = uuid.uuid4().hex[:22]
        subprocess.run(
            ["java", "-cp", classes, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)],
            check=True,
            capture_output=True,
        )
        java = ["java", "-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-cp", classes, "kafka.Kafka", str(properties)]
        self.child = Child(java, directory / "kafka.log")
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        try:
            self._wait()
        except BaseException:
            self.child.kill()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.child.process.poll() is None:
            try:
                if self.admin.list_topics(timeout=1).brokers:
                    return
            except KafkaException:
                continue
        raise RuntimeError("Kafka did not start:\n" + self.child.tail())


class Redis:
    """redis-server with an append-only file synced each second and no eviction, as docker-compose.yml has it."""

    def __init__(self, directory: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise RuntimeError("redis-server is missing: apt-get install -y redis-server")
        directory.mkdir(parents=True)
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        options = {
            "port": str(port),
            "bind": "127.0.0.1",
            "dir": str(directory),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "auto-aof-rewrite-min-size": "1gb",
        }
        self.child = Child([program, *(w for k, v in options.items() for w in (f"--{k}", v))], directory / "redis.log")
        try:
            self._wait(port)
        except BaseException:
            self.child.kill()
            raise

    def flush(self) -> None:
        """Delete every key: the server is this benchmark's own."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _wait(self, port: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.child.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                self.child.usage.sample()
        raise RuntimeError("redis-server did not start:\n" + self.child.tail())


class Servers(NamedTuple):
    """What a benchmark runs on; `work` is a folder of its own for data and logs."""

    kafka: Kafka
    redis: Redis
    work: Path


@contextlib.contextmanager
def servers(name: str) -> Iterator[Servers]:
    """Start both in a new folder called after `name`; all of it is gone after the block, also where SIGTERM ends it."""
    signal.signal(signal.SIGTERM, _leave)
    work = Path(tempfile.mkdtemp(prefix=f"touchstream-{name}-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        kafka = Kafka(work / "kafka")
        stack.callback(kafka.child.stop)
        redis_server = Redis(work / "redis")
        stack.callback(redis_server.child.stop)
        yield Servers(kafka, redis_server, work)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
