"""The policy: defaults, checks, version, storing."""

import json
import tomllib
from typing import Any

import pytest
from pydantic import ValidationError

from models.attribution.registry import BUILT_IN
from models.policy import AttributionTable, Policy, PolicyError, PolicyTables, compile_policy
from tests.support.drawn import draw

DAY_MS = 86_400_000

# The example of the contract, as far as it is about the policy and this version has it.
EXAMPLE = """
[attribution]
models = ["first_touch", "last_touch", "last_non_direct", "linear", "position_based", "time_decay"]
lookback = "30d"
allowed_lateness = "7d"
corrections = "90d"
journey = "person"
touch_reuse = "reuse"
direct = "count"
exclude_channels = []
repeats_by = "channel"
repeats = "keep"
short_path = "normalise_ends"
max_touches = 500
journey_touches_max = 10000
currency = "USD"
[attribution.lookback_by_touch_type]
impression = "1d"
[conversions.lead]
credited = false
milestone = "lead"
[conversions.order]
value = "10.00"
lookback = "90d"
[models.position_based]
kind = "position_based"
first = 0.4
last = 0.4
"""


def policy(**tables: Any) -> Policy:
    return Policy.from_effective(tables)


def shares(of: Policy) -> dict[str, tuple[float, ...]]:
    drawn = draw("a@-7d > b@-1d > c > conversion")
    return {a.name: a.weigh(drawn.touches, drawn.conversion.occurred_ms).shares for a in of.models}


def test_defaults() -> None:
    """An empty settings file gives the defaults of the contract, down to the last switch."""
    of = Policy.default()
    assert [a.name for a in of.models] == [
        *["first_touch", "last_touch", "last_non_direct"],
        *["linear", "position_based", "time_decay"],
    ]
    assert of.lookback_ms("order", "visit") == of.lookback_max_ms("order") == 30 * DAY_MS
    assert (of.allowed_lateness_ms, of.corrections_ms, of.retention_ms) == (7 * DAY_MS, 90 * DAY_MS, 37 * DAY_MS)
    assert (of.journey, of.reuse, of.resets, of.direct) == ("person", "reuse", False, "count")
    assert (of.exclude_channels, of.repeats, of.repeats_by) == (frozenset(), "keep", "channel")
    assert (of.max_touches, of.journey_touches_max, of.currency) == (500, 10_000, "USD")
    assert (of.credited("order"), of.milestone("order"), of.fixed_value_micros("order")) == (True, None, None)


def test_the_example_of_the_contract() -> None:
    """The contract's example is read as it says: lookbacks by type, a milestone, a fixed value."""
    of = policy(**tomllib.loads(EXAMPLE))
    assert of.lookback_ms("order", "visit") == 90 * DAY_MS
    assert of.lookback_ms("order", "impression") == of.lookback_ms("lead", "impression") == DAY_MS
    assert (of.lookback_max_ms("order"), of.lookback_max_ms("other")) == (90 * DAY_MS, 30 * DAY_MS)
    assert of.retention_ms == 97 * DAY_MS
    assert (of.credited("lead"), of.milestone("lead")) == (False, "lead")
    assert of.fixed_value_micros("order") == 10_000_000


def test_a_touch_type_may_reach_furthest() -> None:
    """The longest lookback counts for what is loaded and kept, even where only one touch type has it."""
    of = policy(attribution={"lookback_by_touch_type": {"call": "60d"}})
    assert (of.lookback_max_ms("order"), of.retention_ms) == (60 * DAY_MS, 67 * DAY_MS)
    assert of.lookback_ms("order", "visit") == 30 * DAY_MS


class TestVersion:
    """The version stands for everything that can change a credit."""

    def test_is_eight_hex_digits(self) -> None:
        """A version is short, and the same each time."""
        assert Policy.default().version == Policy.default().version
        assert len(bytes.fromhex(Policy.default().version)) == 4

    def test_spelling_does_not_count(self) -> None:
        """Defaults written out, other spellings of the same number, and what is not used change nothing."""
        plain = Policy.default()
        same: list[dict[str, Any]] = [
            {"attribution": {"lookback": "720h"}},
            {"attribution": AttributionTable().model_dump()},
            {"models": {"position_based": {"first": "0.40", "last": 0.4}}},
            {"models": {"time_decay": {"half_life": "168h"}}},
            {"models": {"unused": {"kind": "time_decay", "half_life": "1d"}}},
            {"conversions": {"order": {}}},
            {"attribution": {"exclude_channels": []}},
        ]
        for tables in same:
            assert policy(**tables).version == plain.version, tables
            assert policy(**tables) == plain
        types = {"a": "1d", "b": "2d"}
        swapped = dict(reversed(types.items()))
        first = policy(attribution={"lookback_by_touch_type": types})
        assert first.version == policy(attribution={"lookback_by_touch_type": swapped}).version
        first = policy(attribution={"exclude_channels": ["Email", "B"]})
        assert first.version == policy(attribution={"exclude_channels": ["b", " EMAIL", "email"]}).version

    def test_every_switch_counts(self) -> None:
        """Each setting that can change a credit changes the version, and no two do so alike."""
        other: list[dict[str, Any]] = [
            {"attribution": {key: value}}
            for key, value in {
                "models": ["linear"],
                "lookback": "31d",
                "allowed_lateness": "0s",
                "corrections": "1d",
                "journey": "account",
                "touch_reuse": "reset_after_conversion",
                "direct": "ignore_unless_alone",
                "exclude_channels": ["email"],
                "repeats_by": "campaign",
                "repeats": "last_of_channel",
                "short_path": "split_middle",
                "max_touches": 499,
                "journey_touches_max": 9_999,
                "currency": "EUR",
                "lookback_by_touch_type": {"impression": "1d"},
                "effective_from": "2026-12-01T00:00:00Z",
            }.items()
        ]
        assert {key for tables in other for key in tables["attribution"]} == set(AttributionTable.model_fields)
        other += [
            {"conversions": {"order": rules}} for rules in ({"credited": False}, {"value": "1"}, {"lookback": "1d"})
        ]
        other += [{"conversions": {"order": {"milestone": "won"}}}]
        other += [{"models": {"time_decay": table}} for table in ({"half_life": "1d"}, {"age_unit": "1d"})]
        other += [{"models": {"linear": {"kind": "participation"}}}]
        versions = {policy(**tables).version for tables in other} | {Policy.default().version}
        assert len(versions) == len(other) + 1


class TestStoring:
    """A policy can be stored as JSON and built again."""

    @pytest.mark.parametrize(
        "tables",
        [
            {},
            tomllib.loads(EXAMPLE),
            {"attribution": {"models": list(BUILT_IN), "exclude_channels": ["Email"], "short_path": "split_middle"}},
            {
                "attribution": {"models": ["own", "linear"]},
                "models": {"own": {"kind": "custom", "front": [0.125, 0], "back": ["0.000000000001"]}},
            },
        ],
    )
    def test_round_trip(self, tables: dict[str, Any]) -> None:
        """What `effective` gives survives JSON and builds the same policy: version, text and shares."""
        of = policy(**tables)
        again = Policy.from_effective(json.loads(json.dumps(of.effective())))
        assert again.version == of.version
        assert again.effective() == of.effective()
        assert shares(again) == shares(of)
        assert again.retention_ms == of.retention_ms

    def test_defaults_are_spelled_out(self) -> None:
        """The stored form holds the defaults of the attribution models that are used, and of no others."""
        stored = policy(attribution={"models": ["j_shaped"]}).effective()
        assert stored["models"] == {"j_shaped": {"kind": "position_based", "first": "0.2", "last": "0.6"}}
        assert stored["attribution"]["lookback"] == "30d"

    def test_the_stored_form_is_a_copy(self) -> None:
        """Changing what `effective` gave changes no policy."""
        of = Policy.default()
        of.effective()["attribution"]["lookback"] = "1d"
        assert of.effective() == Policy.default().effective()


class TestAttributionModels:
    """Which attribution models there are, and under which names."""

    def test_order_is_kept(self) -> None:
        """They come in the order in which the policy names them."""
        names = ["time_decay", "first_touch", "j_shaped"]
        assert [a.name for a in policy(attribution={"models": names}).models] == names

    def test_built_in_names_keep_their_own_defaults(self) -> None:
        """Overriding one key of a built-in name leaves the others, and needs no kind."""
        of = policy(attribution={"models": ["j_shaped"]}, models={"j_shaped": {"first": 0.3}})
        assert shares(of)["j_shaped"] == (0.3, 0.1, 0.6)

    def test_a_built_in_name_may_get_another_kind(self) -> None:
        """With another kind nothing of the built-in table is left."""
        of = policy(attribution={"models": ["j_shaped"]}, models={"j_shaped": {"kind": "linear"}})
        assert shares(of)["j_shaped"] == (1 / 3, 1 / 3, 1 / 3)

    def test_new_names(self) -> None:
        """A new name of a known kind is as good as a built-in one."""
        of = policy(attribution={"models": ["mine"]}, models={"mine": {"kind": "single", "pick": "first"}})
        assert shares(of) == {"mine": (1, 0, 0)}

    def test_unknown_name(self) -> None:
        """An unknown name is an error that names the nearest one."""
        with pytest.raises(PolicyError, match=r"'last_tuch'.*did you mean 'last_touch'"):
            policy(attribution={"models": ["last_tuch"]})

    def test_more_credits_than_a_transaction_takes(self) -> None:
        """A policy under which one conversion could give more than 50,000 credits is refused, not its conversions."""
        names = ["first_touch", "last_touch", "linear", "position_based", "time_decay", "j_shaped"]
        assert policy(attribution={"models": names[:5], "max_touches": 10_000}).max_touches == 10_000
        with pytest.raises(PolicyError, match=r"max_touches = 10000 with 6 attribution models.*at most 8333"):
            policy(attribution={"models": names, "max_touches": 10_000})

    @pytest.mark.parametrize("name", ["w_shaped", "full_path", "markov", "shapley"])
    def test_names_of_later_work(self, name: str) -> None:
        """A name that the contract has and this version has not says so."""
        with pytest.raises(PolicyError, match="does not have"):
            policy(attribution={"models": [name]})

    @pytest.mark.parametrize("kind", ["milestone", "markov", "shapley"])
    def test_kinds_of_later_work(self, kind: str) -> None:
        """A table of a kind that is yet to come says so, used or not."""
        with pytest.raises(ValidationError, match=f"'{kind}' yet"):
            policy(models={"mine": {"kind": kind, "stages": {"first": 0.3}}})


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"attribution": {"lookbak": "3d"}}, "unknown key 'lookbak'; did you mean 'lookback'"),
        ({"attribution": {"lookback": 90}}, "write a whole number and one unit"),
        ({"attribution": {"lookback": "90 days"}}, "write a whole number and one unit"),
        ({"attribution": {"models": []}}, "at least 1"),
        ({"attribution": {"models": ["linear", "linear"]}}, "named twice: linear"),
        ({"attribution": {"journey": "household"}}, "'person' or 'account'"),
        ({"attribution": {"max_touches": 0}}, "greater than or equal to 1"),
        ({"attribution": {"max_touches": 10_001}}, "less than or equal to 10000"),
        ({"attribution": {"currency": "dollar"}}, "pattern"),
        ({"conversions": {"order": {"valeu": "1"}}}, "did you mean 'value'"),
        ({"conversions": {"order": {"value": 1.5}}}, "write it in quotes"),
        ({"conversions": {"order": {"value": "-1"}}}, "not an amount"),
        ({"conversions": {"order": {"value": "1.1234567"}}}, "six decimals"),
        ({"models": {"mine": {"pick": "first"}}}, "needs a kind"),
        ({"models": {"mine": {"kind": "liner"}}}, "did you mean 'linear'"),
        ({"models": {"mine": {"kind": "single", "pick": "middle"}}}, "'first', 'last' or 'last_non_direct'"),
        ({"models": {"mine": {"kind": "linear", "half_life": "1d"}}}, "unknown key 'half_life'"),
        ({"models": {"time_decay": {"half_life": "0s"}}}, "longer than 0"),
        ({"models": {"time_decay": {"age_unit": "2d"}}}, "'exact' or '1d'"),
        ({"models": {"position_based": {"first": 0.9}}}, "more than 1"),
        ({"models": {"position_based": {"first": -0.1}}}, "from 0 to 1"),
        ({"models": {"position_based": {"first": "1/3"}}}, "from 0 to 1"),
        ({"models": {"position_based": {"first": 1e-13}}}, "12 digits"),
        ({"models": {"position_based": {"first": float("nan")}}}, "not a weight"),
        ({"models": {"position_based": {"first": True}}}, "not a weight"),
        ({"models": {"mine": {"kind": "custom"}}}, "at least one weight"),
        ({"models": {"mine": {"kind": "custom", "front": [0.6, 0.5]}}}, "more than 1"),
        ({"models": {"a|b": {"kind": "linear"}}}, "pattern"),
    ],
)
def test_what_is_wrong_is_said(tables: dict[str, Any], message: str) -> None:
    """A table that cannot be followed is refused with a text that says what would be right."""
    with pytest.raises(ValidationError) as refused:
        policy(**tables)
    assert message in str(refused.value)


def test_tables_can_be_compiled_directly() -> None:
    """Settings that hold parsed tables give the same policy as the stored form."""
    tables = PolicyTables.model_validate(tomllib.loads(EXAMPLE))
    compiled = compile_policy(tables.attribution, tables.conversions, tables.models)
    assert compiled == policy(**tomllib.loads(EXAMPLE))


def test_the_schema_speaks_as_people_write() -> None:
    """The JSON Schema shows durations as text, default included, and refuses unknown keys."""
    schema = PolicyTables.model_json_schema()["$defs"]["AttributionTable"]
    assert schema["properties"]["lookback"]["default"] == "30d"
    assert schema["properties"]["lookback"]["type"] == "string"
    assert schema["additionalProperties"] is False
