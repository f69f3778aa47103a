"""From journey to path, drawn."""

import copy
import random
from typing import Any

import pytest

from models import path as paths
from models.path import Dropped, Path
from models.policy import Policy
from tests.support.drawn import NOW_MS, Drawing, draw

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def policy(conversions: dict[str, Any] | None = None, **attribution: Any) -> Policy:
    return Policy.from_effective({"attribution": attribution, "conversions": conversions or {}})


def build(drawn: Drawing, of: Policy, after_ms: int | None = None) -> Path:
    last = drawn.conversion
    return paths.build(drawn.touches, last.occurred_ms, last.type, of, after_ms)


def ids(drawing: str, of: Policy, after_ms: int | None = None) -> list[str]:
    return [touch.event_id for touch in build(draw(drawing), of, after_ms).touches]


def why(drawing: str, of: Policy, after_ms: int | None = None) -> list[str | None]:
    drawn = draw(drawing)
    last = drawn.conversion
    told = paths.explain(drawn.touches, last.occurred_ms, last.type, of, after_ms)
    assert [touch for touch, _ in told] == drawn.touches
    return [reason for _, reason in told]


class TestWindow:
    """Step 1: conversion - lookback <= touch <= conversion."""

    def test_both_ends_are_inside(self) -> None:
        """A touch exactly at the lookback or at the conversion counts; a millisecond beyond does not."""
        drawing = "a@-30d1ms > b@-30d > c@-1d > d > e@+1ms > conversion"
        assert ids(drawing, policy()) == ["t2", "t3", "t4"]
        assert why(drawing, policy()) == ["before_lookback", None, None, None, "after_conversion"]

    def test_lookback_of_the_conversion_type(self) -> None:
        """A conversion type may reach further back, or less far; others keep the default."""
        of = policy({"order": {"lookback": "90d"}, "lead": {"lookback": "1d"}})
        drawing = "a@-90d > b@-30d > c@-1d > conversion"
        assert ids(drawing + ":order", of) == ["t1", "t2", "t3"]
        assert ids(drawing + ":lead", of) == ["t3"]
        assert ids(drawing, of) == ["t2", "t3"]

    def test_lookback_of_the_touch_type_comes_first(self) -> None:
        """A touch type's own lookback counts whatever the conversion's, shorter or longer."""
        of = policy({"order": {"lookback": "10d"}}, lookback_by_touch_type={"impression": "1d", "call": "60d"})
        drawing = (
            "a:call@-60d1ms > b:call@-60d > c@-11d > d@-9d > e:impression@-2d > f:impression@-1d > conversion:order"
        )
        assert ids(drawing, of) == ["t2", "t4", "t6"]
        assert why(drawing, of) == ["before_lookback", None, "before_lookback", None, "before_lookback", None]

    def test_no_lookback(self) -> None:
        """With a lookback of 0 only touches at the very time of the conversion count."""
        assert ids("a@-1ms > b > conversion", policy(lookback="0s")) == ["t2"]

    def test_nothing_is_there(self) -> None:
        """A journey without touches, or with none in the window, gives an empty path."""
        assert build(draw("conversion"), policy()) == Path([], False)
        assert ids("a@-31d > b@+1d > conversion", policy()) == []


def test_reset() -> None:
    """Step 2: touches at or before the previous conversion are out, those after it stay."""
    drawing = "a@-3d > b@-2d > c@-1d23h > d@-1d > conversion"
    after_ms = NOW_MS - 2 * DAY_MS
    assert ids(drawing, policy(), after_ms) == ["t3", "t4"]
    assert why(drawing, policy(), after_ms) == ["reset", "reset", None, None]


class TestChannels:
    """Step 4: excluded channels and direct touches."""

    def test_excluded(self) -> None:
        """Excluded channels are out, in any case and however the policy spells them."""
        of = policy(exclude_channels=[" EMAIL ", "Straße"])
        drawing = "Email@-4d > STRASSE@-3d > emails@-2d > social@-1d > conversion"
        assert ids(drawing, of) == ["t3", "t4"]
        assert why(drawing, of) == ["excluded_channel", "excluded_channel", None, None]

    def test_direct_counts_by_default(self) -> None:
        """By default a direct touch is a touch."""
        assert ids("email@-2d > direct@-1d > conversion", policy()) == ["t1", "t2"]

    def test_direct_is_ignored_unless_alone(self) -> None:
        """Direct touches are out where there is another, and stay where there is none."""
        of = policy(direct="ignore_unless_alone")
        drawing = "Direct@-4d > email@-3d > (direct)@-2d > directory@-1d > conversion"
        assert ids(drawing, of) == ["t2", "t4"]
        assert why(drawing, of) == ["direct_ignored", None, "direct_ignored", None]
        assert ids("Direct@-2d > (direct)@-1d > conversion", of) == ["t1", "t2"]

    def test_excluded_goes_before_direct(self) -> None:
        """Where only excluded touches stand beside direct ones, the direct ones are alone."""
        of = policy(direct="ignore_unless_alone", exclude_channels=["email"])
        assert ids("email@-2d > direct@-1d > conversion", of) == ["t2"]

    def test_what_is_outside_the_window_does_not_count(self) -> None:
        """A touch before the lookback does not keep direct ones out."""
        of = policy(direct="ignore_unless_alone")
        assert ids("email@-40d > direct@-1d > conversion", of) == ["t2"]


class TestRepeats:
    """Step 5: what counts as a repeat, and which of them stays."""

    CHANNELS = "a@-6d > A@-5d > b@-4d > b@-3d > a@-2d > c@-1d > conversion"

    @pytest.mark.parametrize(
        ("repeats", "left"),
        [
            ("keep", ["t1", "t2", "t3", "t4", "t5", "t6"]),
            ("collapse_adjacent", ["t1", "t3", "t5", "t6"]),
            ("first_of_channel", ["t1", "t3", "t6"]),
            ("last_of_channel", ["t4", "t5", "t6"]),
        ],
    )
    def test_by_channel(self, repeats: str, left: list[str]) -> None:
        """Channels compare without case; the order of what stays is kept."""
        of = policy(repeats=repeats)
        assert ids(self.CHANNELS, of) == left
        kept = [f"t{place}" for place, reason in enumerate(why(self.CHANNELS, of), 1) if reason is None]
        assert kept == left
        assert {None, "repeat"} >= set(why(self.CHANNELS, of))

    @pytest.mark.parametrize(
        ("repeats", "left"),
        [
            ("collapse_adjacent", ["t1", "t3", "t4", "t5", "t6", "t7"]),
            ("first_of_channel", ["t1", "t3", "t4", "t5", "t7"]),
            ("last_of_channel", ["t2", "t3", "t5", "t6", "t7"]),
        ],
    )
    def test_by_campaign(self, repeats: str, left: list[str]) -> None:
        """Campaigns compare as written, across channels; without a campaign the channel counts."""
        drawing = "a/x@-7d > b/x@-6d > a/X@-5d > a@-4d > b/y@-3d > A@-2d > b@-1d > conversion"
        assert ids(drawing, policy(repeats=repeats, repeats_by="campaign")) == left

    def test_a_dropped_touch_does_not_part_a_run(self) -> None:
        """Repeats are seen after excluded channels are gone: what they parted is one run."""
        of = policy(repeats="collapse_adjacent", exclude_channels=["b"])
        assert ids("a@-3d > b@-2d > a@-1d > conversion", of) == ["t1"]


class TestCap:
    """Step 6: the most recent `max_touches`."""

    def test_the_most_recent_stay(self) -> None:
        """Beyond the cap the oldest are out and the path says so; at the cap nothing happens."""
        drawn = draw("a@-3d > b@-2d > c@-1d > conversion")
        assert build(drawn, policy(max_touches=2)) == Path(drawn.touches[1:], True)
        assert build(drawn, policy(max_touches=3)) == Path(drawn.touches, False)
        assert why("a@-3d > b@-2d > c@-1d > conversion", policy(max_touches=1)) == ["over_cap", "over_cap", None]

    def test_counts_what_is_left(self) -> None:
        """The cap counts what the other steps leave: a path that they shorten is not truncated."""
        drawn = draw("a@-40d > a@-3d > a@-2d > c@-1d > d@+1d > conversion")
        built = build(drawn, policy(max_touches=2, repeats="first_of_channel"))
        assert [touch.event_id for touch in built.touches] == ["t2", "t4"]
        assert not built.truncated


def test_the_whole_journey_is_handed_back() -> None:
    """Where nothing is dropped the path is the very list that came in: nothing is copied."""
    touches = draw("a@-3d > b@-2d").touches
    assert paths.build(touches, NOW_MS, "order", policy()).touches is touches


@pytest.mark.parametrize("seed", range(20))
def test_path_and_explanation_agree(seed: int) -> None:
    """The path is what `explain` gives no reason for, in order, whatever the switches; the journey stays as it was."""
    rng = random.Random(seed)
    names = ["a", "A", "b/x", "b/y", "a/x", "direct", "(direct)", "c:impression"]
    for _ in range(40):
        items = [f"{rng.choice(names)}@-{rng.randrange(20)}d" for _ in range(rng.randrange(12))]
        of = policy(
            lookback=f"{rng.randrange(20)}d",
            lookback_by_touch_type=rng.choice([{}, {"impression": "3d"}]),
            exclude_channels=rng.choice([[], ["b"]]),
            direct=rng.choice(["count", "ignore_unless_alone"]),
            repeats=rng.choice(["keep", "collapse_adjacent", "first_of_channel", "last_of_channel"]),
            repeats_by=rng.choice(["channel", "campaign"]),
            max_touches=rng.randint(1, 6),
        )
        drawn = draw(" > ".join([*items, f"conversion@-{rng.randrange(5)}d"]))
        touches, before = drawn.touches, copy.deepcopy(drawn.touches)
        after_ms = rng.choice([None, NOW_MS - rng.randrange(20) * DAY_MS])
        at_ms = drawn.conversion.occurred_ms
        built = paths.build(touches, at_ms, "conversion", of, after_ms)
        told = paths.explain(touches, at_ms, "conversion", of, after_ms)
        assert [t for t, reason in told if reason is None] == list(built.touches), f"seed {seed}: {items}"
        assert built.truncated == any(reason is Dropped.OVER_CAP for _, reason in told)
        assert touches == before
