"""Filters leave records out: what is credited is what would be if they had never been sent."""

from collections import Counter
from functools import partial
from typing import Any
from unittest import mock

from pydantic import TypeAdapter

from models.filters import Filters, FilterTables
from models.outcome import Reason
from streams.decode import Decoder
from tests.simulation import checks, run, scenario, worker
from tests.simulation import schedule as schedules
from tests.simulation.schedule import Schedule
from tests.simulation.simulation import Simulation
from tests.support import oracle
from tests.support.fakes import CONVERSIONS

WORLDS = range(48)
Record = dict[str, Any]
TABLES: list[Record] = [
    {"name": "summer", "drop": "touch", "when": [{"field": "campaign", "equals": "SUMMER"}]},
    {"name": "asked", "drop": "touch", "reason": "consent", "when": [{"field": "properties.consent", "equals": "no"}]},
    {"name": "leads", "drop": "conversion", "when": [{"field": "type", "equals": "lead"}]},
    {"name": "first of all", "drop": "both", "when": [{"field": "person_id", "ends_with": "-p0"}]},
]


def is_dropped(record: Record) -> bool:
    """What the tables above say, in other words."""
    if record["person_id"].endswith("-p0"):
        return True
    if "conversion_id" in record:
        return bool(record["type"] == "lead")
    return record["campaign"] == "summer" or record.get("properties") == {"consent": "no"}


def world(seed: int, schedule: Schedule | None = None) -> Simulation:
    with mock.patch.object(scenario.worlds, "_touch", partial(_with_consent, scenario.worlds._touch)):
        return Simulation(scenario.draw(seed), schedule or schedules.draw(seed), Counter())


def _with_consent(drawn: Any, rng: Any, person: str, number: int, at: int) -> Record:
    return {**drawn(rng, person, number, at), "properties": {"consent": ("no", "yes")[number % 3 > 0]}}


def test_worlds_end_with_the_credits_of_what_no_filter_drops() -> None:
    """Whatever crashes, comes late or twice: the oracle that never saw the filtered records has the same credits."""
    filters = Filters.of(TypeAdapter(FilterTables).validate_python(TABLES))
    dropped = kept = credits = 0
    for seed in WORLDS:
        simulation = world(seed)
        with mock.patch.object(worker, "Decoder", partial(Decoder, filters=filters)):
            run.simulate(simulation)
        told = simulation.scenario
        sent = [*told.touches, *told.conversions]
        told.touches = [r for r in told.touches if not is_dropped(r)]
        told.conversions = [r for r in told.conversions if not is_dropped(r)]
        kept += len(told.touches) + len(told.conversions)
        dropped += sum(map(is_dropped, sent))
        try:
            checks.check(simulation)
        except Exception as error:
            raise AssertionError(f"world {seed} failed") from error
        credits += len(oracle.final_view(told.touches, told.heard, told.oracles_policy, pruned=True))
    print(f"{dropped} records dropped, {kept} kept, {credits} credits")
    assert min(dropped, kept, credits) > 5 * len(WORLDS)


def test_every_filtered_record_is_counted_once_under_its_filter() -> None:
    """Where nothing breaks, filtered ones and all others add up to what was sent; replayed ones are not counted."""
    filters = Filters.of(TypeAdapter(FilterTables).validate_python(TABLES))
    found: Counter[tuple[str, str, str]] = Counter()
    for seed in range(12):
        simulation = world(seed, Schedule([]))
        with mock.patch.object(worker, "Decoder", partial(Decoder, filters=filters)):
            run.simulate(simulation)
        told, reports = simulation.scenario, simulation.reports
        for records, kind in ((told.touches, "touch"), (told.conversions, "conversion")):
            counted = sum(n for r in reports for labels, n in r.filtered.items() if labels[0] == kind)
            assert counted == sum(map(is_dropped, records)), f"seed {seed}"
        assert sum(r.touches_filtered for r in reports) == sum(map(is_dropped, told.touches))
        assert sum(r.conversions_filtered for r in reports) == sum(map(is_dropped, told.conversions))
        conversions = sum(
            r.conversions_accepted + r.conversions_duplicate + r.conversions_dead + r.conversions_filtered
            for r in reports
        )
        gave_up = sum(d.reason is Reason.NO_CREATE for d in simulation.kafka.dead)
        assert conversions - gave_up == len(simulation.kafka.logs[CONVERSIONS].records)
        for report in reports:
            found += report.filtered
    assert set(found) == {
        ("touch", "summer", "other"),
        ("touch", "asked", "consent"),
        ("touch", "first of all", "other"),
        ("conversion", "leads", "other"),
        ("conversion", "first of all", "other"),
    }
