"""The drawn worlds and the real data are what the tests that use them take them for."""

import gzip
import json
from decimal import Decimal
from pathlib import Path

import pytest

from tests.support import oracle, real_data, worlds

SEEDS = range(40)


def test_the_same_seed_draws_the_same_world() -> None:
    """A world is a function of its seed."""
    assert worlds.draw(7, late=True) == worlds.draw(7, late=True)
    assert worlds.draw(7) != worlds.draw(8)


def test_worlds_hold_what_they_are_drawn_for() -> None:
    """Forty seeds hold duplicates, ties, corrections before creates, retracts and touches at the edge."""
    drawn = [worlds.draw(seed) for seed in SEEDS]
    touches = [t for w in drawn for t in w.touches]
    conversions = [c for w in drawn for c in w.conversions]
    ids = [t["event_id"] for t in touches]
    assert len(set(ids)) < len(ids)
    assert {c.get("action", "create") for c in conversions} == {"create", "restate", "retract"}
    moments = [(t["person_id"], t["occurred_at"]) for t in touches]
    assert len(set(moments)) < len({(t["event_id"], t["occurred_at"]) for t in touches})
    actions: dict[str, str] = {}
    for conversion in conversions:
        actions.setdefault(conversion["conversion_id"], conversion.get("action", "create"))
    assert "restate" in actions.values()
    creates = [c for c in conversions if "action" not in c]
    ages = {(c["occurred_at"] - t["occurred_at"]) for c in creates for t in touches if _same_person(c, t)}
    assert {0, -1, 30 * worlds.DAY_MS, 30 * worlds.DAY_MS + 1} <= ages


def _same_person(one: worlds.Record, other: worlds.Record) -> bool:
    return bool(one["person_id"] == other["person_id"])


@pytest.mark.parametrize("late", [False, True])
def test_the_oracle_gives_each_accepted_conversion_its_whole_value(late: bool) -> None:
    """In every world the parts of one conversion and additive attribution model add up to its value."""
    statuses: set[str] = set()
    for seed in SEEDS:
        world = worlds.draw(seed, late=late)
        sums: dict[tuple[str, str], list[int]] = {}
        for row in oracle.final_view(world.touches, world.conversions, {}):
            statuses.add(row["status"])
            entry = sums.setdefault((row["conversion_id"], row["attribution_model"]), [0, 0])
            entry[0] += row["value_micros"]
            entry[1] = row["conversion_value_micros"]
        assert all(total == whole for total, whole in sums.values()), f"seed {seed}"
        creates = {c["conversion_id"] for c in world.conversions if "action" not in c}
        assert {name for name, _ in sums} == creates, f"seed {seed}"
    assert statuses == {"credited", "unattributed", "retracted"}


def test_lateness_changes_the_view() -> None:
    """Worlds drawn late lose touches that the same world counts when nothing is late."""
    world = worlds.draw(3, people=20, late=True)
    rows = oracle.final_view(world.touches, world.conversions, {})
    on_time = [{k: v for k, v in t.items() if k != "_record_ms"} | {"_record_ms": 0} for t in world.touches]
    assert len(rows) < len(oracle.final_view(on_time, world.conversions, {}))


def test_lines_leave_our_own_fields_behind() -> None:
    """What goes over the wire has neither `_record_ms` nor `_order`."""
    world = worlds.draw(1, late=True)
    sent = [json.loads(line) for line in worlds.lines(world.touches + world.conversions)]
    assert sent
    assert not any(name.startswith("_") for record in sent for name in record)


def test_shuffled_keeps_the_lines_and_repeats_by_seed(tmp_path: Path) -> None:
    """Shuffling loses nothing and the same seed gives the same order; files may be compressed."""
    lines = [str(n) for n in range(100)]
    mixed = real_data.shuffled(lines, 5)
    assert mixed != lines
    assert sorted(mixed) == sorted(lines)
    assert mixed == real_data.shuffled(lines, 5)
    packed = real_data.write(tmp_path / "x.ndjson.gz", mixed)
    assert gzip.decompress(packed.read_bytes()).decode().splitlines() == mixed
    assert real_data.write(tmp_path / "x.ndjson", ["a", "b"]).read_bytes() == b"a\nb\n"


def test_missing_real_data_skips_here_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the data set a test is skipped with a reason, and in CI it fails."""
    monkeypatch.setenv("TOUCHSTREAM_SHARED", str(tmp_path))
    load = real_data.required.__wrapped__
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="TOUCHSTREAM_SHARED"):
        load()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="TOUCHSTREAM_SHARED"):
        load()


@pytest.mark.shared
def test_the_real_data_is_the_one_that_was_counted() -> None:
    """62,483 touches with ids of their own, 1,838 conversions, 11,423.5 in all, each with its own touch."""
    journeys = real_data.required()
    touches = list(real_data.records(journeys.touches))
    conversions = list(real_data.records(journeys.conversions))
    assert (len(touches), len({t["event_id"] for t in touches})) == (62_483, 62_483)
    assert len({c["conversion_id"] for c in conversions}) == real_data.CONVERSIONS
    assert sum(Decimal(c["value"]) for c in conversions) * 1_000_000 == real_data.TOTAL_MICROS
    moments = {(t["person_id"], t["occurred_at"]) for t in touches}
    assert all((c["person_id"], c["occurred_at"]) in moments for c in conversions)
