"""Laws that every attribution model keeps, over seeded random paths."""

import copy
import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest

from models.attribution.base import AttributionModel, Reason
from models.attribution.registry import BUILT_IN, KINDS
from models.facts import JourneyTouch
from models.policy import Policy
from tests.support.drawn import NOW_MS

DAY_MS = 86_400_000
SEEDS = range(3)

# What a person might write beyond the built-in names: at least one of each kind, with its odd corners.
WRITTEN: dict[str, dict[str, Any]] = {
    "ends_only": {"kind": "position_based", "first": 0.5, "last": 0.5},
    "middle_only": {"kind": "position_based", "first": 0, "last": 0},
    "uneven": {"kind": "position_based", "first": "0.123456789012", "last": "0.1"},
    "whole_days": {"kind": "time_decay", "half_life": "3d", "age_unit": "1d"},
    "impatient": {"kind": "time_decay", "half_life": "1ms"},
    "patient": {"kind": "time_decay", "half_life": "36525d"},
    "hourly": {"kind": "time_decay", "half_life": "1h"},
    "front_and_back": {"kind": "custom", "front": [0.3, 0.2], "back": [0.2, "0.1", 0.1]},
    "second_only": {"kind": "custom", "front": [0, 1]},
    "back_only": {"kind": "custom", "back": ["0.7"]},
}


def attribution_models(short_path: str) -> list[AttributionModel]:
    policy = Policy.from_effective(
        {
            "attribution": {"models": [*BUILT_IN, *WRITTEN], "short_path": short_path},
            "models": WRITTEN,
        }
    )
    return list(policy.models)


ALL = [*attribution_models("normalise_ends"), *attribution_models("split_middle")]
every_one = pytest.mark.parametrize("attribution_model", ALL, ids=lambda a: a.name)
every_seed = pytest.mark.parametrize("seed", SEEDS)


def random_path(rng: random.Random, count: int) -> list[JourneyTouch]:
    """A path within 90 days, with ties in time and direct touches in it."""
    step_ms = rng.choice([1, 1_000, DAY_MS])
    times = sorted(NOW_MS - rng.randrange(90 * DAY_MS) // step_ms * step_ms for _ in range(count))
    channels = ["Email", "direct", "(DIRECT)", "Paid Search", "Direct"]
    touches = [
        JourneyTouch(None, f"e{rng.random()}", at, 0, "visit", rng.choice(channels), *[None] * 5) for at in times
    ]
    return sorted(touches, key=lambda t: (t.occurred_ms, t.event_id))


def random_paths(seed: int) -> list[list[JourneyTouch]]:
    rng = random.Random(seed)
    counts = [1, 2, 3, 4, *(rng.randint(1, 40) for _ in range(8))]
    return [random_path(rng, count) for count in counts]


def moved(touches: Sequence[JourneyTouch], by_ms: int) -> list[JourneyTouch]:
    later = copy.deepcopy(list(touches))
    for touch in later:
        touch.occurred_ms += by_ms
    return later


def test_every_kind_stands_under_the_laws() -> None:
    """The suite covers each registered kind and each built-in name."""
    kinds = {table["kind"] for table in [*BUILT_IN.values(), *WRITTEN.values()]}
    assert kinds == set(KINDS)
    assert {a.name for a in ALL} == {*BUILT_IN, *WRITTEN}


@every_one
@every_seed
def test_weights_and_shares(attribution_model: AttributionModel, seed: int) -> None:
    """There is one weight >= 0, share and known reason per touch; shares are the exact quotients, rounded once."""
    for path in random_paths(seed):
        weighing = attribution_model.weigh(path, NOW_MS)
        assert len(weighing.weights) == len(weighing.shares) == len(weighing.reasons) == len(path)
        assert all(isinstance(weight, int) and weight >= 0 for weight in weighing.weights)
        assert weighing.total > 0
        for weight, share in zip(weighing.weights, weighing.shares, strict=True):
            assert share == float(Fraction(weight, weighing.total))
            assert 0 <= share <= 1
            assert (share > 0) == (weight > 0)
        assert set(weighing.reasons) <= set(Reason)
        assert all(type(reason) is str for reason in weighing.reasons)


@every_one
@every_seed
def test_sums(attribution_model: AttributionModel, seed: int) -> None:
    """Weights add up to the total where the attribution model is additive; else each share is the whole."""
    for path in random_paths(seed):
        weighing = attribution_model.weigh(path, NOW_MS)
        if attribution_model.additive:
            assert sum(weighing.weights) == weighing.total
            assert sum(weighing.shares) == pytest.approx(1, abs=1e-12)
        else:
            assert set(weighing.shares) == {1.0}


@every_one
@every_seed
def test_money_adds_up(attribution_model: AttributionModel, seed: int) -> None:
    """Parts add up to the value to the last micro, and none is a micro or more away from its exact share."""
    rng = random.Random(seed)
    for path in random_paths(seed):
        weighing = attribution_model.weigh(path, NOW_MS)
        for total in (0, 1, len(path) - 1, rng.randrange(10**9), 10**18 - 1):
            parts = attribution_model.micros(total, weighing)
            assert len(parts) == len(path)
            if not attribution_model.additive:
                assert set(parts) == {total}
                continue
            assert sum(parts) == total
            for part, weight in zip(parts, weighing.weights, strict=True):
                assert part >= 0
                assert abs(part - Fraction(total * weight, weighing.total)) < 1


@every_one
@every_seed
def test_same_input_same_output(attribution_model: AttributionModel, seed: int) -> None:
    """Weighing and splitting again, even by a newly built attribution model, gives the same."""
    names = [a.name for a in ALL]
    again = attribution_models("normalise_ends" if attribution_model in ALL[: len(ALL) // 2] else "split_middle")
    other = again[names.index(attribution_model.name)]
    for path in random_paths(seed):
        first = attribution_model.weigh(path, NOW_MS)
        assert attribution_model.weigh(path, NOW_MS) == first
        assert other.weigh(path, NOW_MS) == first
        assert other.micros(12_345_678, first) == attribution_model.micros(12_345_678, first)


@every_one
@every_seed
def test_input_is_untouched(attribution_model: AttributionModel, seed: int) -> None:
    """Neither the path nor a touch of it is changed."""
    for path in random_paths(seed):
        before = copy.deepcopy(path)
        attribution_model.micros(99, attribution_model.weigh(path, NOW_MS))
        assert path == before


@every_one
@every_seed
@pytest.mark.parametrize("by_ms", [1, 12_345_678_901, -NOW_MS // 2])
def test_only_ages_count(attribution_model: AttributionModel, seed: int, by_ms: int) -> None:
    """Moving the path and its conversion through time changes nothing."""
    for path in random_paths(seed):
        assert attribution_model.weigh(moved(path, by_ms), NOW_MS + by_ms) == attribution_model.weigh(path, NOW_MS)


@every_one
def test_one_touch_gets_all(attribution_model: AttributionModel) -> None:
    """A path of one touch has share 1 and the reason `only`, whatever the rule."""
    path = random_path(random.Random(1), 1)
    weighing = attribution_model.weigh(path, NOW_MS)
    assert (weighing.shares, weighing.reasons) == ((1.0,), ("only",))
    assert list(attribution_model.micros(5, weighing)) == [5]


@every_one
def test_an_empty_path_is_refused(attribution_model: AttributionModel) -> None:
    """Nothing can be weighed where there is no touch."""
    with pytest.raises(ValueError, match="empty path"):
        attribution_model.weigh([], NOW_MS)


@every_one
@pytest.mark.parametrize("count", [2, 17, 1_024, 1_500])
def test_by_length_hands_out_the_same_object(attribution_model: AttributionModel, count: int) -> None:
    """Where `by_length` is set, the same path length and place give the very same object; else it may be new."""
    path = random_path(random.Random(count), count)
    first, second = attribution_model.weigh(path, NOW_MS), attribution_model.weigh(list(path), NOW_MS)
    assert (first is second) == attribution_model.by_length


@every_one
def test_long_paths(attribution_model: AttributionModel) -> None:
    """Ten thousand touches are weighed and add up like ten."""
    weighing = attribution_model.weigh(random_path(random.Random(7), 10_000), NOW_MS)
    parts = attribution_model.micros(10**12, weighing)
    assert len(parts) == 10_000
    assert sum(parts) == (10**12 if attribution_model.additive else 10**16)
