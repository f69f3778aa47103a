"""What a replay has in Redis: each partition's keys, which are all on one server, and in a cluster each on its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator

from state import keys
from state.route import Route
from streams.kept import redis_told
from streams.settings import Settings

TIMEOUT_S = 30.0  # a page of long journeys may take its time
PAGE = 2_000  # keys looked at, read or deleted in one command


class ReplayKeys:
    """The keys of one stage. Every method raises ConnectError where Redis does not answer."""

    def __init__(self, settings: Settings, table: str, partitions: int) -> None:
        """`table` is what the stage names its keys by, see `Stage`."""
        self._settings = settings
        self._route = Route(settings.redis.url, TIMEOUT_S)
        self._starts = [keys.prefix(table, partition) for partition in range(partitions)]

    async def applied(self) -> list[bytes | None]:
        """What each partition has applied, as its owner wrote it; None where nothing was."""
        with redis_told(self._settings):
            return list(
                await asyncio.gather(*(self._route.call(start, "GET", start + keys.APPLIED) for start in self._starts))
            )

    async def values(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """(subkey, value) of all keys, each once."""
        with redis_told(self._settings):
            for start in self._starts:
                for page in _paged(await self._names(start)):
                    for name, value in zip(page, await self._route.call(start, "MGET", *page), strict=True):
                        if value is not None:
                            yield name[len(start) :], value

    async def remove(self) -> None:
        """Delete all keys."""
        with redis_told(self._settings):
            for start in self._starts:
                for page in _paged(await self._names(start)):
                    await self._route.call(start, "UNLINK", *page)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._route.close()

    async def _names(self, start: bytes) -> list[bytes]:
        """All of them, each once: SCAN may tell a key twice, and its touches would be counted twice."""
        return sorted({name async for page in self._route.pages(start, PAGE) for name in page})


def _paged(names: list[bytes]) -> Iterator[list[bytes]]:
    return (names[i : i + PAGE] for i in range(0, len(names), PAGE))
