"""Explanations against what the core publishes, and each reason for which a touch gets nothing."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from models.events import decode_conversion, decode_touch
from models.explaining import Explanation, explain
from models.facts import Conversion, JourneyTouch, Touch
from models.policy import Policy
from models.rules import Rules
from tests.support import oracle, worlds
from tests.support.drawn import NOW_MS, draw
from tests.support.told import SETTLE_MS, Row, Told, tell

DAY_MS = 86_400_000
WORLDS = 60
ALL = ["first_touch", "last_touch", "last_non_direct", "linear", "position_based", "j_shaped", "time_decay"]
POLICIES: list[Row] = [
    {"attribution": {"models": [*ALL, "inverse_j", "participation"]}},
    {"attribution": {"models": ALL, "allowed_lateness": "0s", "lookback": "7d"}},
    {
        "attribution": {
            "models": ["linear", "last_non_direct"],
            "touch_reuse": "reset_after_conversion",
            "allowed_lateness": "60d",
            "lookback": "14d",
            "lookback_by_touch_type": {"impression": "1d", "click": "45d"},
        },
        "conversions": {"order": {"value": "10.01"}, "lead": {"credited": False, "milestone": "lead"}},
    },
    {
        "attribution": {
            "models": ["first_touch", "linear"],
            "touch_reuse": "reset_after_conversion",
            "allowed_lateness": "60d",
            "corrections": "15d",
        }
    },
    {
        "attribution": {
            "models": ["j_shaped", "time_decay"],
            "direct": "ignore_unless_alone",
            "exclude_channels": ["EMAIL"],
            "repeats": "collapse_adjacent",
        }
    },
    {"attribution": {"models": ["inverse_j", "linear"], "max_touches": 2, "repeats": "last_of_channel"}},
    {
        "attribution": {
            "models": ["linear", "last_touch"],
            "touch_reuse": "reset_after_conversion",
            "allowed_lateness": "60d",
        },
        "conversions": {"order": {"count": "first"}, "conversion": {"count": "first"}},
    },
    {"attribution": {"models": ["linear", "fast"], "journey": "account", "lookback": "45d"}}
    | {"models": {"fast": {"kind": "time_decay", "half_life": "1m"}}},
]


def reasons(found: Explanation) -> dict[str, str]:
    return {each.touch.event_id: str(each.reason) for each in found.left_out}


def facts_of(world: worlds.World, tables: Row) -> dict[str, list[Touch | Conversion]]:
    """The world's records by journey, in the order of their record times."""
    field = "account_id" if tables["attribution"].get("journey") == "account" else "person_id"
    found: dict[str, list[Touch | Conversion]] = {}
    records = [(r["_record_ms"], 0, r) for r in world.touches] + [(r["_record_ms"], 1, r) for r in world.conversions]
    for record_ms, kind, record in sorted(records, key=lambda each: each[:2]):
        text = worlds.line(record).encode()
        fact: Touch | Conversion = decode_conversion(text, record_ms) if kind else decode_touch(text, record_ms)
        fact.record_ms = record_ms
        found.setdefault(record[field], []).append(fact)
    return found


def as_published(found: Explanation, attribution_model: str) -> list[tuple[Any, ...]]:
    """What the explained set says, in the fields of a credit."""
    (one,) = [each for each in found.sets if each.attribution_model == attribution_model]
    return [
        (
            "" if part.touch is None else part.touch.event_id,
            part.position,
            part.share,
            part.value_micros,
            part.reason,
            one.additive,
            "retracted" if found.status == "not_first" else found.status,
            found.value_micros,
            found.path_length,
            found.path_truncated,
        )
        for part in one.credited
    ]


FIELDS = (
    *("touch_id", "position", "share", "value_micros", "reason", "additive", "status"),
    *("conversion_value_micros", "path_length", "path_truncated"),
)


@pytest.mark.parametrize("number", range(len(POLICIES)))
def test_the_explanation_is_what_was_published(number: int, seed: int) -> None:
    """In drawn worlds, cut into batches at random, every explained part equals the published credit."""
    tables, seen = POLICIES[number], 0
    for world_seed in range(seed, seed + WORLDS):
        print(f"policy {number}, world {world_seed}")
        rng = random.Random(world_seed)
        world = worlds.draw(world_seed, late=True, accounts=True)
        for facts in facts_of(world, tables).values():
            told, taken = Told(tables), 0
            while taken < len(facts):
                cut = taken + rng.randrange(1, 5)
                told.take(*facts[taken:cut])
                taken = cut
            seen += check(told)
    assert seen > WORLDS


def check(told: Told) -> int:
    """All conversions of the journey: credits, sums, and no touch forgotten; how many there were."""
    for c in told.state.conversions:
        found = told.explained(c.conversion_id)
        for each in found.sets:
            rows = told.published(c.conversion_id, each.attribution_model)
            assert as_published(found, each.attribution_model) == [tuple(r[f] for f in FIELDS) for r in rows]
            if each.additive:
                assert sum(part.value_micros for part in each.parts) == found.value_micros
        if found.status == "milestone":
            assert not [r for r in told.credits.values() if r["conversion_id"] == c.conversion_id]
        in_path = [part.touch for part in found.sets[0].parts if part.touch] if found.sets else []
        told_of = [*in_path, *(each.touch for each in found.left_out)]
        assert sorted(map(id, told_of)) == sorted(map(id, told.accepted))
    return len(told.state.conversions)


@pytest.mark.parametrize("number", range(len(POLICIES)))
def test_what_is_explained_adds_up_to_what_the_oracle_knows(number: int, seed: int) -> None:
    """The value and the touches of each explained path are those of the independent computation."""
    tables = POLICIES[number]
    for world_seed in range(seed, seed + WORLDS // 4):
        print(f"policy {number}, world {world_seed}")
        world = worlds.draw(world_seed, late=True, accounts=True)
        view: dict[tuple[str, str], list[Row]] = {}
        for row in oracle.final_view(world.touches, world.conversions, tables, pruned=True):
            view.setdefault((row["conversion_id"], row["attribution_model"]), []).append(row)
        for facts in facts_of(world, tables).values():
            told = Told(tables).take(*facts)
            for c in told.state.conversions:
                found = told.explained(c.conversion_id)
                for each in found.sets:
                    rows = view[c.conversion_id, each.attribution_model]
                    parts = [(p.touch.event_id if p.touch else "", p.value_micros) for p in each.credited]
                    assert parts == [(r["touch_id"], r["value_micros"]) for r in rows]


# One reason after the other


@pytest.mark.parametrize(
    ("drawing", "attribution", "expected"),
    [
        ("email@-31d > ads@-30d > conversion", {}, {"t1": "before_lookback"}),
        ("email@-1d > ads@+1ms > conversion", {}, {"t2": "after_conversion"}),
        ("email@-2d > ads@-1d > conversion", {"exclude_channels": ["ADS"]}, {"t2": "excluded_channel"}),
        ("direct@-2d > ads@-1d > conversion", {"direct": "ignore_unless_alone"}, {"t1": "direct_ignored"}),
        ("direct@-2d > conversion", {"direct": "ignore_unless_alone"}, {}),
        ("ads@-3d > ads@-2d > email@-1d > conversion", {"repeats": "collapse_adjacent"}, {"t2": "repeat"}),
        ("ads@-3d > email@-2d > ads@-1d > conversion", {"max_touches": 2}, {"t1": "over_cap"}),
        ("email@-2d > ads@-1d > conversion", {}, {}),
    ],
)
def test_why_a_touch_is_left_out(drawing: str, attribution: Row, expected: dict[str, str]) -> None:
    """Each step from journey to path gives its own reason, and touches of the path have none."""
    assert reasons(tell(drawing, **attribution).explained()) == expected


def test_a_touch_before_an_earlier_conversion_is_reset() -> None:
    """Under reset_after_conversion the earlier conversion has used it up, unless it was retracted."""
    told = tell(
        "email@-3d > conversion@-2d > ads@-1d > conversion=5", touch_reuse="reset_after_conversion", lookback="30d"
    )
    assert reasons(told.explained("c2")) == {"t1": "reset"}
    retract = draw("conversion@+1d").conversion
    retract.action, retract.conversion_id = "retract", "c1"
    told.take(retract)
    assert reasons(told.explained("c2")) == {}
    assert check(told) == 2


def test_a_touch_that_comes_after_allowed_lateness_arrived_too_late() -> None:
    """By record time: one at the end of the lateness counts, the next millisecond does not."""
    told = tell("email@-3d > conversion=3", allowed_lateness="7d")
    for number, by_ms in enumerate((7 * DAY_MS, 7 * DAY_MS + 1)):
        (late,) = draw("ads@-2d").facts
        late.event_id, late.record_ms = f"late{number}", NOW_MS + by_ms  # type: ignore[union-attr]
        told.take(late)
    assert reasons(told.explained()) == {"late1": "arrived_too_late"}
    assert check(told) == 1


def test_a_touch_recorded_before_the_retention_does_not_count() -> None:
    """A conversion that comes in long after it happened finds touches that are not kept that long."""
    facts = draw("email@-29d > conversion=3").facts
    facts[1].record_ms = NOW_MS + 40 * DAY_MS
    told = Told({"attribution": {"models": ["linear"]}}).take(*facts)
    assert reasons(told.explained()) == {"t1": "recorded_too_early"}
    assert told.explained().status == "unattributed"
    assert check(told) == 1


def test_a_duplicate_is_told_and_the_first_counts() -> None:
    """The second record of an event_id is left out as a duplicate, whatever it says."""
    first, second = (*draw("email@-2d").facts, *draw("ads@-2d").facts)
    told = Told({"attribution": {"models": ["linear"]}}).take(first, second, draw("conversion=2").conversion)
    found = told.explained()
    assert [(each.touch.channel, str(each.reason)) for each in found.left_out] == [("ads", "duplicate")]
    assert [part.touch.channel for part in found.sets[0].parts if part.touch] == ["email"]


def test_a_touch_without_weight_is_told_with_its_place() -> None:
    """Under last_touch the earlier touches of the path stand there with nothing, and have no credit."""
    (one,) = tell("email@-2d > ads@-1d > conversion=9.99", models=["last_touch"]).explained().sets
    assert [(p.position, p.share, p.value_micros, p.reason) for p in one.parts] == [
        (1, 0.0, 0, "weight_zero"),
        (2, 1.0, 9_990_000, "last"),
    ]
    assert [part.position for part in one.credited] == [2]


def test_a_retracted_conversion_gives_nothing_to_anybody() -> None:
    """Its value is 0, its one part says so, and the touches of its path are left out as retracted."""
    told = tell("email@-2d > conversion=5")
    retract = draw("conversion@+1d").conversion
    retract.action = "retract"
    found = told.take(retract).explained()
    assert (found.status, found.value_micros, reasons(found)) == ("retracted", 0, {"t1": "retracted"})
    assert check(told) == 1


def test_a_milestone_has_no_sets() -> None:
    """A conversion type that is not credited explains its touches as a milestone's."""
    tables = {"attribution": {"models": ["linear"]}, "conversions": {"lead": {"credited": False}}}
    found = Told(tables).take(*draw("email@-2d > conversion:lead").facts).explained()
    assert (found.status, found.sets, reasons(found)) == ("milestone", (), {"t1": "milestone"})


def test_the_policy_is_the_one_of_the_first_credit() -> None:
    """A later policy explains earlier conversions by theirs where it knows it, and says where it does not."""
    told = tell("email@-2d > ads@-1d > conversion=5")
    later = Policy.from_effective({"attribution": {"models": ["first_touch"]}})
    known = explain(told.accepted, told.state, "c1", Rules(later, SETTLE_MS, [told.policy]))
    unknown = explain(told.accepted, told.state, "c1", Rules(later, SETTLE_MS))
    assert known is not None
    assert unknown is not None
    assert [each.attribution_model for each in known.sets] == ["linear"]
    assert known.policy_known
    assert [each.attribution_model for each in unknown.sets] == ["first_touch"]
    assert not unknown.policy_known


def test_a_conversion_of_somebody_else_is_not_explained() -> None:
    """None where the journey does not hold the conversion."""
    told = tell("email@-2d > conversion=5")
    assert explain(told.accepted, told.state, "c9", told.rules) is None


def test_the_journey_s_cap_shows_as_a_truncated_path() -> None:
    """Where the oldest touches of the journey were dropped, the path says that it was cut."""
    told = tell("a@-3d > b@-2d > c@-1d > conversion=3", journey_touches_max=2)
    found = told.explained()
    assert (found.path_length, found.path_truncated) == (2, True)
    assert check(told) == 1


def test_the_explained_inputs_stay_as_they_are() -> None:
    """The facts handed in are not changed: the same question has the same answer."""
    told = tell("ads@-3d > ads@-3d > direct@-1d > conversion=7", direct="ignore_unless_alone")
    before: Sequence[JourneyTouch] = list(told.accepted)
    assert told.explained() == told.explained()
    assert told.accepted == before


def test_a_conversion_that_gave_way_says_so() -> None:
    """Its value is 0 beside the one that was stated, its touches are left out for that reason, and credits agree."""
    told = Told({"attribution": {"models": ["linear"]}, "conversions": {"order": {"count": "first"}}})
    told.take(*draw("a@-9d > conversion:order=3@-8d > b@-2d > conversion:order=5").facts)
    found = told.explained("c2")
    assert (found.status, found.value_micros, found.conversion.value_micros) == ("not_first", 0, 5_000_000)
    assert reasons(found) == {"t1": "not_first", "t2": "not_first"}
    assert as_published(found, "linear") == [
        tuple(row[field] for field in FIELDS) for row in told.published("c2", "linear")
    ]
    assert told.explained("c1").status == "credited"
