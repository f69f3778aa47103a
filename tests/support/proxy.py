"""TCP proxies: `ReplyLoser` before Redis, where a request is carried out and its sender never hears of it, and `Relay`
before any server, which can be slow, cut connections, and turn to another server."""

import asyncio
import contextlib
import hashlib
import selectors
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from state import scripts
from streams.servers import HOST

SAVE_SHA = hashlib.sha1(scripts.SAVE.encode()).hexdigest().encode()
CHUNK_BYTES = 1 << 16
JOIN_S = 10.0
# A server that does not know the script says so and has done nothing: that reply is not worth losing.
UNKNOWN_SCRIPT = b"-NOSCRIPT"
T = TypeVar("T")


class Link:
    """One connection of a client and its counterpart at the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.tail = b""
        self.awaits_save = False

    def close(self) -> None:
        self.client.close()
        self.server.close()


class ReplyLoser:
    """Forwards everything, but closes the connection in place of the reply to a save, once in about `every`.

    A client of ours has one request under way on a connection, so what the server says next is its reply.
    `lost` counts the replies that were lost, `saves` those to all saves.
    """

    def __init__(self, redis_url: str, every: int) -> None:
        parts = urlsplit(redis_url)
        self._server = (parts.hostname or HOST, parts.port or 6379)
        self._every = every
        self.saves = self.lost = 0
        self._next_loss = every
        self._selector = selectors.DefaultSelector()
        self._links: set[Link] = set()
        self._listener = socket.create_server((HOST, 0))
        self._wake_read, self._wake_write = socket.socketpair()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self.url = f"redis://{HOST}:{self._listener.getsockname()[1]}/0"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._wake_write.send(b"x")
        self._thread.join(JOIN_S)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._wake_read:
                    self._end()
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif key.data in self._links:
                    self._forward(key.data, key.fileobj)  # type: ignore[arg-type]

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        link = Link(client, socket.create_connection(self._server))
        self._links.add(link)
        for end in (link.client, link.server):
            self._selector.register(end, selectors.EVENT_READ, link)

    def _forward(self, link: Link, source: socket.socket) -> None:
        try:
            data = source.recv(CHUNK_BYTES)
            if not data or (source is link.server and self._is_to_lose(link, data)):
                self._drop(link)
            elif source is link.client:
                self._note(link, data)
                link.server.sendall(data)
            else:
                link.client.sendall(data)
        except OSError:
            self._drop(link)

    def _note(self, link: Link, data: bytes) -> None:
        """See whether a save begins here; its hash may lie across two chunks."""
        seen = link.tail + data
        if SAVE_SHA in seen:
            link.awaits_save, link.tail = True, b""
        else:
            link.tail = seen[-len(SAVE_SHA) + 1 :]

    def _is_to_lose(self, link: Link, reply: bytes) -> bool:
        if not link.awaits_save:
            return False
        link.awaits_save = False
        if reply.startswith(UNKNOWN_SCRIPT):
            return False
        self.saves += 1
        if self.saves < self._next_loss:
            return False
        self.lost += 1
        # Uneven gaps: partitions that take turns would lose the same one's reply each time it asks again.
        self._next_loss = self.saves + self._every + self.lost % 3
        return True

    def _drop(self, link: Link) -> None:
        self._links.discard(link)
        for end in (link.client, link.server):
            self._selector.unregister(end)
        link.close()

    def _end(self) -> None:
        for link in list(self._links):
            self._drop(link)
        for end in (self._listener, self._wake_read, self._wake_write):
            end.close()
        self._selector.close()


@contextmanager
def losing_replies(redis_url: str, every: int) -> Iterator[ReplyLoser]:
    """A proxy before the Redis at `redis_url`, gone when the block ends."""
    proxy = ReplyLoser(redis_url, every)
    try:
        yield proxy
    finally:
        proxy.close()


class Relay:
    """Forwards every connection to `target`, a port of this machine; `delay_s` is waited before each chunk.

    `port` and `redis_url` are where clients come. Runs in a thread of its own; the attributes may be set at any time.
    """

    def __init__(self, target: int) -> None:
        self.target, self.delay_s = target, 0.0
        self.port = 0
        self.cuts = 0
        self._links: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, HOST, 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self.redis_url = f"redis://{HOST}:{self.port}/0"

    def cut(self) -> None:
        """Cut every connection, whatever is under way on it. New ones are taken at once."""
        self._call(self._cut())

    def close(self) -> None:
        self._server.close()
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(JOIN_S)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(JOIN_S)

    async def _cut(self) -> None:
        for writer in list(self._links):
            writer.transport.abort()
            self.cuts += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection(HOST, self.target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, inner_writer}
        self._links |= both
        try:
            ways = (self._forward(reader, inner_writer), self._forward(inner_reader, writer))
            await asyncio.wait([asyncio.ensure_future(way) for way in ways], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._links -= both
            for end in both:
                end.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()


@contextmanager
def relay(target: int) -> Iterator[Relay]:
    """A relay before a port of this machine, gone when the block ends."""
    made = Relay(target)
    try:
        yield made
    finally:
        made.close()
