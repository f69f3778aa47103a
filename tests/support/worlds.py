"""Small drawn worlds: a few people with touches, conversions, duplicates, corrections and late records.

Everything comes from the seed. Times lie on a coarse grid around the edges that policies have (lookbacks,
ties, the moment of the conversion itself), because that is where an implementation goes wrong. Ids carry the
seed, so that many worlds fit into one replay.
"""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]

START_MS = 1_717_200_000_000  # 2024-06-01T00:00:00Z
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
STAMPS_MS = START_MS + 40 * DAY_MS  # no record is from its own future
CHANNELS = ("Email", "email", "Paid Search", "Display", "direct", "(Direct)", "Referral")
CAMPAIGNS = ("spring", "Spring", "summer", "brand")
# Ages in days of a touch at a conversion: the ends of the lookbacks used in tests, and between.
AGES_DAYS = (0, 0, 1, 1, 2, 3, 5, 7, 10, 14, 29, 30, 30, 31, 45)
NUDGES_MS = (0, 0, 0, 1, -1, HOUR_MS, -12 * HOUR_MS, 999)
VALUES = ("0", "0.000001", "0.00001", "1", "7.77", "10", "99.99", "123456.654321", "1000000")


@dataclass
class World:
    """Records in log order: touches and conversions, each a topic of its own."""

    seed: int
    touches: list[Record] = field(default_factory=list)
    conversions: list[Record] = field(default_factory=list)


def draw(seed: int, *, people: int = 4, late: bool = False, accounts: bool = False) -> World:
    """A world whose ids carry its seed; with `late`, records have `_record_ms`, with `accounts`, an account_id."""
    rng = random.Random(seed)
    world = World(seed)
    for number in range(people):
        _draw_person(rng, world, f"w{seed}-p{number}")
    if accounts:
        _join_accounts(world)
    if late:
        _stamp(rng, world)
    return world


def _draw_person(rng: random.Random, world: World, person: str) -> None:
    sales = [START_MS + rng.randrange(60) * DAY_MS // 2 for _ in range(rng.randrange(1, 4))]
    touches = [_touch(rng, person, number, rng.choice(sales) - _age_ms(rng)) for number in range(rng.randrange(9))]
    touches += [_altered(rng, t) for t in touches if rng.random() < 0.15]
    world.touches += _in_disorder(rng, touches)
    conversions: list[Record] = []
    for number, at in enumerate(sales):
        create = _create(rng, person, number, at)
        conversions += [create, *_corrections(rng, create)]
        if rng.random() < 0.15:
            conversions.append({**create, "value": rng.choice(VALUES)})
    # Corrections may come before their create, which is what the disorder is for.
    world.conversions += _in_disorder(rng, conversions)


def _join_accounts(world: World) -> None:
    """Two people share an account: the even ones and the odd ones."""
    for record in (*world.touches, *world.conversions):
        record["account_id"] = f"w{world.seed}-a{int(record['person_id'].rpartition('p')[2]) % 2}"


def _age_ms(rng: random.Random) -> int:
    return rng.choice(AGES_DAYS) * DAY_MS + rng.choice(NUDGES_MS)


def _touch(rng: random.Random, person: str, number: int, at: int) -> Record:
    touch: Record = {
        "event_id": f"{person}-t{number}",
        "person_id": person,
        "occurred_at": at,
        "channel": rng.choice(CHANNELS),
        "campaign": rng.choice((*CAMPAIGNS, "")),
        "type": rng.choice(("visit", "click", "impression")),
    }
    if rng.random() < 0.3:
        touch |= {"source": rng.choice(("google", "news|letter")), "medium": "cpc", "term": "läufer"}
    return touch


def _altered(rng: random.Random, touch: Record) -> Record:
    """A duplicate that says something else: it must not be heard."""
    return {**touch, "channel": rng.choice(CHANNELS), "campaign": "never"}


def _create(rng: random.Random, person: str, number: int, at: int) -> Record:
    create: Record = {
        "conversion_id": f"{person}-c{number}",
        "person_id": person,
        "occurred_at": at,
        "value": rng.choice(VALUES),
        "type": rng.choice(("conversion", "order", "lead")),
    }
    if rng.random() < 0.3:
        create["currency"] = rng.choice(("EUR", "JPY"))
    if rng.random() < 0.5:
        create["event_id"] = f"{create['conversion_id']}-created"
    return create


def _corrections(rng: random.Random, create: Record) -> list[Record]:
    """Up to two restates, at times of the same moment or sent twice, and now and then a retract."""
    found: list[Record] = []
    for number in range(rng.choice((0, 0, 0, 1, 2))):
        at = create["occurred_at"] + rng.choice((1, 1, 2)) * DAY_MS
        one = {**_bare(create), "action": "restate", "occurred_at": at}
        change: list[Record] = [{"value": rng.choice(VALUES)}, {"currency": "GBP"}]
        one |= rng.choice(change)
        if rng.random() < 0.5:
            one["event_id"] = f"{create['conversion_id']}-r{number}"
            found.append(one)
        found.append(one)
    if rng.random() < 0.15:
        found.append({**_bare(create), "action": "retract", "occurred_at": create["occurred_at"] + 3 * DAY_MS})
    return found


def _bare(create: Record) -> Record:
    return {name: create[name] for name in ("conversion_id", "person_id", "type")}


def _in_disorder(rng: random.Random, records: Sequence[Record]) -> list[Record]:
    return rng.sample(records, len(records))


def _stamp(rng: random.Random, world: World) -> None:
    """Record times over 60 days in log order, so that some records miss what they belong to."""
    for records in (world.touches, world.conversions):
        rng.shuffle(records)
        times = sorted(STAMPS_MS + rng.randrange(60 * 24) * HOUR_MS for _ in records)
        for order, (record, record_ms) in enumerate(zip(records, times, strict=True)):
            record |= {"_record_ms": record_ms, "_order": order}


def line(record: Record) -> str:
    """The record as it goes over the wire: our own fields, which start with `_`, stay behind."""
    wire = {name: value for name, value in record.items() if not name.startswith("_")}
    return json.dumps(wire, ensure_ascii=False, separators=(",", ":"))


def lines(records: Iterable[Record]) -> list[str]:
    """All records as NDJSON lines without their newline."""
    return [line(record) for record in records]
