"""Real servers for tests: Apache Kafka from Maven's jars, and Debian's redis-server, open or secured, or as a cluster.

Both listen on free ports of 127.0.0.1, keep their data in a temporary folder and end with the test, also when
the test fails or its process is killed (`streams.servers.Child`). `kill` is a power cut, `start` brings the
same server back on the same port with the data it had.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from redis import Redis
from redis.exceptions import RedisError

from streams.servers import HOST, POLL_S, START_TIMEOUT_S, Child, free_port, redis_command

ROOT = Path(__file__).resolve().parents[2]
POM = Path(__file__).with_name("kafka") / "pom.xml"
JARS = ROOT / ".cache" / "kafka"
# 54 MB from an empty Maven cache took half a minute.
DOWNLOAD_TIMEOUT_S = 600
# Up in 4 s on an idle machine; two cores are often shared with a compiler or another suite.
KAFKA_START_TIMEOUT_S = 90.0
KAFKA_MAIN = "kafka.Kafka"
KAFKA_HEAP = "512m"
APPEND_ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")
SLOTS = 16_384  # of a Redis Cluster, whatever its size
# A primary counts as dead after this silence; the default is 15 s, and nothing here is that far away.
CLUSTER_NODE_TIMEOUT_MS = 1_000
CLUSTER_START_TIMEOUT_S = 60.0


class MissingServer(RuntimeError):
    """A server that the slow suites need is not on this machine; the text names the package."""


class RunningServer:
    """What both servers have in common: `kill`, `start`, `restart`. Made by the context managers below."""

    name: str

    def __init__(self, port: int, folder: Path) -> None:
        self.port, self.folder = port, folder
        self._running = contextlib.ExitStack()
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """The process that serves. Raises RuntimeError while it is down."""
        return self._alive().pid

    def start(self) -> None:
        """Bring it up, with the data it had, and return once it answers."""
        if self._child is not None:
            raise RuntimeError(f"{self.name} is running already")
        child = self._running.enter_context(Child.kept(self.name, self._command()))
        self._await(child)
        self._child = child

    def stop(self) -> None:
        """Ask it to end, as an administrator would, and wait until it has."""
        self._running.close()
        self._child = None

    def kill(self) -> None:
        """End it as a power cut would."""
        self._alive().kill()
        self.stop()

    def restart(self) -> None:
        """An orderly stop and a start."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End it at once, whatever state it is in; nobody will look at its data again."""
        if self._child is not None:
            self._child.kill()
        self.stop()

    def _alive(self) -> Child:
        if self._child is None:
            raise RuntimeError(f"{self.name} is down")
        return self._child

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _await(self, child: Child) -> None:
        raise NotImplementedError


class ApacheKafka(RunningServer):
    """One KRaft node, broker and controller in one process."""

    name = "Apache Kafka"
    overrides: Mapping[str, object] = {}

    @property
    def bootstrap(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """`kafka://127.0.0.1:PORT`."""
        return f"kafka://{self.bootstrap}"

    def format(self) -> None:
        """Lay out the empty data folder, once, before the first start."""
        (self.folder / "server.properties").write_text(self._properties(), encoding="ascii")
        arguments = ["format", "-t", str(uuid.uuid4()), "-c", str(self.folder / "server.properties")]
        arguments += self._format_options()
        command = _java("kafka.tools.StorageTool", *arguments)
        subprocess.run(command, check=True, capture_output=True, timeout=KAFKA_START_TIMEOUT_S)

    def _format_options(self) -> list[str]:
        return []

    def _command(self) -> list[str]:
        return _java(KAFKA_MAIN, str(self.folder / "server.properties"))

    def _await(self, child: Child) -> None:
        """Up means that the node is in the metadata, which is after it was unfenced: topics can be made then."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 100})
        deadline = time.monotonic() + KAFKA_START_TIMEOUT_S
        while not _has_broker(admin):
            if child.process.poll() is not None:
                raise child.failed("it ended while starting")
            if time.monotonic() > deadline:
                raise child.failed(f"it did not answer within {KAFKA_START_TIMEOUT_S:g} s")
            time.sleep(POLL_S)

    def _properties(self) -> str:
        controller = free_port()
        settings = {
            "node.id": 1,
            "process.roles": "broker,controller",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{HOST}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "log.dirs": self.folder / "data",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            # After `kill` the node may come back only when its old self counts as gone; the default is 9 s.
            "broker.session.timeout.ms": 3_000,
            "broker.heartbeat.interval.ms": 500,
        }
        return "".join(f"{name}={value}\n" for name, value in {**settings, **self.overrides}.items())


class SecureKafka(ApacheKafka):
    """A node whose clients need TLS, SCRAM-SHA-512 and a right for everything they do.

    `url` is the node's own listener, open and almighty: for the administrator's part of a test. Clients under test
    come in at `secure_url` as one of `users` (name → password), and nobody has any right before it is granted.
    """

    users: Mapping[str, str] = {}
    ca: Path
    both: Path  # key and certificate in one PEM file

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port, folder)
        self.secure_port = free_port()

    @property
    def secure_url(self) -> str:
        """`kafka://127.0.0.1:PORT` of the listener that asks for TLS and a password."""
        return f"kafka://{HOST}:{self.secure_port}"

    def _format_options(self) -> list[str]:
        scram = (f"SCRAM-SHA-512=[name={name},password={password}]" for name, password in self.users.items())
        return [part for user in scram for part in ("--add-scram", user)]

    def _properties(self) -> str:
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        secured = {
            "listeners": f"INTERNAL://{self.bootstrap},CLIENT://{HOST}:{self.secure_port},CONTROLLER://{HOST}:%d",
            "advertised.listeners": f"INTERNAL://{self.bootstrap},CLIENT://{HOST}:{self.secure_port}",
            "inter.broker.listener.name": "INTERNAL",
            "listener.security.protocol.map": "INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT,CLIENT:SASL_SSL",
            "listener.name.client.sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.client.scram-sha-512.sasl.jaas.config": login,
            "listener.name.client.ssl.keystore.type": "PEM",
            "listener.name.client.ssl.keystore.location": self.both,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "false",
            "super.users": "User:ANONYMOUS",  # who comes in at INTERNAL or CONTROLLER
        }
        plain = dict(line.split("=", 1) for line in super()._properties().splitlines())
        controller = plain["controller.quorum.voters"].rpartition(":")[2]
        secured["listeners"] = f"{secured['listeners']}".replace("%d", controller)
        return "".join(f"{name}={value}\n" for name, value in {**plain, **secured}.items())


class RedisServer(RunningServer):
    """Debian's redis-server, evicting nothing; it forgets everything when it goes down, unless the options say else."""

    name = "Debian's redis-server"
    options: Sequence[str] = ()

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:PORT/0`."""
        return f"redis://{HOST}:{self.port}/0"

    def _command(self) -> list[str]:
        return [*redis_command(redis_binary(), self.port, str(self.folder)), *self.options]

    def _await(self, child: Child) -> None:
        child.await_redis(self.port, START_TIMEOUT_S)


class SecureRedis(RedisServer):
    """A redis-server that speaks TLS only and whose default user is off; `admin_password` is of the user `admin`."""

    ca: Path
    cert: Path
    key: Path
    admin_password: str

    @property
    def url(self) -> str:
        """The address for the administrator's part of a test."""
        return self.url_of("admin", self.admin_password)

    def url_of(self, user: str, password: str) -> str:
        """`rediss://user:password@127.0.0.1:PORT/0`, naming the authority to trust."""
        return f"rediss://{user}:{quote(password, safe='')}@{HOST}:{self.port}/0?ssl_ca_certs={self.ca}"

    def _command(self) -> list[str]:
        tls = {"port": "0", "tls-port": str(self.port), "tls-auth-clients": "no", "tls-ca-cert-file": str(self.ca)}
        tls |= {"tls-cert-file": str(self.cert), "tls-key-file": str(self.key)}
        users = ["--user", "default", "off", "--user", "admin", "on", f">{self.admin_password}", "~*", "&*", "+@all"]
        return [*super()._command(), *(part for name, value in tls.items() for part in (f"--{name}", value)), *users]

    def _await(self, child: Child) -> None:
        _until(lambda: _answers(self.url), child, START_TIMEOUT_S)


class ClusterNode(RedisServer):
    """One node of a Redis Cluster; it remembers the other ones, but none of its data."""

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port, folder)
        self.bus_port = free_port()

    def client(self) -> "Redis":
        """A client of this very node, which follows no redirection."""
        return Redis.from_url(self.url)

    def _command(self) -> list[str]:
        cluster = {
            "cluster-enabled": "yes",
            "cluster-port": str(self.bus_port),
            "cluster-config-file": f"nodes-{self.port}.conf",
            "cluster-node-timeout": str(CLUSTER_NODE_TIMEOUT_MS),
            "cluster-replica-validity-factor": "0",
        }
        return [*super()._command(), *(part for name, value in cluster.items() for part in (f"--{name}", value))]


class RedisCluster:
    """Primaries with an equal share of the slots each; the replicas, if any, belong to them in turn."""

    def __init__(self, primaries: Sequence[ClusterNode], replicas: Sequence[ClusterNode]) -> None:
        self.primaries, self.replicas = primaries, replicas

    @property
    def url(self) -> str:
        """The first primary: enough to find the others."""
        return self.primaries[0].url

    @property
    def urls(self) -> list[str]:
        """All primaries."""
        return [node.url for node in self.primaries]

    def join(self) -> None:
        """Make one cluster of the nodes, once; returns when each of them says that it is whole."""
        share = -(-SLOTS // len(self.primaries))
        nodes = [*self.primaries, *self.replicas]
        for place, node in enumerate(nodes):
            with node.client() as client:
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", place + 1)
                if place < len(self.primaries):
                    last = min(SLOTS, (place + 1) * share) - 1
                    client.execute_command("CLUSTER ADDSLOTSRANGE", place * share, last)
                client.execute_command("CLUSTER MEET", HOST, nodes[0].port, nodes[0].bus_port)
        self._await(lambda node: self._knows(node, len(nodes)))
        for place, node in enumerate(self.replicas):
            with self.primaries[place % len(self.primaries)].client() as client:
                name = client.execute_command("CLUSTER MYID").decode()
            with node.client() as client:
                client.execute_command("CLUSTER REPLICATE", name)
        self._await(lambda node: _is_whole(node, node in self.replicas))

    def _await(self, done: Callable[[ClusterNode], bool]) -> None:
        for node in (*self.primaries, *self.replicas):
            _until(lambda node=node: done(node), node._alive(), CLUSTER_START_TIMEOUT_S)  # type: ignore[misc]

    @staticmethod
    def _knows(node: ClusterNode, count: int) -> bool:
        with node.client() as client:
            text = client.execute_command("CLUSTER NODES")
            lines = text.values() if isinstance(text, dict) else text.splitlines()
            return len(lines) == count and "handshake" not in str(text)


def _is_whole(node: ClusterNode, replica: bool) -> bool:
    with node.client() as client:
        state = client.execute_command("CLUSTER INFO")["cluster_state"]
        link = client.info("replication").get("master_link_status")
    return bool(state == "ok" and link == ("up" if replica else None))


def _until(done: Callable[[], bool], child: Child, timeout_s: float) -> None:
    """Look until it is so; raise ConnectError with the server's log if it never is."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if child.process.poll() is not None:
            raise child.failed("it ended while starting")
        if time.monotonic() > deadline:
            raise child.failed(f"it did not come up within {timeout_s:g} s")
        time.sleep(POLL_S)


def _answers(url: str) -> bool:
    try:
        with Redis.from_url(url) as client:
            return bool(client.ping())
    except RedisError:
        return False


@contextlib.contextmanager
def secure_kafka(ca: Path, both: Path, users: Mapping[str, str]) -> Iterator[SecureKafka]:
    """A running node with TLS, SCRAM-SHA-512 for `users`, and an authorizer; see SecureKafka. Raises as below."""
    with _scratch("kafka") as folder:
        server = SecureKafka(free_port(), folder)
        server.ca, server.both, server.users = ca, both, users
        server.format()
        with _running(server):
            yield server


@contextlib.contextmanager
def secure_redis(ca: Path, cert: Path, key: Path, admin_password: str) -> Iterator[SecureRedis]:
    """A running redis-server with TLS and users; see SecureRedis. Raises as `redis_server`."""
    with _scratch("redis") as folder:
        server = SecureRedis(free_port(), folder)
        server.ca, server.cert, server.key, server.admin_password = ca, cert, key, admin_password
        with _running(server):
            yield server


@contextlib.contextmanager
def redis_cluster(primaries: int = 3, replicas: int = 0) -> Iterator[RedisCluster]:
    """A running Redis Cluster. Raises as `redis_server`."""
    with contextlib.ExitStack() as stack:
        nodes = []
        for _ in range(primaries + replicas):
            node = ClusterNode(free_port(), stack.enter_context(_scratch("redis")))
            stack.enter_context(_running(node))
            nodes.append(node)
        cluster = RedisCluster(nodes[:primaries], nodes[primaries:])
        cluster.join()
        yield cluster


@contextlib.contextmanager
def apache_kafka(overrides: Mapping[str, object] | None = None) -> Iterator[ApacheKafka]:
    """A running node of the version in tests/support/kafka/pom.xml; `overrides` are server properties.

    Raises MissingServer without Java or Maven, ConnectError when it does not come up.
    """
    with _scratch("kafka") as folder:
        server = ApacheKafka(free_port(), folder)
        server.overrides = overrides or {}
        server.format()
        with _running(server):
            yield server


@contextlib.contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """A running redis-server; `options` are added to its command line.

    `*APPEND_ALWAYS` lets all that it acknowledged survive `kill` and `restart`.

    Raises MissingServer when Debian's package is not installed, ConnectError when it does not come up.
    """
    with _scratch("redis") as folder:
        server = RedisServer(free_port(), folder)
        server.options = options
        with _running(server):
            yield server


@contextlib.contextmanager
def _running(server: RunningServer) -> Iterator[None]:
    try:
        server.start()
        yield
    finally:
        server.close()


@contextlib.contextmanager
def _scratch(name: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"touchstream-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _has_broker(admin: AdminClient) -> bool:
    try:
        return bool(admin.list_topics(timeout=1.0).brokers)
    except KafkaException:
        return False


def _java(main: str, *arguments: str) -> list[str]:
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    heap = [f"-Xms{KAFKA_HEAP}", f"-Xmx{KAFKA_HEAP}"]
    classpath = str(jars() / "*")
    return [str(program("java", "default-jdk-headless")), *heap, quiet, "-cp", classpath, main, *arguments]


def jars() -> Path:
    """The folder with Kafka's jars; fetched by Maven the first time, and again when the pom changes.

    Raises MissingServer where that cannot be, for want of Java or Maven.
    """
    program("java", "default-jdk-headless")
    target = JARS / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    JARS.mkdir(parents=True, exist_ok=True)
    with (JARS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            _fetch_jars(target)
    return target


def redis_binary() -> Path:
    """Debian's redis-server. Raises MissingServer when its package is not installed."""
    return program("redis-server", "redis-server")


def _fetch_jars(target: Path) -> None:
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    maven = [str(program("mvn", "maven")), "--quiet", "--batch-mode", "--file", str(POM)]
    command = [*maven, "dependency:copy-dependencies", f"-DoutputDirectory={part}"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=DOWNLOAD_TIMEOUT_S)
    os.replace(part, target)


def program(name: str, package: str) -> Path:
    """Where a program is. Raises MissingServer, naming the Debian package that brings it."""
    found = shutil.which(name)
    if found is None:
        raise MissingServer(f"`{name}` is not on this machine: apt-get install {package}")
    return Path(found)
