"""Raw events wait at a start until who is who is known, conversions for touches, and never for long."""

from collections.abc import Iterator
from unittest import mock

import pytest
from faust.types import TP

from streams import settling
from streams.settling import CHASE_S, OTHERS_S, QUIET_S, WAIT_S, Settling, TouchesFirst

LINKS, IDENTITIES, TOUCHES, CONVERSIONS = (
    TP(topic, 3) for topic in ("links", "identities", "raw-touches", "raw-conversions")
)


class Clock:
    """Machine time, seconds; stands in for the `time` module."""

    now_s = 50.0

    def monotonic(self) -> float:
        return self.now_s


class Consumer:
    """What is asked of the transport: where logs end, how far they were read, and what is held back."""

    def __init__(self, ends: dict[TP, int]) -> None:
        self.ends = ends
        self.held_back: set[TP] = set()

    async def offsets(self, kind: str, tps: tuple[TP, ...]) -> dict[TP, int | None]:
        assert kind == "end"
        return {tp: self.ends[tp] for tp in tps}

    def has_read(self, tp: TP, processed: int, end: int) -> bool:
        return processed >= end

    def hold_back(self, tp: TP, yes: bool) -> None:
        (self.held_back.add if yes else self.held_back.discard)(tp)


@pytest.fixture
def clock() -> Iterator[Clock]:
    found = Clock()
    with mock.patch.object(settling, "time", found):
        yield found


async def begun(links: int, identities: int) -> tuple[Settling, Consumer]:
    """A claim at offsets 2 and 7 of logs that end there."""
    found, consumer = (
        Settling((LINKS, IDENTITIES), (TOUCHES, CONVERSIONS)),
        Consumer({LINKS: links, IDENTITIES: identities}),
    )
    await found.begin(consumer, (2, 7))  # type: ignore[arg-type]
    return found, consumer


async def test_nothing_waits_where_nothing_is_behind(clock: Clock) -> None:
    """A start at the ends of what is said of ids takes events in at once, and so does one that never had any."""
    found, consumer = await begun(2, 7)
    assert not found
    assert consumer.held_back == set()
    found.look(consumer, (2, 7), said=True)  # type: ignore[arg-type]
    assert consumer.held_back == set()


async def test_events_wait_until_owners_have_told_each_other(clock: Clock) -> None:
    """Held back while ids are behind and while messages come of them; let go when none came for a while."""
    found, consumer = await begun(2, 9)
    assert consumer.held_back == {TOUCHES, CONVERSIONS}
    found.look(consumer, (2, 8), said=True)  # type: ignore[arg-type]
    clock.now_s += 10 * QUIET_S
    found.look(consumer, (2, 8), said=False)  # type: ignore[arg-type]
    clock.now_s += 10 * QUIET_S
    found.look(consumer, (2, 8), said=False)  # type: ignore[arg-type]
    assert consumer.held_back, "an Identify is still to be read"
    found.look(consumer, (2, 9), said=True)  # type: ignore[arg-type]
    clock.now_s += 2 * QUIET_S
    found.look(consumer, (4, 9), said=True)  # type: ignore[arg-type]
    clock.now_s += 2 * QUIET_S
    found.look(consumer, (4, 9), said=False)  # type: ignore[arg-type]
    assert consumer.held_back, "the step before took as long, and what it said has just gone out"
    clock.now_s += QUIET_S
    found.look(consumer, (4, 9), said=False)  # type: ignore[arg-type]
    assert consumer.held_back == set()
    assert not found


async def test_links_that_never_rest_hold_nobody_up(clock: Clock) -> None:
    """What is said of ids while the worker runs is not waited for."""
    found, consumer = await begun(5, 7)
    for _ in range(2):
        found.look(consumer, (5, 7), said=True)  # type: ignore[arg-type]
        assert consumer.held_back
        clock.now_s += CHASE_S / 2
    found.look(consumer, (5, 7), said=True)  # type: ignore[arg-type]
    assert consumer.held_back == set()


async def test_a_backlog_that_takes_too_long_holds_nobody_up(clock: Clock) -> None:
    """After WAIT_S events are let go, whatever is still to be read."""
    found, consumer = await begun(500, 700)
    clock.now_s += WAIT_S - 1
    found.look(consumer, (3, 8), said=True)  # type: ignore[arg-type]
    assert consumer.held_back
    clock.now_s += 1
    found.look(consumer, (4, 9), said=True)  # type: ignore[arg-type]
    assert consumer.held_back == set()


async def test_a_new_claim_begins_anew(clock: Clock) -> None:
    """The store or the log may be elsewhere than before."""
    found, consumer = await begun(5, 7)
    consumer.ends = {LINKS: 2, IDENTITIES: 7}
    await found.begin(consumer, (2, 7))  # type: ignore[arg-type]
    assert not found
    assert consumer.held_back == set()


async def first(place: int, behind: set[int], applied: int, end: int) -> tuple[TouchesFirst, Consumer]:
    """A claim of a partition number at this offset of raw touches that end there."""
    touches, conversions = TP("raw-touches", place), TP("raw-conversions", place)
    found, consumer = TouchesFirst(touches, conversions, behind), Consumer({touches: end})
    await found.begin(consumer, applied)  # type: ignore[arg-type]
    return found, consumer


async def test_conversions_wait_for_touches_of_all_partition_numbers(clock: Clock) -> None:
    """They are let go when what lay there at the start was read, here and by the other tasks of the worker."""
    behind: set[int] = set()
    (one, consumer), (other, elsewhere) = await first(3, behind, 0, 9), await first(5, behind, 0, 9)
    assert consumer.held_back == {CONVERSIONS}
    one.look(consumer, 9)  # type: ignore[arg-type]
    assert consumer.held_back == {CONVERSIONS}, "those of 5 are still to come"
    other.look(elsewhere, 8)  # type: ignore[arg-type]
    one.look(consumer, 12)  # type: ignore[arg-type]
    assert one
    other.look(elsewhere, 9)  # type: ignore[arg-type]
    one.look(consumer, 12)  # type: ignore[arg-type]
    assert not one
    assert not other
    assert consumer.held_back == elsewhere.held_back == set()


async def test_a_partition_number_that_hangs_holds_others_up_for_a_while(clock: Clock) -> None:
    """Own touches are waited for as long as it takes, those of others for OTHERS_S after that."""
    behind: set[int] = set()
    (one, consumer), _ = await first(3, behind, 0, 9), await first(5, behind, 0, 9)
    clock.now_s += 10 * OTHERS_S
    one.look(consumer, 8)  # type: ignore[arg-type]
    assert consumer.held_back
    one.look(consumer, 9)  # type: ignore[arg-type]
    clock.now_s += OTHERS_S - 1
    one.look(consumer, 9)  # type: ignore[arg-type]
    assert consumer.held_back
    clock.now_s += 1
    one.look(consumer, 9)  # type: ignore[arg-type]
    assert consumer.held_back == set()


async def test_nobody_waits_for_who_has_left_or_begins_at_the_end(clock: Clock) -> None:
    """A partition number that was given away, or claimed with nothing to read, is not behind."""
    behind: set[int] = set()
    (one, consumer), (other, _) = await first(3, behind, 9, 9), await first(5, behind, 0, 9)
    one.look(consumer, 9)  # type: ignore[arg-type]
    assert consumer.held_back
    other.leave()
    one.look(consumer, 9)  # type: ignore[arg-type]
    assert consumer.held_back == set()
    again, elsewhere = await first(5, behind, 9, 9)
    again.look(elsewhere, 9)  # type: ignore[arg-type]
    assert elsewhere.held_back == set()
