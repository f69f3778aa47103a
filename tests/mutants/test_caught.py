"""Rules of the step that no other test would miss: each catches a mutant of the catalogue."""

import asyncio
from collections.abc import Iterator
from unittest import mock

import pytest

from models.journey import BUCKET_MS
from state.memory import MemoryStore
from state.store import Lost
from streams import processor
from tests.streams.test_processor import Desk, eventually
from tests.support import fakes
from tests.support.fakes import CONVERSIONS, START_MS, TOUCHES, virtual_time

DAY_MS = 86_400_000
# The first moment of a bucket, so that the touches of a story lie in keys that it knows.
BUCKET_START_MS = (START_MS // BUCKET_MS + 1) * BUCKET_MS


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with virtual_time() as running:
        yield running


class Left(BaseException):
    """The process ended itself."""


def old_desk() -> Desk:
    """A desk whose store forgets by the clock of the records: no key outlives what it was promised."""
    kafka = fakes.Kafka()
    store = fakes.Store(MemoryStore(now_ms=lambda: desk.now_ms), kafka.ledger)
    desk = Desk(kafka, store)
    return desk


def test_nothing_is_decided_from_an_emptied_store(runner: asyncio.Runner) -> None:
    """A store that was emptied behind the worker's back looks like a person without touches: that must not be told."""

    async def story() -> None:
        desk = Desk()
        await desk.claim()
        await desk.step([desk.touch("t")], [desk.conversion("c")])
        desk.store.memory.data.clear()
        with pytest.raises(Lost):
            await desk.settle()
        assert desk.kafka.credits == []

    runner.run(story())


def test_a_superseded_worker_does_not_fence_the_new_owner(runner: asyncio.Runner) -> None:
    """One whose producer was fenced leaves: to initialise it again would take the partition from its new owner."""

    async def story() -> None:
        old = Desk()
        await old.claim()
        old.conversion("c")
        old.consumer.fetch(CONVERSIONS, 9)
        old.consumer.fetch(TOUCHES, 9)
        event = old.consumer.batch(9, 9)
        new = fakes.Publisher(old.kafka)
        await new.start()  # as far as that the new owner has come: the store is not fenced yet
        with mock.patch.object(processor, "leave", mock.Mock(side_effect=Left)):
            old.task.start()
            assert old.task.take(event)
            await eventually(lambda: old.task._task.done() or old.task.reclaims > 0)
            old.task._stopping = True
            with pytest.raises(Left):
                await old.task._task
        assert (old.kafka.epoch, old.kafka.credits) == (2, [])
        await new.commit(0, new.output(0), {})

    runner.run(story())


def test_a_catch_up_publishes_no_dead_letter_again(runner: asyncio.Runner) -> None:
    """What was refused below the committed offsets is a dead letter already, and no transaction moves them back."""

    async def story() -> None:
        desk = Desk()
        await desk.claim()
        touches = [desk.bad(TOUCHES), desk.touch("t")]
        await desk.step(touches, [desk.bad(CONVERSIONS)])
        await desk.settle()
        assert (len(desk.kafka.dead), desk.committed) == (2, (2, 1, 0))
        desk.store.memory.data.clear()
        after = desk.again()
        await after.claim()
        await after.step(touches[:1])
        assert (after.task.replaying, after.committed) == (True, (2, 1, 0))
        await after.step(touches[1:], desk.kafka.logs[CONVERSIONS].records)
        assert (after.task.replaying, after.applied) == (False, (2, 1, 0))
        assert len(after.kafka.dead) == 2

    runner.run(story())


def test_a_touch_counts_by_record_time_whatever_has_expired(runner: asyncio.Runner) -> None:
    """A key of touches lives from its first touch on; its last one must still be there for as long as it counts."""

    async def story() -> None:
        desk = old_desk()
        desk.now_ms = BUCKET_START_MS
        await desk.claim()
        await desk.step([desk.touch("first")])
        desk.now_ms = BUCKET_START_MS + 30 * DAY_MS
        await desk.step([desk.touch("last")])
        desk.now_ms += 29 * DAY_MS
        await desk.step([], [desk.conversion("c")])
        await desk.settle()
        assert desk.view().keys() == {"c|linear|last"}

    runner.run(story())


def test_a_touch_is_kept_by_its_record_time(runner: asyncio.Runner) -> None:
    """A touch and its conversion, both sent a year after they happened, find each other."""

    async def story() -> None:
        desk = old_desk()
        happened_ms = desk.now_ms
        desk.now_ms += 365 * DAY_MS
        await desk.claim()
        await desk.step([desk.touch("t", happened_ms)])
        await desk.step([], [desk.conversion("c", happened_ms + DAY_MS)])
        await desk.settle()
        assert desk.view().keys() == {"c|linear|t"}

    runner.run(story())


def test_a_conversion_is_kept_by_its_record_time(runner: asyncio.Runner) -> None:
    """One sent half a year after it happened can be corrected as long as any other, whatever came in between."""

    async def story() -> None:
        desk = old_desk()
        happened_ms = desk.now_ms
        desk.now_ms += 180 * DAY_MS
        await desk.claim()
        records = [desk.conversion("c", happened_ms), desk.conversion("d")]
        records.append(desk.conversion("c", desk.now_ms, action="retract"))
        await desk.step([], records[:1])
        await desk.settle()
        await desk.step([], records[1:])
        await desk.settle()
        assert desk.view()["c|linear|"]["status"] == "retracted"

    runner.run(story())


def test_touches_read_far_ahead_take_none_from_a_conversion(runner: asyncio.Runner) -> None:
    """A backlog may be read with its touches far ahead: an old conversion still finds those of its time."""

    async def story() -> None:
        desk = Desk()
        desk.now_ms = BUCKET_START_MS
        await desk.claim()
        touch, conversion = desk.touch("t"), desk.conversion("c")
        desk.now_ms += 300 * DAY_MS
        await desk.step([touch, desk.touch("u")])
        await desk.step([], [conversion])
        await desk.settle()
        assert desk.view().keys() == {"c|linear|t"}

    runner.run(story())


def test_a_younger_conversion_in_the_same_step_takes_no_touch_from_an_older_one(runner: asyncio.Runner) -> None:
    """Conversions of a year may be released together; each finds the touches of its time."""

    async def story() -> None:
        desk = Desk()
        desk.now_ms = BUCKET_START_MS
        await desk.claim()
        touch, conversion = desk.touch("t"), desk.conversion("c")
        await desk.step([touch])
        desk.now_ms += 300 * DAY_MS
        await desk.step([], [conversion, desk.conversion("d")])
        await desk.settle()
        assert desk.view().keys() == {"c|linear|t", "d|linear|"}

    runner.run(story())
