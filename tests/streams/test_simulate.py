"""The made-up world: repeatable, in the stated shares, and every record does what it is said to do."""

import asyncio
import json
from collections import Counter, defaultdict

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.partitioner import murmur2

from models.channel import enrich
from models.events import decode_conversion, decode_touch
from models.facts import Conversion, Touch
from models.outcome import Rejected
from streams import embedded
from streams.errors import ConnectError, RunFailed
from streams.simulate import simulate
from streams.world.malformed import KINDS, spoil
from streams.world.world import Record, World

START_MS = 1_790_000_000_000
SEED = 7
STEP_MS = 50
RECORDS = 30_000


def records_of(seed: int, cut: int, count: int = RECORDS, **options: object) -> list[tuple[int, Record]]:
    """Records with the time at which each was asked for: a hundred every 50 ms, in calls of `cut`."""
    world = World(seed, rate=2_000, start_ms=START_MS, **options)  # type: ignore[arg-type]
    made: list[tuple[int, Record]] = []
    while len(made) < count:
        now_ms = START_MS + len(made) // 100 * STEP_MS
        made += [(now_ms, record) for record in world.next_batch(now_ms, min(cut, 100 - len(made) % 100))]
    return made


@pytest.fixture(scope="module")
def made() -> list[tuple[int, Record]]:
    print(f"seed {SEED}")
    return records_of(SEED, 100)


def decoded(now_ms: int, record: Record) -> Touch | Conversion:
    decode = decode_touch if record.topic_kind == "touches" else decode_conversion
    return decode(record.value, now_ms)


def test_the_same_seed_gives_the_same_bytes(made: list[tuple[int, Record]]) -> None:
    """Seed and start decide every byte, however the calls are cut; another seed gives other records."""
    assert records_of(SEED, 7) == made
    assert records_of(SEED + 1, 100, 100) != made[:100]


def test_the_kinds_come_in_their_shares(made: list[tuple[int, Record]]) -> None:
    """About 1 % duplicates, 2 % late, 0.3 % dead, a tenth conversions; most values in dollars.

    Only the second half counts: at the start there is nothing yet that could be late.
    """
    made = made[RECORDS // 2 :]
    shares = {kind: count / len(made) for kind, count in Counter(r.expected for _, r in made).items()}
    assert shares["duplicate"] == pytest.approx(0.01, abs=0.003)
    assert shares["late"] == pytest.approx(0.02, abs=0.006)
    assert shares["dead"] == pytest.approx(0.003, abs=0.0015)
    facts = [decoded(*each) for each in made if each[1].expected == "ok"]
    sales = [fact for fact in facts if isinstance(fact, Conversion)]
    assert 0.05 < len(sales) / len(facts) < 0.15
    actions = Counter(sale.action for sale in sales)
    assert actions["create"] > 10 * actions["restate"] > 10 * actions["retract"] > 0
    currencies = Counter(sale.currency for sale in sales if sale.value_micros)
    assert {"USD", "EUR", "GBP", "JPY", "CHF", "BRL"} <= set(currencies)
    assert currencies["USD"] > len(sales) / 3


def test_good_records_decode_under_their_key_and_dead_ones_do_not(made: list[tuple[int, Record]]) -> None:
    """Whatever is not said to be dead decodes, and its key is its person; a dead one fails at one of the two."""
    for now_ms, record in made:
        try:
            fact = decoded(now_ms, record)
            good = record.key == fact.person_id.encode()
        except Rejected:
            good = False
        assert good == (record.expected != "dead"), record


@pytest.mark.parametrize("kind", KINDS)
def test_each_bad_kind_is_refused(kind: str) -> None:
    """Every kind of malformed record is refused by its bytes, or by its key."""
    for bad in spoil(kind, "e-1", "p-1", START_MS):
        record = Record(bad.topic_kind, bad.key, bad.value, "dead")  # type: ignore[arg-type]
        if kind in ("null-key", "other-key"):
            assert decoded(START_MS, record).person_id == "p-1"
            assert record.key != b"p-1"
        else:
            with pytest.raises(Rejected):
                decoded(START_MS, record)


def test_a_torn_pair_is_whole_when_joined() -> None:
    """The two halves of a torn record are refused alone although together they are a touch."""
    halves = [bad.value or b"" for bad in spoil("torn-pair", "e-1", "p-1", START_MS)]
    assert decode_touch(b"".join(halves), START_MS).event_id == "e-1"


def test_labels_tell_the_truth(made: list[tuple[int, Record]]) -> None:
    """Events are new unless labelled duplicate, and touches lie before a sale sent earlier only if late."""
    seen: set[bytes | None] = set()
    sold_ms: dict[str, int] = defaultdict(int)
    for now_ms, record in made:
        if record.expected == "dead":
            continue
        assert (record.value in seen) == (record.expected == "duplicate")
        seen.add(record.value)
        fact = decoded(now_ms, record)
        if isinstance(fact, Conversion):
            if fact.action == "create" and record.expected == "ok":
                sold_ms[fact.person_id] = max(sold_ms[fact.person_id], fact.occurred_ms)
        elif record.expected != "duplicate":
            assert (fact.occurred_ms < sold_ms[fact.person_id]) == (record.expected == "late")


def test_campaigns_follow_a_zipf_law_and_half_of_the_touches_leave_the_channel_out(
    made: list[tuple[int, Record]],
) -> None:
    """A few campaigns take much of the traffic, over ten channels occur, and many must be derived."""
    fields = [json.loads(r.value or b"") for _, r in made if r.expected == "ok" and r.topic_kind == "touches"]
    origins = [enrich(None, None, None, None, None, None, f.get("url"), f.get("referrer")) for f in fields]
    derived = [origin for f, origin in zip(fields, origins, strict=True) if "channel" not in f]
    assert 0.3 < len(derived) / len(fields) < 0.6
    assert len({origin.channel for origin in derived}) >= 12
    assert "Unassigned" not in {origin.channel for origin in derived}
    sizes = [count for _, count in Counter(origin.campaign for origin in derived if origin.campaign).most_common()]
    assert len(sizes) > 150
    assert sum(sizes[: len(sizes) // 10]) > sum(sizes) / 3


def test_shoppers_come_back_and_deals_take_weeks(made: list[tuple[int, Record]]) -> None:
    """Some shoppers buy again, and the touches of most accounts lie days apart in event time."""
    facts = [decoded(*each) for each in made if each[1].expected == "ok"]
    orders = Counter(f.person_id for f in facts if isinstance(f, Conversion) and f.type == "order")
    assert max(orders.values()) > 1
    spans: dict[str, list[int]] = defaultdict(list)
    for fact in facts:
        if fact.account_id:
            spans[fact.account_id].append(fact.occurred_ms)
    days = sorted((max(times) - min(times)) / 86_400_000 for times in spans.values() if len(times) > 5)
    assert days[len(days) // 2] > 3
    assert {"lead", "opportunity", "order"} <= {f.type for f in facts}
    assert {"webinar", "event", "sales_call", "direct_mail"} <= {f.type for f in facts}


def test_accounts_may_own_the_journeys() -> None:
    """Under account journeys a record with an account is keyed by it."""
    made = records_of(SEED, 100, 3_000, journey="account")
    facts = [(record.key, decoded(now_ms, record)) for now_ms, record in made if record.expected == "ok"]
    assert {key == (fact.account_id or fact.person_id).encode() for key, fact in facts} == {True}


def test_a_small_world_stays_small() -> None:
    """With ten people, nothing waits for a free one for ever, and no more than ten appear."""
    world = World(SEED, people=10, rate=1_000, start_ms=START_MS)
    records = [record for step in range(50) for record in world.next_batch(START_MS + step * 1_000, 100)]
    assert len({record.key for record in records if (record.key or b"").startswith(b"p-")}) <= 10
    with pytest.raises(ValueError, match="at least 10"):
        World(SEED, people=9)


PREFIX = "made-up"
DEADLINE_S = 60


async def create_topics(bootstrap: str, *kinds: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    large = {"max.message.bytes": "4194304"}
    await admin.create_topics([NewTopic(f"{PREFIX}.{kind}", 3, 1, topic_configs=large) for kind in kinds])
    await admin.close()


async def test_what_is_counted_lies_in_kafka_in_murmur2_partitions() -> None:
    """Each confirmed record is in its topic, those with a key where Java's partitioner would have put them."""
    told: list[dict[str, int]] = []
    with embedded.broker() as kafka:
        await create_topics(kafka.bootstrap, "touches", "conversions")
        counts = await simulate(kafka.url, PREFIX, 50_000, SEED, 200, count=4_000, on_progress=told.append)
        found = await asyncio.wait_for(everything(kafka.bootstrap), DEADLINE_S)
    assert sum(counts.values()) == 4_000 == len(found)
    assert told[-1] == counts
    assert {"ok", "duplicate", "dead"} <= set(counts)
    assert all(part == (murmur2(key) & 0x7FFFFFFF) % 3 for part, key in found if key is not None)


async def everything(bootstrap: str) -> list[tuple[int, bytes | None]]:
    """(partition, key) of all records in both topics."""
    parts = [TopicPartition(f"{PREFIX}.{kind}", p) for kind in ("touches", "conversions") for p in range(3)]
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign(parts)
    ends = await consumer.end_offsets(parts)
    found: list[tuple[int, bytes | None]] = []
    while len(found) < sum(ends.values()):
        for records in (await consumer.getmany(timeout_ms=1_000)).values():
            found += [(record.partition, record.key) for record in records]
    await consumer.stop()
    return found


async def test_a_missing_topic_and_a_missing_broker_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the topics the run failed; without a broker there is no connection: two different exit codes."""
    monkeypatch.setattr("streams.simulate.START_SECONDS", 2)
    with embedded.broker() as kafka:
        await create_topics(kafka.bootstrap, "touches")
        with pytest.raises(RunFailed, match="T231"):
            await simulate(kafka.url, PREFIX, count=1)
        url = kafka.url
    with pytest.raises(ConnectError, match="T301"):
        await simulate(url, PREFIX, count=1)
