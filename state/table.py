"""A Faust table without a changelog: the topics are the changelog, a journey store keeps the state.

Faust owns its life (started with the worker, stopped with it) and its name; the processor works on
`table.data`, whose `claim`, `begin`, `load`, `save` and `drop` are those of the journey store. What a `load`
brought is readable as a plain mapping, `table[partition, subkey]`, until the next `load` or `save` of that
partition. Writing goes through `save` only: an item assignment could be neither atomic nor fenced.
"""

from collections.abc import ItemsView, Iterator, KeysView, Sequence, ValuesView
from functools import cached_property
from typing import Any, NoReturn

import faust
from faust.stores import STORES
from faust.stores.base import Store
from faust.tables.manager import TableManager as FaustTableManager

from state import connection
from state.connection import Pack
from state.redis_store import RedisStore
from state.store import JourneyStore, Writes

Key = tuple[int, bytes]
SCHEMES = ("redis", "rediss")


def register_store_schemes() -> None:
    """Make Faust build `TableStore` for `redis://` and `rediss://`; doing it again changes nothing."""
    for scheme in SCHEMES:
        STORES.aliases[scheme] = "state.table:TableStore"


class _Loaded:
    """What a `load` brought; a mapping once somebody reads it as one."""

    def __init__(self, subkeys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        self._subkeys, self._values = subkeys, values

    @cached_property
    def mapping(self) -> dict[bytes, bytes | None]:
        """By subkey."""
        return dict(zip(self._subkeys, self._values, strict=True))


class TableStore(Store[Key, "bytes | None"]):
    """Faust's store over a journey store: the one in the table's `options["journeys"]`, else Redis at the
    URL, whose long commands `options["pack"]` puts together.
    """

    def __post_init__(self) -> None:
        self._working: dict[int, _Loaded] = {}
        self._journeys: JourneyStore | None = None

    @property
    def journeys(self) -> JourneyStore:
        """The journey store below; built when first asked for, as it needs a running loop."""
        if self._journeys is None:
            given: JourneyStore | None = (self.options or {}).get("journeys")
            pack: Pack = (self.options or {}).get("pack") or connection.pack
            self._journeys = given or RedisStore(str(self.url), self.table_name, pack=pack)
        return self._journeys

    async def on_stop(self) -> None:
        self._working.clear()
        if self._journeys is not None:
            await self._journeys.close()

    async def claim(self, partition: int, token: bytes) -> bytes | None:
        """See `JourneyStore.claim`; forgets what was loaded under another token."""
        self._working.pop(partition, None)
        return await self.journeys.claim(partition, token)

    async def begin(self, partition: int, token: bytes, applied: bytes) -> None:
        """See `JourneyStore.begin`."""
        await self.journeys.begin(partition, token, applied)

    async def load(self, partition: int, token: bytes, applied: bytes, subkeys: Sequence[bytes]) -> list[bytes | None]:
        """See `JourneyStore.load`; the result is also the partition's working set from now on."""
        self._working.pop(partition, None)
        values = await self.journeys.load(partition, token, applied, subkeys)
        self._working[partition] = _Loaded(subkeys, values)
        return values

    async def save(
        self, partition: int, token: bytes, applied: bytes, next_applied: bytes, writes: Writes
    ) -> list[bytes]:
        """See `JourneyStore.save`; ends the working set, which is stale from now on."""
        self._working.pop(partition, None)
        return await self.journeys.save(partition, token, applied, next_applied, writes)

    async def drop(self, partition: int, token: bytes) -> None:
        """See `JourneyStore.drop`."""
        self._working.pop(partition, None)
        await self.journeys.drop(partition, token)

    async def health(self) -> list[str]:
        """See `JourneyStore.health`."""
        return await self.journeys.health()

    async def on_rebalance(
        self, assigned: set[Any], revoked: set[Any], newly_assigned: set[Any], generation_id: int = 0
    ) -> None:
        for tp in revoked:
            self._working.pop(tp.partition, None)

    # the mapping: reading the working set, and nothing else
    def __getitem__(self, key: Key) -> bytes | None:
        partition, subkey = key
        try:
            return self._working[partition].mapping[subkey]
        except KeyError:
            raise KeyError(_outside(key)) from None

    def __contains__(self, key: object) -> bool:
        match key:
            case (int(partition), bytes(subkey)):
                return partition in self._working and subkey in self._working[partition].mapping
        return False

    def __iter__(self) -> Iterator[Key]:
        return ((partition, subkey) for partition, loaded in self._working.items() for subkey in loaded.mapping)

    def __len__(self) -> int:
        return sum(len(loaded.mapping) for loaded in self._working.values())

    # Faust's mapping looks for these three in a dict of its own otherwise
    def keys(self) -> KeysView[Key]:
        return KeysView(self)

    def values(self) -> ValuesView[bytes | None]:
        return ValuesView(self)

    def items(self) -> ItemsView[Key, bytes | None]:
        return ItemsView(self)

    def __setitem__(self, key: Key, value: bytes | None) -> NoReturn:
        raise TypeError("journeys are written by `save` only, in one fenced step a batch")

    def __delitem__(self, key: Key) -> NoReturn:
        raise TypeError("journeys are deleted by `save` only, in one fenced step a batch")

    def clear(self) -> None:
        """End every working set; the journeys stay."""
        self._working.clear()

    # Faust's recovery: there is nothing to recover, the store of record is elsewhere
    def persisted_offset(self, tp: Any) -> None:
        return None

    def reset_state(self) -> None:
        self._working.clear()

    def apply_changelog_batch(self, batch: Any, to_key: Any, to_value: Any) -> NoReturn:
        raise NotImplementedError("a journey table has no changelog")

    async def need_active_standby_for(self, tp: Any) -> bool:
        return False

    async def backup_partition(self, tp: Any, *args: Any, **kwargs: Any) -> None:
        """Leave backups to Redis (append-only file, replicas) and to the topics."""

    def restore_backup(self, tp: Any, *args: Any, **kwargs: Any) -> None:
        """Leave restoring to catch-up from the topics."""


class JourneyTable(faust.Table[Key, "bytes | None"]):
    """Journeys as a Faust table; needs `TableManager` below in the app's settings.

    `JourneyTable(app, name=…, journeys=store)` works over the store given, `store="redis://…"` builds one.
    """

    changelog = False

    def __init__(self, app: Any, *, journeys: JourneyStore | None = None, **kwargs: Any) -> None:
        register_store_schemes()
        if journeys is not None:
            kwargs |= {"store": "redis://given", "options": {"journeys": journeys}}
        super().__init__(app, **kwargs)

    async def on_start(self) -> None:
        # Faust's own would declare a changelog topic here.
        await self.add_runtime_dependency(self.data)

    def __missing__(self, key: Key) -> NoReturn:
        raise KeyError(_outside(key))

    def on_key_get(self, key: Any) -> None:
        """Skip Faust's sensors: reads are counted a batch."""

    def on_key_set(self, key: Any, value: Any) -> None:
        """Skip the changelog."""

    def on_key_del(self, key: Any) -> None:
        """Skip the changelog."""


class TableManager(FaustTableManager):
    """Keeps tables without a changelog out of Faust's recovery, which would wait for their topics."""

    def add(self, table: Any) -> Any:
        if getattr(table, "changelog", True):
            return super().add(table)
        if self._tables_finalized.is_set():
            raise RuntimeError("too late to add a table: the worker runs")
        if table.name in self:
            raise ValueError(f"a table named {table.name!r} exists already")
        self[table.name] = table
        return table

    async def on_start(self) -> None:
        # Faust's own waits a second here for tables that are made while the worker starts; ours are made before.
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()

    async def _update_channels(self) -> None:
        own = {name: table for name, table in self.items() if not getattr(table, "changelog", True)}
        for name in own:
            del self.data[name]
        try:
            await super()._update_channels()
        finally:
            self.data.update(own)
        for table in own.values():
            await table.maybe_start()


def _outside(key: Any) -> str:
    return f"{key!r} is not in the working set of this batch: `load` its subkey first"
