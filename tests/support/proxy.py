"""A TCP proxy before Redis that loses replies: the request is carried out, and its sender never hears of it."""

import hashlib
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from state import scripts
from streams.servers import HOST

SAVE_SHA = hashlib.sha1(scripts.SAVE.encode()).hexdigest().encode()
CHUNK_BYTES = 1 << 16
JOIN_S = 10.0
# A server that does not know the script says so and has done nothing: that reply is not worth losing.
UNKNOWN_SCRIPT = b"-NOSCRIPT"


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
