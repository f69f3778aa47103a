"""What only a server can do to a journey store: forget its scripts, lose replies, refuse, fall silent."""

import asyncio
import random
from typing import Any

import pytest

from state.connection import connect
from state.health import WARNING
from state.redis_store import RedisStore
from state.store import JourneyStore, Lost, StoreError, Unreachable, Writes
from tests.state.conftest import APP, Decision, Proxy, RedisBackend

MINE = b"token-mine"


async def begun(store: JourneyStore, partition: int = 0) -> None:
    await store.claim(partition, MINE)
    await store.begin(partition, MINE, b"0,0")


async def test_flushed_scripts_are_sent_again(valkey: RedisBackend) -> None:
    """A server that forgot its scripts between two calls gets them anew."""
    await begun(valkey.store)
    for step in range(3):
        await valkey.client.script_flush()
        writes = Writes(appends={b"a": b"%d" % step})
        await valkey.store.save(0, MINE, b"%d,0" % step, b"%d,0" % (step + 1), writes)
    assert await valkey.raw(0, b"a") == b"012"


async def test_lost_reply_is_not_a_second_append(valkey: RedisBackend, valkey_url: str) -> None:
    """The server did the save but its reply was lost: the store sends it again and appends nothing twice."""

    async def decide(number: int, request: bytes) -> Decision:
        if lost or b"\r\na-value" not in request or b"EVAL\r\n" not in request:
            return "pass"
        lost.append(number)
        return "lose reply"

    lost: list[int] = []
    await valkey.client.script_flush()
    async with Proxy(decide).to(valkey_url) as url:
        store = RedisStore(url, APP)
        await begun(store)
        await store.save(0, MINE, b"0,0", b"1,0", Writes(appends={b"a": b"a-value"}))
        await store.close()
    assert lost
    assert await valkey.raw(0, b"a") == b"a-value"
    assert await valkey.raw(0, b"applied") == b"1,0"


async def test_every_chunk_of_a_load_is_proved(valkey: RedisBackend, valkey_url: str) -> None:
    """A server emptied after the first chunk of a load gives Lost, never a mix of old values and nothing."""

    async def decide(number: int, request: bytes) -> Decision:
        if b"MGET" in request:
            loads.append(number)
            if len(loads) == 2:
                await valkey.wipe()
        return "pass"

    loads: list[int] = []
    async with Proxy(decide).to(valkey_url) as url:
        store = RedisStore(url, APP, load_chunk=2)
        await begun(store)
        with pytest.raises(Lost):
            await store.load(0, MINE, b"0,0", [b"a", b"b", b"c", b"d", b"e", b"f"])
        await store.close()
    assert len(loads) == 2


@pytest.mark.parametrize("survived", range(7))
async def test_claim_ends_a_drop_that_was_cut_off(valkey: RedisBackend, valkey_url: str, survived: int) -> None:
    """A worker that dies at any request of a drop leaves all of it or, after the next claim, nothing."""

    async def decide(number: int, request: bytes) -> Decision:
        return "pass" if number < survived else "cut"

    await begun(valkey.store)
    await valkey.store.save(0, MINE, b"0,0", b"1,0", Writes(puts={b"k%d" % i: b"v" for i in range(3_000)}))
    whole = await valkey.snapshot()
    await valkey.client.script_flush()
    async with Proxy(decide).to(valkey_url) as url:
        store = RedisStore(url, APP)
        with pytest.raises(Unreachable):
            await store.drop(0, MINE)
        await store.close()
    applied = await valkey.store.claim(0, MINE)
    assert await valkey.snapshot() == (whole if applied else {b"{contract:0}:owner": MINE})
    assert applied == (b"1,0" if survived < 2 else None)  # requests 0 and 1: hash, then text


async def test_full_server_writes_nothing(valkey: RedisBackend) -> None:
    """Out of memory is Unreachable, not half a save; with memory again the same save goes through."""
    await begun(valkey.store)
    before = await valkey.snapshot()
    await valkey.client.config_set("maxmemory", "1")
    writes = Writes(appends={b"a": b"1"}, puts={b"p": b"2"}, deletes=[b"d"])
    try:
        with pytest.raises(Unreachable):
            await valkey.store.save(0, MINE, b"0,0", b"1,0", writes)
        assert await valkey.snapshot() == before
    finally:
        await valkey.client.config_set("maxmemory", "0")
    await valkey.store.save(0, MINE, b"0,0", b"1,0", writes)
    assert await valkey.raw(0, b"a") == b"1"


async def test_silent_server_is_unreachable() -> None:
    """A server that accepts and never answers, and one that is not there, end at the deadline."""

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for _ in ("silent", "gone"):
        store = RedisStore(url, APP, timeout_s=0.1, deadline_s=0.5)
        with pytest.raises(Unreachable):
            await store.claim(0, MINE)
        with pytest.raises(Unreachable):
            await store.health()
        await store.close()
        server.close()


async def test_answers_that_are_no_fault_of_the_line_are_store_errors(valkey: RedisBackend) -> None:
    """A key of another type is a StoreError, so that nothing waits for it to mend itself."""
    await begun(valkey.store)
    await valkey.client.lpush("{contract:0}:a", "x")
    with pytest.raises(StoreError) as caught:
        await valkey.store.save(0, MINE, b"0,0", b"1,0", Writes(appends={b"a": b"1"}))
    assert not isinstance(caught.value, Unreachable)
    assert await valkey.raw(0, b"applied") == b"0,0"


async def test_evicting_server_is_unfit(valkey: RedisBackend) -> None:
    """Any policy but noeviction is a problem, and the text names it."""
    await valkey.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        (problem,) = await valkey.store.health()
    finally:
        await valkey.client.config_set("maxmemory-policy", "noeviction")
    assert "allkeys-lru" in problem
    assert not problem.startswith(WARNING)


async def test_evicted_keys_are_a_problem(valkey: RedisBackend) -> None:
    """A server that has evicted a key says so until it is restarted or its statistics are reset."""
    await valkey.client.mset({f"k{i}": "x" * 1000 for i in range(1000)})
    used = (await valkey.client.info("memory"))["used_memory"]
    try:
        await valkey.client.config_set("maxmemory-policy", "allkeys-random")
        await valkey.client.config_set("maxmemory", str(used - 300_000))
        await valkey.client.set("one", "more")
    finally:
        await valkey.client.config_set("maxmemory", "0")
        await valkey.client.config_set("maxmemory-policy", "noeviction")
    (problem,) = await valkey.store.health()
    assert "evicted_keys" in problem
    await valkey.client.config_resetstat()
    assert await valkey.store.health() == []


async def test_forbidden_config_is_a_warning(valkey: RedisBackend, valkey_url: str) -> None:
    """A user who may neither read INFO nor CONFIG gets a warning, one who may read INFO gets the truth."""
    client: Any = valkey.client
    grants = ("reset", "on", ">pw", "~*", "+@all")
    for refused, expected in ((["-config"], 0), (["-config", "-info"], 1)):
        await client.execute_command("ACL", "SETUSER", "kept", *grants, *refused)
        store = RedisStore(valkey_url.replace("redis://", "redis://kept:pw@"), APP)
        found = await store.health()
        await store.close()
        assert len(found) == expected
        assert all(text.startswith(WARNING) for text in found)
    await client.execute_command("ACL", "DELUSER", "kept")


async def test_more_partitions_than_connections(valkey: RedisBackend, valkey_url: str) -> None:
    """A hundred partitions at once share the connections and each keeps its own order and values."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    store = RedisStore(valkey_url, APP)

    async def work(partition: int, steps: int) -> None:
        await begun(store, partition)
        for step in range(steps):
            writes = Writes(appends={b"a": b"%d;" % step})
            await store.save(partition, MINE, b"%d,0" % step, b"%d,0" % (step + 1), writes)
        (value,) = await store.load(partition, MINE, b"%d,0" % steps, [b"a"])
        assert value == b"".join(b"%d;" % step for step in range(steps))

    await asyncio.gather(*(work(partition, rng.randint(1, 9)) for partition in range(100)))
    await store.close()


@pytest.mark.parametrize("name", ["", "a}b", "a{b", "a*b", "a b", "é", "x" * 201])
def test_names_that_break_the_hash_tag_are_refused(name: str) -> None:
    """A name with a brace, a glob character or a blank would mix up slots or partitions."""
    with pytest.raises(ValueError, match="store name"):
        RedisStore("redis://127.0.0.1:1", name)


@pytest.mark.parametrize(
    ("url", "kind"),
    [("redis://h:1/2", "Tcp"), ("rediss://h:1", "Tls"), ("unix:///run/redis.sock?db=1", "Unix")],
)
def test_urls_choose_the_connection(url: str, kind: str) -> None:
    """Each scheme gets its own connection, with fast packing and with redis-py's repeats off."""
    pool: Any = connect(url, 3.0).connection_pool
    assert pool.connection_class.__name__ == f"_{kind}"
    connection = pool.make_connection()
    assert connection.retry.get_retries() == 0
    assert connection.socket_timeout == 3.0
    assert connection.pack_command("SCRIPT FLUSH", b"\0", 7) == [
        b"*4\r\n$6\r\nSCRIPT\r\n$5\r\nFLUSH\r\n$1\r\n\0\r\n$1\r\n7\r\n"
    ]
