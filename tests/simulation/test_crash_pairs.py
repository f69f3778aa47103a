"""Every crash point at every passing, and every ordered pair of them: what a process dies of first, its heir next."""

from collections import Counter
from itertools import count, product

import pytest

from streams.crash import CRASH_POINTS
from tests.simulation import checks, run, scenario
from tests.simulation.schedule import CLAIMING, Schedule, Strike
from tests.simulation.simulation import Simulation

# A world of every policy there is.
WORLDS = range(8)
# A process passes these once a claim, and the others once a step.
PASSINGS = {point: (1,) if point in CLAIMING else (1, 2, 5) for point in CRASH_POINTS}
# Where all was done before the heir came by, nothing is shown; such worlds must stay few.
MET = 0.8


def _crashed(seed: int, *strikes: Strike) -> int:
    """Run the world of a seed with these crashes, one after the other, judge it, and say how many came to pass."""
    seen: Counter[str] = Counter()
    simulation = Simulation(scenario.draw(seed), Schedule([strikes]), seen)
    run.simulate(simulation)
    checks.check(simulation)
    return sum(seen[f"crash at {point}"] for point in CRASH_POINTS)


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_crash_at_each_passing(point: str) -> None:
    """A process that dies at a point, at whichever passing of it, leaves a log from which its heir ends up right."""
    for passing in count(1):
        if not _crashed(WORLDS[0], Strike("crash", point, passing)):
            break
    assert passing > len(PASSINGS[point]), f"passed {passing - 1} times"


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), list(product(CRASH_POINTS, repeat=2)))
def test_a_crash_after_a_crash(first: str, second: str) -> None:
    """A process dies at one point and its heir at another, or at the same: the credits are right, each once."""
    cases = list(product(WORLDS, PASSINGS[first], PASSINGS[second]))
    both = [_crashed(seed, Strike("crash", first, n), Strike("crash", second, m)) == 2 for seed, n, m in cases]
    assert sum(both) >= MET * len(cases), f"both died in {sum(both)} of {len(cases)} worlds"
