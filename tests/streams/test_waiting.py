"""One partition task over fakes: corrections whose create never comes are given up, by record time and once."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from unittest import mock

import pytest

from models.durations import DAY_MS, HOUR_MS
from models.moving import Forget, Merge, write_move
from models.outcome import Reason
from state.keys import APPLIED, prefix
from streams import waiting
from streams.step import Applied
from tests.streams.test_processor import Crash, Desk
from tests.support.fakes import CONVERSIONS, MOVES, LogRecord, virtual_time

CORRECTIONS = {"corrections": "2d"}
DUE_MS = 2 * DAY_MS + HOUR_MS
POINTS = ("decided", "sent", "published", "saved")


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with virtual_time() as running:
        yield running


def restate(desk: Desk, conversion_id: str, person: str = "ada") -> LogRecord:
    return desk.conversion(conversion_id, action="restate", value="9", person_id=person)


async def taken(desk: Desk, *records: LogRecord) -> None:
    """These conversions, and whatever waits at the gate."""
    await desk.step((), records)
    await desk.settle()


def dead(desk: Desk) -> list[tuple[int, Reason]]:
    return [(letter.offset, letter.reason) for letter in desk.kafka.dead]


def queue(desk: Desk) -> list[bytes]:
    """The keys of the queue."""
    return [key for key in desk.store.memory.data if b"}:n:" in key]


def counted(desk: Desk) -> tuple[int, int]:
    applied = Applied.parse(desk.store.memory.data[prefix("memory", 0) + APPLIED])
    return applied.waited, applied.given_up


def test_a_correction_whose_create_never_comes_is_a_dead_letter(runner: asyncio.Runner) -> None:
    """A record of anybody in the partition ends it, an hour after `corrections`, with its own bytes, and no sooner."""

    async def story() -> None:
        desk = Desk(attribution=CORRECTIONS)
        await desk.claim()
        correction = restate(desk, "never")
        await taken(desk, correction)
        desk.now_ms = correction.timestamp + DUE_MS - 60_001
        await taken(desk, desk.conversion("a", person_id="bob"))
        assert (dead(desk), counted(desk), len(queue(desk))) == ([], (1, 0), 1)
        await taken(desk, desk.conversion("b", person_id="bob"))
        assert (dead(desk), counted(desk), queue(desk)) == ([(0, Reason.NO_CREATE)], (1, 1), [])
        (letter,) = desk.kafka.dead
        assert (letter.key, letter.value, letter.topic) == (correction.key, correction.value, CONVERSIONS.topic)
        assert not any(b"never" in value for value in desk.store.memory.data.values())

    runner.run(story())


def test_what_was_settled_meanwhile_is_left_alone(runner: asyncio.Runner) -> None:
    """A create in time takes the correction up, and nothing comes of its place in the queue."""

    async def story() -> None:
        desk = Desk(attribution=CORRECTIONS)
        await desk.claim()
        await taken(desk, desk.conversion("c", action="retract"), desk.conversion("c"))
        desk.now_ms += 3 * DAY_MS
        await taken(desk, desk.conversion("later", person_id="bob"))
        assert (dead(desk), counted(desk)) == ([], (1, 1))
        assert {credit["status"] for credit in desk.view().values()} == {"retracted", "unattributed"}

    runner.run(story())


def test_a_store_in_which_nothing_waited_looks_as_before(runner: asyncio.Runner) -> None:
    """Programs that know of no queue can read what is applied, as long as there is none."""

    async def story() -> None:
        desk = Desk(attribution=CORRECTIONS)
        await desk.claim()
        await taken(desk, desk.conversion("c"))
        assert desk.store.memory.data[prefix("memory", 0) + APPLIED].count(b";") == 4
        await taken(desk, restate(desk, "never"))
        assert desk.store.memory.data[prefix("memory", 0) + APPLIED].count(b";") == 6

    runner.run(story())


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_anywhere(runner: asyncio.Runner, point: str) -> None:
    """Whatever point a worker dies at while it gives a correction up, there is one dead letter in the end."""

    async def story() -> None:
        desk = Desk(attribution=CORRECTIONS)
        await desk.claim()
        await taken(desk, restate(desk, "never"))
        desk.now_ms += 3 * DAY_MS
        desk.crash_at = point
        with pytest.raises(Crash):
            await taken(desk, desk.conversion("c", person_id="bob"))
        heir = desk.again()
        await heir.claim()
        await taken(heir, *heir.kafka.logs[CONVERSIONS].since(heir.consumer._next[CONVERSIONS]))
        await heir.settle()
        assert (dead(heir), counted(heir), queue(heir)) == ([(0, Reason.NO_CREATE)], (1, 1), [])
        assert len(heir.view()) == 1

    runner.run(story())


def test_who_is_forgotten_is_not_named_in_the_queue(runner: asyncio.Runner) -> None:
    """Forgetting takes the person's name out of it, the places of others stay, and no dead letter names the person."""

    async def story() -> None:
        desk = Desk(attribution=CORRECTIONS)
        await desk.claim()
        await taken(desk, restate(desk, "never"), restate(desk, "never too", "bob"), restate(desk, "nor this"))
        forget = desk.kafka.logs[MOVES].append(*write_move(Forget("ada", "r1")), desk.now_ms)
        await desk.step(moves=[forget])
        (key,) = queue(desk)
        assert b"ada" not in desk.store.memory.data[key]
        assert b"bob" in desk.store.memory.data[key]
        heir = desk.again()
        await heir.claim()
        heir.now_ms += 3 * DAY_MS
        await taken(heir, heir.conversion("c", person_id="eve"))
        assert (dead(heir), counted(heir)) == ([(1, Reason.NO_CREATE)], (3, 3))

    runner.run(story())


def test_a_correction_waits_on_where_its_person_went(runner: asyncio.Runner) -> None:
    """A journey that moves takes along what waits, and it is given up at the new person, not at the old one."""

    async def story() -> None:
        desk = Desk(attribution=CORRECTIONS)
        await desk.claim()
        await taken(desk, restate(desk, "never"))
        await desk.step(moves=[desk.move(Merge("ada", "Ada"))])
        (moved,) = desk.kafka.logs[MOVES].since(desk.consumer._next[MOVES])
        await desk.step(moves=[moved])
        assert counted(desk) == (2, 0)
        desk.now_ms += 3 * DAY_MS
        await taken(desk, desk.conversion("c", person_id="eve"))
        assert (dead(desk), counted(desk)) == ([(0, Reason.NO_CREATE)], (2, 2))

    runner.run(story())


@pytest.mark.parametrize("seed", range(30))
def test_batches_and_restarts_do_not_matter(runner: asyncio.Runner, seed: int) -> None:
    """However a log is cut into steps, and wherever workers die, each correction that waited in vain is dead once, and
    after each whole run the queue is where it is after one step a record."""

    async def run(desk: Desk, rng: random.Random, most: int, crashes: float) -> tuple[Counter[int], tuple[int, int]]:
        await desk.claim()
        end = desk.kafka.logs[CONVERSIONS].end
        while desk.applied[1] < end:
            records = list(desk.kafka.logs[CONVERSIONS].since(desk.consumer._next[CONVERSIONS]))
            desk.crash_at = rng.choice(POINTS) if rng.random() < crashes else ""
            try:
                await taken(desk, *records[: rng.randint(1, most)])
            except Crash:
                desk = desk.again()
                await desk.claim()
            if rng.random() < crashes / 4:
                desk.store.memory.data.clear()
                desk = desk.again()
                await desk.claim()
        return Counter(offset for offset, _ in dead(desk)), counted(desk)

    def logged(rng: random.Random) -> Desk:
        desk = Desk(attribution=CORRECTIONS, held_max=1_000)
        for number in range(60):
            desk.now_ms += rng.choice((0, 0, 0, HOUR_MS, DAY_MS, 2 * DAY_MS))
            person = rng.choice(("ada", "bob", "eve"))
            restate(desk, f"c{rng.randrange(90)}", person) if rng.random() < 0.7 else desk.conversion(
                f"c{number}", person_id=person
            )
        return desk

    async def story() -> None:
        rng = random.Random(seed)
        one_by_one = await run(logged(random.Random(seed)), rng, 1, 0.0)
        assert set(one_by_one[0].values()) == {1}
        for most, crashes in ((60, 0.0), (7, 0.0), (7, 0.3)):
            found = await run(logged(random.Random(seed)), rng, most, crashes)
            assert found == one_by_one

    with mock.patch.object(waiting, "SEGMENT", 4), mock.patch.object(waiting, "AT_ONCE", 2):
        runner.run(story())
