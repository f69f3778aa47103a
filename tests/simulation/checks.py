"""What must hold of every world at its end, whatever happened in it."""

import json
from collections import defaultdict
from typing import Any

from models.outcome import Reason
from tests.simulation.scenario import Scenario
from tests.simulation.simulation import Simulation
from tests.support import oracle, readers

# Under these switches a touch more never takes another one out of a path.
PLAIN = frozenset({"models", "allowed_lateness", "corrections", "journey", "lookback"})

Row = dict[str, Any]


def check(simulation: Simulation) -> None:
    """Everything below; AssertionError, or ValueError where a set was not whole for a reader."""
    scenario = simulation.scenario
    wire = [readers.Read(0, c.offset, c.timestamp, c.key, c.value) for c in simulation.kafka.credits]
    check_final_view(scenario, wire)
    check_history(simulation)
    check_first_publications(scenario, wire)
    check_dead_letters(simulation)
    check_offsets(simulation)


def check_final_view(scenario: Scenario, wire: list[readers.Read]) -> None:
    """No record is on the wire twice, and both kinds of reader end with the oracle's credits."""
    assert readers.repeated(wire) == []
    view = readers.append_only_view(wire)
    assert readers.upsert_view(wire) == view, "append-only and upsert readers disagree"
    expected = oracle.final_view(scenario.touches, scenario.heard, scenario.oracles_policy, pruned=True)
    assert oracle.comparable(view) == oracle.comparable(expected), "the final view is not the oracle's"


def check_history(simulation: Simulation) -> None:
    """Each set is published whole, in one transaction, once, at a higher revision, and says something new."""
    sets: dict[tuple[str, str], list[tuple[int, int, list[Row]]]] = defaultdict(list)
    for credit in simulation.kafka.credits:
        if credit.value is not None:
            row = json.loads(credit.value)
            history = sets[row["conversion_id"], row["attribution_model"]]
            revision = row.pop("revision")
            if not history or history[-1][0] != revision:
                history.append((revision, credit.transaction, []))
            assert credit.transaction == history[-1][1], f"{credit.key!r} is not where the rest of its set is"
            history[-1][2].append(row)
    for (conversion_id, _), history in sets.items():
        for n, (revision, _, rows) in enumerate(history):
            assert len(rows) == rows[0]["set_size"], (conversion_id, revision, rows)
            assert n == 0 or revision > history[n - 1][0], (conversion_id, revision)
            assert n == 0 or rows != history[n - 1][2], f"a set of {conversion_id} was published again unchanged"


def check_first_publications(scenario: Scenario, wire: list[readers.Read]) -> None:
    """The gate: a conversion is first credited with every touch that was in the log before it."""
    if not scenario.tables["attribution"].keys() <= PLAIN:
        return
    all_touches = {"models": ["participation"]}
    policy = {**scenario.oracles_policy, "attribution": {**scenario.tables["attribution"], **all_touches}}
    first: dict[str, list[Row]] = {}
    for record in wire:
        row = json.loads(record.value or b"null")
        if row and row["attribution_model"] in ("linear", "participation"):
            rows = first.setdefault(row["conversion_id"], [])
            if not rows or rows[0]["revision"] == row["revision"]:
                rows.append(row)
    for create in oracle.accepted_conversions([{**c, "_at": 0} for c in scenario.heard], policy):
        before = [t for t in scenario.touches if t["_record_ms"] < create["_record_ms"]]
        known = oracle.final_view(before, [create], policy, pruned=True)
        found = first[create["conversion_id"]]
        if found[0]["status"] != "retracted":
            assert {r["touch_id"] for r in known if r["touch_id"]} <= {r["touch_id"] for r in found}, "past the gate"


def check_dead_letters(simulation: Simulation) -> None:
    """Each bad record is a dead letter once, with its bytes and headers, and no good one is."""
    dead = {(d.topic, d.offset): d for d in simulation.kafka.dead}
    assert len(dead) == len(simulation.kafka.dead)
    late = [d for d in dead.values() if d.reason in (Reason.NO_CREATE, Reason.CORRECTION_TOO_LATE)]
    assert len(dead) - len(late) == simulation.scenario.bad
    for tp, log in simulation.kafka.logs.items():
        for record in log.records:
            letter = dead.get((tp.topic, record.offset))
            if letter is not None:
                assert (letter.key, letter.value, letter.headers) == (record.key, record.value, record.headers)


def check_offsets(simulation: Simulation) -> None:
    """After a stop in good order everything is applied, and committed as far as it is applied."""
    kafka, applied = simulation.kafka, simulation.applied()
    assert applied is not None
    assert applied.offsets == kafka.end()
    assert kafka.committed == {tp.topic: end for tp, end in zip(kafka.logs, kafka.end(), strict=True)}
