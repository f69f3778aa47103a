"""The identity stage takes wrong links back: what comes later is somebody's own, what was stays, whatever dies."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from models.linking import (
    Admit,
    ForgetId,
    IdState,
    Link,
    Message,
    Offer,
    Outcome,
    Said,
    Split,
    decide_id,
    read_id,
    write_message,
)
from models.outcome import Reason
from models.splitting import INCARNATIONS_MAX, next_incarnation
from state.keys import prefix
from state.memory import MemoryStore
from tests.streams.test_identity import (
    CRASH_POINTS,
    KEY,
    NOW_MS,
    PARTITIONS,
    World,
    components,
    fields_of,
    in_worlds,
    partition_of,
    people_of,
    some_names,
)

WORLDS = 32
Story = Callable[[World], Coroutine[Any, Any, None]]


def send(world: World, message: Message) -> None:
    """A record of `links`, at its owner, of a later time than all before."""
    world.kafka.now_ms += 1
    key, value = write_message(message)
    world.kafka.append("links", partition_of(key, PARTITIONS), key, value)


def state_of(world: World, person_id: str) -> IdState:
    pre = prefix("identity", partition_of(person_id.encode(), PARTITIONS))
    return read_id(world.memory.data.get(pre + b"i:" + person_id.encode()))


def states(world: World) -> dict[bytes, IdState]:
    return {key: read_id(value) for key, value in world.memory.data.items() if b":i:" in key}


def top(world: World, person_id: str) -> str:
    """Whose an event of this id is by now."""
    while (state := state_of(world, person_id)).points:
        above = state.up if state.now is None else state.now
        assert above is not None
        person_id = above
    return person_id


def told(story: Story) -> World:
    world = World()

    async def tell() -> None:
        await world.start()
        await story(world)

    asyncio.run(tell())
    return world


async def see(world: World, name: str, **ids: str) -> str:
    """Whose a touch with these ids is."""
    world.put("raw-touches", event_id=name, **ids)
    await world.settle()
    (person,) = (r["person_id"] for r in world.out("touches") if r["event_id"] == name)
    assert isinstance(person, str)
    return person


def merges(world: World) -> dict[str, str]:
    found = [move for move in world.out("moves") if move["do"] == "merge"]
    assert len({move["person_id"] for move in found}) == len(found), "nobody is merged twice"
    return {move["person_id"]: move["into"] for move in found}


def test_what_comes_after_a_split_is_somebodys_own() -> None:
    """Later events of the id go to a new person, and that person can be found to be somebody else."""

    async def story(world: World) -> None:
        world.put("identities", anonymous_id="a", user_id="u1")
        await world.settle()
        assert await see(world, "t1", anonymous_id="a") == "u1"
        send(world, Split("anonymous:a"))
        await world.settle()
        assert await see(world, "t2", anonymous_id="a") == "anonymous:a~2"
        assert await see(world, "t3", anonymous_id="a", user_id="u1") == "u1"
        assert await see(world, "t4", anonymous_id="a") == "anonymous:a~2"
        assert await see(world, "t5", anonymous_id="a", user_id="u2") == "u2"
        assert await see(world, "t6", anonymous_id="a") == "u2"
        assert merges(world) == {"anonymous:a": "u1", "anonymous:a~2": "u2"}

    told(story)


def test_an_id_that_was_split_is_not_linked_with_that_person_again() -> None:
    """Neither by the same record, nor by way of another id of the person, nor after that person has become another."""

    async def story(world: World) -> None:
        world.put("identities", anonymous_id="a", user_id="u2")
        world.put("identities", email="bo@ex.com", user_id="u2")
        await world.settle()
        send(world, Split("anonymous:a"))
        await world.settle()
        for ids in ({"user_id": "u2"}, {"email": "bo@ex.com"}):
            world.put("identities", anonymous_id="a", **ids)
            await world.settle()
            assert top(world, "anonymous:a") == "anonymous:a~2"
        world.put("identities", user_id="u2", email="u1@ex.com")
        world.put("identities", user_id="u1", email="u1@ex.com")
        await world.settle()
        assert top(world, "u2") == "u1"
        for ids in ({"user_id": "u1"}, {"email": "u1@ex.com"}, {"user_id": "u2"}):
            world.put("identities", anonymous_id="a", **ids)
            await world.settle()
            assert top(world, "anonymous:a") == "anonymous:a~2"

    told(story)


def test_two_users_who_were_taken_for_one_are_two_again() -> None:
    """A shared device tied them together: once one is split off, both go on as themselves, the device with one."""

    async def story(world: World) -> None:
        world.put("raw-touches", event_id="t1", anonymous_id="kiosk", user_id="u1")
        await world.settle()
        world.put("raw-touches", event_id="t2", anonymous_id="kiosk", user_id="u2")
        await world.settle()
        assert top(world, "u2") == "u1"
        send(world, Split("u2"))
        await world.settle()
        for i in range(3):
            assert await see(world, f"one{i}", anonymous_id="kiosk", user_id="u1") == "u1"
            assert await see(world, f"two{i}", anonymous_id="kiosk", user_id="u2") == "u2~2"
        assert await see(world, "nobody", anonymous_id="kiosk") == "u1"
        world.put("identities", user_id="u2", email="two@ex.com")
        await world.settle()
        assert await see(world, "mail", email="two@ex.com") == "u2~2"

    told(story)


def test_ids_that_point_to_one_that_is_split_go_with_it() -> None:
    """What was linked to the id itself is still linked to it."""

    async def story(world: World) -> None:
        world.put("identities", anonymous_id="a", email="bo@ex.com")
        await world.settle()
        email = top(world, "anonymous:a")
        world.put("identities", email="bo@ex.com", user_id="u1")
        await world.settle()
        assert await see(world, "t1", anonymous_id="a") == "u1"
        send(world, Split(email))
        await world.settle()
        assert await see(world, "t2", anonymous_id="a") == f"{email}~2"

    told(story)


def test_ids_that_were_split_one_after_the_other_are_linked_by_what_is_said_later() -> None:
    """Two ids that belong together are so again once both are split from the person, in either order."""

    async def story(world: World, order: tuple[str, str]) -> None:
        world.put("identities", email="bo@ex.com", user_id="u1")
        await world.settle()
        world.put("identities", email="bo@ex.com", anonymous_id="a")
        await world.settle()
        (email,) = (each for each in named_in(states(world)) if each.startswith("email:"))
        assert state_of(world, "anonymous:a").up == "u1"
        for each in order:
            send(world, Split(email if each == "email" else each))
            await world.settle()
        assert top(world, "anonymous:a") == "anonymous:a~2"
        assert await see(world, "t1", email="bo@ex.com", anonymous_id="a") == f"{email}~2"
        assert await see(world, "t2", anonymous_id="a") == f"{email}~2"

    told(lambda world: story(world, ("email", "anonymous:a")))
    told(lambda world: story(world, ("anonymous:a", "email")))


def test_forgetting_who_was_split_off_leaves_ids_alone_that_point_past_it() -> None:
    """An id that came in below the one that was split, and points to the person of before, stays that person's."""

    async def story(world: World) -> None:
        world.put("identities", email="bo@ex.com", user_id="u1")
        await world.settle()
        world.put("identities", email="bo@ex.com", anonymous_id="a")
        await world.settle()
        (email,) = (each for each in named_in(states(world)) if each.startswith("email:"))
        send(world, Split(email))
        await world.settle()
        send(world, ForgetId(f"{email}~2", at=world.kafka.now_ms))
        await world.settle()
        assert await see(world, "t", anonymous_id="a") == "u1"

    told(story)


@pytest.mark.parametrize(
    ("person_id", "message"),
    [
        ("u2", Link("u2", "u1", NOW_MS)),
        ("u2", Offer("u2", "u1", NOW_MS)),
        ("u0", Admit("u0", "u1", NOW_MS)),
    ],
)
def test_who_is_apart_is_refused_whoever_says_so(person_id: str, message: Said) -> None:
    """Neither above nor below an id comes one that it was split from, and that it was refused is kept."""
    out = Outcome()
    state = decide_id(person_id, IdState(apart={"u1": NOW_MS}), [message], {"u1": NOW_MS}, (), 50, out)
    assert (state.up, state.below) == (None, {})
    assert state.refused_last == [("u1", NOW_MS)]
    assert out.sends == []


def test_a_device_of_a_user_who_is_split_goes_with_the_user() -> None:
    """Also where its events came out under the user at once before, as a user has nobody above mostly."""

    async def story(world: World) -> None:
        world.put("identities", anonymous_id="a", user_id="u2")
        await world.settle()
        assert await see(world, "t1", anonymous_id="a") == "u2"
        for user in ("u1", "u2"):
            world.put("identities", email="bo@ex.com", user_id=user)
        await world.settle()
        assert (state_of(world, "anonymous:a").up, state_of(world, "u2").up) == ("u2", "u1")
        send(world, Split("u2"))
        await world.settle()
        assert await see(world, "t2", anonymous_id="a") == "u2~2"

    told(story)


def test_a_correction_goes_where_its_conversion_is() -> None:
    """Conversions of before the split stay with the person, and are corrected there, whoever the record names."""

    async def story(world: World) -> None:
        a = {"anonymous_id": "a"}
        world.put("raw-conversions", conversion_id="c1", **a)
        await world.settle()
        world.put("identities", user_id="u1", **a)
        await world.settle()
        send(world, Split("anonymous:a"))
        await world.settle()
        world.put("raw-conversions", conversion_id="c2", **a)
        await world.settle()
        for conversion_id in ("c1", "c2"):
            world.put("raw-conversions", conversion_id=conversion_id, action="restate", value="1", **a)
            await world.settle()
            world.put("raw-conversions", conversion_id=conversion_id, action="retract")
            await world.settle()

    found = [(r["conversion_id"], r.get("action"), r["person_id"]) for r in told(story).out("conversions")]
    assert sorted(found, key=lambda each: (each[0], str(each[1]))) == [
        ("c1", None, "anonymous:a"),
        ("c1", "restate", "u1"),
        ("c1", "retract", "u1"),
        ("c2", None, "anonymous:a~2"),
        ("c2", "restate", "anonymous:a~2"),
        ("c2", "retract", "anonymous:a~2"),
    ]


def test_an_id_can_be_split_again() -> None:
    """The second split is of what the id goes on as; one of an id that belongs to nobody else changes nothing."""

    async def story(world: World) -> None:
        for user in ("u1", "u2"):
            world.put("identities", anonymous_id="a", user_id=user)
            await world.settle()
            send(world, Split("anonymous:a"))
            send(world, Split(user))
            await world.settle()
        assert await see(world, "t", anonymous_id="a") == "anonymous:a~3"
        assert merges(world) == {"anonymous:a": "u1", "anonymous:a~2": "u2"}
        assert state_of(world, "u1").now is None

    told(story)


def test_the_person_of_before_can_be_forgotten_without_the_one_of_now() -> None:
    """Nothing of the person is kept, also not where the id was split off, whose events come out as before."""

    async def story(world: World) -> None:
        world.put("identities", anonymous_id="a", user_id="u1")
        await world.settle()
        send(world, Split("anonymous:a"))
        await world.settle()
        send(world, ForgetId("u1", at=world.kafka.now_ms))
        await world.settle()
        assert "u1" not in named_in(states(world))
        assert await see(world, "t", anonymous_id="a") == "anonymous:a~2"
        world.put("raw-conversions", conversion_id="of-u1", anonymous_id="a", action="retract")
        await world.settle()

    assert [move["person_id"] for move in told(story).out("moves") if move["do"] == "forget"] == ["u1"]


def test_the_one_of_now_can_be_forgotten_without_the_person_of_before() -> None:
    """The id is forgotten under all its names, and the person that it had been linked to goes on."""

    async def story(world: World) -> None:
        world.put("identities", anonymous_id="a", user_id="u1")
        await world.settle()
        send(world, Split("anonymous:a"))
        await world.settle()
        world.put("identities", anonymous_id="a", email="bo@ex.com")
        await world.settle()
        send(world, ForgetId("anonymous:a~2", at=world.kafka.now_ms))
        await world.settle()
        assert await see(world, "t", user_id="u1") == "u1"
        assert not {"anonymous:a", "anonymous:a~2"} & named_in(states(world))
        for ids in ({"anonymous_id": "a"}, {"email": "bo@ex.com"}):
            world.put("raw-touches", event_id="late", **ids)
        await world.settle()
        assert [r["event_id"] for r in world.out("touches")] == ["t"]

    forgotten = {move["person_id"] for move in told(story).out("moves") if move["do"] == "forget"}
    assert "u1" not in forgotten
    assert "anonymous:a~2" in forgotten


def named_in(of: dict[bytes, IdState]) -> set[str]:
    """Every id that anything is kept of or that is named in it."""
    found: set[str] = set()
    for key, state in of.items():
        found |= {key.rpartition(b":i:")[2].decode(), *state.below, *state.before, *state.apart}
        found |= {each for each in (state.up, state.now, state.was) if each}
    return found


async def one_world(world: World) -> Counter[str]:
    rng = world.rng
    groups = []
    await world.start()
    for _ in range(14):
        names = some_names(rng)
        groups.append(people_of(names, KEY))
        world.put("identities", **fields_of(names))
    await world.run(crashes=0.1, losses=0.3)
    wanted = components(groups)
    lower = sorted(each for each, above in wanted.items() if each != above)
    split = rng.sample(lower, min(len(lower), rng.randint(1, 3)))
    former = {}
    for each in split:
        former[each] = state_of(world, each).up
        send(world, Split(each))
        await world.run(crashes=0.1, losses=0.3)
    for each in split:
        assert top(world, each) == f"{each}~2"
        assert state_of(world, each).up == former[each], "what was merged stays so"
    # The same is said once more, in later records: nobody is linked to whom it was split from.
    world.kafka.now_ms += 1
    for i, group in enumerate(groups):
        for person_id in group:
            if not person_id.startswith("email:"):
                name = {"anonymous_id": person_id[10:]} if ":" in person_id else {"user_id": person_id}
                world.put("raw-touches", event_id=f"t{i}-{person_id}", **name)
        world.put("identities", **ids_again(group))
    await world.run(crashes=0.1, losses=0.3)
    tops = {each: top(world, each) for each in wanted}
    for each in split:
        above = former[each]
        assert above is not None
        # Pointers of before end with the person of before, and that is somebody else.
        assert tops[each] != old_top(world, above)
    seen = Counter(record["event_id"] for record in world.out("touches"))
    assert set(seen.values()) <= {1}
    assert len(seen) == len({(i, p) for i, g in enumerate(groups) for p in g if not p.startswith("email:")})
    assert world.kafka.dead == []
    merges(world)
    before, sent = states(world), world.kafka.transactions
    world.memory = MemoryStore("identity")
    await world.start()
    await world.settle()
    assert world.kafka.transactions == sent
    assert {k: (s.up, s.now) for k, s in states(world).items()} == {k: (s.up, s.now) for k, s in before.items()}
    return world.crashes


def ids_again(group: tuple[str, ...]) -> dict[str, str]:
    """A user id that is the hash of an address is taken as that id."""
    found: dict[str, str] = {}
    for person_id in group:
        if person_id.startswith("anonymous:"):
            found["anonymous_id"] = person_id[10:]
        elif person_id.startswith("email:"):
            found.setdefault("user_id", person_id)
        else:
            found["user_id"] = person_id
    return found


def old_top(world: World, person_id: str) -> str:
    """Where everything of before went: along the pointers alone."""
    while (up := state_of(world, person_id).up) is not None:
        person_id = up
    return person_id


@pytest.mark.parametrize("part", range(2))
def test_splits_hold_whatever_dies(part: int, seed: int) -> None:
    """Crashes at every point and lost stores: ids that were split stay apart, every event comes out once, and a lost
    store is rebuilt to the same pointers without writing anything."""
    seen = in_worlds(range(seed + part, seed + WORLDS, 2), lambda each: one_world(World(each)))
    assert all(seen[point] for point in CRASH_POINTS), seen


def test_the_next_id_counts_up_to_a_bound() -> None:
    """`a`, `a~2`, `a~3` …; an id that was split too often, or has no room for it, cannot be split."""
    person_id = "a"
    for number in range(2, INCARNATIONS_MAX + 1):
        person_id = next_incarnation(person_id)
        assert person_id == f"a~{number}"
    for refused in (person_id, "x" * 255):
        with pytest.raises(ValueError, match=r"split|longer"):
            next_incarnation(refused)


def test_a_split_that_cannot_be_is_a_dead_letter() -> None:
    """An id without room for what it would go on as is refused where it is read."""

    async def story(world: World) -> None:
        send(world, Split("x" * 256))
        await world.settle()
        assert [letter.reason for letter in world.kafka.dead] == [Reason.BAD_ID]

    told(story)
