"""What many worlds came through, and how much of each is enough: a simulation that never gets there proves nothing."""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from streams.crash import CRASH_POINTS
from tests.simulation.schedule import BETWEEN_STEPS, KINDS
from tests.simulation.simulation import Simulation

# Required of so many worlds; of fewer in proportion, and never less than once.
FULL_RUN = 10_000
ENOUGH: dict[str, int] = {
    **{f"{what} at {place}": 100 for what, place in KINDS},
    **{f"crash at {place}": 100 for place in CRASH_POINTS},
    **{f"flush at {place}": 500 for place in BETWEEN_STEPS},
    "committed ahead of applied": 2_000,
    "catch-up with newer records in the log": 1_000,
    "newer records set aside": 500,
    "rebuild from the beginning": 1_000,
    "restatement after a rebuild": 1_000,
    "held conversions at a crash": 1_000,
    "zombie write": 500,
    "zombie write: commit": 100,
    "zombie write: save": 100,
    "zombie load": 100,
    "worker fenced": 50,
    "worker uncertain": 100,
    "transport went back": 100,
    "worker given records again": 100,
    "claimed again in process": 500,
    "conversions held back": 1_000,
    "fetched records put back": 500,
    "batch of an earlier claim": 100,
    "touches out of order": 5_000,
    "late touches": 5_000,
    "duplicate touches": 5_000,
    "duplicate conversions": 1_000,
    "restatements": 5_000,
    "tombstones": 1_000,
    "dead letters": 5_000,
    "commits without output": 5_000,
}


def of_world(simulation: Simulation) -> Counter[str]:
    """What is seen of a world only when it has ended."""
    reports, kafka, scenario = simulation.reports, simulation.kafka, simulation.scenario
    settle_ms = scenario.settle_ms
    firsts = {c["conversion_id"]: c for c in scenario.conversions if c.get("action", "create") == "create"}
    last_ms: dict[str, int] = {}
    for create in firsts.values():
        last_ms[create["person_id"]] = max(create["_record_ms"], last_ms.get(create["person_id"], 0))
    times = [t["occurred_at"] for t in scenario.touches]
    seen = Counter(
        {
            "restatement after a rebuild": _restated_after(simulation),
            "touches out of order": sum(a > b for a, b in pairwise(times)),
            "late touches": sum(t["_record_ms"] > last_ms.get(t["person_id"], 0) + settle_ms for t in scenario.touches),
            "duplicate touches": len(scenario.touches) - len({t["event_id"] for t in scenario.touches}),
            "duplicate conversions": sum(r.conversions_duplicate for r in reports),
            "restatements": sum(r.restated for r in reports),
            "tombstones": sum(credit.value is None for credit in kafka.credits),
            "dead letters": len(kafka.dead),
            "commits without output": sum(entry[:3] == ("published", 0, 0) for entry in kafka.ledger),
        }
    )
    return +seen


def _restated_after(simulation: Simulation) -> int:
    """Conversions published before a rebuild of the store and again after it."""
    sets: dict[bytes, set[int]] = {}
    for credit in simulation.kafka.credits:
        sets.setdefault(credit.key.split(b"|")[0], set()).add(credit.transaction)
    return sum(
        any(min(found) <= rebuild < max(found) for rebuild in simulation.rebuilds)
        for found in sets.values()
        if len(found) > 1
    )


def needed(name: str, worlds: int) -> int:
    """How often it has to come up in so many worlds."""
    return max(1, ENOUGH[name] * worlds // FULL_RUN)


def total(seen: Counter[str]) -> Counter[str]:
    """With the sums over several columns."""
    return seen + Counter({"zombie write": seen["zombie write: commit"] + seen["zombie write: save"]})


def missing(seen: Counter[str], worlds: int) -> list[str]:
    """Columns that did not come up often enough, with what was found and what is needed."""
    seen = total(seen)
    return [f"{name}: {seen[name]} of {needed(name, worlds)}" for name in ENOUGH if seen[name] < needed(name, worlds)]


def table(seen: Counter[str], worlds: int) -> str:
    """One line a column: how often, how often at least, and what it is."""
    seen = total(seen)
    names: Iterable[str] = (*ENOUGH, *sorted(set(seen) - set(ENOUGH)))
    lines = [f"{'seen':>9} {'needed':>9}  in {worlds} worlds"]
    for name in names:
        least = needed(name, worlds) if name in ENOUGH else 0
        lines.append(f"{seen[name]:>9} {least or '-':>9}  {name}{'  <-- TOO FEW' if seen[name] < least else ''}")
    return "\n".join(lines)
