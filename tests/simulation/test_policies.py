"""Policies that change while the world runs: what a conversion is credited under depends on its record time alone.

Workers come and go, some knew of a policy when they started, others hear of it on the way; the store forgets, and is
made again from the log. An announcement can be read from the moment on at which the log's clock stands at its time.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from models.policy import Policy
from models.schedule import LEAD_MS, Announced
from streams.following import Following
from tests.simulation import checks, run, scenario, schedule, simulation
from tests.simulation.simulation import Simulation
from tests.simulation.worker import Worker
from tests.support import oracle, readers

Tables = dict[str, Any]

# What one conversion is credited with under these depends on no other one, and on its own policy only.
CHANGES: Sequence[Tables] = (
    {"attribution": {"models": ["linear", "first_touch"]}},
    {"attribution": {"models": ["linear"], "allowed_lateness": "30d", "lookback": "14d"}},
    {
        "attribution": {
            "models": ["last_touch", "participation"],
            "allowed_lateness": "0s",
            "exclude_channels": ["email"],
        }
    },
    {"attribution": {"models": ["linear"], "max_touches": 2}, "conversions": {"order": {"value": "10.01"}}},
    {"attribution": {"models": ["linear"]}, "conversions": {"lead": {"credited": False, "milestone": "lead"}}},
)
WORLDS = 60


class Announcements:
    """What can be read of the policies: those announced by the time at which the log's clock stands."""

    def __init__(self, world: Simulation, announced: Sequence[Announced]) -> None:
        self._world, self._announced = world, announced
        self.looks = 0

    def now(self) -> list[Announced]:
        logs = self._world.kafka.logs.values()
        clock_ms = max((log.records[-1].timestamp for log in logs if log.records), default=0)
        return [each for each in self._announced if each.from_ms == 0 or each.from_ms - LEAD_MS <= clock_ms]

    async def read(self) -> list[Announced]:
        self.looks += 1
        return self.now()

    async def close(self) -> None:
        pass


class Follower(Worker):
    """A worker that knows what was announced when it started."""

    def __init__(self, world: Any, rng: random.Random) -> None:
        super().__init__(world, rng)
        announcements, own = world.announcements, world.scenario.policy
        following = Following(own, world.scenario.settle_ms, announcements.now(), announcements)
        self.task._following = following
        self.task._use(following.rules)


class ChangingWorld(Simulation):
    """A world in which policies follow one another at record times that conversions have to the millisecond."""

    def __init__(self, seed: int, strikes: schedule.Schedule, seen: Counter[str]) -> None:
        rng = random.Random(f"policies {seed}")
        self.tables = rng.sample(CHANGES, rng.choice((2, 2, 3)))
        super().__init__(replace(scenario.draw(seed * len(scenario.POLICIES)), tables=self.tables[0]), strikes, seen)
        times = sorted({c["_record_ms"] for c in self.scenario.conversions})
        starts = sorted(rng.sample(times, min(len(times), len(self.tables) - 1)))
        self.starts_ms = [0, *starts]
        of = [Policy.from_effective(tables) for tables in self.tables]
        self.announced = [Announced(p.version, at, p) for p, at in zip(of, self.starts_ms, strict=False)]
        self.announcements = Announcements(self, self.announced)

    def expected(self) -> list[dict[str, Any]]:
        """The oracle's credits of each conversion under the policy of its record time."""
        created: dict[str, int] = {}
        for c in self.scenario.conversions:
            if c.get("action", "create") == "create":
                created.setdefault(c["conversion_id"], c["_record_ms"])
        rows = []
        for i, from_ms in enumerate(self.starts_ms):
            until_ms = self.starts_ms[i + 1] if i + 1 < len(self.starts_ms) else 1 << 60
            policy = {**self.tables[i], "processing": {"settle": f"{self.scenario.settle_ms}ms"}}
            version = self.announced[i].version
            view = oracle.final_view(self.scenario.touches, self.scenario.heard, policy, pruned=True)
            of_then = [row for row in view if from_ms <= created[row["conversion_id"]] < until_ms]
            rows += [{**row, "policy_version": version} for row in of_then]
        return sorted(rows, key=lambda row: (row["conversion_id"], row["attribution_model"], row["position"]))


def simulate(seed: int, *, calm: bool = False) -> ChangingWorld:
    strikes = schedule.Schedule([]) if calm else schedule.draw(seed)
    world = ChangingWorld(seed, strikes, Counter())
    with mock.patch.object(simulation, "Worker", Follower):
        run.simulate(world)
    return world


@pytest.mark.parametrize("seed", range(WORLDS))
def test_the_policy_is_that_of_the_record_time_whoever_works(seed: int) -> None:
    """Credits and their versions are those of the policy of each conversion's record time, through crashes, zombies,
    hand-overs, emptied stores and rebuilds."""
    world = simulate(seed)
    wire = [readers.Read(0, c.offset, c.timestamp, c.key, c.value) for c in world.kafka.credits]
    assert readers.repeated(wire) == []
    view = readers.append_only_view(wire)
    assert readers.upsert_view(wire) == view
    kept = {"without": {"revision"}}
    assert oracle.comparable(view, **kept) == oracle.comparable(world.expected(), **kept), f"seed {seed}"
    checks.check_history(world)
    checks.check_offsets(world)


def test_workers_look_seldom() -> None:
    """While record times are near the last look nobody looks: not once a step."""
    for seed in range(6):
        world = simulate(seed, calm=True)
        times = {c["_record_ms"] for c in world.scenario.conversions}
        assert 0 < world.announcements.looks <= len(times) + 1, f"seed {seed}"
