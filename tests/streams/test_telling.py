"""The documents and texts of `explain` and `journey`, from journeys that are drawn."""

import json
from typing import Any

import pytest

from models.durations import DAY_MS
from models.explaining import explain
from models.facts import Conversion, Touch
from models.revisions import Place, PublishedCredit, revisions
from streams.explain import Explained, JourneyFound, agrees
from streams.journeys import StoredJourney
from streams.telling import explained, journey, moment, money, percent
from streams.told import document, journey_document, touch_fields
from tests.support.drawn import NOW_MS, draw
from tests.support.told import Told, tell

Document = dict[str, Any]
CREATE, OTHER = Place("p.conversions", 0, 1), Place("p.touches", 0, 2)


def known(told: Told, *, with_journey: bool = True, source: Place = CREATE) -> Explained:
    """What the commands would know of c1 had these credits been published, all by one cause."""
    rows = {key: row for key, row in told.credits.items() if row["conversion_id"] == "c1"}
    history = revisions(PublishedCredit(key, row, NOW_MS, source) for key, row in rows.items())
    stored = StoredJourney("p1", 3, told.accepted, told.state)
    created = draw("conversion=5").conversion
    causes: dict[Place, Touch | Conversion] = {CREATE: created, OTHER: draw("ads@-1d").facts[0]}
    if not with_journey:
        return Explained("c1", None, None, history, causes, None)
    found = told.explained()
    return Explained("c1", stored, found, history, causes, agrees(found, history))


def text_of(found: Explained, only: str | None = None) -> str:
    return "\n".join(explained(json.loads(json.dumps(document(found, only)))))


def notes(found: Explained) -> list[str]:
    return [each["code"] for each in document(found)["notes"]]


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "0.00 EUR"),
        (1, "0.000001 EUR"),
        (10_000_000, "10.00 EUR"),
        (7_770_000, "7.77 EUR"),
        (123_456_654_321, "123,456.654321 EUR"),
        (999_999_999_999_999_999, "999,999,999,999.999999 EUR"),
    ],
)
def test_money_is_exact(micros: int, text: str) -> None:
    """Two decimals at least, and never a digit lost or made up."""
    assert money(micros, "EUR") == text


def test_times_and_shares() -> None:
    """Times are ISO 8601 in UTC with milliseconds only where there are some; shares are percentages."""
    assert moment(NOW_MS) == "2024-05-01T12:00:00Z"
    assert moment(NOW_MS + 7) == "2024-05-01T12:00:00.007Z"
    assert moment(None) == "-"
    assert percent(1 / 3) == "33.33 %"


def test_a_document_and_its_text_agree_in_every_figure() -> None:
    """Each part of the document stands in the text with its exact value, and the sum is the value."""
    found = known(tell("ads/spring@-40d > ads/spring@-3d > email@-2d > shop@-1d > conversion=10", models=["linear"]))
    (one,) = document(found)["attribution_models"]
    text = text_of(found)
    assert [part["value_micros"] for part in one["parts"]] == [3_333_334, 3_333_333, 3_333_333]
    for part in one["parts"]:
        assert f"{part['value_micros'] / 1e6:.6f} USD" in text
    assert "100.00 %" in text
    assert "10.00 USD" in text
    assert "older than the lookback of 30d" in text
    assert notes(found) == []


def test_one_attribution_model_of_all() -> None:
    """With one named, neither sets nor history tell of the others."""
    found = known(tell("ads@-3d > email@-2d > conversion=10", models=["linear", "last_touch"]))
    assert "last_touch" in text_of(found)
    assert "last_touch" not in text_of(found, "linear")


def test_what_does_not_add_up_has_no_sum() -> None:
    """Participation says so in words, and its document has no total."""
    found = known(tell("ads@-3d > email@-2d > conversion=10", models=["participation"]))
    assert document(found)["attribution_models"][0]["value_micros"] is None
    text = text_of(found)
    assert "not to be added up" in text
    assert "the whole for each touch" in text
    assert "sum" not in text


def test_without_its_journey_the_published_credits_are_told() -> None:
    """A conversion that its journey has let go of shows the same parts, from the credits, and a note."""
    told = tell("ads/spring@-3d > email@-2d > conversion=10", models=["linear", "position_based"])
    whole, credits_only = document(known(told)), document(known(told, with_journey=False))
    assert [note["code"] for note in credits_only["notes"]] == ["published_only"]
    for one, other in zip(whole["attribution_models"], credits_only["attribution_models"], strict=True):
        parts = [{k: v for k, v in part.items() if k != "recorded_at"} for part in one["parts"]]
        assert parts == other["parts"]
    assert "10.00 USD" in text_of(known(told, with_journey=False))


def test_a_difference_to_what_is_published_is_told() -> None:
    """Where the journey has changed since, the document says that the two do not match."""
    told = tell("ads@-3d > conversion=10")
    published = dict(told.credits)
    (late,) = draw("email@-1d").facts
    late.event_id = "late"  # type: ignore[union-attr]
    told.take(late)
    told.credits = published
    assert document(known(told))["matches_published"] is False
    assert notes(known(told)) == ["differs"]


def test_a_history_that_does_not_start_with_the_create_is_told() -> None:
    """Where compaction has taken the first revision away, the first cause is another record."""
    found = known(tell("ads@-3d > conversion=10"), source=OTHER)
    assert notes(found) == ["earlier_revisions_gone"]
    assert "touch t1 (ads, 2024-04-30T12:00:00Z) came in" in text_of(found)


def test_a_cause_that_is_gone_or_not_stated_is_told() -> None:
    """A record that has left its topic is named by its place."""
    found = known(tell("ads@-3d > conversion=10"), source=Place("p.touches", 4, 99))
    assert "p.touches/4/99, which is not there any more" in text_of(found)
    assert document(found)["revisions"][0]["cause"] == {"kind": "unknown"}


@pytest.mark.parametrize(
    ("drawing", "attribution", "told"),
    [
        ("ads@-3d > ads@-1d > conversion", {"repeats": "collapse_adjacent"}, "repeats another touch of its channel"),
        ("a/x@-3d > b/x@-1d > conversion", {"repeats": "last_of_channel", "repeats_by": "campaign"}, "of its campaign"),
        ("a@-3d > b@-2d > c@-1d > conversion", {"max_touches": 2}, "not among the 2 most recent"),
        ("a@-3d > conversion:x@+9d > b@+10d", {}, "after the conversion"),
    ],
)
def test_reasons_in_words(drawing: str, attribution: Document, told: str) -> None:
    """Each reason is a phrase with the figure of the policy."""
    assert told in text_of(known(tell(drawing, **attribution)))


def test_control_characters_do_not_reach_the_terminal() -> None:
    """Names come from outside: an escape sequence in a channel is shown as what it is, and long names are cut."""
    told = tell("ads@-3d > conversion=10")
    told.accepted[0].channel = "\x1b[2Jads"
    told.accepted[0].campaign = "x" * 500
    text = text_of(known(told))
    assert "\x1b" not in text
    assert "[2Jads" in text
    assert "x" * 39 + "…" in text


def test_account_journeys_say_whose_touch_it_was() -> None:
    """Under account journeys there is a column for the person, in the path and in the journey."""
    told = Told({"attribution": {"models": ["linear"], "journey": "account"}})
    told.take(*draw("ads@-3d > email@-2d > conversion=10").facts)
    assert "PERSON" in text_of(known(told))
    stored = StoredJourney("acme", 0, told.accepted, told.state)
    found = journey_document(JourneyFound(stored, told.rules), "account")
    assert [each["touch_person_id"] for each in found["touches"]] == ["p1", "p1"]
    assert journey(found)[0] == "journey of account acme · 2 touches, 1 conversions · partition 0"
    assert all(line.split()[-1] for line in journey(found)[2:])


def test_a_journey_is_one_time_line() -> None:
    """Touches and conversions by event time, a conversion after the touches of its moment."""
    told = tell("ads@-3d > conversion:lead=1@-2d > email > conversion=10 > shop@+1d")
    found = journey_document(JourneyFound(StoredJourney("p1", 0, told.accepted, told.state), told.rules), "person")
    ids = [line.split()[-1] if line.endswith("visit") else "conversion" for line in journey(found)[3:]]
    assert ids == ["visit", "conversion", "visit", "conversion", "visit"]
    assert [(c["status"], c["path_length"]) for c in found["conversions"]] == [("credited", 1), ("credited", 2)]


def test_dropped_touches_and_unknown_policies_are_told() -> None:
    """The journey's cap and a policy that is not known any more are notes of their own."""
    told = tell("a@-3d > b@-2d > c@-1d > conversion=3", journey_touches_max=2)
    assert notes(known(told)) == ["touches_dropped"]
    found = journey_document(JourneyFound(StoredJourney("p1", 0, told.accepted, told.state), told.rules), "person")
    assert "were dropped" in journey(found)[-1]
    assert found["journey"]["dropped_until"] == NOW_MS - 3 * DAY_MS
    other = tell("a@-3d > conversion=3", models=["first_touch"])
    today = explain(told.accepted, told.state, "c1", other.rules)
    assert notes(known(told)._replace(explanation=today)) == ["policy_unknown", "touches_dropped"]


def test_touch_fields_leave_out_what_is_not_known() -> None:
    """Fields without a value are absent, as in credits."""
    (touch,) = draw("ads@-1d").touches
    assert touch_fields(touch) == {
        "touch_id": "t1",
        "touch_type": "visit",
        "channel": "ads",
        "touched_at": NOW_MS - DAY_MS,
        "recorded_at": NOW_MS - DAY_MS,
    }
