"""The contract that every journey store keeps; the same tests for memory, Valkey, Redis and a Redis Cluster."""

import math
from typing import Any

import pytest

from state.store import Fenced, Lost, StoreError, Writes
from tests.state.conftest import Backend

MINE, OTHER = b"token-mine", b"token-other"
DAY = 86_400_000
ODD = [b"", b"\0", b"a\0b", b"\xff\xfe\x80", "Zoë|\U0001f600".encode(), b"a b\r\nc", b"{x}:y", b"*[?"]


async def begun(backend: Backend, partition: int = 3, applied: bytes = b"0,0") -> None:
    assert await backend.store.claim(partition, MINE) is None
    await backend.store.begin(partition, MINE, applied)


async def test_first_claim_finds_nothing(backend: Backend) -> None:
    """A partition that never was has no `applied`, and its owner is who claimed it."""
    assert await backend.store.claim(3, MINE) is None
    assert await backend.raw(3, b"owner") == MINE
    assert await backend.raw(3, b"applied") is None


async def test_claim_returns_what_the_last_owner_left(backend: Backend) -> None:
    """A new owner gets the `applied` of the old one, and the old one is fenced."""
    await begun(backend, applied=b"17,4")
    assert await backend.store.claim(3, OTHER) == b"17,4"
    with pytest.raises(Fenced):
        await backend.store.load(3, MINE, b"17,4", [])


async def test_begin_is_repeatable_but_not_changeable(backend: Backend) -> None:
    """A begin whose reply was lost may be sent again; another begin is refused and changes nothing."""
    await begun(backend)
    await backend.store.begin(3, MINE, b"0,0")
    with pytest.raises(Lost):
        await backend.store.begin(3, MINE, b"5,5")
    assert await backend.raw(3, b"applied") == b"0,0"


async def test_begin_needs_the_token(backend: Backend) -> None:
    """Without the token, or with another's, nothing begins."""
    with pytest.raises(Lost):
        await backend.store.begin(3, MINE, b"0,0")
    await backend.store.claim(3, OTHER)
    with pytest.raises(Fenced):
        await backend.store.begin(3, MINE, b"0,0")
    assert await backend.raw(3, b"applied") is None


async def test_load_returns_values_in_order(backend: Backend) -> None:
    """Values come in the order asked for, twice where asked twice, None where there is none, over several
    chunks.
    """
    await begun(backend)
    await backend.store.save(3, MINE, b"0,0", b"1,0", Writes(puts={b"%d" % i: b"v%d" % i for i in range(7)}))
    asked = [b"6", b"none", b"0", b"3", b"0", b"5", b"1"]
    found = await backend.store.load(3, MINE, b"1,0", asked)
    assert found == [b"v6", None, b"v0", b"v3", b"v0", b"v5", b"v1"]


@pytest.mark.parametrize("subkeys", [[], [b"a"], [b"%d" % i for i in range(10)]])
async def test_load_proves_owner_and_applied(backend: Backend, subkeys: list[bytes]) -> None:
    """A load, of no key at all as well, tells a moved `applied`, another's token and a missing one apart."""
    await begun(backend)
    assert await backend.store.load(3, MINE, b"0,0", subkeys) == [None] * len(subkeys)
    with pytest.raises(Lost):
        await backend.store.load(3, MINE, b"1,0", subkeys)
    await backend.store.claim(3, OTHER)
    with pytest.raises(Fenced):
        await backend.store.load(3, MINE, b"0,0", subkeys)
    await backend.wipe()
    with pytest.raises(Lost):
        await backend.store.load(3, MINE, b"0,0", subkeys)


async def test_save_writes_everything_and_moves_applied(backend: Backend) -> None:
    """One save appends, puts, deletes and moves `applied`."""
    await begun(backend)
    await backend.store.save(3, MINE, b"0,0", b"1,0", Writes(appends={b"a": b"1", b"d": b"x"}, puts={b"p": b"old"}))
    writes = Writes(appends={b"a": b"2"}, puts={b"p": b"new", b"q": b""}, deletes=[b"d", b"never"])
    assert await backend.store.save(3, MINE, b"1,0", b"2,1", writes) == []
    found = await backend.store.load(3, MINE, b"2,1", [b"a", b"p", b"q", b"d", b"never"])
    assert found == [b"12", b"new", b"", None, None]


async def test_appends_under_a_start(backend: Backend) -> None:
    """What is appended under a common start is appended to the whole subkey, next to all else, and named when grown."""
    await begun(backend)
    under = {b"t:": {b"a": b"1", b"": b"2"}, b"u:": {b"a": b"x" * 150}}
    writes = Writes(appends={b"a": b"3"}, appends_under=under, puts={b"t:p": b"4"}, deletes=[b"t:d"])
    assert await backend.store.save(3, MINE, b"0,0", b"1,0", writes) == [b"u:a"]
    assert await backend.store.save(3, MINE, b"1,0", b"2,0", Writes(appends_under={b"t:": {b"a": b"5"}})) == []
    found = await backend.store.load(3, MINE, b"2,0", [b"a", b"t:a", b"t:", b"u:a", b"t:p", b"t:d"])
    assert found == [b"3", b"15", b"2", b"x" * 150, b"4", None]


async def test_save_twice_appends_once(backend: Backend) -> None:
    """A save whose reply was lost may be sent again: it is done once and says nothing of growth."""
    await begun(backend)
    writes = Writes(appends={b"a": b"x" * 150})
    assert await backend.store.save(3, MINE, b"0,0", b"1,0", writes) == [b"a"]
    assert await backend.store.save(3, MINE, b"0,0", b"1,0", writes) == []
    assert await backend.raw(3, b"a") == b"x" * 150


async def test_refused_save_writes_nothing(backend: Backend) -> None:
    """Wrong `applied`, another's token and a missing token each leave every key as it was."""
    await begun(backend)
    await backend.store.save(3, MINE, b"0,0", b"1,0", Writes(appends={b"a": b"1"}, puts={b"d": b"2"}))
    writes = Writes(appends={b"a": b"z", b"new": b"z"}, puts={b"p": b"z"}, deletes=[b"d"])
    before = await backend.snapshot()
    with pytest.raises(Lost):
        await backend.store.save(3, MINE, b"0,0", b"2,0", writes)
    assert await backend.snapshot() == before
    await backend.store.claim(3, OTHER)
    before = await backend.snapshot()
    with pytest.raises(Fenced):
        await backend.store.save(3, MINE, b"1,0", b"2,0", writes)
    assert await backend.snapshot() == before
    await backend.put(3, b"owner", None)
    before = await backend.snapshot()
    with pytest.raises(Lost):
        await backend.store.save(3, MINE, b"1,0", b"2,0", writes)
    assert await backend.snapshot() == before


async def test_save_of_another_owner_is_no_lost_reply(backend: Backend) -> None:
    """`applied` where I wanted it, but under another's token, is not my work: Fenced."""
    await begun(backend)
    await backend.store.claim(3, OTHER)
    await backend.store.save(3, OTHER, b"0,0", b"1,0", Writes(appends={b"a": b"1"}))
    with pytest.raises(Fenced):
        await backend.store.save(3, MINE, b"0,0", b"1,0", Writes(appends={b"a": b"1"}))


async def test_emptied_between_load_and_save(backend: Backend) -> None:
    """A store that forgets everything between load and save gets nothing written into it."""
    await begun(backend)
    await backend.store.load(3, MINE, b"0,0", [b"a"])
    await backend.wipe()
    with pytest.raises(Lost):
        await backend.store.save(3, MINE, b"0,0", b"1,0", Writes(appends={b"a": b"1"}))
    assert await backend.snapshot() == {}


async def test_stale_copy_is_seen(backend: Backend) -> None:
    """A store that went back to an older `applied` (a replica, a dump) is Lost at load and at save."""
    await begun(backend)
    await backend.store.save(3, MINE, b"0,0", b"9,2", Writes(appends={b"a": b"1"}))
    await backend.put(3, b"applied", b"0,0")
    with pytest.raises(Lost):
        await backend.store.load(3, MINE, b"9,2", [b"a"])
    with pytest.raises(Lost):
        await backend.store.save(3, MINE, b"9,2", b"12,2", Writes(appends={b"a": b"1"}))


async def test_grown_names_keys_that_crossed_a_multiple(backend: Backend) -> None:
    """With grown_bytes 100: below it nothing, at 100 named, at 199 not again, at 200 and far beyond named."""
    await begun(backend)
    lengths = {b"never": [30, 30, 30], b"exact": [99, 1, 99], b"leap": [250, 49, 1], b"empty": [0, 0, 0]}
    expected = [{b"leap"}, {b"exact"}, {b"leap"}]
    for step in range(3):
        writes = Writes(appends={key: b"x" * sizes[step] for key, sizes in lengths.items()})
        grown = await backend.store.save(3, MINE, b"%d,0" % step, b"%d,0" % (step + 1), writes)
        assert set(grown) == expected[step]


async def test_append_sets_life_at_creation_only(backend: Backend) -> None:
    """The first append gives a key its time to live; later ones with another leave it alone."""
    await begun(backend)
    await backend.store.save(3, MINE, b"0,0", b"1,0", Writes(appends={b"a": b"1"}, append_ttl_ms=10 * DAY))
    assert 10 * DAY - 60_000 < await backend.ttl_ms(3, b"a") <= 10 * DAY
    await backend.store.save(3, MINE, b"1,0", b"2,0", Writes(appends={b"a": b"2"}, append_ttl_ms=50 * DAY))
    assert 10 * DAY - 60_000 < await backend.ttl_ms(3, b"a") <= 10 * DAY


async def test_append_renews_life_below_a_limit(backend: Backend) -> None:
    """With `renew_below_ms`, a key near its end lives on; one with more time left keeps its end."""
    await begun(backend)
    life: dict[str, Any] = {"append_ttl_ms": 10 * DAY, "renew_below_ms": 5 * DAY}
    await backend.store.save(3, MINE, b"0,0", b"1,0", Writes(appends={b"a": b"1"}, **life))
    await backend.age(4 * DAY, 3, b"a")
    await backend.store.save(3, MINE, b"1,0", b"2,0", Writes(appends={b"a": b"2"}, **life))
    assert 6 * DAY - 60_000 < await backend.ttl_ms(3, b"a") <= 6 * DAY
    await backend.age(2 * DAY, 3, b"a")
    await backend.store.save(3, MINE, b"2,0", b"3,0", Writes(appends={b"a": b"3"}, **life))
    assert 10 * DAY - 60_000 < await backend.ttl_ms(3, b"a") <= 10 * DAY
    assert await backend.raw(3, b"a") == b"123"


async def test_put_sets_life_each_time(backend: Backend) -> None:
    """A put gives its own time to live, to an appended key too, and appends after it keep that."""
    await begun(backend)
    await backend.store.save(3, MINE, b"0,0", b"1,0", Writes(appends={b"a": b"1"}, append_ttl_ms=DAY))
    await backend.store.save(3, MINE, b"1,0", b"2,0", Writes(puts={b"a": b"2"}, put_ttl_ms=7 * DAY))
    await backend.store.save(3, MINE, b"2,0", b"3,0", Writes(appends={b"a": b"3"}, append_ttl_ms=DAY))
    assert 7 * DAY - 60_000 < await backend.ttl_ms(3, b"a") <= 7 * DAY
    assert await backend.raw(3, b"a") == b"23"


@pytest.mark.parametrize("renew_below_ms", [0, DAY])
async def test_put_for_good(backend: Backend, renew_below_ms: int) -> None:
    """Without a time to live a value stays, also where the key had one before, and appends after it change nothing."""
    await begun(backend)
    await backend.store.save(3, MINE, b"0,0", b"1,0", Writes(appends={b"a": b"1"}, append_ttl_ms=DAY))
    await backend.store.save(3, MINE, b"1,0", b"2,0", Writes(puts={b"a": b"2", b"b": b"3"}))
    writes = Writes(appends={b"a": b"4"}, append_ttl_ms=DAY, renew_below_ms=renew_below_ms)
    await backend.store.save(3, MINE, b"2,0", b"3,0", writes)
    assert [await backend.ttl_ms(3, key) for key in (b"a", b"b")] == [math.inf, math.inf]
    assert await backend.raw(3, b"a") == b"24"


async def test_expired_key_is_gone(backend: Backend) -> None:
    """A key past its life is loaded as absent, and an append starts it anew."""
    await begun(backend)
    await backend.store.save(3, MINE, b"0,0", b"1,0", Writes(appends={b"a": b"1"}, append_ttl_ms=DAY))
    await backend.age(DAY, 3, b"a")
    assert await backend.store.load(3, MINE, b"1,0", [b"a"]) == [None]
    await backend.store.save(3, MINE, b"1,0", b"2,0", Writes(appends={b"a": b"2"}, append_ttl_ms=DAY))
    assert await backend.store.load(3, MINE, b"2,0", [b"a"]) == [b"2"]
    assert DAY - 60_000 < await backend.ttl_ms(3, b"a") <= DAY


async def test_bytes_are_bytes(backend: Backend) -> None:
    """NUL, broken UTF-8, blanks, braces and glob characters are kept, in tokens and `applied` as well."""
    token, first, second = b"t\0\xff", b"\xff\0 1", b"\xfe\r\n2"
    assert await backend.store.claim(0, token) is None
    await backend.store.begin(0, token, first)
    writes = Writes(appends=dict(zip(ODD, reversed(ODD), strict=True)), puts={b"p" + key: key for key in ODD})
    await backend.store.save(0, token, first, second, writes)
    found = await backend.store.load(0, token, second, [*ODD, *[b"p" + key for key in ODD]])
    assert found == [*reversed(ODD), *ODD]


async def test_partitions_are_apart(backend: Backend) -> None:
    """What happens in partition 1 never shows in 11, whose name begins with it."""
    for partition in (1, 11):
        await begun(backend, partition)
        await backend.store.save(partition, MINE, b"0,0", b"1,0", Writes(puts={b"a": b"%d" % partition}))
    await backend.store.drop(1, MINE)
    assert await backend.raw(1, b"a") is None
    assert await backend.store.load(11, MINE, b"1,0", [b"a"]) == [b"11"]


async def test_eight_thousand_appends(backend: Backend) -> None:
    """A batch of 8,000 appends, puts and deletes each is one save, twice in a row."""
    await begun(backend)
    keys = [b"person-%d" % i for i in range(8_000)]
    first = Writes(appends=dict.fromkeys(keys, b"1"), puts={b"p" + key: key for key in keys})
    await backend.store.save(3, MINE, b"0,0", b"8000,0", first)
    second = Writes(appends=dict.fromkeys(keys, b"x" * 99), deletes=[b"p" + key for key in keys])
    assert await backend.store.save(3, MINE, b"8000,0", b"16000,0", second) == keys
    assert await backend.store.load(3, MINE, b"16000,0", keys) == [b"1" + b"x" * 99] * 8_000
    assert len(await backend.snapshot()) == 8_002


async def test_drop_leaves_the_owner_only(backend: Backend) -> None:
    """After a drop the partition is as at a first claim, and its owner may begin it."""
    await begun(backend)
    writes = Writes(puts={b"k%d" % i: b"v" for i in range(5_000)})
    await backend.store.save(3, MINE, b"0,0", b"1,0", writes)
    await backend.store.drop(3, MINE)
    assert list((await backend.snapshot()).values()) == [MINE]
    await backend.store.begin(3, MINE, b"0,0")
    assert await backend.store.load(3, MINE, b"0,0", [b"k1"]) == [None]


async def test_drop_needs_the_token(backend: Backend) -> None:
    """A worker that lost the partition drops nothing of it."""
    await begun(backend)
    await backend.store.claim(3, OTHER)
    before = await backend.snapshot()
    with pytest.raises(Fenced):
        await backend.store.drop(3, MINE)
    assert await backend.snapshot() == before
    await backend.wipe()
    with pytest.raises(Lost):
        await backend.store.drop(3, MINE)


BAD = [
    Writes(appends={b"owner": b"1"}),
    Writes(puts={b"applied": b"1"}),
    Writes(deletes=[b"dropping"]),
    Writes(appends={b"a": b"1"}, puts={b"a": b"1"}),
    Writes(appends={b"a": b"1"}, deletes=[b"a"]),
    Writes(appends_under={b"own": {b"er": b"1"}}),
    Writes(appends_under={b"t:": {b"a": b"1"}}, puts={b"t:a": b"1"}),
    Writes(appends_under={b"t:": {b"a": b"1"}}, deletes=[b"t:a"]),
    Writes(appends_under={b"t:": {b"a": b"1"}}, appends={b"t:a": b"1"}),
    Writes(puts={b"a": b"1"}, put_ttl_ms=-1),
    Writes(appends={b"a": b"1"}, append_ttl_ms=0),
    Writes(appends={b"a": b"1"}, append_ttl_ms=-1),
    Writes(appends={b"a": b"1"}, append_ttl_ms=5, renew_below_ms=6),
    Writes(puts={b"a": b"1"}, put_ttl_ms=1 << 63),
]


@pytest.mark.parametrize("writes", BAD)
async def test_impossible_writes_are_refused(backend: Backend, writes: Writes) -> None:
    """What would break the store or fail halfway in it is a ValueError before anything is sent."""
    await begun(backend)
    before = await backend.snapshot()
    with pytest.raises(ValueError, match=r".+"):
        await backend.store.save(3, MINE, b"0,0", b"1,0", writes)
    assert await backend.snapshot() == before


async def test_save_that_stands_still(backend: Backend) -> None:
    """A save that does not move `applied` may put (again and again), but not append."""
    await begun(backend)
    for value in (b"1", b"2"):
        await backend.store.save(3, MINE, b"0,0", b"0,0", Writes(puts={b"p": value}))
        assert await backend.raw(3, b"p") == value
    with pytest.raises(ValueError, match="move"):
        await backend.store.save(3, MINE, b"0,0", b"0,0", Writes(appends={b"a": b"1"}))


async def test_fit_store_has_no_problems(backend: Backend) -> None:
    """A store that evicts nothing is healthy."""
    assert await backend.store.health() == []


def test_errors_are_one_tree() -> None:
    """Whoever catches StoreError catches all of them, and the two verdicts are told apart."""
    assert issubclass(Lost, StoreError)
    assert issubclass(Fenced, StoreError)
    assert not issubclass(Lost, Fenced)
    assert not issubclass(Fenced, Lost)
