"""The history of a conversion's credits, read back from what was published."""

import json

import pytest

from models.revisions import Place, PublishedCredit, final_view, parse_place, revisions
from tests.support.drawn import NOW_MS, draw
from tests.support.told import Told

HERE = Place("p.conversions", 0, 7)


def credit(touch_id: str, revision: int, name: str = "linear", position: int = 1) -> PublishedCredit:
    row = {"revision": revision, "touch_id": touch_id, "position": position}
    return PublishedCredit(f"c1|{name}|{touch_id}", row, revision, HERE)


def tombstone(touch_id: str, name: str = "linear") -> PublishedCredit:
    return PublishedCredit(f"c1|{name}|{touch_id}", None, 0, HERE)


def test_revisions_rise_and_hold_their_sets_by_position() -> None:
    """Each revision has the sets published with it, their rows in the order of the path."""
    found = revisions([credit("b", 5, position=2), credit("a", 5), credit("a", 5, "first_touch"), credit("z", 9)])
    assert [each.revision for each in found] == [5, 9]
    assert [[r["touch_id"] for r in each.rows] for each in found[0].sets] == [["a", "b"], ["a"]]
    assert (found[0].source, found[0].record_ms) == (HERE, 5)


def test_tombstones_belong_to_the_set_before_them() -> None:
    """What a restatement takes away is listed with its revision and attribution model."""
    found = revisions([credit("a", 5), credit("a", 5, "last"), credit("b", 9), credit("b", 9, "last"), tombstone("a")])
    assert [(each.attribution_model, each.removed) for each in found[1].sets] == [("linear", ("a",)), ("last", ())]
    assert [each.removed for each in found[0].sets] == [(), ()]


def test_a_tombstone_whose_set_was_compacted_away_says_nothing() -> None:
    """Nothing is left of a revision of which only tombstones remain."""
    assert revisions([tombstone("a"), tombstone("a", "last")]) == []


def test_the_final_view_takes_each_attribution_model_at_its_highest_revision() -> None:
    """An attribution model that a restatement did not change keeps its earlier set."""
    view = final_view(revisions([credit("a", 5), credit("a", 5, "last"), credit("b", 9, "last")]))
    assert {name: [r["touch_id"] for r in rows] for name, rows in view.items()} == {"linear": ["a"], "last": ["b"]}


def test_the_core_s_own_records_read_back() -> None:
    """What `models.crediting` publishes for a late touch comes back as a second revision, its old key removed."""
    told = Told({"attribution": {"models": ["last_touch"]}}).take(*draw("a@-3d > conversion=5").facts)
    first = [PublishedCredit(key, row, 1, HERE) for key, row in told.credits.items()]
    (late,) = draw("b@-1d").facts
    late.event_id, late.record_ms = "t2", NOW_MS  # type: ignore[union-attr]
    told.take(late)
    second = [PublishedCredit(key, json.loads(json.dumps(row)), 2, HERE) for key, row in told.credits.items()]
    found = revisions([*first, *second, tombstone("t1", "last_touch")])
    assert [[r["touch_id"] for r in each.sets[0].rows] for each in found] == [["t1"], ["t2"]]
    assert found[1].sets[0].removed == ("t1",)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b"a.b/3/12", Place("a.b", 3, 12)),
        (b"a/b/3/12", Place("a/b", 3, 12)),
        (b"a/3", None),
        (b"a/x/1", None),
        (b"", None),
        (None, None),
        (b"\xff/1/2", Place("\ufffd", 1, 2)),
    ],
)
def test_places_are_read_or_left_out(text: bytes | None, place: Place | None) -> None:
    """A header of another shape is no place, and no error."""
    assert parse_place(text) == place
