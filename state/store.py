"""What a journey store is: the keys of a partition, owned by one worker, moving in step with its offsets.

Two things are kept beside the journeys of a partition: the *owner* (a token, written anew at each assignment)
and *applied* (the next offsets up to which the journeys hold what the topics say, as an opaque text). Every
read proves both and every write checks both, so a worker that lost the partition, or whose store lost its
memory, finds out before it decides anything.

    StoreError
    ├── Lost          the store is not where this worker left it: claim again
    ├── Fenced        another worker owns the partition: stop at once
    └── Unreachable   no answer within the deadline: pause, retry, then stop
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

TTL_MAX_MS = 100 * 366 * 86_400_000  # a century; far below what Redis refuses halfway through a script
FOR_GOOD = 0


class StoreError(Exception):
    """Anything that keeps a store from doing its work."""


class Lost(StoreError):
    """The owner token is missing, or `applied` is not what this worker left there: claim again."""


class Fenced(StoreError):
    """The owner token is another worker's: stop at once, publish nothing (exit code 75)."""


class Unreachable(StoreError):
    """The store did not answer in time, or refused every write (out of memory, read-only replica)."""


@dataclass(slots=True)
class Writes:
    """All changes of one batch to one partition; a subkey may stand in one of the collections only.

    `appends`: subkey → bytes to add at its end; a key that this creates lives `append_ttl_ms`.
    `appends_under`: the same for many subkeys that begin alike, as start → rest of the subkey → bytes.
    `puts`: subkey → its whole new value, which lives `put_ttl_ms` from now, or for good where that is `FOR_GOOD`.
    `deletes`: subkeys to remove, present or not.
    `renew_below_ms`: an appended key with less time than this to live gets `append_ttl_ms` anew; 0 never
    looks, which is cheaper, and then a key lives no longer than `append_ttl_ms` from its first append or last
    put.
    """

    appends: dict[bytes, bytes] = field(default_factory=dict)
    appends_under: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    puts: dict[bytes, bytes] = field(default_factory=dict)
    deletes: list[bytes] = field(default_factory=list)
    append_ttl_ms: int = TTL_MAX_MS
    put_ttl_ms: int = FOR_GOOD
    renew_below_ms: int = 0

    def check(self, reserved: Sequence[bytes]) -> None:
        """Raise ValueError for what a store must not be asked, before anything is sent to it."""
        for ttl in (self.append_ttl_ms, self.put_ttl_ms or 1):
            if not 1 <= ttl <= TTL_MAX_MS:
                raise ValueError(f"a time to live is 1 … {TTL_MAX_MS} ms, not {ttl}")
        if not 0 <= self.renew_below_ms <= self.append_ttl_ms:
            raise ValueError("renew_below_ms lies between 0 and append_ttl_ms")
        once = {*self.appends, *self.puts, *self.deletes}
        twice = len(once) < len(self.appends) + len(self.puts) + len(set(self.deletes))
        if twice or (self.appends_under and any(map(self._is_under, once))):
            raise ValueError("a subkey may be appended to, put or deleted in one save, not two of them")
        for subkey in reserved:
            if subkey in once or self._is_under(subkey):
                raise ValueError(f"the subkey {subkey!r} belongs to the store itself")

    def appended(self) -> Iterator[tuple[bytes, bytes]]:
        """Each subkey that is appended to, with what; those of `appends` first."""
        yield from self.appends.items()
        for start, found in self.appends_under.items():
            for rest, value in found.items():
                yield start + rest, value

    @property
    def append_count(self) -> int:
        """How many there are of `appended`."""
        return len(self.appends) + sum(map(len, self.appends_under.values()))

    def _is_under(self, subkey: bytes) -> bool:
        found = self.appends_under.items()
        return any(subkey.startswith(start) and subkey[len(start) :] in rests for start, rests in found)


class JourneyStore(Protocol):
    """The store as the processor sees it; partitions are numbers, subkeys and values are any bytes.

    Use one partition from one task only. Every method may raise `Unreachable`; every method that takes a
    token besides `claim` raises `Lost` or `Fenced` and then has changed nothing.
    """

    async def claim(self, partition: int, token: bytes) -> bytes | None:
        """Make `token` the owner, whoever was; return `applied`, or None where the partition has none."""

    async def begin(self, partition: int, token: bytes, applied: bytes) -> None:
        """Write the first `applied` of a partition that has none."""

    async def load(self, partition: int, token: bytes, applied: bytes, subkeys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of `subkeys` in their order, None where absent, each chunk proved on its own."""

    async def save(
        self, partition: int, token: bytes, applied: bytes, next_applied: bytes, writes: Writes
    ) -> list[bytes]:
        """Write everything and move `applied`, in one atomic step; do nothing if that was done before.

        Returns the appended subkeys whose length crossed a multiple of the store's `grown_bytes`, for the
        caller to compact; none of them when the step had been done before (a lost reply). `next_applied` must
        differ from `applied` if there are appends: a repeated save could not be told from a new one.
        """

    async def drop(self, partition: int, token: bytes) -> None:
        """Delete every key of the partition but the owner, `applied` first; a `claim` ends what a crash cut
        off.
        """

    async def health(self) -> list[str]:
        """Return what is wrong, in words; what only could not be found out starts with `warning: `."""

    async def close(self) -> None:
        """Let go of all connections."""


def check_save(applied: bytes, next_applied: bytes, writes: Writes, reserved: Sequence[bytes]) -> None:
    """Raise ValueError for a save that no store may be asked to do."""
    writes.check(reserved)
    if writes.append_count and applied == next_applied:
        raise ValueError("a save with appends must move `applied`, else a retry would append twice")
