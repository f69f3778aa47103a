"""The trip wire alone: what counts as the last 1,000 records, and when it is tight again."""

import itertools
import random

import pytest

from models.outcome import Reason
from streams.decode import Taken
from streams.gate import Held
from streams.publish import DeadLetter
from streams.tripwire import ACCEPTED, TRIPPED, WINDOW, TripWire, flags_of

HALF = WINDOW // 2


def test_more_than_half_of_the_window_trips() -> None:
    """Half of the last 1,000 records may be dead, one more may not; fewer records than that count like good ones."""
    wire = TripWire()
    assert not wire.trips([True] * HALF)
    assert not wire.trips([False] * 7)
    assert wire.trips([True])


def test_a_flood_within_one_step_trips_though_good_records_follow() -> None:
    """A step holds many windows: each of them counts, not only the one at its end."""
    assert TripWire().trips([True] * (HALF + 1) + [False] * 5_000)


@pytest.mark.parametrize("seed", range(20))
def test_it_trips_exactly_where_a_slow_count_does(seed: int) -> None:
    """However records are cut into steps, it trips at the step in which some window of 1,000 is mostly dead."""
    rng = random.Random(seed)
    flags: list[bool] = []
    while len(flags) < 6_000:
        flags += rng.choices((True, False), weights=(rng.random(), rng.random()), k=rng.randrange(1, 900))
    dead = [0, *itertools.accumulate(flags)]
    wire, done = TripWire(), 0
    while done < len(flags):
        step = flags[done : done + rng.randrange(1, 1_500)]
        tripped = wire.trips(step)
        ends = range(done + 1, done + len(step) + 1)
        assert tripped == any(dead[end] - dead[max(0, end - WINDOW)] > HALF for end in ends), seed
        done += len(step)


def test_accepted_it_is_loose_until_records_are_good_again() -> None:
    """An accepted flood goes on; with half of a whole window good the wire is tight, and the next flood trips it."""
    wire = TripWire(ACCEPTED + b"why")
    assert not wire.trips([True] * 5_000)
    assert not wire.heals()
    assert not wire.trips([False] * (HALF - 1))
    assert not wire.heals()
    assert not wire.trips([False])
    assert wire.heals()
    assert wire.trips([True] * WINDOW)


def test_good_records_alone_do_not_heal_before_there_are_enough() -> None:
    """After a restart nothing is known of the records before: a whole window must come."""
    wire = TripWire(ACCEPTED)
    assert not wire.trips([False] * (WINDOW - 1))
    assert not wire.heals()
    assert not wire.is_calm
    assert not wire.trips([False])
    assert wire.heals()
    assert wire.is_calm


def test_what_is_not_accepted_yet_is_tight() -> None:
    """Only the word of a person loosens it."""
    assert not TripWire(TRIPPED + b"why").loose
    assert TripWire(ACCEPTED + b"why").loose


def test_records_are_taken_in_the_order_of_their_offsets() -> None:
    """Dead letters stand among the touches where they were; a correction that waited in vain is left out."""

    def dead(topic: str, offset: int) -> DeadLetter:
        return DeadLetter(topic, 0, offset, None, None, (), Reason.INVALID_JSON, "")

    touches = [(offset, 0, b"k", 0, b"") for offset in (1, 4)]
    taken = Taken(touches=touches, conversions=[Held(7, 0, 0.0, None), Held(8, 0, 0.0, None)])
    letters = [dead("touches", 2), dead("conversions", 8), dead("conversions", 3)]
    assert flags_of(taken, letters, "touches", "conversions") == [False, True, False, False, True]
