"""Servers that ask their clients for a certificate: Apache Kafka, redis-server, and a Redis Cluster."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from streams.servers import HOST, free_port
from tests.support.certificates import Authority, Certificate
from tests.support.servers import ClusterNode, RedisCluster, RunningServer, SecureKafka, SecureRedis

Server = TypeVar("Server", bound=RunningServer)


@dataclass(frozen=True)
class Trust:
    """One authority for servers and clients; the key of the client's certificate opens with a password."""

    authority: Authority
    server: Certificate
    client: Certificate
    key_password: str


class MutualKafka(SecureKafka):
    """SecureKafka whose users may come by PLAIN as well, and with a listener where certificates take their place."""

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port, folder)
        self.certificate_port = free_port()

    @property
    def certificate_url(self) -> str:
        """`kafka://127.0.0.1:PORT` of the listener that asks for a certificate; a client is called by its subject."""
        return f"kafka://{HOST}:{self.certificate_port}"

    def _properties(self) -> str:
        settings = dict(line.split("=", 1) for line in super()._properties().splitlines())
        for name in ("listeners", "advertised.listeners"):
            settings[name] += f",CERTIFICATE://{HOST}:{self.certificate_port}"
        settings["listener.security.protocol.map"] += ",CERTIFICATE:SSL"
        settings["listener.name.client.sasl.enabled.mechanisms"] += ",PLAIN"
        users = " ".join(f'user_{name}="{password}"' for name, password in self.users.items())
        login = f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
        settings["listener.name.client.plain.sasl.jaas.config"] = login
        tls = {"keystore.type": "PEM", "keystore.location": self.both, "client.auth": "required"}
        tls |= {"truststore.type": "PEM", "truststore.location": self.ca}
        settings |= {f"listener.name.certificate.ssl.{name}": str(value) for name, value in tls.items()}
        return "".join(f"{name}={value}\n" for name, value in settings.items())


class MutualRedis(SecureRedis):
    """SecureRedis that talks to nobody without a certificate."""

    trust: Trust

    def url_of(self, user: str, password: str) -> str:
        """`SecureRedis.url_of` with the client's certificate and the password of its key."""
        client, opens = self.trust.client, quote(self.trust.key_password, safe="")
        of_client = f"&ssl_certfile={client.cert}&ssl_keyfile={client.key}&ssl_password={opens}"
        return super().url_of(user, password) + of_client

    def _command(self) -> list[str]:
        return [*super()._command(), "--tls-auth-clients", "yes"]


class MutualNode(ClusterNode, MutualRedis):
    """A node of a Redis Cluster whose nodes, too, talk to each other by TLS only."""

    def _command(self) -> list[str]:
        return [*super()._command(), "--tls-cluster", "yes", "--tls-replication", "yes"]


@contextlib.contextmanager
def mutual_kafka(trust: Trust, users: dict[str, str]) -> Iterator[MutualKafka]:
    """A running node. Raises as `servers.apache_kafka`."""
    with _folder() as folder:
        server = MutualKafka(free_port(), folder)
        server.ca, server.both, server.users = trust.authority.ca, trust.server.both, users
        server.format()
        with _running(server):
            yield server


@contextlib.contextmanager
def mutual_redis(trust: Trust, admin_password: str) -> Iterator[MutualRedis]:
    """A running redis-server. Raises as `servers.redis_server`."""
    with _folder() as folder, _running(_with(MutualRedis(free_port(), folder), trust, admin_password)) as server:
        yield server


@contextlib.contextmanager
def mutual_cluster(trust: Trust, admin_password: str, primaries: int = 3) -> Iterator[list[MutualNode]]:
    """The nodes of a running Redis Cluster. Raises as `servers.redis_server`."""
    with contextlib.ExitStack() as stack:
        nodes = [
            _with(MutualNode(free_port(), stack.enter_context(_folder())), trust, admin_password)
            for _ in range(primaries)
        ]
        for node in nodes:
            stack.enter_context(_running(node))
        RedisCluster(nodes, []).join()
        yield nodes


Redis = TypeVar("Redis", bound=MutualRedis)


def _with(server: Redis, trust: Trust, admin_password: str) -> Redis:
    server.trust, server.admin_password = trust, admin_password
    server.ca, server.cert, server.key = trust.authority.ca, trust.server.cert, trust.server.key
    return server


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="touchstream-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def _running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.close()
