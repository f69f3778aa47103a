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
    {"attribution": {"models": ["inverse_j", "linear", "last_touch"], "max_touches": 2, "short_path": "split_middle"}},
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
    def heard(self) -> list[Record]:
        """Conversion records without the corrections that came too early or too late.

        A record that was refused is not heard of again: when it is sent once more it is no duplicate.
        """
        limit_ms = self.policy.corrections_ms
        created: Record = {}
        for record in self.conversions:
            if _is_create(record):
                created.setdefault(record["conversion_id"], record["_record_ms"])
        heard: list[Record] = []
        waiting: dict[str, int] = {}
        for record in self.conversions:
            at_ms, event_id = record["_record_ms"], record.get("event_id", "")
            away_ms = created[record["conversion_id"]] - at_ms
            if _is_create(record) or -limit_ms <= away_ms <= 0:
                heard.append(record)
            elif away_ms > 0 and at_ms - waiting.get(event_id, at_ms - limit_ms - 1) > limit_ms:
                if event_id:
                    waiting[event_id] = at_ms
                if away_ms <= limit_ms:
                    heard.append(record)
        return heard

    @property
    def policy(self) -> Policy:
        return Policy.from_effective(self.tables)

    @property
    def oracles_policy(self) -> Record:
        return {**self.tables, "processing": {"settle": f"{self.settle_ms}ms"}}


def _is_create(record: Record) -> bool:
    return bool(record.get("action", "create") == "create")


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    rng = random.Random(f"scenario {seed}")
    tables = POLICIES[seed % len(POLICIES)]
    accounts = tables["attribution"].get("journey") == "account"
    world = worlds.draw(seed, people=rng.randrange(1, 5), accounts=accounts)
    stamp = rng.choice((_stamp_as_in_life, _stamp_anyhow))
    # Copies, as a record that was sent twice has two record times.
    touches, conversions = (stamp(rng, [dict(r) for r in rs]) for rs in (world.touches, world.conversions))
    scenario = Scenario(seed, tables, rng.choice(SETTLES_MS), touches, conversions)
    owner = "account_id" if accounts else "person_id"
    for tp, records in ((TOUCHES, touches), (CONVERSIONS, conversions)):
        for record in records:
            key = record[owner].encode()
            scenario.arriving.append(Arriving(tp, record["_record_ms"], key, worlds.line(record).encode()))
            if rng.random() < 0.06:
                scenario.arriving.append(_bad(rng, tp, record["_record_ms"], key))
                scenario.bad += 1
    scenario.arriving.sort(key=lambda a: a.record_ms)
    return scenario


def _stamp_as_in_life(rng: random.Random, records: list[Record]) -> list[Record]:
    """Record time is event time and a lag."""
    for record in records:
        record["_record_ms"] = record["occurred_at"] + rng.choice(LAGS_MS)
    return _in_log_order(records)


def _stamp_anyhow(rng: random.Random, records: list[Record]) -> list[Record]:
    """Record times over 60 days that have nothing to do with event times, so that much comes too late."""
    for record in records:
        record["_record_ms"] = worlds.STAMPS_MS + rng.randrange(60 * 24) * HOUR_MS
    return _in_log_order(records)


def _in_log_order(records: list[Record]) -> list[Record]:
    records.sort(key=lambda r: r["_record_ms"])
    for order, record in enumerate(records):
        record["_order"] = order
    return records


def _bad(rng: random.Random, tp: TP, record_ms: int, key: bytes) -> Arriving:
    value: bytes | None = rng.choice([None, b"{", b"[]", b'{"event_id":"', b"\xff\xfe", b'{"person_id":"p"}'])
    return Arriving(tp, record_ms, rng.choice([key, None, b"someone else"]), value)
