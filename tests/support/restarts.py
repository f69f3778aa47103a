"""Apache Kafka with a second door: a listener that is reached only through a relay, which can be slow or cut."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from streams.servers import HOST, free_port
from tests.support.proxy import Relay, relay
from tests.support.servers import APPEND_ALWAYS, ApacheKafka, RedisServer, redis_server

LISTENER = "RELAYED"


class TwoDoorKafka(ApacheKafka):
    """A broker tells clients under which address to come back, so the relay needs a listener of its own."""

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port, folder)
        self.inner_port, self.relay_port = free_port(), 0

    @property
    def relayed_url(self) -> str:
        """The address behind the relay."""
        return f"kafka://{HOST}:{self.relay_port}"

    def _properties(self) -> str:
        inner, outer = (f",{LISTENER}://{HOST}:{port}" for port in (self.inner_port, self.relay_port))
        text = re.sub(r"(?m)^listeners=.*$", lambda found: found[0] + inner, super()._properties())
        text = re.sub(r"(?m)^advertised.listeners=.*$", lambda found: found[0] + outer, text)
        plain = ",".join(f"{name}:PLAINTEXT" for name in ("PLAINTEXT", "CONTROLLER", LISTENER))
        return f"{text}listener.security.protocol.map={plain}\ninter.broker.listener.name=PLAINTEXT\n"


@contextlib.contextmanager
def two_door_kafka() -> Iterator[tuple[TwoDoorKafka, Relay]]:
    """A running node and the relay before its second listener. Raises what `servers.apache_kafka` raises."""
    with tempfile.TemporaryDirectory(prefix="touchstream-kafka-", ignore_cleanup_errors=True) as folder:
        server = TwoDoorKafka(free_port(), Path(folder))
        with relay(server.inner_port) as door:
            server.relay_port = door.port
            server.format()
            try:
                server.start()
                yield server, door
            finally:
                server.close()


@contextlib.contextmanager
def lasting_redis() -> Iterator[tuple[RedisServer, Relay]]:
    """A redis-server that keeps all that it acknowledged over `kill` and `restart`, and a relay before it."""
    with redis_server(*APPEND_ALWAYS) as server, relay(server.port) as door:
        yield server, door
