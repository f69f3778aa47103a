"""The oracle of people with several ids: what merges do, and that it agrees with the older one where none are."""

from typing import Any

import pytest

from tests.support import oracle, worlds
from tests.support.oracle_people import Credit, Facts, Merge, canonical, email_id, final_view, joined, person_of

DAY_MS = 86_400_000
POLICY = {"attribution": {"models": ["linear"], "corrections": "10d"}, "processing": {"settle": "0s"}}
USER, DEVICE = "u", "anonymous:d"
MERGE = Merge(4 * DAY_MS, DEVICE, USER)


def touch(person_id: str, name: str, day: float, **fields: Any) -> dict[str, Any]:
    at_ms = int(day * DAY_MS)
    named = {"event_id": name, "person_id": person_id, "channel": name, "occurred_at": at_ms, "_record_ms": at_ms}
    return named | fields


def sale(person_id: str, name: str, day: float, **fields: Any) -> dict[str, Any]:
    at_ms = int(day * DAY_MS)
    named = {"conversion_id": name, "person_id": person_id, "occurred_at": at_ms, "_record_ms": at_ms, "value": "1"}
    return named | fields


def parts(credits: list[Credit]) -> list[tuple[str, str, str, int]]:
    return [(c.conversion_id, c.touch_id, c.person_id, c.value_micros) for c in credits]


def test_a_merge_makes_one_journey_of_two() -> None:
    """Touches of both count, and the credits are those of the higher id."""
    facts = Facts([touch(DEVICE, "a", 1), touch(USER, "b", 2)], [sale(DEVICE, "c", 3)], [MERGE])
    assert parts(final_view(facts, POLICY)) == [("c", "a", USER, 500_000), ("c", "b", USER, 500_000)]
    assert parts(final_view(facts._replace(merges=[]), POLICY)) == [("c", "a", DEVICE, 1_000_000)]


def test_a_merge_counts_as_long_as_corrections_do() -> None:
    """At the end of the period it does; a millisecond later the conversion keeps what it had, person and all."""
    facts = Facts([touch(DEVICE, "a", 1), touch(USER, "b", 2)], [sale(DEVICE, "c", 3)], [])
    last_ms = 13 * DAY_MS
    in_time, late = (facts._replace(merges=[Merge(ms, DEVICE, USER)]) for ms in (last_ms, last_ms + 1))
    assert [credit.person_id for credit in final_view(in_time, POLICY)] == [USER, USER]
    assert parts(final_view(late, POLICY)) == [("c", "a", DEVICE, 1_000_000)]


def test_a_conversion_that_is_too_old_still_says_where_the_next_begins() -> None:
    """Under reset_after_conversion the earlier one of the other id counts, though it is not restated itself."""
    policy = {**POLICY, "attribution": {**POLICY["attribution"], "touch_reuse": "reset_after_conversion"}}  # type: ignore[dict-item]
    touches = [touch(USER, "a", 1), touch(USER, "b", 15)]
    facts = Facts(touches, [sale(DEVICE, "c", 2), sale(USER, "d", 16)], [Merge(17 * DAY_MS, DEVICE, USER)])
    assert parts(final_view(facts, policy)) == [("c", "", DEVICE, 1_000_000), ("d", "b", USER, 1_000_000)]


def test_a_correction_waits_for_a_merge_as_long_as_for_a_create() -> None:
    """It is heard if both are one journey before either has waited for longer than `corrections`."""
    retract = sale(USER, "c", 1, action="retract")
    create = sale(DEVICE, "c", 2)
    for merged_ms, status in ((11 * DAY_MS, "retracted"), (11 * DAY_MS + 1, "unattributed")):
        facts = Facts([], [retract, create], [Merge(merged_ms, DEVICE, USER)])
        assert [credit.status for credit in final_view(facts, POLICY)] == [status]


def test_duplicates_are_found_across_ids() -> None:
    """One event_id under two ids of a person is one touch: the first."""
    facts = Facts([touch(DEVICE, "a", 1), touch(USER, "a", 2)], [sale(USER, "c", 3)], [MERGE])
    view = final_view(facts, POLICY)
    assert [(credit.touch_id, credit.touched_at) for credit in view] == [("a", DAY_MS)]


def test_who_is_the_highest() -> None:
    """Users before e-mails before anonymous ids, then the smaller text; an address is trimmed and in small letters."""
    email = email_id(" Ann@Example.COM", b"key")
    assert email == email_id("ann@example.com", b"key") != email_id("ann@example.com", b"other")
    assert person_of({"anonymous_id": "x", "email": "ann@example.com", "user_id": "z"}, b"key") == [
        *("z", email, "anonymous:x")
    ]
    assert canonical([("b", email), (email, "anonymous:x"), ("a", "anonymous:x"), ("c",)]) == {
        **dict.fromkeys(("a", "b", email, "anonymous:x"), "a"),
        "c": "c",
    }


def test_the_first_merge_of_an_id_counts() -> None:
    """Later ones, and those that lead to a lower id, do nothing."""
    merges = [Merge(1, DEVICE, "v"), Merge(2, DEVICE, USER), Merge(3, "v", DEVICE), Merge(4, "v", USER)]
    assert joined(DEVICE, merges[:3]) == {DEVICE, "v"}
    assert joined(DEVICE, merges) == {DEVICE, "v", USER}
    assert joined(DEVICE, merges, until_ms=3) == {DEVICE, "v"}


@pytest.mark.parametrize("seed", range(20))
def test_it_agrees_with_the_other_oracle_where_nobody_is_merged(seed: int) -> None:
    """Values, shares, status and place of every credit are the same."""
    drawn = worlds.draw(seed, people=10, late=True)
    models = ["linear", "time_decay", "participation"]
    policy = {"attribution": {"models": models, "touch_reuse": "reset_after_conversion"}}
    first = oracle.final_view(drawn.touches, drawn.conversions, policy, pruned=True)
    second = final_view(Facts(drawn.touches, drawn.conversions, []), policy)
    names = ("conversion_id", "attribution_model", "position", "touch_id", "person_id", "status", "value_micros")
    assert sorted(tuple(row[name] for name in names) for row in first) == [
        tuple(getattr(credit, name) for name in names) for credit in second
    ]
    assert [float(credit.share) for credit in second] == [
        row["share"] for row in sorted(first, key=lambda r: (r["conversion_id"], r["attribution_model"], r["position"]))
    ]
