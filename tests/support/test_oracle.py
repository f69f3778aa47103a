"""The oracle against cases worked out by hand from `attribution-semantics.md`."""

from fractions import Fraction
from typing import Any

import pytest

from tests.support.oracle import (
    DAY_MS,
    comparable,
    decimal,
    duration_ms,
    epoch_ms,
    escaped,
    final_view,
    micros,
    spec_of,
    split,
)

SALE_MS = epoch_ms("2024-03-31T12:00:00Z")
Record = dict[str, Any]


def touch(age_days: float, channel: str = "email", **fields: Any) -> Record:
    at = SALE_MS - round(age_days * DAY_MS)
    name = fields.pop("event_id", f"t@{age_days:g}")
    return {"event_id": name, "person_id": "ada", "occurred_at": at, "channel": channel, **fields}


def sale(value: object = "10", **fields: Any) -> Record:
    whole: Record = {"conversion_id": "c", "person_id": "ada", "occurred_at": SALE_MS, "value": value}
    return {**whole, **fields}


def policy(*names: str, models: Record | None = None, **attribution: Any) -> Record:
    return {"attribution": {"models": list(names), **attribution}, "models": models or {}}


def parts(touches: list[Record], conversions: list[Record], rules: Record) -> dict[str, int]:
    """touch_id → micros of the only conversion and the only attribution model."""
    return {row["touch_id"]: row["value_micros"] for row in final_view(touches, conversions, rules)}


def shares(count: int, name: str, **fields: Any) -> list[float]:
    """Shares by position on a path of `count` touches a day apart; 0 where a touch has no record."""
    path = [touch(count - i, event_id=str(i + 1)) for i in range(count)]
    by_place = {r["position"]: r["share"] for r in final_view(path, [sale()], policy(name, **fields))}
    return [by_place.get(place, 0.0) for place in range(1, count + 1)]


TABLE = [
    ("first_touch", 1, [1]),
    ("first_touch", 2, [1, 0]),
    ("first_touch", 4, [1, 0, 0, 0]),
    ("last_touch", 1, [1]),
    ("last_touch", 2, [0, 1]),
    ("last_touch", 4, [0, 0, 0, 1]),
    ("last_non_direct", 3, [0, 0, 1]),
    ("linear", 1, [1]),
    ("linear", 2, [0.5, 0.5]),
    ("linear", 3, [1 / 3] * 3),
    ("position_based", 1, [1]),
    ("position_based", 2, [0.5, 0.5]),
    ("position_based", 3, [0.4, 0.2, 0.4]),
    ("position_based", 4, [0.4, 0.1, 0.1, 0.4]),
    ("j_shaped", 1, [1]),
    ("j_shaped", 2, [0.25, 0.75]),
    ("j_shaped", 4, [0.2, 0.1, 0.1, 0.6]),
    ("inverse_j", 2, [0.75, 0.25]),
    ("inverse_j", 3, [0.6, 0.2, 0.2]),
    ("participation", 1, [1]),
    ("participation", 3, [1, 1, 1]),
]


@pytest.mark.parametrize(("name", "count", "expected"), TABLE)
def test_shares_are_those_of_the_table(name: str, count: int, expected: list[float]) -> None:
    """Each rule-based attribution model gives the shares that the semantics page lists."""
    assert shares(count, name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("position_based", [0.5, 0.5]), ("j_shaped", [0.3, 0.7]), ("inverse_j", [0.7, 0.3])],
)
def test_split_middle_gives_half_of_the_middle_to_each_end(name: str, expected: list[float]) -> None:
    """`split_middle` on two touches adds half of the middle to each end."""
    assert shares(2, name, short_path="split_middle") == expected


def test_time_decay_halves_by_half_life() -> None:
    """Touches one half-life apart share 4 : 2 : 1."""
    path = [touch(0, event_id="now"), touch(7, event_id="week"), touch(14, event_id="fortnight")]
    assert parts(path, [sale("7")], policy("time_decay")) == {
        "fortnight": 1_000_000,
        "week": 2_000_000,
        "now": 4_000_000,
    }


def test_time_decay_with_whole_days_forgets_the_hours() -> None:
    """`age_unit = 1d` gives two touches of the same whole day of age the same share."""
    path = [touch(1.9, event_id="a"), touch(1.1, event_id="b")]
    rules = policy("time_decay", models={"time_decay": {"age_unit": "1d", "half_life": "1h"}})
    assert parts(path, [sale("1")], rules) == {"a": 500_000, "b": 500_000}


def test_time_decay_with_a_tiny_half_life_leaves_only_the_youngest() -> None:
    """A weight that underflows to zero gets no record, and the youngest gets all."""
    rules = policy("time_decay", models={"time_decay": {"half_life": "1ms"}})
    rows = final_view([touch(20, event_id="old"), touch(10, event_id="young")], [sale()], rules)
    assert [(r["touch_id"], r["share"], r["position"], r["set_size"]) for r in rows] == [("young", 1.0, 2, 1)]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [1]),
        (2, [5 / 8, 3 / 8]),
        (3, [0.5, 0.2, 0.3]),
        (5, [0.5, 0.2 / 3, 0.2 / 3, 0.2 / 3, 0.3]),
    ],
)
def test_custom_weights_from_both_ends(count: int, expected: list[float]) -> None:
    """Custom weights count from both ends, the rest is the middle's, and what is there sums to 1."""
    spec = {"mine": {"kind": "custom", "front": [0.5], "back": [0.3]}}
    path = [touch(count - i, event_id=str(i)) for i in range(count)]
    got = [r["share"] for r in final_view(path, [sale()], policy("mine", models=spec))]
    assert got == pytest.approx(expected, rel=1e-15)


def test_custom_weights_from_the_back_start_at_the_last_touch() -> None:
    """`back = [0.4, 0.1]` gives 0.4 to the last touch and 0.1 to the one before it."""
    spec = {"mine": {"kind": "custom", "front": [0.3], "back": [0.4, 0.1]}}
    path = [touch(4 - i, event_id=str(i)) for i in range(4)]
    got = [r["share"] for r in final_view(path, [sale()], policy("mine", models=spec))]
    assert got == [0.3, 0.2, 0.1, 0.4]


def test_weights_that_are_all_zero_become_equal() -> None:
    """A position_based with nothing on its ends shares two touches equally, reason `equal`."""
    spec = {"middle_only": {"kind": "position_based", "first": 0, "last": 0}}
    rows = final_view([touch(2), touch(1)], [sale()], policy("middle_only", models=spec))
    assert [(r["share"], r["reason"]) for r in rows] == [(0.5, "equal")] * 2


def test_last_non_direct_looks_past_direct_in_any_case() -> None:
    """The last touch that is not direct gets all, whatever the case; the last where all are direct."""
    path = [touch(3, "Email"), touch(2, "DIRECT"), touch(1, "(Direct)")]
    assert parts(path, [sale("1")], policy("last_non_direct")) == {"t@3": 1_000_000}
    assert parts(path[1:], [sale("1")], policy("last_non_direct")) == {"t@1": 1_000_000}


def test_largest_remainder_prefers_the_earlier_touch() -> None:
    """Ten micros over three equal shares are 4, 3, 3; a bigger remainder goes before an earlier touch."""
    assert split(10, [Fraction(1, 3)] * 3) == [4, 3, 3]
    assert split(1, [Fraction(1, 4), Fraction(1, 2), Fraction(1, 4)]) == [0, 1, 0]
    assert split(0, [Fraction(1, 2)] * 2) == [0, 0]


def test_ties_in_time_are_ordered_by_event_id() -> None:
    """Two touches of the same millisecond are in the order of their event_id."""
    path = [touch(1, event_id="b"), touch(1, event_id="a")]
    assert parts(path, [sale("1")], policy("first_touch")) == {"a": 1_000_000}


def test_lookback_is_inclusive_at_both_ends() -> None:
    """Touches exactly at the conversion and exactly a lookback before count; a millisecond beyond do not."""
    ms = 1 / DAY_MS
    path = [touch(age) for age in (30, 30 + ms, 0, -ms)]
    assert set(parts(path, [sale()], policy("linear"))) == {"t@30", "t@0"}


def test_lookback_by_touch_type_beats_conversion_type_beats_default() -> None:
    """Impressions reach back a day, leads ten, the rest thirty."""
    path = [touch(20), touch(9), touch(2, type="impression"), touch(0.5, type="impression")]
    rules = policy("linear", lookback_by_touch_type={"impression": "1d"})
    rules["conversions"] = {"lead": {"lookback": "10d"}}
    assert set(parts(path, [sale()], rules)) == {"t@20", "t@9", "t@0.5"}
    assert set(parts(path, [sale(type="lead")], rules)) == {"t@9", "t@0.5"}


def test_a_duplicate_touch_counts_as_the_first_record_says() -> None:
    """The second record of an event_id changes nothing, even where the first lies outside the window."""
    path = [
        touch(40, event_id="x"),
        touch(2, event_id="x"),
        touch(1, "a", event_id="y"),
        touch(1, "b", event_id="y"),
    ]
    rows = final_view(path, [sale()], policy("linear"))
    assert [(r["touch_id"], r["channel"]) for r in rows] == [("y", "a")]


def test_exclusion_comes_before_direct_and_before_repeats() -> None:
    """With email excluded, direct is alone and counts although it is to be ignored otherwise."""
    path = [touch(3, "Email"), touch(2, "direct")]
    rules = policy("linear", direct="ignore_unless_alone", exclude_channels=["email"])
    assert set(parts(path, [sale()], rules)) == {"t@2"}
    assert set(parts(path, [sale()], policy("linear", direct="ignore_unless_alone"))) == {"t@3"}


@pytest.mark.parametrize(
    ("repeats", "expected"),
    [
        ("keep", ["t@5", "t@4", "t@3", "t@2", "t@1"]),
        ("collapse_adjacent", ["t@5", "t@3", "t@2"]),
        ("first_of_channel", ["t@5", "t@3"]),
        ("last_of_channel", ["t@3", "t@1"]),
    ],
)
def test_repeats(repeats: str, expected: list[str]) -> None:
    """email, Email, ads, email, email leave what the rule keeps, whatever the case."""
    named = ((5, "email"), (4, "Email"), (3, "ads"), (2, "email"), (1, "EMAIL"))
    path = [touch(age, channel) for age, channel in named]
    assert sorted(parts(path, [sale()], policy("linear", repeats=repeats))) == sorted(expected)


def test_repeats_by_campaign_tell_cases_apart() -> None:
    """By campaign the channel does not matter, and `A` is not `a`."""
    path = [touch(3, "x", campaign="a"), touch(2, "y", campaign="a"), touch(1, "x", campaign="A")]
    rules = policy("linear", repeats="collapse_adjacent", repeats_by="campaign")
    assert set(parts(path, [sale()], rules)) == {"t@3", "t@1"}


def test_max_touches_keeps_the_most_recent_and_says_so() -> None:
    """Three touches with room for two leave the younger two as a path of two, marked as cut."""
    path = [touch(3), touch(2), touch(1)]
    rows = final_view(path, [sale()], policy("linear", max_touches=2))
    cut = [(r["touch_id"], r["position"], r["path_length"], r["path_truncated"]) for r in rows]
    assert cut == [("t@2", 1, 2, True), ("t@1", 2, 2, True)]


def test_reset_uses_the_greatest_earlier_credited_conversion() -> None:
    """A touch belongs to the first conversion after it; milestones and retracted ones reset nothing."""
    path = [touch(9), touch(6), touch(3)]
    lead = sale(conversion_id="lead", type="lead", occurred_at=SALE_MS - DAY_MS)
    gone = sale(conversion_id="gone", occurred_at=SALE_MS - 2 * DAY_MS)
    undo = sale(conversion_id="gone", action="retract", occurred_at=SALE_MS)
    early = sale(conversion_id="early", occurred_at=SALE_MS - 6 * DAY_MS)
    rules = policy("last_touch", "first_touch", touch_reuse="reset_after_conversion")
    rules["conversions"] = {"lead": {"credited": False}}
    rows = final_view(path, [sale(), lead, gone, undo, early], rules)
    kept = {(r["conversion_id"], r["attribution_model"]): r["touch_id"] for r in rows if r["status"] == "credited"}
    assert kept == {
        ("c", "first_touch"): "t@3",
        ("c", "last_touch"): "t@3",
        ("early", "first_touch"): "t@9",
        ("early", "last_touch"): "t@6",
    }


def test_a_second_create_is_a_duplicate_whatever_its_event_id() -> None:
    """The first create of a conversion_id gives the value."""
    again = sale("99", event_id="other")
    assert parts([touch(1)], [sale("1", event_id="one"), again], policy("linear")) == {"t@1": 1_000_000}


def test_corrections_go_by_their_time_then_their_place_in_the_log() -> None:
    """The last restate by (occurred_at, order) wins, and one without a value keeps the old."""
    later, sooner = SALE_MS + 2 * DAY_MS, SALE_MS + DAY_MS
    records = [
        sale("30", action="restate", occurred_at=later),
        sale("1"),
        sale("20", action="restate", occurred_at=sooner),
        sale("40", action="restate", occurred_at=later),
        sale(None, currency="EUR", action="restate", occurred_at=later + 1),
    ]
    (row,) = final_view([touch(1)], records, policy("linear"))
    assert (row["value_micros"], row["currency"], row["converted_at"]) == (40_000_000, "EUR", SALE_MS)


def test_retract_is_final_and_the_same_event_id_is_heard_once() -> None:
    """A restate after a retract changes nothing; a correction with a known event_id is a duplicate."""
    undo = sale(None, action="retract", event_id="u")
    rows = final_view([touch(1)], [undo, sale("5"), sale("6", action="restate", event_id="v")], policy("linear"))
    assert [(r["status"], r["value_micros"], r["share"], r["touch_id"]) for r in rows] == [("retracted", 0, 0, "")]
    twice = [
        sale("5"),
        sale("6", action="restate", event_id="v"),
        sale("7", action="restate", event_id="v", occurred_at=SALE_MS + 1),
    ]
    assert parts([touch(1)], twice, policy("linear")) == {"t@1": 6_000_000}


def test_a_correction_without_its_create_gives_nothing() -> None:
    """Only a create is ever credited."""
    assert final_view([touch(1)], [sale(action="restate")], policy("linear")) == []


def test_corrections_are_honoured_for_their_time_only() -> None:
    """By record time, a correction beyond `corrections` on either side of its create is not heard."""
    ninety = 90 * DAY_MS
    for record_ms, expected in ((ninety, 2), (ninety + 1, 1), (-ninety, 2), (-ninety - 1, 1)):
        records = [sale("1"), sale("2", action="restate", _record_ms=record_ms)]
        assert parts([touch(1)], records, policy("linear")) == {"t@1": expected * 1_000_000}


@pytest.mark.parametrize(("lateness", "settle", "limit"), [("7d", "250ms", 7 * DAY_MS), ("0s", "250ms", 250)])
def test_a_late_touch_counts_up_to_the_longer_wait(lateness: str, settle: str, limit: int) -> None:
    """A touch counts iff its record is younger by at most max(allowed_lateness, settle)."""
    rules = policy("linear", allowed_lateness=lateness)
    rules["processing"] = {"settle": settle}
    path = [touch(2, _record_ms=1_000 + limit), touch(1, _record_ms=1_001 + limit)]
    assert set(parts(path, [sale(_record_ms=1_000)], rules)) == {"t@2"}


def test_no_touch_gives_one_unattributed_record() -> None:
    """An empty path gives one record that carries the whole value."""
    (row,) = final_view([touch(31)], [sale("2.5")], policy("linear"))
    assert row == {
        "credit_id": "c|linear|",
        "conversion_id": "c",
        "conversion_type": "conversion",
        "person_id": "ada",
        "attribution_model": "linear",
        "status": "unattributed",
        "touch_id": "",
        "channel": "(unattributed)",
        "converted_at": SALE_MS,
        "position": 0,
        "path_length": 0,
        "share": 1.0,
        "value_micros": 2_500_000,
        "conversion_value_micros": 2_500_000,
        "set_size": 1,
        "currency": "USD",
        "path_truncated": False,
        "additive": True,
        "reason": "unattributed",
    }


def test_a_credited_row_says_everything() -> None:
    """Every field of a credit comes from its touch or its conversion; unknown ones are absent."""
    shown = {"source": " google ", "medium": "cpc", "campaign": "spring", "content": "", "term": "shoes"}
    (row,) = final_view([touch(1, "Paid Search", type="click", **shown)], [sale("3")], policy("last_touch"))
    assert row == {
        "credit_id": "c|last_touch|t@1",
        "conversion_id": "c",
        "conversion_type": "conversion",
        "person_id": "ada",
        "attribution_model": "last_touch",
        "status": "credited",
        "touch_id": "t@1",
        "touch_type": "click",
        "channel": "Paid Search",
        "source": "google",
        "medium": "cpc",
        "campaign": "spring",
        "term": "shoes",
        "touched_at": SALE_MS - DAY_MS,
        "converted_at": SALE_MS,
        "position": 1,
        "path_length": 1,
        "share": 1.0,
        "value_micros": 3_000_000,
        "conversion_value_micros": 3_000_000,
        "set_size": 1,
        "currency": "USD",
        "path_truncated": False,
        "additive": True,
        "reason": "only",
    }


def test_fixed_values_and_milestones_come_from_the_conversion_type() -> None:
    """A type with a fixed value ignores the event's and a restate's; a type not credited has no rows."""
    rules = policy("linear")
    rules["conversions"] = {"order": {"value": "10.00"}, "lead": {"credited": False, "milestone": "lead"}}
    lead = sale(conversion_id="l", type="lead")
    order = [sale("3", type="order"), sale("4", type="order", action="restate")]
    assert parts([touch(1)], [*order, lead], rules) == {"t@1": 10_000_000}


def test_participation_gives_each_touch_everything_and_says_so() -> None:
    """Each record carries the whole value and is marked as not additive."""
    rows = final_view([touch(2), touch(1)], [sale("3")], policy("participation"))
    assert [(r["value_micros"], r["additive"], r["share"]) for r in rows] == [(3_000_000, False, 1.0)] * 2


def test_people_do_not_share_touches_but_accounts_do() -> None:
    """Under account journeys a colleague's touch counts, and its record names the colleague."""
    theirs = touch(1, person_id="bob", account_id="acme")
    ours = sale(account_id="acme")
    (alone,) = final_view([theirs], [ours], policy("linear"))
    (shared,) = final_view([theirs], [ours], policy("linear", journey="account"))
    assert (alone["status"], "touch_person_id" in alone) == ("unattributed", False)
    assert (shared["touch_person_id"], shared["person_id"], shared["account_id"]) == ("bob", "ada", "acme")


def test_rows_are_sorted_and_ids_escaped() -> None:
    """The order is conversion_id, attribution_model, position; a bar or a backslash in an id is escaped."""
    records = [sale(conversion_id="b"), sale(conversion_id="a|\\")]
    rows = final_view([touch(2), touch(1)], records, policy("linear", "first_touch"))
    order = [(r["conversion_id"], r["attribution_model"], r["position"]) for r in rows]
    assert order == sorted(order)
    assert rows[0]["credit_id"] == r"a\|\\|first_touch|t@2"
    assert escaped("x") == "x"


def test_plain_values_are_exact() -> None:
    """Times cut below the millisecond, money keeps six decimals, decimals are those written."""
    assert epoch_ms("1970-01-01T01:00:00.0019999+01:00") == 1
    assert epoch_ms(17) == 17
    assert [duration_ms(d) for d in ("500ms", "45s", "30m", "12h", "90d")] == [
        500,
        45_000,
        1_800_000,
        43_200_000,
        7_776_000_000,
    ]
    assert (micros("999999999999.999999"), micros(6.5), decimal(0.4)) == (
        999_999_999_999_999_999,
        6_500_000,
        Fraction(2, 5),
    )
    with pytest.raises(ValueError, match="six decimals"):
        micros("0.0000001")


def test_settings_of_a_built_in_name_are_overridden_one_by_one() -> None:
    """Half a table for a built-in name keeps its other defaults; another kind drops them all."""
    given = {"j_shaped": {"first": 0.1}, "linear": {"kind": "time_decay"}}
    assert spec_of("j_shaped", {"models": given})["last"] == "0.6"
    assert spec_of("linear", {"models": given}) == {"kind": "time_decay", "name": "linear"}


def test_comparable_drops_what_is_asked_and_nulls() -> None:
    """Absent and null say the same; revision and policy_version are dropped unless told otherwise."""
    row = {"credit_id": "x", "revision": 3, "reason": "only", "source": None}
    assert comparable([row]) == [{"credit_id": "x", "reason": "only"}]
    assert comparable([row], without=["reason"]) == [{"credit_id": "x", "revision": 3}]


def test_what_the_oracle_does_not_cover_is_an_error() -> None:
    """A touch without a channel and an unknown kind raise rather than pass."""
    with pytest.raises(ValueError, match="names no channel"):
        final_view([touch(1, "")], [sale()], policy("linear"))
    with pytest.raises(ValueError, match="no kind"):
        final_view([touch(1)], [sale()], policy("w", models={"w": {"kind": "milestone"}}))


def test_pruned_leaves_out_what_was_recorded_too_long_before() -> None:
    """With `pruned` a touch recorded more than lookback plus lateness before the conversion does not count."""
    rules = policy("linear", lookback="10d", allowed_lateness="5d")
    limit = 15 * DAY_MS
    path = [touch(2, _record_ms=1_000 - limit), touch(1, _record_ms=999 - limit)]
    records = [sale(_record_ms=1_000)]
    kept = [[r["touch_id"] for r in final_view(path, records, rules, pruned=p)] for p in (True, False)]
    assert kept == [["t@2"], ["t@2", "t@1"]]
