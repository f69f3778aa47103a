"""Faults of what comes in: deleted records, refused credits, hot people, endless journeys, upstream transactions."""

import asyncio
import random
import re
import signal
from functools import partial

from confluent_kafka import Message, Producer

from streams.accept import accept
from tests.faults import refusals
from tests.faults.rounds import Round, Scenario, victim
from tests.support import worlds
from tests.support.cluster import ADMIN_S, Wave, draw_waves

LONG = partial(draw_waves, waves=300, people=1_400, quiet_touches=4_600)
# Here the input is the fault, so all of it is sent.
ALL = (None, None)
LARGE = {"fetch_records": 4_000, "step_records": 8_000}
# A transaction that hangs holds everything behind it back until the coordinator, which looks every 10 s, ends it.
HANGS_MS = 3_000
# Between what a batch of the bulky person takes and what any other does.
BULKY_BYTES = 30_000
ENDLESS_TOUCHES = 100_000
FLOOD = 2_000
ENDLESS_CONVERSIONS = 20


def deleted_once_used(one: Round) -> None:
    """Records below the committed offsets are deleted under load, and a worker is killed that has to start there."""
    for _ in range(3):
        committed = one.cluster.committed()
        one.cluster.remember(committed)
        one.cluster.delete_below(committed)
        victim(one).signal(signal.SIGKILL)
        one.run_for(2.0)


def deleted_before_read(one: Round) -> None:
    """While nobody works, records beyond the committed offsets are deleted: they are nobody's, all others count."""
    cluster = one.cluster
    cluster.start()
    cluster.until_records(1_000)
    cluster.stop()
    cluster.send_waves(10)
    applied, ends = cluster.applied(), cluster.ends()
    cluster.remember(applied)
    starts = [((a + c) // 2, (b + d) // 2) for (a, b), (c, d) in zip(applied, ends, strict=True)]
    cluster.sent -= sum(map(sum, starts)) - sum(map(sum, applied))
    cluster.delete_below(starts)
    cluster.start()


def flood(one: Round) -> None:
    """Somebody writes something else into the topic: its partition stands still until a person accepts it."""
    cluster = one.cluster
    broken = [(cluster.names.touches, b"flood", f'{{"broken": "flood {n}"'.encode()) for n in range(FLOOD)]
    cluster.waves.insert(0, broken)
    cluster.send_wave()
    cluster.until(lambda: one.said("stands still") > 0, "the trip wire stops a partition", feeding=False)
    stopped = [int(partition) for partition in re.findall(r"partition (\d+) stands still", cluster.said())]
    before = cluster.applied()
    one.run_for(2.0)
    assert all(cluster.applied()[partition] == before[partition] for partition in stopped), "it did not stand still"
    accepted = asyncio.run(accept(cluster.settings))
    assert [found.partition for found in accepted if found.done == "accepted now"] == stopped, (accepted, stopped)


def upstream_transactions(one: Round) -> None:
    """The input comes in transactions: most are committed, some are aborted, one hangs until it is timed out."""
    cluster = one.cluster
    upstream = Producer(
        {
            "bootstrap.servers": one.servers.kafka.bootstrap,
            "transactional.id": f"upstream-of-{cluster.settings.kafka.prefix}",
            "transaction.timeout.ms": HANGS_MS,
            "partitioner": "murmur2_random",
        }
    )
    upstream.init_transactions(ADMIN_S)
    for number in range(30):
        upstream.begin_transaction()
        delivered = _produce(upstream, cluster.waves[0])
        if number % 3 == 1:
            upstream.abort_transaction(ADMIN_S)
        else:
            upstream.commit_transaction(ADMIN_S)
            cluster.waves.pop(0)
            cluster.count_in(delivered)
        one.run_for(0.1)
    upstream.begin_transaction()
    _produce(upstream, cluster.waves[0])
    seen = cluster.sent
    cluster.until(lambda: cluster.sent > seen and cluster.applied() == cluster.ends(), "the hanging one is ended")


def _produce(upstream: Producer, wave: Wave) -> list[Message]:
    delivered: list[Message] = []
    for topic, key, value in wave:
        upstream.produce(topic, value, key, on_delivery=lambda error, message: delivered.append(message))
    assert upstream.flush(ADMIN_S) == 0, "the broker did not take the input"
    return delivered


def refused_credits(one: Round) -> None:
    """One credits partition refuses its batches for a while; the others go on."""
    cluster = one.cluster
    usual = refusals.limit(cluster)
    refusals.set_limit(cluster, BULKY_BYTES)
    before = one.said("claiming again")
    cluster.until(lambda: one.said("claiming again") >= before + 3, "batches are refused")
    one.run_for(3.0)
    refusals.set_limit(cluster, usual)
    refused = set(re.findall(r"partition (\d+): .*claiming again", cluster.said()))
    assert len(refused) == 1, f"batches of partitions {sorted(refused)} were refused"


def bulky_waves(seed: int, names: tuple[str, str]) -> list[Wave]:
    """One person whose credits do not compress, so that only their partition's batches are large."""
    rng = random.Random(seed)
    waves = draw_waves(seed, names, waves=300, people=800, quiet_touches=4_600)
    for number in range(300):
        touch: worlds.Record = {
            "event_id": rng.randbytes(120).hex(),
            "person_id": "bulky",
            "occurred_at": worlds.START_MS + 20 * worlds.DAY_MS + number,
            "channel": "Email",
        }
        waves[0].append((names[0], b"bulky", worlds.line(touch).encode()))
    for number, wave in enumerate(waves[1:]):
        conversion: worlds.Record = {
            "conversion_id": f"bulky-{number}",
            "person_id": "bulky",
            "occurred_at": worlds.START_MS + 30 * worlds.DAY_MS + number,
        }
        wave.append((names[1], b"bulky", worlds.line(conversion).encode()))
    return waves


def hot_waves(seed: int, names: tuple[str, str]) -> list[Wave]:
    """Half of all touches and conversions are of one person."""
    rng = random.Random(seed)
    waves = draw_waves(seed, names, waves=100, people=150)
    half = len([None for wave in waves for topic, *_ in wave if topic == names[0]])
    return _with_person(rng, waves, names, half, 150)


def endless_waves(seed: int, names: tuple[str, str]) -> list[Wave]:
    """One journey of 100,000 touches, and twenty conversions on the way."""
    rng = random.Random(seed)
    waves = draw_waves(seed, names, waves=50, people=50, quiet_touches=500)
    return _with_person(rng, waves, names, ENDLESS_TOUCHES, ENDLESS_CONVERSIONS)


def _with_person(
    rng: random.Random, waves: list[Wave], names: tuple[str, str], touches: int, conversions: int
) -> list[Wave]:
    """Spread the records of one more person over the waves."""
    for number in range(touches + conversions):
        is_touch = number < touches
        record: worlds.Record = {
            "event_id" if is_touch else "conversion_id": f"hot-{number}",
            "person_id": "hot",
            "occurred_at": worlds.START_MS + rng.randrange(40 * worlds.DAY_MS),
        }
        record |= {"channel": rng.choice(worlds.CHANNELS)} if is_touch else {"value": rng.choice(worlds.VALUES)}
        rng.choice(waves).append((names[0] if is_touch else names[1], b"hot", worlds.line(record).encode()))
    return waves


def go_on(one: Round) -> None:
    """Nothing happens: the input itself is the fault."""


HOT = {"lookback": "1d", "models": ["last_touch", "linear", "time_decay"]}
ENDLESS = {"journey_touches_max": 2 * ENDLESS_TOUCHES, "models": ["first_touch", "linear"]}

SCENARIOS = (
    Scenario("used records deleted, kill -9", deleted_once_used, workers=2, draw=LONG),
    Scenario("upstream transactions abort and hang", upstream_transactions, workers=2, draw=LONG),
    Scenario("a flood of dead letters", flood, workers=2, draw=LONG),
    Scenario("one credits partition refuses", refused_credits, workers=2, draw=bulky_waves),
    Scenario("a person with half of the traffic", go_on, workers=2, rest=ALL, draw=hot_waves, attribution=HOT),
    Scenario(
        "a journey of 100,000 touches",
        go_on,
        workers=2,
        rest=ALL,
        draw=endless_waves,
        attribution=ENDLESS,
        processing=LARGE,
        backlog=10_000,
    ),
    Scenario("offsets out of range", deleted_before_read, workers=2, draw=LONG),
)
