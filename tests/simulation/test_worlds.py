"""Many seeded worlds with every trouble there is: the final view is always the one that the oracle computes."""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.simulation.scenario import Scenario, draw
from tests.simulation.simulation import Simulation, patched
from tests.support import oracle, readers
from tests.support.fakes import virtual_time

ONE = os.environ.get("TOUCHSTREAM_SIM_SEED")
COUNT = int(os.environ.get("TOUCHSTREAM_SIM_WORLDS", "300"))
SEEDS = [int(ONE)] if ONE else range(COUNT)
ENOUGH = 200


@pytest.fixture(scope="module")
def seen() -> Iterator[Counter[str]]:
    """How often each kind of trouble struck."""
    with patched():
        yield Counter()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_world_comes_to_the_right_view(seed: int, seen: Counter[str]) -> None:
    """Whatever is cut, late, doubled, corrected, killed or forgotten, readers end with the oracle's credits."""
    print(f"repeat with TOUCHSTREAM_SIM_SEED={seed}")
    scenario = draw(seed)
    simulation = run(scenario, seen)
    check(scenario, simulation)


def run(scenario: Scenario, seen: Counter[str], **options: Any) -> Simulation:
    with virtual_time() as runner:

        async def start() -> Simulation:
            simulation = Simulation(scenario, seen, **options)
            await simulation.run()
            return simulation

        return runner.run(start())


def check(scenario: Scenario, simulation: Simulation) -> None:
    kafka = simulation.kafka
    wire = [readers.Read(0, c.offset, c.timestamp, c.key, c.value) for c in kafka.credits]
    view = readers.append_only_view(wire)
    assert readers.upsert_view(wire) == view
    assert readers.repeated(wire) == []
    expected = oracle.final_view(scenario.touches, scenario.heard, scenario.oracles_policy, pruned=True)
    assert oracle.comparable(view) == oracle.comparable(expected)
