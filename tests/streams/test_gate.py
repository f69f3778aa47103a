"""The gate, with a clock in hand: what is held, for how long, and in which order it goes."""

import random

import pytest

from models.crediting import Event
from models.outcome import Reason
from streams.gate import Gate, Held, Pace
from streams.publish import DeadLetter
from tests.support.drawn import draw

SETTLE_MS = 250


def held(offset: int, record_ms: int, arrived_s: float = 0.0) -> Held:
    return Held(offset, record_ms, arrived_s, Event(draw("conversion").conversion, b"p1", b"{}", []))


def dead(offset: int, record_ms: int) -> Held:
    letter = DeadLetter("conversions", 0, offset, None, b"{", [], Reason.INVALID_JSON, "no JSON")
    return Held(offset, record_ms, 0.0, None, letter)


def never(end: int) -> bool:
    return False


def offsets(released: list[Held]) -> list[int]:
    return [h.offset for h in released]


def test_a_younger_touch_lets_a_conversion_go() -> None:
    """A touch whose record is `settle` younger shows that all before it were taken; a millisecond less does not."""
    gate = Gate(SETTLE_MS, 10)
    gate.hold([held(0, 1_000)])
    gate.touches_reached(1_000 + SETTLE_MS - 1)
    assert gate.release(99.0, never, 10) == []
    gate.touches_reached(1_000 + SETTLE_MS)
    assert offsets(gate.release(0.0, never, 10)) == [0]


def test_touches_never_run_backwards() -> None:
    """A later report of an older record time takes nothing back."""
    gate = Gate(SETTLE_MS, 10)
    gate.touches_reached(5_000)
    gate.touches_reached(1_000)
    gate.hold([held(0, 4_000)])
    assert offsets(gate.release(0.0, never, 10)) == [0]


def test_without_younger_touches_the_end_of_the_touches_tells() -> None:
    """After `settle` the end is asked for once, and the conversion goes when all below it have been processed."""
    gate = Gate(SETTLE_MS, 10)
    gate.hold([held(0, 1_000)])
    assert gate.overdue(0.249) == []
    (asked,) = gate.overdue(0.25)
    assert gate.release(9.0, lambda end: True, 10) == []
    asked.end = 42
    assert gate.overdue(9.0) == []
    assert gate.release(9.0, lambda end: end < 42, 10) == []
    assert offsets(gate.release(9.0, lambda end: end == 42, 10)) == [0]


def test_an_end_asked_for_early_does_not_shorten_the_wait() -> None:
    """A conversion waits its `settle` although the touches are processed to the end already."""
    gate = Gate(SETTLE_MS, 10)
    late = held(0, 1_000, arrived_s=5.0)
    late.end = 0
    gate.hold([late])
    assert gate.release(5.2, lambda end: True, 10) == []
    assert offsets(gate.release(5.25, lambda end: True, 10)) == [0]


def test_those_that_came_later_are_asked_about_later() -> None:
    """Only records that have waited for `settle` get the end that is known now."""
    gate = Gate(SETTLE_MS, 10)
    gate.hold([held(0, 1_000, 0.0), held(1, 1_000, 0.1), held(2, 1_000, 7.0)])
    assert offsets(gate.overdue(1.0)) == [0, 1]


def test_first_in_first_out() -> None:
    """A record that might go waits behind one that may not, and dead letters keep their place."""
    gate = Gate(SETTLE_MS, 10)
    gate.hold([held(0, 9_000), dead(1, 1_000), held(2, 1_000)])
    gate.touches_reached(2_000)
    assert gate.release(0.0, never, 10) == []
    assert gate.first_offset(otherwise=99) == 0
    gate.touches_reached(9_000 + SETTLE_MS)
    released = gate.release(0.0, never, 10)
    assert offsets(released) == [0, 1, 2]
    assert released[1].dead is not None
    assert gate.first_offset(otherwise=99) == 99


def test_a_step_gets_no_more_than_it_can_take() -> None:
    """Beyond `count_max` the others stay, in order, and offsets stay with them."""
    gate = Gate(0, 10)
    gate.hold([held(i, 0) for i in range(5)])
    gate.touches_reached(0)
    assert offsets(gate.release(0.0, never, 3)) == [0, 1, 2]
    assert (len(gate), gate.first_offset(otherwise=99)) == (2, 3)


def test_the_pace_follows_what_conversions_give() -> None:
    """Long paths slow it down at once, to one conversion if need be; short ones let it double up to the most."""
    pace = Pace(aim=1_000, most=100, first=10)
    seen = []
    for released, credits in ((10, 50), (20, 100), (40, 200), (80, 400), (100, 50_000), (2, 9_000), (0, 0), (1, 20)):
        pace.saw(released, credits)
        seen.append(pace.count)
    assert seen == [20, 40, 80, 100, 2, 1, 1, 2]


def test_full_is_told_before_it_overflows() -> None:
    """At `held_max` nothing more should be fetched, and below it all goes on."""
    gate = Gate(SETTLE_MS, 2)
    gate.hold([held(0, 0)])
    assert not gate.is_full
    gate.hold([held(1, 0)])
    assert gate.is_full
    gate.touches_reached(1_000)
    gate.release(0.0, never, 1)
    assert not gate.is_full


def test_the_wait_ends_when_the_first_is_due() -> None:
    """Nothing held: as long as may be; else to the end of `settle` of the first, and never quite zero."""
    gate = Gate(SETTLE_MS, 2)
    assert gate.wait_s(100.0, 1.0) == 1.0
    gate.hold([held(0, 0, arrived_s=100.0)])
    assert gate.wait_s(100.0, 1.0) == pytest.approx(0.25)
    assert gate.wait_s(100.2, 1.0) == pytest.approx(0.05)
    assert 0 < gate.wait_s(200.0, 1.0) < 0.01
    assert gate.wait_s(100.0, 0.1) == 0.1


def test_nothing_is_lost_or_doubled(seed: int) -> None:
    """Whatever comes in whatever order, everything is released once, in the order in which it came."""
    rng = random.Random(seed)
    gate, came, went = Gate(SETTLE_MS, 50), 0, []
    for step in range(2_000):
        records = [held(came + i, rng.randrange(step + 1), float(step)) for i in range(rng.randrange(3))]
        came += len(records)
        gate.hold(records)
        if rng.random() < 0.3:
            gate.touches_reached(rng.randrange(step + 400))
        for one in gate.overdue(float(step)):
            one.end = rng.randrange(3)
        went += offsets(gate.release(float(step), lambda end: end < rng.randrange(3), rng.randrange(1, 5)))
        assert gate.first_offset(otherwise=came) == len(went), seed
    gate.touches_reached(10_000)
    went += offsets(gate.release(0.0, never, came))
    assert went == list(range(came)), seed
