"""The store in this process's memory: the same rules as Redis, nothing kept when the process ends.

One object stands for one server: workers that share it fence each other by their tokens as they do in Redis.
"""

import time
from collections.abc import Callable, Sequence

from state.keys import APPLIED, OWNER, RESERVED, check_app, prefix
from state.store import FOR_GOOD, Fenced, Lost, Unreachable, Writes, check_save

NEVER_MS = 1 << 62


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryStore:
    """Journeys in a dict of at most `keys_max` keys; beyond it, saves are refused as by a full Redis."""

    def __init__(
        self,
        app: str = "memory",
        *,
        grown_bytes: int = 64 * 1024,
        keys_max: int = 5_000_000,
        now_ms: Callable[[], int] = _now_ms,
    ) -> None:
        self._app = check_app(app)
        self._grown, self._keys_max, self._now_ms = grown_bytes, keys_max, now_ms
        self.data: dict[bytes, bytes] = {}
        self.expires_ms: dict[bytes, int] = {}

    async def claim(self, partition: int, token: bytes) -> bytes | None:
        pre = prefix(self._app, partition)
        self.data[pre + OWNER] = token
        return self.data.get(pre + APPLIED)

    async def begin(self, partition: int, token: bytes, applied: bytes) -> None:
        pre = self._owned(partition, token)
        if self.data.setdefault(pre + APPLIED, applied) != applied:
            raise Lost(f"partition {partition} has begun already")

    async def load(self, partition: int, token: bytes, applied: bytes, subkeys: Sequence[bytes]) -> list[bytes | None]:
        pre = self._owned(partition, token)
        self._at(partition, pre, applied)
        now = self._now_ms()
        return [self._get(pre + subkey, now) for subkey in subkeys]

    async def save(
        self, partition: int, token: bytes, applied: bytes, next_applied: bytes, writes: Writes
    ) -> list[bytes]:
        check_save(applied, next_applied, writes, RESERVED)
        pre = self._owned(partition, token)
        if self.data.get(pre + APPLIED) == next_applied != applied:
            return []
        self._at(partition, pre, applied)
        if len(self.data) + writes.append_count + len(writes.puts) > self._keys_max:
            raise Unreachable(f"the memory store may hold {self._keys_max} keys")
        now = self._now_ms()
        grown = [subkey for subkey, value in writes.appended() if self._append(pre + subkey, value, now, writes)]
        for subkey, value in writes.puts.items():
            self._set(pre + subkey, value, NEVER_MS if writes.put_ttl_ms == FOR_GOOD else now + writes.put_ttl_ms)
        for subkey in writes.deletes:
            self._forget(pre + subkey)
        self.data[pre + APPLIED] = next_applied
        return grown

    async def drop(self, partition: int, token: bytes) -> None:
        pre = self._owned(partition, token)
        for key in [key for key in self.data if key.startswith(pre) and key != pre + OWNER]:
            self._forget(key)

    async def health(self) -> list[str]:
        return []

    async def close(self) -> None:
        """Keep everything: another worker may share this object."""

    def _owned(self, partition: int, token: bytes) -> bytes:
        pre = prefix(self._app, partition)
        owner = self.data.get(pre + OWNER)
        if owner is None:
            raise Lost(f"partition {partition} has no owner")
        if owner != token:
            raise Fenced(f"partition {partition} belongs to another worker")
        return pre

    def _at(self, partition: int, pre: bytes, applied: bytes) -> None:
        found = self.data.get(pre + APPLIED)
        if found != applied:
            raise Lost(f"partition {partition}: applied is {found!r}, expected {applied!r}")

    def _get(self, key: bytes, now: int) -> bytes | None:
        if self.expires_ms.get(key, NEVER_MS) <= now:
            self._forget(key)
        return self.data.get(key)

    def _append(self, key: bytes, value: bytes, now: int, writes: Writes) -> bool:
        before = self._get(key, now) or b""
        if not before or self.expires_ms[key] - now < writes.renew_below_ms:
            self._set(key, before + value, now + writes.append_ttl_ms)
        else:
            self.data[key] = before + value
        return len(before) // self._grown < (len(before) + len(value)) // self._grown

    def _set(self, key: bytes, value: bytes, expires_ms: int) -> None:
        self.data[key], self.expires_ms[key] = value, expires_ms

    def _forget(self, key: bytes) -> None:
        self.data.pop(key, None)
        self.expires_ms.pop(key, None)
