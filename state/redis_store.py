"""The journey store in Redis or Valkey: one MGET to read and prove, one script to write and move on.

Nothing here counts on what a reply says about time: a step whose reply was lost is sent again, and the script
answers that it was done already. So the few repeats below are safe, and they end at `deadline_s`.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

import redis.exceptions as redis_errors
import stamina
from redis.exceptions import (
    BusyLoadingError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)

from state import scripts
from state.connection import Pack, Packed, Part, pack
from state.keys import APPLIED, DROPPING, OWNER, RESERVED, check_app, prefix
from state.route import Route
from state.store import Fenced, Lost, StoreError, Unreachable, Writes, check_save

ATTEMPTS = 4
LOAD_CHUNK = 500  # keys an MGET: journeys have a bound of their own, this one keeps a reply below some 100 MB
SCAN_COUNT = 1_000  # keys looked at, and at most a few more deleted, in one command: well below a millisecond
_TRANSIENT = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    OSError,
    BusyLoadingError,
    redis_errors.ClusterDownError,  # a failover is under way, or a slot has no node
    redis_errors.TryAgainError,  # the slot is being moved to another node
    redis_errors.MasterDownError,
)
_REFUSED = ("MISCONF", "BUSY", "NOREPLICAS")

T = TypeVar("T")


class Script:
    """A Lua script, called by its hash, and by its text where the server does not know it (any more)."""

    def __init__(self, route: Route, text: str, pack: Pack) -> None:
        self._route, self._pack, self._text = route, pack, text.encode()
        self._sha = hashlib.sha1(self._text).hexdigest().encode()

    async def __call__(self, key: bytes, keys: Sequence[Part], args: Sequence[Part]) -> list[Any]:
        """`key` is the first, and the other `keys` are in the same slot."""
        count = 1 + sum(1 if isinstance(part, bytes) else len(part[1]) for part in keys)
        rest = [b"%d" % count, key, *keys, *args]
        try:
            packed = Packed(self._pack([b"EVALSHA", self._sha, *rest]), "EVALSHA")
            found = await self._route.call(key, packed)
        except NoScriptError:
            found = await self._route.call(key, Packed(self._pack([b"EVAL", self._text, *rest]), "EVAL"))
        return cast(list[Any], found)


class RedisStore:
    """Journeys of application `app` in the Redis at `url` (`redis://`, `rediss://`, `unix://`).

    Where a node of a Redis Cluster answers there, each partition is looked for at the primary that has its slot.
    """

    def __init__(
        self,
        url: str,
        app: str,
        *,
        grown_bytes: int = 64 * 1024,
        load_chunk: int = LOAD_CHUNK,
        timeout_s: float = 5.0,
        deadline_s: float = 15.0,
        pack: Pack = pack,
    ) -> None:
        """`pack` puts long commands together."""
        self._app = check_app(app)
        self._grown, self._load_chunk, self._deadline_s = grown_bytes, load_chunk, deadline_s
        self._route = Route(url, timeout_s)
        self._pack = pack
        self._claim, self._begin, self._save, self._drop_start, self._drop_some = (
            Script(self._route, text, pack)
            for text in (scripts.CLAIM, scripts.BEGIN, scripts.SAVE, scripts.DROP_START, scripts.DROP_SOME)
        )

    async def claim(self, partition: int, token: bytes) -> bytes | None:
        pre = prefix(self._app, partition)
        applied, dropping = await self._tried(self._claim, pre + OWNER, [pre + APPLIED, pre + DROPPING], [token])
        if dropping:
            await self.drop(partition, token)
            return None
        return cast("bytes | None", applied)

    async def begin(self, partition: int, token: bytes, applied: bytes) -> None:
        pre = prefix(self._app, partition)
        reply = await self._tried(self._begin, pre + OWNER, [pre + APPLIED], [token, applied])
        _judge(partition, reply[0])

    async def load(self, partition: int, token: bytes, applied: bytes, subkeys: Sequence[bytes]) -> list[bytes | None]:
        pre = prefix(self._app, partition)
        found: list[bytes | None] = []
        for start in range(0, len(subkeys) or 1, self._load_chunk):
            keys = [pre + OWNER, pre + APPLIED, *[pre + s for s in subkeys[start : start + self._load_chunk]]]
            packed = Packed(self._pack([b"MGET", *keys]), "MGET")
            owner, at, *values = await self._tried(self._route.call, pre, packed)
            _prove(partition, token, applied, owner, at)
            found += values
        return found

    async def save(
        self, partition: int, token: bytes, applied: bytes, next_applied: bytes, writes: Writes
    ) -> list[bytes]:
        check_save(applied, next_applied, writes, RESERVED)
        pre = prefix(self._app, partition)
        appends, under, puts = writes.appends, writes.appends_under, writes.puts
        keys: list[Part] = [pre + APPLIED, (pre, appends), *((pre + start, found) for start, found in under.items())]
        keys += [(pre, puts), *(pre + subkey for subkey in writes.deletes)]
        numbers = (writes.append_count, len(puts), writes.append_ttl_ms, writes.put_ttl_ms, writes.renew_below_ms)
        args: list[Part] = [token, applied, next_applied, *(b"%d" % number for number in (*numbers, self._grown))]
        args += [(None, appends), *((None, found) for found in under.values()), (None, puts)]
        code, *grown = await self._tried(self._save, pre + OWNER, keys, args)
        _judge(partition, code)
        if not grown:
            return []
        subkeys = [subkey for subkey, _ in writes.appended()]
        return [subkeys[place] for place in grown]

    async def drop(self, partition: int, token: bytes) -> None:
        pre = prefix(self._app, partition)
        owner, applied, dropping = pre + OWNER, pre + APPLIED, pre + DROPPING
        reply = await self._tried(self._drop_start, owner, [applied, dropping], [token])
        _judge(partition, reply[0])
        cursor, place = 0, self._route.place(pre)
        while True:
            cursor, keys = await self._tried(self._scan, cursor, pre)
            if place != (place := self._route.place(pre)):
                cursor, keys = 0, []  # the slot went to another node: its cursors are of its own
                continue
            gone = [key for key in keys if key not in (owner, dropping)]
            if gone:
                await self._drop(partition, token, owner, gone)
            if cursor == 0:
                break
        await self._drop(partition, token, owner, [dropping])

    async def health(self) -> list[str]:
        return await self._tried(self._route.problems)

    async def close(self) -> None:
        await self._route.close()

    async def _drop(self, partition: int, token: bytes, owner: bytes, keys: list[bytes]) -> None:
        reply = await self._tried(self._drop_some, owner, keys, [token])
        _judge(partition, reply[0])

    async def _scan(self, cursor: int, pre: bytes) -> tuple[int, list[bytes]]:
        # The prefix holds no glob characters (see check_app), so it stands for itself in the pattern.
        # In a cluster the node that has the partition's slot is asked, as all of its keys are there.
        found, keys = await self._route.call(pre, "SCAN", cursor, "MATCH", pre + b"*", "COUNT", SCAN_COUNT)
        return int(found), keys

    async def _tried(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call, again after a broken connection; at the deadline, give up with an error of our own tree."""
        try:
            async with asyncio.timeout(self._deadline_s):
                async for attempt in stamina.retry_context(
                    on=_TRANSIENT,
                    attempts=ATTEMPTS,
                    timeout=self._deadline_s,
                    wait_initial=0.05,
                    wait_max=1.0,
                ):
                    with attempt:
                        return await call(*args)
        except (*_TRANSIENT, TimeoutError, OutOfMemoryError, ReadOnlyError) as error:
            raise Unreachable(f"Redis: {error!r}") from error
        except RedisError as error:
            kind = Unreachable if str(error).startswith(_REFUSED) else StoreError
            raise kind(f"Redis: {error!r}") from error
        raise AssertionError("retry_context ends by return or raise")


def _prove(partition: int, token: bytes, applied: bytes, owner: bytes | None, at: bytes | None) -> None:
    if owner is None:
        raise Lost(f"partition {partition} has no owner")
    if owner != token:
        raise Fenced(f"partition {partition} belongs to another worker")
    if at != applied:
        raise Lost(f"partition {partition}: applied is {at!r}, expected {applied!r}")


def _judge(partition: int, code: int) -> None:
    """Turn the code of a script into the exception it means."""
    if code == scripts.NO_OWNER:
        raise Lost(f"partition {partition} has no owner")
    if code == scripts.OTHER_OWNER:
        raise Fenced(f"partition {partition} belongs to another worker")
    if code == scripts.MOVED:
        raise Lost(f"partition {partition}: applied is not what this worker left there")
