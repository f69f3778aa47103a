"""The identity stage under journeys by account: events come out under an account, whatever dies and in any order."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from models.accounts import WAITING_MAX, read_waiting
from models.linking import Belong, read_id, write_message
from models.mail import IdentityRules
from models.outcome import Reason
from state.keys import prefix
from state.memory import MemoryStore
from tests.streams.test_identity import (
    CRASH_POINTS,
    DAY_MS,
    KEY,
    NOW_MS,
    PARTITIONS,
    RULES,
    World,
    components,
    fields_of,
    in_worlds,
    partition_of,
    people_of,
    some_names,
)

BY_ACCOUNT = IdentityRules(RULES.ids_max, RULES.wait_ms, RULES.kept_ms, by_account=True)
WORLDS = 32


def new_world(seed: int = 0) -> World:
    return World(seed, BY_ACCOUNT)


def came_out(world: World, topic: str) -> list[dict[str, Any]]:
    """What came out, in the partition of its account."""
    found = []
    for partition, row in world.kafka.rows(topic):
        assert row.key is not None
        assert row.value is not None
        assert partition_of(row.key, PARTITIONS) == partition
        record = json.loads(row.value)
        assert record["account_id"].encode() == row.key
        assert not {"anonymous_id", "user_id", "email"} & record.keys()
        found.append(record)
    return found


def waiting(world: World) -> list[str]:
    """The touches that wait for an account."""
    found = []
    for key, value in world.memory.data.items():
        if key.partition(b":")[2].partition(b":")[2].startswith(b"a:"):
            found += [json.loads(each.value)["event_id"] for each in read_waiting(value)]
    return sorted(found)


def put_at(world: World, at: int, topic: str, partition: int = 0, **facts: Any) -> None:
    """A record of this record time."""
    world.kafka.now_ms = at
    world.put(topic, partition, **facts)
    world.kafka.now_ms = NOW_MS


async def one_world(world: World) -> Counter[str]:
    rng = world.rng
    events: dict[str, str] = {}
    groups = []
    named: list[str] = []
    await world.start()
    for i in range(20):
        names = some_names(rng)
        ids = people_of(names, KEY)
        groups.append(ids)
        kind = rng.choice(("identities", "raw-touches", "raw-conversions"))
        if kind == "identities":
            world.put(kind, **fields_of(names))
        elif kind == "raw-touches":
            events[f"t{i}"] = ids[0]
            world.put(kind, event_id=f"t{i}", **fields_of(names))
        else:
            events[f"c{i}"] = ids[0]
            world.put(kind, conversion_id=f"c{i}", **fields_of(names))
            world.put(kind, conversion_id=f"c{i}", action="retract", **rng.choice(({}, fields_of(names))))
            named.append(f"c{i}")
        await world.run(crashes=0.15, losses=0.3)
    wanted = components(groups)
    assert came_out(world, "touches") == came_out(world, "conversions") == []
    # Somebody says of each person which account it belongs to, by any of its ids.
    for top in sorted(set(wanted.values())):
        one = rng.choice(sorted(each for each, above in wanted.items() if above == top))
        key, value = write_message(Belong(one, f"of-{top}", NOW_MS))
        world.kafka.append("links", partition_of(key, PARTITIONS), key, value)
        await world.run(crashes=0.15, losses=0.3)
    for record in came_out(world, "touches") + came_out(world, "conversions"):
        assert record["account_id"] == f"of-{wanted[record['person_id']]}"
    assert Counter(r["event_id"] for r in came_out(world, "touches")) == Counter(e for e in events if e[0] == "t")
    ended = Counter((r["conversion_id"], r.get("action", "create")) for r in came_out(world, "conversions"))
    assert ended == Counter((c, action) for c in named for action in ("create", "retract"))
    assert world.kafka.dead == []
    assert world.kafka.rows("moves") == []
    assert waiting(world) == []
    before, sent = dict(world.memory.data), world.kafka.transactions
    world.memory = MemoryStore("identity")
    await world.start()
    await world.settle()
    assert world.kafka.transactions == sent
    assert known(world.memory.data) == known(before)
    assert waiting(world) == []
    return world.crashes


def known(data: dict[bytes, bytes]) -> dict[bytes, tuple[str | None, str | None]]:
    """Whom each id points to, and its account."""
    ids = {key: read_id(value) for key, value in data.items() if b":i:" in key}
    return {key: (state.up, state.account) for key, state in ids.items()}


@pytest.mark.parametrize("part", range(2))
def test_every_event_comes_out_once_under_the_account_of_its_person(part: int, seed: int) -> None:
    """Events of people whose account nobody knows wait, whatever dies and however stores are lost; once it is told of
    any id of theirs, each comes out once, and a lost store is rebuilt without writing anything."""
    seen = in_worlds(range(seed + part, seed + WORLDS, 2), lambda each: one_world(new_world(each)))
    assert all(seen[point] for point in CRASH_POINTS), seen


def test_the_latest_account_of_a_person_counts_and_that_of_a_record_before_it() -> None:
    """Of two Identify records the later one counts for what comes, and a record's own account before both."""
    world = new_world()

    async def story() -> None:
        await world.start()
        for event_id, account_id, at in (("t1", "zeta", NOW_MS), ("t2", "acme", NOW_MS + 1)):
            put_at(world, at, "identities", user_id="u1", account_id=account_id)
            await world.settle()
            world.put("raw-touches", event_id=event_id, user_id="u1")
            await world.settle()
        world.put("raw-touches", event_id="t3", user_id="u1", account_id=" own ")
        await world.settle()

    asyncio.run(story())
    assert {r["event_id"]: r["account_id"] for r in came_out(world, "touches")} == {
        "t1": "zeta",
        "t2": "acme",
        "t3": "own",
    }


def test_an_account_that_was_said_earlier_does_not_displace_a_later_one() -> None:
    """Messages between owners may come in any order; the record time of what said so decides."""
    world = new_world()

    async def story() -> None:
        await world.start()
        for account_id, at in (("late", NOW_MS), ("early", NOW_MS - 1)):
            key, value = write_message(Belong("u1", account_id, at))
            world.kafka.append("links", partition_of(key, PARTITIONS), key, value)
        await world.settle()
        world.put("raw-touches", event_id="t", user_id="u1")
        await world.settle()

    asyncio.run(story())
    assert [r["account_id"] for r in came_out(world, "touches")] == ["late"]


def test_a_correction_goes_to_the_account_of_its_conversion() -> None:
    """Who changed to another account keeps the conversions of before where they were, also when they are refunded."""
    world = new_world()

    async def story() -> None:
        await world.start()
        world.put("identities", user_id="u1", account_id="acme")
        await world.settle()
        world.put("raw-conversions", conversion_id="c", user_id="u1", value="1.50")
        await world.settle()
        world.put("identities", user_id="u1", account_id="zeta")
        await world.settle()
        world.put("raw-conversions", conversion_id="c", user_id="u1", action="restate", value="2.50")
        await world.settle()

    asyncio.run(story())
    assert [(r["account_id"], r["person_id"], r["value"]) for r in came_out(world, "conversions")] == [
        ("acme", "u1", "1.50"),
        ("acme", "u1", "2.50"),
    ]


def test_no_more_than_a_bounded_number_of_events_wait_for_so_long() -> None:
    """Beyond the bound events are dead letters, and so are those whose account was not named in time."""
    world = new_world()

    async def story() -> None:
        await world.start()
        for i in range(WAITING_MAX + 1):
            world.put("raw-touches", partition=0, event_id=f"t{i}", anonymous_id="a")
        await world.settle()
        assert [letter.reason for letter in world.kafka.dead] == [Reason.NO_ACCOUNT]
        assert len(waiting(world)) == WAITING_MAX
        place = partition_of(b"anonymous:a", PARTITIONS)
        late_ms = NOW_MS + BY_ACCOUNT.wait_ms + 1
        put_at(world, late_ms, "raw-touches", partition=place, event_id="late", anonymous_id="a")
        await world.settle()

    asyncio.run(story())
    assert Counter(letter.reason for letter in world.kafka.dead) == {Reason.NO_ACCOUNT: WAITING_MAX + 1}
    assert waiting(world) == ["late"]
    pre = prefix("identity", partition_of(b"anonymous:a", PARTITIONS))
    assert world.memory.expires_ms[pre + b"a:anonymous:a"] > BY_ACCOUNT.wait_ms - DAY_MS


def test_people_without_an_account_have_their_events_wait_together() -> None:
    """Who turns out to be somebody else takes along what waits."""
    world = new_world()

    async def story() -> None:
        await world.start()
        world.put("raw-touches", event_id="t1", anonymous_id="a")
        await world.settle()
        world.put("identities", anonymous_id="a", user_id="u1")
        await world.settle()
        assert came_out(world, "touches") == []
        world.put("identities", user_id="u1", email="bo@ex.com", account_id="acme")
        await world.settle()

    asyncio.run(story())
    assert [(r["event_id"], r["account_id"], r["person_id"]) for r in came_out(world, "touches")] == [
        ("t1", "acme", "u1")
    ]


def test_an_account_goes_with_its_person() -> None:
    """What is known of an id's account is known of the person that it turns out to be."""
    world = new_world()

    async def story() -> None:
        await world.start()
        world.put("identities", anonymous_id="a", account_id="acme")
        await world.settle()
        world.put("identities", anonymous_id="a", user_id="u1")
        await world.settle()
        world.put("raw-touches", event_id="t1", user_id="u1")
        await world.settle()

    asyncio.run(story())
    assert [(r["event_id"], r["account_id"]) for r in came_out(world, "touches")] == [("t1", "acme")]
