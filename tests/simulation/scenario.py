"""What a simulated world is about: a policy, and records in the order and at the times in which they reach Kafka."""

import random
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from faust.types import TP

from models.policy import Policy
from tests.support import worlds
from tests.support.fakes import CONVERSIONS, TOUCHES

HOUR_MS, DAY_MS = worlds.HOUR_MS, worlds.DAY_MS
Record = dict[str, Any]

POLICIES: list[Record] = [
    {"attribution": {"models": ["first_touch", "last_touch", "linear", "position_based", "time_decay"]}},
    {"attribution": {"models": ["linear"], "allowed_lateness": "30d", "corrections": "20d"}},
    {"attribution": {"models": ["linear", "last_non_direct"], "allowed_lateness": "0s"}},
    {
        "attribution": {
            "models": ["linear", "last_touch"],
            "touch_reuse": "reset_after_conversion",
            "lookback": "14d",
            "lookback_by_touch_type": {"impression": "1d", "click": "45d"},
        },
        "conversions": {
            "order": {"lookback": "30d", "value": "10.01"},
            "lead": {"credited": False, "milestone": "lead"},
        },
    },
    {
        "attribution": {
            "models": ["first_touch", "linear"],
            "touch_reuse": "reset_after_conversion",
            "allowed_lateness": "60d",
            "corrections": "15d",
        }
    },
    {
        "attribution": {
            "models": ["j_shaped", "participation"],
            "direct": "ignore_unless_alone",
            "exclude_channels": ["EMAIL"],
            "repeats": "collapse_adjacent",
            "currency": "EUR",
        }
    },
    {"attribution": {"models": ["inverse_j", "linear"], "max_touches": 2, "short_path": "split_middle"}},
    {"attribution": {"models": ["linear", "participation"], "journey": "account", "allowed_lateness": "20d"}},
]
# Lags of record time behind event time where records come as they do in life: mostly at once, some late.
LAGS_MS = (0, 0, 0, 1, 40, 900, HOUR_MS, DAY_MS, 6 * DAY_MS, 8 * DAY_MS, 25 * DAY_MS)
SETTLES_MS = (0, 20, 250)


class Arriving(NamedTuple):
    """A record that a producer appends."""

    tp: TP
    record_ms: int
    key: bytes | None
    value: bytes | None


@dataclass
class Scenario:
    """Everything that is given from outside; `good` records carry their record time for the oracle."""

    seed: int
    tables: Record
    settle_ms: int
    touches: list[Record] = field(default_factory=list)
    conversions: list[Record] = field(default_factory=list)
    arriving: list[Arriving] = field(default_factory=list)
    bad: int = 0

    @property
    def policy(self) -> Policy:
        return Policy.from_effective(self.tables)

    @property
    def oracles_policy(self) -> Record:
        return {**self.tables, "processing": {"settle": f"{self.settle_ms}ms"}}


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    rng = random.Random(f"scenario {seed}")
    tables = POLICIES[seed % len(POLICIES)]
    accounts = tables["attribution"].get("journey") == "account"
    live = rng.random() < 0.6
    world = worlds.draw(seed, people=rng.randrange(1, 5), late=not live, accounts=accounts)
    if live:
        for records in (world.touches, world.conversions):
            _stamp_as_in_life(rng, records)
    scenario = Scenario(seed, tables, rng.choice(SETTLES_MS), world.touches, world.conversions)
    owner = "account_id" if accounts else "person_id"
    for tp, records in ((TOUCHES, world.touches), (CONVERSIONS, world.conversions)):
        for record in records:
            key = record[owner].encode()
            scenario.arriving.append(Arriving(tp, record["_record_ms"], key, worlds.line(record).encode()))
            if rng.random() < 0.06:
                scenario.arriving.append(_bad(rng, tp, record["_record_ms"], key))
                scenario.bad += 1
    scenario.arriving.sort(key=lambda a: a.record_ms)
    return scenario


def _stamp_as_in_life(rng: random.Random, records: list[Record]) -> None:
    """Record time is event time and a lag."""
    for record in records:
        record["_record_ms"] = record["occurred_at"] + rng.choice(LAGS_MS)
    records.sort(key=lambda r: r["_record_ms"])
    for order, record in enumerate(records):
        record["_order"] = order


def _bad(rng: random.Random, tp: TP, record_ms: int, key: bytes) -> Arriving:
    value: bytes | None = rng.choice([None, b"{", b"[]", b'{"event_id":"', b"\xff\xfe", b'{"person_id":"p"}'])
    return Arriving(tp, record_ms, rng.choice([key, None, b"someone else"]), value)
