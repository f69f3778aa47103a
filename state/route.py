"""The way of a command to the server that has its keys: one Redis, or the primary of a slot in Redis Cluster.

Which of the two it is the server says itself (HELLO, which every user may send), so no setting can be wrong.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from redis.exceptions import ResponseError

from state.cluster import Cluster
from state.connection import client_of, options_of
from state.health import WARNING, problems


class Route:
    """A connection to `url`, opened with the first command. Raises ValueError for a URL that cannot be."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._options = options_of(url, timeout_s)
        self._single: Any = client_of(self._options)
        self._cluster: Cluster | None = None
        self._known = False

    async def call(self, key: bytes, *args: Any) -> Any:
        """Send a command whose keys all have the hash tag of `key`; its raw answer."""
        cluster = self._cluster if self._known else await self._find_out()
        if cluster is None:
            return await self._single.execute_command(*args)
        return await cluster.call(key, *args)

    def place(self, key: bytes) -> str:
        """Which server a command with `key` goes to now: a cursor of SCAN is good for that one alone."""
        return "" if self._cluster is None else self._cluster.place(key)

    async def pages(self, start: bytes, count: int) -> AsyncIterator[list[bytes]]:
        """The keys that begin with `start`, which has their hash tag and no glob characters.

        `count` is how many keys the server looks at for a page. As with SCAN, a key may come twice, and one that is
        written meanwhile may not come.
        """
        cursor, place = 0, self.place(start)
        while True:
            found, keys = await self.call(start, "SCAN", cursor, "MATCH", start + b"*", "COUNT", count)
            if place != (place := self.place(start)):
                cursor = 0  # another node answered: cursors are a node's own
                continue
            yield keys
            cursor = int(found)
            if cursor == 0:
                return

    async def problems(self) -> list[str]:
        """See `state.health.problems`; in a cluster of every primary, each under its name."""
        cluster = self._cluster if self._known else await self._find_out()
        if cluster is None:
            return await problems(self._single)
        found: list[str] = []
        async with AsyncExitStack() as stack:
            for name, client in await cluster.primaries():
                stack.push_async_callback(client.aclose)
                stack.push_async_callback(client.connection_pool.aclose)
                found += [_of(name, text) for text in await problems(client)]
        return found

    async def close(self) -> None:
        """Let go of all connections."""
        await self._single.aclose()
        await self._single.connection_pool.aclose()
        if self._cluster is not None:
            await self._cluster.close()

    async def _find_out(self) -> Cluster | None:
        clustered = await is_cluster(self._single)
        if not self._known:  # another partition may have asked meanwhile
            self._cluster = Cluster(self._options) if clustered else None
            self._known = True
        return self._cluster


async def is_cluster(redis: Any) -> bool:
    """Whether this server is a node of a Redis Cluster. A server before Redis 6 cannot say, and counts as none."""
    try:
        answer = await redis.execute_command("HELLO")
    except ResponseError:
        return False
    fields = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=False))
    return fields.get(b"mode", fields.get("mode")) in (b"cluster", "cluster")


def _of(name: str, text: str) -> str:
    """The text with the node's name in it, and still a warning if it was one."""
    if text.startswith(WARNING):
        return f"{WARNING}{name}: {text.removeprefix(WARNING)}"
    return f"{name}: {text}"
