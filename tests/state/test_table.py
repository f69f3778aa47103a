"""The Faust table over a journey store."""

import asyncio
from typing import Any

import faust
import pytest
from faust.types import TP

from state.memory import MemoryStore
from state.redis_store import RedisStore
from state.store import Fenced, Writes
from state.table import JourneyTable, TableManager, TableStore, register_store_schemes

MINE, OTHER = b"token-mine", b"token-other"


def build(**kwargs: Any) -> Any:
    app = faust.App("app", broker="kafka://127.0.0.1:1", TableManager=TableManager, web_enabled=False)
    return app.tables.add(JourneyTable(app, name="journeys", key_type=bytes, value_type=bytes, **kwargs))


async def loaded(table: Any) -> None:
    await table.data.claim(2, MINE)
    await table.data.begin(2, MINE, b"0,0")
    await table.data.save(2, MINE, b"0,0", b"1,0", Writes(puts={b"a": b"1"}))
    assert await table.data.load(2, MINE, b"1,0", [b"a", b"none"]) == [b"1", None]


async def test_url_chooses_the_store(valkey_url: str) -> None:
    """`redis://` and `rediss://` give the table a store of its own name; the whole way works on a server."""
    register_store_schemes()
    assert isinstance(build(store="rediss://127.0.0.1:1").data.journeys, RedisStore)
    table = build(store=valkey_url)
    assert isinstance(table.data, TableStore)
    await table.data.journeys.claim(2, OTHER)
    await table.data.journeys.drop(2, OTHER)
    await loaded(table)
    assert table[2, b"a"] == b"1"
    await table.data.on_stop()


async def test_working_set_is_a_plain_mapping() -> None:
    """What was loaded is read with no await, absent journeys as None; what was not loaded is a clear
    KeyError.
    """
    table = build(journeys=MemoryStore())
    await loaded(table)
    assert table[2, b"a"] == b"1"
    assert table[2, b"none"] is None
    assert dict(table.items()) == {(2, b"a"): b"1", (2, b"none"): None}
    assert list(table.keys()) == [(2, b"a"), (2, b"none")]
    assert list(table.values()) == [b"1", None]
    assert (2, b"a") in table
    for outside in ((2, b"b"), (3, b"a")):
        assert outside not in table
        with pytest.raises(KeyError, match="working set"):
            table[outside]
        with pytest.raises(KeyError, match="working set"):
            table.data[outside]


async def test_working_set_ends_with_the_batch() -> None:
    """After save, claim, drop, a refused load and a revocation nothing stale can be read."""
    table = build(journeys=MemoryStore())
    await loaded(table)
    await table.data.on_rebalance(set(), {TP("touches", 2)}, set())
    assert len(table) == 0
    await table.data.load(2, MINE, b"1,0", [b"a"])
    await table.data.save(2, MINE, b"1,0", b"2,0", Writes(puts={b"a": b"2"}))
    assert len(table) == 0
    await table.data.load(2, MINE, b"2,0", [b"a"])
    await table.data.claim(2, OTHER)
    assert len(table) == 0
    await table.data.load(2, OTHER, b"2,0", [b"a"])
    with pytest.raises(Fenced):
        await table.data.load(2, MINE, b"2,0", [b"a"])
    assert len(table) == 0
    await table.data.load(2, OTHER, b"2,0", [b"a"])
    await table.data.drop(2, OTHER)
    assert len(table) == 0


async def test_items_are_not_written() -> None:
    """An item assignment or deletion is a TypeError: it could be neither atomic nor fenced."""
    table = build(journeys=MemoryStore())
    await loaded(table)
    with pytest.raises(TypeError, match="save"):
        table[2, b"a"] = b"2"
    with pytest.raises(TypeError, match="save"):
        del table[2, b"a"]
    assert table[2, b"a"] == b"1"


async def test_faust_neither_declares_nor_recovers_a_changelog() -> None:
    """The table starts with no broker at hand, and Faust's recovery knows of no changelog of it."""
    table = build(journeys=MemoryStore())
    await asyncio.wait_for(table.maybe_start(), 10)
    assert table.started
    assert table.app.tables.changelog_topics == set()
    with pytest.raises(ValueError, match="exists"):
        table.app.tables.add(table)
    await table.stop()
