"""Each cell of the table of rule-based attribution models, drawn."""

from fractions import Fraction
from typing import Any

import pytest

from models.attribution.base import AttributionModel
from models.attribution.registry import BUILT_IN
from models.policy import Policy
from tests.support.drawn import NOW_MS, draw

ONE = "email@-3d > conversion"
TWO = "email@-3d > social@-1d > conversion"
FOUR = "email@-4d > social@-3d > search@-2d > display@-1d > conversion"


def attribution_model(name: str, short_path: str = "normalise_ends", **table: Any) -> AttributionModel:
    tables = {"attribution": {"models": [name], "short_path": short_path}, "models": {name: table} if table else {}}
    return Policy.from_effective(tables).models[0]


def shares(chosen: AttributionModel, drawing: str) -> list[float]:
    drawn = draw(drawing)
    return list(chosen.weigh(drawn.touches, drawn.conversion.occurred_ms).shares)


def reasons(chosen: AttributionModel, drawing: str) -> list[str]:
    drawn = draw(drawing)
    return list(chosen.weigh(drawn.touches, drawn.conversion.occurred_ms).reasons)


@pytest.mark.parametrize("name", BUILT_IN)
def test_one_touch(name: str) -> None:
    """One touch gets everything."""
    assert shares(attribution_model(name), ONE) == [1]


@pytest.mark.parametrize(
    ("name", "short_path", "expected"),
    [
        ("first_touch", "normalise_ends", [1, 0]),
        ("last_touch", "normalise_ends", [0, 1]),
        ("last_non_direct", "normalise_ends", [0, 1]),
        ("linear", "normalise_ends", [0.5, 0.5]),
        ("position_based", "normalise_ends", [0.5, 0.5]),
        ("position_based", "split_middle", [0.5, 0.5]),
        ("j_shaped", "normalise_ends", [0.25, 0.75]),
        ("j_shaped", "split_middle", [0.3, 0.7]),
        ("inverse_j", "normalise_ends", [0.75, 0.25]),
        ("inverse_j", "split_middle", [0.7, 0.3]),
        ("participation", "normalise_ends", [1, 1]),
    ],
)
def test_two_touches(name: str, short_path: str, expected: list[float]) -> None:
    """Two touches share as the table says, under both rules for short paths."""
    assert shares(attribution_model(name, short_path), TWO) == expected


@pytest.mark.parametrize(
    ("name", "expected", "why"),
    [
        ("first_touch", [1, 0, 0, 0], ["first", "none", "none", "none"]),
        ("last_touch", [0, 0, 0, 1], ["none", "none", "none", "last"]),
        ("last_non_direct", [0, 0, 0, 1], ["none", "none", "none", "last"]),
        ("linear", [0.25] * 4, ["equal"] * 4),
        ("position_based", [0.4, 0.1, 0.1, 0.4], ["first", "middle", "middle", "last"]),
        ("j_shaped", [0.2, 0.1, 0.1, 0.6], ["first", "middle", "middle", "last"]),
        ("inverse_j", [0.6, 0.1, 0.1, 0.2], ["first", "middle", "middle", "last"]),
        ("participation", [1, 1, 1, 1], ["equal"] * 4),
    ],
)
@pytest.mark.parametrize("short_path", ["normalise_ends", "split_middle"])
def test_more_touches(name: str, expected: list[float], why: list[str], short_path: str) -> None:
    """Four touches share as the table says, with their reasons; the rule for short paths says nothing here."""
    chosen = attribution_model(name, short_path)
    assert shares(chosen, FOUR) == expected
    assert reasons(chosen, FOUR) == why


@pytest.mark.parametrize(
    ("drawing", "expected"),
    [
        ("email@-3d > direct@-2d > Direct@-1d > conversion", [1, 0, 0]),
        ("email@-3d > social@-2d > (DIRECT)@-1d > conversion", [0, 1, 0]),
        ("direct@-3d > (direct)@-2d > conversion", [0, 1]),
        ("direct@-3d > directory@-2d > direct@-1d > conversion", [0, 1, 0]),
    ],
)
def test_last_non_direct(drawing: str, expected: list[float]) -> None:
    """The last touch that is not direct gets all, whatever the case; the last where all are direct."""
    assert shares(attribution_model("last_non_direct"), drawing) == expected


@pytest.mark.parametrize(
    ("first", "last", "short_path", "expected"),
    [
        (0.3, 0.1, "normalise_ends", [0.75, 0.25]),
        (0.3, 0.1, "split_middle", [0.6, 0.4]),
        (0, 0, "normalise_ends", [0.5, 0.5]),
        (0, 0, "split_middle", [0.5, 0.5]),
        (0, 1, "normalise_ends", [0, 1]),
        ("0.1", "0.2", "normalise_ends", [1 / 3, 2 / 3]),
    ],
)
def test_custom_ends(first: Any, last: Any, short_path: str, expected: list[float]) -> None:
    """Ends of one's own are rescaled, or get half of the middle each; ends of 0 and 0 share equally."""
    chosen = attribution_model("own", short_path, kind="position_based", first=first, last=last)
    assert shares(chosen, TWO) == expected


def test_ends_of_nothing_say_equal() -> None:
    """Weights that are all zero on what is there give equal shares, reason `equal`."""
    chosen = attribution_model("own", kind="position_based", first=0, last=0)
    assert reasons(chosen, TWO) == ["equal", "equal"]
    assert shares(chosen, FOUR) == [0, 0.5, 0.5, 0]


def test_weights_are_decimal() -> None:
    """0.4 is two fifths, not the double nearest to it: the weights are small whole numbers."""
    chosen = attribution_model("position_based", first=0.4, last=0.4)
    drawn = draw(FOUR)
    assert chosen.weigh(drawn.touches, drawn.conversion.occurred_ms).weights == (4, 1, 1, 4)


class TestTimeDecay:
    """2^(-age / half_life), normalised."""

    def test_half_life(self) -> None:
        """A touch one half-life older weighs half as much."""
        chosen = attribution_model("time_decay", half_life="2d")
        drawing = "email@-5d > social@-3d > search@-1d > conversion"
        assert shares(chosen, drawing) == [1 / 7, 2 / 7, 4 / 7]
        assert reasons(chosen, drawing) == ["decay"] * 3

    def test_default_is_a_week(self) -> None:
        """The default half-life is 7 days, in exact ages."""
        assert shares(attribution_model("time_decay"), "email@-7d > social > conversion") == [1 / 3, 2 / 3]

    def test_same_age_same_share(self) -> None:
        """Touches of one age share equally."""
        assert shares(attribution_model("time_decay"), "email@-3d > social@-3d > conversion") == [0.5, 0.5]

    def test_whole_days(self) -> None:
        """With `age_unit = "1d"` only whole days of age count: 1d23h is as old as 1d."""
        drawing = "email@-2d > social@-1d23h > search@-1d > conversion"
        chosen = attribution_model("time_decay", half_life="1d", age_unit="1d")
        assert shares(chosen, drawing) == [0.2, 0.4, 0.4]
        assert shares(attribution_model("time_decay", half_life="1d"), drawing) != [0.2, 0.4, 0.4]

    def test_short_half_life(self) -> None:
        """However short the half-life, the youngest touch keeps its weight, and what rounds to 0 is 0."""
        chosen = attribution_model("time_decay", half_life="1ms")
        assert shares(chosen, "email@-30d > social@-3d > conversion") == [0, 1]
        assert reasons(chosen, "email@-30d > social@-3d > conversion") == ["none", "decay"]

    def test_weights_are_the_doubles(self) -> None:
        """Weights stand in exactly the proportion of the IEEE doubles 2^(-age / half_life) from the youngest on."""
        days = [29.3, 20, 12.1, 12, 3.7, 0.4]
        drawn = draw(" > ".join([*(f"a@-{round(day * 86_400_000)}ms" for day in days), "conversion"]))
        weights = attribution_model("time_decay").weigh(drawn.touches, NOW_MS).weights
        for day, weight in zip(days, weights, strict=True):
            decay = 2.0 ** -(round((day - days[-1]) * 86_400_000) / (7 * 86_400_000))
            assert Fraction(weight, weights[-1]) == Fraction(decay)

    @pytest.mark.parametrize("away_ms", [890, 899, 900, 901, 902, 950, 1_000, 1_022, 1_023, 1_050, 1_073, 1_074])
    def test_far_apart(self, away_ms: int) -> None:
        """Weights as far apart as doubles go are still exact: 2^-away to 1."""
        chosen = attribution_model("time_decay", half_life="1ms")
        drawn = draw(f"email@-{away_ms}ms > social > conversion")
        weighing = chosen.weigh(drawn.touches, drawn.conversion.occurred_ms)
        assert weighing.weights[1] == weighing.weights[0] * 2**away_ms

    def test_beyond_the_smallest_double(self) -> None:
        """A share below the smallest double is 0 and has no weight; two young touches share the rest."""
        chosen = attribution_model("time_decay", half_life="1ms")
        drawing = "email@-1074ms > social > search > conversion"
        assert shares(chosen, drawing) == [0, 0.5, 0.5]
        assert reasons(chosen, drawing) == ["none", "decay", "decay"]


class TestCustom:
    """Weights by position from the front and from the back, the rest to the middle."""

    @pytest.mark.parametrize(
        ("drawing", "expected"),
        [
            (ONE, [1]),
            # front 0.3 0.1 and back 0.1 0.4 on the same two touches: 0.4 and 0.5 of 0.9
            (TWO, [4 / 9, 5 / 9]),
            # no middle: 0.3, 0.1 + 0.1, 0.4 of 0.9
            ("a@-3d > b@-2d > c@-1d > conversion", [3 / 9, 2 / 9, 4 / 9]),
            (FOUR, [3 / 9, 1 / 9, 1 / 9, 4 / 9]),
            ("a@-5d > b@-4d > c@-3d > d@-2d > e@-1d > conversion", [0.3, 0.1, 0.1, 0.1, 0.4]),
            ("a@-6d > b@-5d > c@-4d > d@-3d > e@-2d > f@-1d > conversion", [0.3, 0.1, 0.05, 0.05, 0.1, 0.4]),
        ],
    )
    def test_two_lists(self, drawing: str, expected: list[float]) -> None:
        """`back` counts from the end; lists that meet add up; what is there is scaled to 1."""
        chosen = attribution_model("own", kind="custom", front=[0.3, 0.1], back=[0.4, 0.1])
        assert shares(chosen, drawing) == expected

    def test_reasons(self) -> None:
        """The list that names a touch is its reason, the front before the back; others are middle."""
        chosen = attribution_model("own", kind="custom", front=[0.3, 0.1], back=[0.4])
        assert reasons(chosen, FOUR) == ["first", "first", "middle", "last"]
        assert reasons(chosen, TWO) == ["first", "first"]

    def test_all_zero_is_equal(self) -> None:
        """Where only positions of weight 0 are there, all share equally."""
        chosen = attribution_model("own", kind="custom", front=[0, 0, 1])
        assert shares(chosen, TWO) == [0.5, 0.5]
        assert reasons(chosen, TWO) == ["equal", "equal"]

    @pytest.mark.parametrize("drawing", [ONE, TWO, FOUR])
    def test_one_at_each_end_is_position_based(self, drawing: str) -> None:
        """With one weight at each end custom is position_based with `normalise_ends`."""
        custom = attribution_model("own", kind="custom", front=[0.2], back=[0.6])
        assert shares(custom, drawing) == shares(attribution_model("j_shaped"), drawing)
