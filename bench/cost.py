"""What the identity stage costs, and the table that says so."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# The case without the identity stage.
WITHOUT = "persons"
# What the same events may cost with it, at most.
GOAL = 2.5
HEAD = (
    "| events as | rounds | events/s | CPU-µs an event, clients + Redis | ratio to `persons` within a round |\n"
    "|---|---|---|---|---|\n"
)


@dataclass(frozen=True)
class Cost:
    """What one case took in one round; seconds of wall time and of CPU."""

    case: str
    round: int
    events: int
    seconds: float
    cpu: float

    @property
    def per_event_us(self) -> float:
        """CPU microseconds an event of clients and Redis together."""
        return 1e6 * self.cpu / self.events


def ratios(costs: Sequence[Cost], case: str) -> list[float]:
    """CPU an event of a case over that without the identity stage, of each round that has both."""
    base = {c.round: c.per_event_us for c in costs if c.case == WITHOUT}
    return [c.per_event_us / base[c.round] for c in costs if c.case == case and c.round in base]


def table(costs: Sequence[Cost]) -> str:
    """One row a case, in the order in which they came: medians and ranges."""
    return HEAD + "".join(_row(case, of, ratios(costs, case)) for case, of in _by_case(costs).items())


def _row(case: str, costs: Sequence[Cost], over: Sequence[float]) -> str:
    rate, each = spread([c.events / c.seconds for c in costs]), spread([c.per_event_us for c in costs], 1)
    return f"| `{case}` | {len(costs)} | {rate} | {each} | {spread(over, 2)} |\n"


def verdict(costs: Sequence[Cost]) -> str:
    """Whether the dearest case keeps to the goal, in words; empty where there is nothing to compare with."""
    medians = {case: statistics.median(r) for case in _by_case(costs) if case != WITHOUT and (r := ratios(costs, case))}
    if not medians:
        return ""
    dearest = max(medians, key=lambda case: medians[case])
    kept = "met" if medians[dearest] < GOAL else "**not met**"
    took = f"`{dearest}` takes {medians[dearest]:.2f} times"
    return f"The goal of less than {GOAL} times the CPU an event is {kept}: {took}.\n"


def spread(values: Sequence[float], digits: int = 0) -> str:
    """`median (least-most)`, the one value, or a dash."""
    if not values:
        return "–"
    middle = f"{statistics.median(values):,.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def _by_case(costs: Sequence[Cost]) -> dict[str, list[Cost]]:
    found: dict[str, list[Cost]] = {}
    for cost in costs:
        found.setdefault(cost.case, []).append(cost)
    return found
