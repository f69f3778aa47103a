"""The identity stage forgets people, whatever dies meanwhile, and knows them as forgotten after a lost store."""

import asyncio
import random
from collections import Counter

import pytest

from models.linking import ForgetId, Message, conversion_key, forget_where, read_id, write_message
from models.whereabouts import read_whereabouts
from state.keys import prefix
from state.memory import MemoryStore
from streams.step import StartError
from tests.streams.test_identity import (
    CRASH_POINTS,
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

KEY = b"secret"
WORLDS = 24


def send(world: World, message: Message) -> None:
    """A record of `links`, at its owner."""
    key, value = write_message(message)
    world.kafka.append("links", partition_of(key, PARTITIONS), key, value)


def forgotten(world: World) -> Counter[str]:
    """The ids that the crediting stage was told to forget, and how often."""
    return Counter(move["person_id"] for move in world.out("moves") if move["do"] == "forget")


def known(world: World) -> set[str]:
    """Every id that any owner keeps something of, or keeps in something."""
    found: set[str] = set()
    for key, value in world.memory.data.items():
        subkey = key.partition(b":")[2].partition(b":")[2]
        if subkey.startswith(b"i:"):
            state = read_id(value)
            found |= {subkey[2:].decode(), *state.below, *([] if state.up is None else [state.up])}
        elif subkey.startswith(b"w:") and (person_id := read_whereabouts(value).person_id) is not None:
            found.add(person_id)
    return found


async def one_world(world: World) -> Counter[str]:
    rng = world.rng
    groups = []
    await world.start()
    for i in range(20):
        names = some_names(rng)
        groups.append(people_of(names, KEY))
        topic = rng.choice(("identities", "raw-touches", "raw-conversions"))
        fields = {"raw-touches": {"event_id": f"t{i}"}, "raw-conversions": {"conversion_id": f"c{i}"}}.get(topic, {})
        world.put(topic, **fields, **fields_of(names))
    await world.run(crashes=0.15, losses=0.3)
    wanted = components(groups)
    named = rng.choice(sorted(wanted))
    gone = {each for each, top in wanted.items() if top == wanted[named]}
    send(world, ForgetId(named, "r1", NOW_MS - 1))  # what the world says from now on is younger
    for record in world.out("conversions"):
        if record["person_id"] in gone:
            key, value = forget_where(record["conversion_id"])
            world.kafka.append("links", partition_of(key, PARTITIONS), key, value)
    await world.run(crashes=0.15, losses=0.3)
    assert forgotten(world) == Counter(gone)
    assert not gone & known(world)
    assert known(world) >= {each for each in wanted if world.up(each) is not None}
    came = len(world.out("touches")) + len(world.out("conversions"))
    for each in sorted(gone):
        if not each.startswith("email:"):
            name = {"anonymous_id": each[10:]} if each.startswith("anonymous:") else {"user_id": each}
            world.put("raw-touches", event_id=f"late-{each}", **name)
            world.put("raw-conversions", conversion_id=f"late-{each}", **name)
            world.put("identities", **{"anonymous_id": "new", **name})
    await world.run(crashes=0.15, losses=0.3)
    assert len(world.out("touches")) + len(world.out("conversions")) == came
    assert not gone & known(world)
    assert forgotten(world) == Counter(gone)
    before, sent = known(world), world.kafka.transactions
    world.memory = MemoryStore("identity")
    await world.start()
    await world.settle()
    assert (known(world), world.kafka.transactions) == (before, sent)
    return world.crashes


@pytest.mark.parametrize("part", range(2))
def test_people_are_forgotten_whatever_dies(part: int, seed: int) -> None:
    """Crashes at every point and lost stores: every id of the person is told of once and kept nowhere, what comes later
    does not come out, and a lost store is rebuilt to the same without writing anything."""
    seen = in_worlds(range(seed + part, seed + WORLDS, 2), lambda each: one_world(World(each)))
    assert all(seen[point] for point in CRASH_POINTS), seen


def test_what_was_dropped_is_counted() -> None:
    """Events of somebody who was forgotten are told of as such, and are no dead letters."""
    world = World()

    async def story() -> None:
        await world.start()
        send(world, ForgetId("u1"))
        await world.settle()
        world.put("raw-touches", event_id="t", user_id="u1")
        world.put("raw-conversions", conversion_id="c", user_id="u1")
        await world.settle()

    asyncio.run(story())
    reports = [report for worker in world.workers for report in worker.reports]
    assert sum(report.forgotten for report in reports) == 1
    assert sum(report.touches_forgotten for report in reports) == 1
    assert sum(report.conversions_forgotten for report in reports) == 1
    assert world.kafka.dead == []


def test_another_secret_is_refused() -> None:
    """A worker whose settings have another key than the marks were made with does not begin."""
    world = World()

    async def story() -> None:
        await world.start()
        owner = world.workers[partition_of(b"u1", PARTITIONS)]
        owner.task._secret = b"one"
        await owner.claim()
        send(world, ForgetId("u1"))
        await world.settle()
        owner.task._secret = b"two"
        with pytest.raises(StartError, match=r"another identity\.email_key"):
            await owner.claim()
        owner.task._secret = b"one"
        await owner.claim()

    asyncio.run(story())


def test_who_it_was_cannot_be_read() -> None:
    """What a mark says is a hash and a time."""
    world = World()

    async def story() -> None:
        await world.start()
        send(world, ForgetId("<ada>", "r1", NOW_MS))
        await world.settle()

    asyncio.run(story())
    pre = prefix("identity", partition_of(b"<ada>", PARTITIONS))
    marks = {key: value for key, value in world.memory.data.items() if key.startswith(pre + b"x:")}
    assert list(marks.values()) == [b"%d" % NOW_MS]
    assert not any(b"<ada>" in key + value for key, value in world.memory.data.items())


def test_nothing_is_known_of_conversions_either() -> None:
    """A correction that waits for a conversion of somebody who is forgotten meanwhile waits no more."""
    world = World(random.Random(7).randrange(1 << 30))

    async def story() -> None:
        await world.start()
        world.put("raw-conversions", conversion_id="c", action="retract")
        await world.settle()
        key, value = forget_where("c")
        world.kafka.append("links", partition_of(key, PARTITIONS), key, value)
        await world.settle()
        world.put("raw-conversions", conversion_id="c", action="retract")
        await world.settle()

    asyncio.run(story())
    pre = prefix("identity", partition_of(conversion_key("c").encode(), PARTITIONS))
    assert read_whereabouts(world.memory.data[pre + b"w:" + conversion_key("c").encode()]).forgotten
    assert sum(report.conversions_forgotten for worker in world.workers for report in worker.reports) == 2
    assert world.out("conversions") == []
