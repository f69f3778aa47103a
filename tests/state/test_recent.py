"""Which touches can be late: never a wrong no, whatever is forgotten."""

import random

import pytest

from state.recent import RecentConversions


def can_be_late(recent: RecentConversions, key: bytes, occurred_ms: int) -> bool:
    return recent.late([(0, 0, key, occurred_ms, b"")]) == [key]


def test_touches_after_the_last_conversion_are_not_late() -> None:
    """At the conversion's own moment a touch still counts, a millisecond later it does not."""
    recent = RecentConversions(-1)
    recent.add(b"ada", 100)
    assert can_be_late(recent, b"ada", 100)
    assert not can_be_late(recent, b"ada", 101)
    assert not can_be_late(recent, b"bob", 1)


def test_the_last_conversion_counts_by_event_time() -> None:
    """A conversion that comes later and happened earlier takes nothing back."""
    recent = RecentConversions(-1)
    for occurred_ms in (100, 50):
        recent.add(b"ada", occurred_ms)
    assert can_be_late(recent, b"ada", 100)
    assert recent.latest_ms == 100


def test_after_a_claim_everything_up_to_the_latest_can_be_late() -> None:
    """Nothing is remembered then, but the latest conversion of the partition was stored."""
    recent = RecentConversions(100)
    assert can_be_late(recent, b"anybody", 100)
    assert not can_be_late(recent, b"anybody", 101)
    recent.add(b"ada", 150)
    assert can_be_late(recent, b"ada", 150)
    assert not can_be_late(recent, b"bob", 150)
    assert recent.latest_ms == 150


@pytest.mark.parametrize("journeys_max", [1, 2, 7, 50])
def test_what_is_forgotten_can_be_late(journeys_max: int, seed: int) -> None:
    """Beyond its bound it forgets, and then says yes too often, never no where a conversion is."""
    rng = random.Random(f"{seed} {journeys_max}")
    recent = RecentConversions(rng.choice([-1, 500]), journeys_max)
    last: dict[bytes, int] = {}
    for _ in range(500):
        key, occurred_ms = rng.randbytes(1), rng.randrange(1_000)
        recent.add(key, occurred_ms)
        last[key] = max(last.get(key, -1), occurred_ms)
        assert len(recent.last) <= journeys_max
        asked = rng.choice(list(last))
        assert can_be_late(recent, asked, rng.randrange(last[asked] + 1)), seed
    assert recent.latest_ms == max(last.values()) or recent.latest_ms == 500


def test_conversions_of_one_moment_are_forgotten_together() -> None:
    """Even where all lie at the same time the bound holds."""
    recent = RecentConversions(-1, 3)
    for number in range(10):
        recent.add(b"%d" % number, 100)
    assert len(recent.last) <= 3
    assert all(can_be_late(recent, b"%d" % number, 100) for number in range(10))
