"""`count = "first"`: which conversions count is a function of the facts, whatever order they come in."""

import itertools
import json
import random
from collections import Counter
from typing import Any

import pytest

from models.crediting import Arrival, Event, Outcome, Source, decide
from models.crediting import stored as stored_journey
from models.facts import Conversion, Touch
from models.journey import frame, read_frames, read_state, write_state
from models.policy import Policy
from models.rules import Rules
from tests.simulation import checks, run, scenario, schedule
from tests.simulation.simulation import Simulation
from tests.support import oracle, readers
from tests.support.drawn import NOW_MS

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SEEDS = range(60)
ORDERS = 8
WORLDS = range(96)
Record = dict[str, Any]
TABLES: list[Record] = [
    {"attribution": {"models": ["linear", "last_touch"]}, "conversions": {"order": {"count": "first"}}},
    {
        "attribution": {"models": ["linear", "participation"], "touch_reuse": "reset_after_conversion"},
        "conversions": {"order": {"count": "first"}, "lead": {"count": "first", "value": "3"}},
    },
]
# In worlds much comes late, and the reach of `first` lies within the spread of record times.
OF_WORLDS: list[Record] = [
    {
        "attribution": {"models": ["linear", "last_touch"], "allowed_lateness": "30d", "corrections": "20d"},
        "conversions": {"order": {"count": "first"}, "conversion": {"count": "first"}},
    },
    {
        "attribution": {
            "models": ["first_touch", "linear"],
            "touch_reuse": "reset_after_conversion",
            "allowed_lateness": "60d",
            "corrections": "60d",
        },
        "conversions": {"order": {"count": "first"}, "lead": {"count": "first", "lookback": "10d"}},
    },
    {
        # The lookback keeps conversions: a create that is sent again once its first one is forgotten counts anew.
        "attribution": {"models": ["linear"], "allowed_lateness": "1d", "corrections": "5d", "lookback": "60d"},
        "conversions": {name: {"count": "first"} for name in ("order", "conversion", "lead")},
    },
]


class Journey:
    """One person's journey, batch by batch, and everything that it published."""

    def __init__(self, tables: Record) -> None:
        self._rules = Rules(Policy.from_effective(tables), 250)
        self._journey = stored_journey([[]], read_state(None))
        self._offset = 0
        self._published = 0
        self.wire: list[readers.Read] = []

    def take(self, *facts: Touch | Conversion, replaying: bool = False, sealed_below_ms: int = -1) -> Outcome:
        arrivals, events = [], []
        for fact in facts:
            self._offset += 1
            if isinstance(fact, Touch):
                source = Source("touches", self._offset, fact.record_ms)
                arrivals.append(Arrival(read_frames(frame(fact))[0], source))
            else:
                fact.offset = self._offset
                events.append(Event(fact, b"ada", b"{}", []))
        how = {"replaying": replaying, "sealed_below_ms": sealed_below_ms}
        out = decide(self._journey, arrivals, events, self._rules, self._offset, **how)
        state = read_state(write_state(out.state)) if out.changed else self._journey.state
        self._journey = stored_journey([out.touches], state)
        for publication in out.publications:
            for key, value in publication.records:
                self._published += 1
                self.wire.append(readers.Read(0, self._published, NOW_MS, key, value))
        return out

    def view(self) -> list[Record]:
        """The final view; both kinds of reader must have the same."""
        view = readers.append_only_view(self.wire)
        assert readers.upsert_view(self.wire) == view
        return [{k: v for k, v in row.items() if k != "revision"} for row in view]

    def counted(self) -> dict[str, int]:
        """conversion_id → micros, of those that were credited, under linear."""
        sums: Counter[str] = Counter()
        for row in self.view():
            if row["attribution_model"] == "linear" and row["status"] != "retracted":
                sums[row["conversion_id"]] += row["value_micros"]
        return dict(sums)

    def known(self) -> int:
        """How many conversions the journey holds."""
        return len(self._journey.state.conversions)

    def reasons(self) -> dict[str, str]:
        """conversion_id → the reason of what is not credited."""
        return {r["conversion_id"]: r["reason"] for r in self.view() if r["status"] == "retracted"}


def order(number: int, day: float, recorded: float | None = None, **fields: Any) -> Conversion:
    """A conversion c<number> of so many euros, at NOW_MS + so many days; recorded then too unless said."""
    at = NOW_MS + round(day * DAY_MS)
    record_ms = at if recorded is None else NOW_MS + round(recorded * DAY_MS)
    whole: Record = {"type": "order", "value_micros": number * 1_000_000, "currency": "EUR", **fields}
    return Conversion(f"c{number}", "ada", at, record_ms=record_ms, **whole)


def retract(number: int, recorded: float) -> Conversion:
    return order(number, recorded, action="retract", value_micros=None, currency=None)


def touch(number: int, day: float, recorded: float | None = None) -> Touch:
    at = NOW_MS + round(day * DAY_MS)
    record_ms = at if recorded is None else NOW_MS + round(recorded * DAY_MS)
    return Touch(f"t{number}", "ada", at, channel=f"channel {number}", record_ms=record_ms)


def first_orders(**attribution: Any) -> Journey:
    tables = {"attribution": {"models": ["linear"], **attribution}, "conversions": {"order": {"count": "first"}}}
    return Journey(tables)


# By hand


def test_only_the_first_order_counts_and_other_types_do_as_ever() -> None:
    """Of two orders the first has its value, the second a record that says so; leads are counted each."""
    journey = first_orders()
    out = journey.take(touch(1, -3), order(1, 0), order(2, 1), order(3, 2, type="lead"), order(4, 3, type="lead"))
    assert journey.counted() == {"c1": 1_000_000, "c3": 3_000_000, "c4": 4_000_000}
    assert journey.reasons() == {"c2": "not_first"}
    assert (out.credited, out.uncounted, out.unattributed, out.retracted) == (3, 1, 0, 0)


def test_an_earlier_order_that_comes_later_takes_the_credit_over() -> None:
    """The order that was credited before is restated to nothing, by a record and tombstones."""
    journey = first_orders()
    journey.take(touch(1, -3), touch(2, -1), order(2, 1))
    assert journey.counted() == {"c2": 2_000_000}
    before = len(journey.wire)
    out = journey.take(order(1, 0, recorded=2))
    assert journey.counted() == {"c1": 1_000_000}
    assert journey.reasons() == {"c2": "not_first"}
    assert (out.credited, out.restated, out.tombstones) == (1, 1, 2)
    assert {r.key for r in journey.wire[before:] if r.value is None} == {b"c2|linear|t1", b"c2|linear|t2"}


def test_a_retract_of_the_first_gives_the_credit_to_the_second() -> None:
    """And with it the touches that the second has; the next retract gives it to the third."""
    journey = first_orders()
    journey.take(touch(1, -3), order(1, 0), order(2, 1), order(3, 2))
    journey.take(retract(1, 3))
    assert journey.counted() == {"c2": 2_000_000}
    assert journey.reasons() == {"c1": "retracted", "c3": "not_first"}
    journey.take(retract(2, 4))
    assert journey.counted() == {"c3": 3_000_000}


def test_a_retract_of_one_that_does_not_count_changes_only_its_reason() -> None:
    """Nothing else is published, and the first keeps its credit."""
    journey = first_orders()
    journey.take(touch(1, -3), order(1, 0), order(2, 1))
    before = len(journey.wire)
    journey.take(retract(2, 2))
    assert [r.key for r in journey.wire[before:]] == [b"c2|linear|"]
    assert journey.counted() == {"c1": 1_000_000}
    assert journey.reasons() == {"c2": "retracted"}


def test_a_late_touch_and_a_restate_of_one_that_does_not_count_are_silent() -> None:
    """Its facts are kept, and count once it is the first."""
    journey = first_orders()
    journey.take(touch(1, -3), order(1, 0), order(2, 1))
    before = len(journey.wire)
    journey.take(order(2, 1.5, action="restate", value_micros=7_000_000))
    journey.take(touch(2, 0.5, recorded=2))
    assert len(journey.wire) == before
    journey.take(retract(1, 3))
    assert journey.counted() == {"c2": 7_000_000}
    assert {r["touch_id"] for r in journey.view() if r["status"] == "credited"} == {"t1", "t2"}


def test_orders_at_the_same_moment_go_by_their_id() -> None:
    """Ties in event time have one answer, in both orders."""
    for first, second in itertools.permutations((1, 2)):
        journey = first_orders()
        journey.take(order(first, 0, recorded=0))
        journey.take(order(second, 0, recorded=1))
        assert journey.counted() == {"c1": 1_000_000}


def test_first_reaches_as_far_as_corrections() -> None:
    """A month and a millisecond apart in record time under `corrections = "30d"`, both are first ones."""
    for beyond_ms, counted in ((0, {"c1"}), (1, {"c1", "c2"})):
        journey = first_orders(corrections="30d", allowed_lateness="1d")
        journey.take(order(1, 0))
        later = order(2, 30)
        later.record_ms += beyond_ms
        journey.take(later)
        assert set(journey.counted()) == counted


def test_one_that_gave_way_stays_so_when_the_first_is_long_past() -> None:
    """Neither a later order nor a restate lets the second be credited once nothing can correct the first any more."""
    journey = first_orders(corrections="30d", allowed_lateness="1d", lookback="5d")
    journey.take(touch(1, -1), order(1, 0))
    journey.take(order(2, 29))
    journey.take(order(3, 58, action="create", type="lead"))
    journey.take(order(2, 58.5, action="restate", value_micros=9_000_000))
    journey.take(order(4, 59.5, type="lead"))
    assert set(journey.counted()) == {"c1", "c3", "c4"}
    journey.take(order(5, 120))
    assert set(journey.counted()) == {"c1", "c3", "c4", "c5"}


def test_one_that_does_not_count_resets_no_journey() -> None:
    """As a milestone: the touches before it are still there for the next conversion."""
    tables = {**TABLES[1], "conversions": {"order": {"count": "first"}}}
    journey = Journey(tables)
    journey.take(order(1, 0), touch(1, 1), order(2, 2), order(3, 3, type="lead"))
    by_touch = {r["touch_id"]: r["value_micros"] for r in journey.view() if r["conversion_id"] == "c3"}
    assert by_touch == {"t1": 3_000_000}


def test_after_a_rebuild_the_first_is_still_the_first() -> None:
    """Facts taken in without output give the same answers, and a retract then moves the credit."""
    journey = first_orders()
    journey.take(touch(1, -3), order(1, 0), order(2, 1), replaying=True)
    assert journey.wire == []
    journey.take(retract(1, 3))
    assert journey.counted() == {"c2": 2_000_000}
    assert journey.reasons() == {"c1": "retracted"}


def test_what_cannot_be_restated_keeps_its_credit() -> None:
    """A conversion whose touches have left the topics is not published again because an earlier one came."""
    journey = first_orders()
    journey.take(touch(1, -3), order(2, 1), replaying=True, sealed_below_ms=NOW_MS + 2 * DAY_MS)
    journey.take(order(1, 0, recorded=3))
    assert journey.counted() == {"c1": 1_000_000}
    assert journey.reasons() == {}


def test_touches_are_kept_for_as_long_as_a_first_one_can_change() -> None:
    """Two reaches beyond the retention, as what displaced it late may be taken back late; else `corrections`."""
    for conversions, reaches in (({}, 1), ({"order": {"count": "first"}}, 2)):
        tables = {"attribution": {"corrections": "50d", "allowed_lateness": "2d"}, "conversions": conversions}
        rules = Rules(Policy.from_effective(tables), 250)
        assert rules.reach_ms == (30 + 2 + reaches * 50) * DAY_MS
        assert rules.kept_ms > rules.reach_ms


# In any order


def drawn(rng: random.Random, tables: Record) -> tuple[list[Record], list[Record]]:
    """Touches and conversion records of one person: several conversions of two types, corrections among them."""
    touches = [
        {"event_id": f"t{n}", "person_id": "ada", "occurred_at": _day(rng, -8, 6), "channel": rng.choice("abc")}
        for n in range(rng.randrange(5))
    ]
    records: list[Record] = []
    for n in range(rng.randrange(2, 6)):
        kind = rng.choice(("order", "order", "lead"))
        one = {"conversion_id": f"c{n}", "person_id": "ada", "type": kind}
        records.append({**one, "occurred_at": _day(rng, 0, 4), "value": str(rng.randrange(100)), "currency": "EUR"})
        if rng.random() < 0.35:
            records.append({**one, "occurred_at": _day(rng, 5, 9), "action": "retract"})
        if rng.random() < 0.35:
            records.append({**one, "occurred_at": _day(rng, 5, 9), "action": "restate", "value": "0.5"})
    return touches, records


def _day(rng: random.Random, first: int, last: int) -> int:
    return NOW_MS + rng.randrange(first, last) * DAY_MS


def fact(record: Record, record_ms: int) -> Touch | Conversion:
    r = record
    if "event_id" in r:
        return Touch(r["event_id"], "ada", r["occurred_at"], channel=r["channel"], record_ms=record_ms)
    value = int(float(r["value"]) * 1_000_000) if "value" in r else None
    return Conversion(
        r["conversion_id"],
        "ada",
        r["occurred_at"],
        r["type"],
        value,
        r.get("currency"),
        action=r.get("action", "create"),
        record_ms=record_ms,
    )


def told(rng: random.Random, records: list[Record], tables: Record) -> list[Record]:
    """The final view after the records came in some order, cut into batches somewhere."""
    journey = Journey(tables)
    shuffled = rng.sample(records, len(records))
    # All within the lateness, so that the order is the only difference.
    facts = [fact(r, NOW_MS + 10 * DAY_MS + n * HOUR_MS) for n, r in enumerate(shuffled)]
    while facts:
        count = rng.randrange(1, 5)
        journey.take(*facts[:count])
        del facts[:count]
    return journey.view()


@pytest.mark.parametrize("tables", TABLES, ids=("reuse", "reset"))
def test_the_order_of_arrival_never_changes_the_final_view(tables: Record) -> None:
    """Each shuffle of the same facts, in any batches, ends with the oracle's credits."""
    displaced = 0
    for seed in SEEDS:
        rng = random.Random(f"counting {seed}")
        touches, conversions = drawn(rng, tables)
        expected = oracle.comparable(oracle.final_view(touches, conversions, tables))
        displaced += sum(row["reason"] == "not_first" for row in expected)
        for number in range(ORDERS):
            view = told(rng, [*touches, *conversions], tables)
            assert oracle.comparable(view) == expected, f"seed {seed}, order {number}"
    assert displaced > len(SEEDS), "too few conversions gave way to another"


def drawn_log(rng: random.Random) -> list[Record]:
    """A log over many times the reach of `first`, its records in order, with `_record_ms`."""
    log: list[Record] = []
    for n in range(rng.randrange(5, 30)):
        at = NOW_MS + rng.randrange(30 * 24) * HOUR_MS
        one = {"conversion_id": f"c{n:02}", "person_id": "ada", "type": rng.choice(("order", "order", "lead"))}
        early = rng.choice((0, 0, 6, 24, 70, 200)) * HOUR_MS
        log.append({**one, "occurred_at": at - early, "value": "1", "currency": "EUR", "_record_ms": at})
        if rng.random() < 0.4:
            back = at + rng.choice((1, 24, 71, 72)) * HOUR_MS
            log.append({**one, "occurred_at": back, "action": "retract", "_record_ms": back})
    for n in range(rng.randrange(20)):
        at = NOW_MS + rng.randrange(30 * 24) * HOUR_MS
        one = {"event_id": f"t{n:02}", "person_id": "ada", "channel": rng.choice("abc"), "_record_ms": at}
        log.append({**one, "occurred_at": at - rng.choice((0, 0, 5, 30)) * HOUR_MS})
    # A conversion waits for the touches of its moment; ties in record time are no claim of this law.
    log.sort(key=lambda r: (r["_record_ms"], "event_id" not in r))
    return [{**r, "_order": place} for place, r in enumerate(log)]


def test_batches_and_what_is_forgotten_never_change_the_final_view() -> None:
    """Over a log much longer than the reach, however it is cut: the oracle, which forgets nothing, has the same."""
    tables: Record = {
        "attribution": {"models": ["linear"], "lookback": "2d", "allowed_lateness": "1d", "corrections": "3d"},
        "conversions": {"order": {"count": "first"}},
    }
    forgotten = 0
    for seed in range(150):
        rng = random.Random(f"log {seed}")
        log = drawn_log(rng)
        touches, conversions = ([r for r in log if ("event_id" in r) == of_touch] for of_touch in (True, False))
        expected = oracle.comparable(oracle.final_view(touches, conversions, tables, pruned=True))
        for cuts_max in (1, 3, 8, 100):
            journey = Journey(tables)
            facts = [fact(r, r["_record_ms"]) for r in log]
            while facts:
                count = rng.randint(1, cuts_max)
                journey.take(*facts[:count])
                del facts[:count]
            assert oracle.comparable(journey.view()) == expected, f"seed {seed}, at most {cuts_max} a batch"
            forgotten += len(conversions) - journey.known()
    assert forgotten > 150


# With everything that goes wrong


def world(seed: int) -> Simulation:
    drawn_scenario = scenario.draw(seed * len(scenario.POLICIES))  # a policy by person
    drawn_scenario.tables = OF_WORLDS[seed % len(OF_WORLDS)]
    return Simulation(drawn_scenario, schedule.draw(seed), Counter())


def test_worlds_with_crashes_and_late_records_end_with_the_credits_of_the_oracle() -> None:
    """Duplicates, late records, crashes, rebuilds: whatever happens, exactly the oracle's first ones are credited."""
    seen: Counter[str] = Counter()
    for seed in WORLDS:
        simulation = world(seed)
        try:
            run.simulate(simulation)
            checks.check(simulation)
        except Exception as error:
            raise AssertionError(f"world {seed} failed") from error
        seen.update(_moves(simulation))
    print(dict(seen))
    assert seen["gave way at once"] > 5
    assert seen["lost its credit"] > 3
    assert seen["was given the credit"] > 1


def _moves(simulation: Simulation) -> Counter[str]:
    """What became of conversions over their revisions, under one attribution model."""
    reasons: dict[str, list[str]] = {}
    for row in (r for r in _rows(simulation) if r["attribution_model"] == "linear"):
        reasons.setdefault(row["conversion_id"], []).append("first" if row["status"] != "retracted" else row["reason"])
    moves: Counter[str] = Counter()
    for found in reasons.values():
        moves["gave way at once"] += found[0] == "not_first"
        steps = set(itertools.pairwise(found))
        moves["lost its credit"] += ("first", "not_first") in steps
        moves["was given the credit"] += ("not_first", "first") in steps
    return moves


def _rows(simulation: Simulation) -> list[Record]:
    return [json.loads(c.value) for c in simulation.kafka.credits if c.value is not None]
