"""A fleet that is upgraded to a program of a new format, and taken back; over a made-up format 2 of journeys."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

from models import journey
from models.formats import Codec, Form, UnknownFormat, first_element
from models.journey import state_key
from state.keys import OWNER, prefix
from streams import claiming, processor
from streams.claiming import FORMAT_KEY
from streams.errors import EXIT_FINDING, SettingsError, render
from streams.failures import block_of
from streams.processor import StartError
from streams.settings import load_settings
from tests.models.test_formats import packed, unpacked
from tests.streams.test_processor import Desk, eventually
from tests.support.fakes import START_MS, TOUCHES, virtual_time


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with virtual_time() as running:
        yield running


@contextmanager
def program(latest: int) -> Iterator[None]:
    """The program whose latest format this is."""
    first, second = journey.STATES.forms[1], Form(unpacked, packed)
    read = {number: first if number == 1 else second for number in range(max(1, latest - 1), latest + 1)}
    codec: Codec[Any] = Codec(journey.STATES.what, read, first_element)
    with (
        mock.patch.object(journey, "STATES", codec),
        mock.patch.object(claiming, "FORMAT", latest),
        mock.patch.object(claiming, "OLDEST", max(1, latest - 1)),
    ):
        yield


class Fleet:
    """One partition and the workers that follow each other on it."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.late = 0

    async def works(self, latest: int, writes: int) -> None:
        """A worker of that program takes over, and gets a late touch of ada's, and another value."""
        with program(latest):
            first = not self.desk.kafka.credits
            self.desk = self.desk.again(state_format=writes)
            await self.desk.claim()
            if first:
                await self.desk.step(
                    [self.desk.touch("t"), self.desk.touch("b", person_id="bob")],
                    [self.desk.conversion("c"), self.desk.conversion("d", person_id="bob")],
                )
                await self.desk.settle()
            self.late += 1
            late = self.desk.touch(f"late{self.late}", START_MS + self.late)
            await self.desk.step([late], [self.desk.conversion("c", action="restate", value=str(self.late))])
            await self.desk.settle()

    def stored(self, subkey: bytes) -> bytes | None:
        return self.desk.store.memory.data.get(prefix("memory", 0) + subkey)

    def formats(self) -> tuple[int | None, int | None, bytes | None]:
        """Of ada's journey, of bob's, and what the store says of itself."""
        found = [first_element(self.stored(state_key(key)) or b"") for key in (b"ada", b"bob")]
        return found[0], found[1], self.stored(FORMAT_KEY)

    def check(self) -> None:
        """Every late touch has its share, of the latest value."""
        rows = [row for row in self.desk.view().values() if row["conversion_id"] == "c"]
        assert {row["path_length"] for row in rows} == {1 + self.late}
        assert sum(row["value_micros"] for row in rows) == self.late * 1_000_000


def test_a_fleet_goes_to_a_new_format_and_back(runner: asyncio.Runner) -> None:
    """A new program reads what the old one wrote, and writes it until it is told; until then the old one may come back,
    later it is refused before it reads or writes anything; a new store is anybody's."""

    async def story() -> None:
        fleet = Fleet()
        for latest, writes, formats in (
            (1, 1, (1, 1, None)),
            (2, 1, (1, 1, None)),
            (1, 1, (1, 1, None)),
            (2, 2, (2, 1, b"2")),
            (2, 1, (1, 1, b"2")),
            (2, 2, (2, 1, b"2")),
        ):
            await fleet.works(latest, writes)
            fleet.check()
            assert fleet.formats() == formats
        before = dict(fleet.desk.store.memory.data)
        for latest, told in ((1, "this program reads 1"), (4, "this program reads 3 and 4")):
            with pytest.raises(StartError, match=f"state of format 2, {told}$") as error:
                await fleet.works(latest, latest)
            assert "Touchstream that ran before" in error.value.fix
            after = dict(fleet.desk.store.memory.data)
            for data in (before, after):
                data.pop(prefix("memory", 0) + OWNER)
            assert after == before
            before = dict(fleet.desk.store.memory.data)
        credits = len(fleet.desk.kafka.credits)
        fleet.desk.store.memory.data.clear()
        await rebuilt(fleet)
        assert len(fleet.desk.kafka.credits) == credits
        assert fleet.formats() == (1, 1, None)

    runner.run(story())


async def rebuilt(fleet: Fleet) -> None:
    """A worker of the old program makes the store anew from the log."""
    fleet.desk = fleet.desk.again()
    await fleet.desk.claim()
    logs = [log.records for log in fleet.desk.kafka.logs.values()]
    await fleet.desk.step(*logs)


def test_a_store_that_is_made_anew_says_so_again(runner: asyncio.Runner) -> None:
    """What a claim drops or finds empty is written in the format of whoever makes it."""

    async def story() -> None:
        fleet = Fleet()
        await fleet.works(2, 2)
        fleet.desk.store.memory.data.clear()
        with program(2):
            fleet.desk = fleet.desk.again(state_format=2)
            await fleet.desk.claim()
        assert fleet.stored(FORMAT_KEY) == b"2"

    runner.run(story())


def test_bytes_of_another_format_end_the_worker_with_a_block(runner: asyncio.Runner) -> None:
    """Also where the store does not say so: once, with what to do, and not with a restart for ever."""

    async def story() -> None:
        desk = Desk()
        await desk.claim()
        await desk.step([desk.touch("t")], [desk.conversion("c")])
        await desk.settle()
        desk.store.memory.data[prefix("memory", 0) + state_key(b"ada")] = b"\x92\x02\xc0"
        desk.touch("late", desk.now_ms - 60_000)
        ended: list[Exception] = []
        with mock.patch.object(processor, "fail", ended.append):
            desk.task.start()
            desk.consumer.fetch(TOUCHES, 9)
            event = desk.consumer.batch(9, 9)
            assert desk.task.take(event)
            await eventually(lambda: bool(ended))
        assert isinstance(ended[0], UnknownFormat)
        block = block_of(ended[0])
        assert (block.code, block.exit_code) == ("T228", EXIT_FINDING)
        assert "of format 2, this program reads 1" in render(block)

    runner.run(story())


@pytest.mark.parametrize("value", [0, 2])
def test_a_format_that_this_program_does_not_write_is_refused(value: int) -> None:
    """By the settings, before anything starts."""
    assert load_settings(None, {"state.format": 1}, {}).state.format == 1
    with pytest.raises(SettingsError, match="state\\.format") as error:
        load_settings(None, {"state.format": value}, {})
    assert "writes format 1" in error.value.why
