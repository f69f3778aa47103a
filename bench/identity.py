"""What the identity stage costs: the same events as whole persons, as users to resolve, and as visitors to merge.

    python -m bench.identity [--scale 0.5] [--workers 1] [--rounds 1]

It is part of `make bench` too.

`persons` go straight to touches and conversions, with the identity stage off. `users` are raw events that name a user
id. `visitors` are raw touches under anonymous ids; Identify records on the log before them say whose they are, and
conversions name the user. Each visitor is merged once, before any touch of theirs is credited. Events are all records
that come from outside: touches, conversions and Identify records. The clock runs from the
first claim of a partition to the moment at which nothing is left to process for either stage; CPU is that of all worker
processes and Redis between the two.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import Producer

from bench import generate
from bench.cost import Cost, table, verdict
from bench.jars import HERE
from bench.measure import first_claim
from bench.processes import Child
from bench.report import rewrite
from bench.servers import Servers, servers
from bench.systems import ROOT, apply_topics
from streams.replay_keys import ReplayKeys
from streams.settings import Settings, load_settings
from streams.settled import Ends, Reader, applied_of
from streams.topics import group_of, names, topics_of

PARTITIONS = 4
TOUCHES = 1_000_000
# Half of the benchmark's data: with less, what a start takes is a part of the figures.
SCALE = 0.5
RUN_SECONDS = 1_200.0
POLL_SECONDS = 0.2
CONFIG = Path(__file__).with_name("touchstream.toml")
CASES = {"persons": generate.PERSONS, "users": generate.USERS, "visitors": generate.VISITORS}


def compare(touches: int, workers: int, rounds: int, cases: Sequence[str] = tuple(CASES)) -> list[Cost]:
    """Every case once a round, printed as they come, each on servers of its own."""
    costs = []
    for number in range(1, rounds + 1):
        for case in cases if number % 2 else cases[::-1]:
            with servers("identity") as here:
                costs.append(measure(case, number, touches, workers, here))
            cost = costs[-1]
            rate, each = cost.events / cost.seconds, cost.per_event_us
            print(
                f"{number} {case:10} {cost.events:>9,} events {rate:>9,.0f} /s {each:6.2f} CPU us an event", flush=True
            )
    return costs


def measure(case: str, number: int, touches: int, workers: int, here: Servers) -> Cost:
    """Fill the topics, run the product until nothing is left, and end it."""
    prefix = f"bench-{case}"
    broker = here.kafka.bootstrap
    options = {"kafka.broker": f"kafka://{broker}", "redis.url": here.redis.url, "kafka.prefix": prefix}
    settings = load_settings(CONFIG, {**options, "identity.enabled": case != "persons"}, environ={})
    apply_topics(broker, prefix)
    identities = _identify(broker, names(settings)["identities"], touches // 10) if case == "visitors" else 0
    made = generate.generate(broker, prefix, touches, PARTITIONS, naming=CASES[case])
    command = [str(ROOT / ".venv" / "bin" / "touchstream"), "run", "--workers", str(workers), "--config", str(CONFIG)]
    command += ["--broker", f"kafka://{broker}", "--redis", here.redis.url, "--prefix", prefix]
    log = here.work / f"{case}.log"
    redis_before = here.redis.child.usage.sample()
    child = Child(command, log, {"TOUCHSTREAM_IDENTITY__ENABLED": str(case != "persons").lower()})
    try:
        asyncio.run(_settled(settings, child))
        ended, cpu = time.time(), child.usage.sample()
    finally:
        child.stop()
    redis = here.redis.child.usage.sample() - redis_before
    begun_ms = first_claim(log)
    if begun_ms is None:
        raise RuntimeError("no partition was ever claimed:\n" + child.tail())
    return Cost(
        case, number, made.events + identities, ended - begun_ms / 1000, cpu - child.usage.at(begun_ms / 1000) + redis
    )


def _identify(broker: str, topic: str, people: int) -> int:
    """One Identify record a person; how many they are."""
    producer = Producer({"bootstrap.servers": broker, "partitioner": "murmur2_random", "linger.ms": 20})
    for n in range(people + 1):
        person = f"p{n:07d}"
        record = {"anonymous_id": person, "user_id": person, "occurred_at": generate.START_MS}
        producer.produce(topic, json.dumps(record), person)
        producer.poll(0)
    if producer.flush(60):
        raise RuntimeError("identities were not produced within 60 s")
    return people + 1


async def _settled(settings: Settings, child: Child) -> None:
    t = topics_of(settings)
    stages = [Reader((t.touches, t.conversions, t.moves), ReplayKeys(settings, settings.kafka.prefix, PARTITIONS))]
    if settings.identity.enabled:
        inputs = (t.links, t.identities, t.raw_touches, t.raw_conversions)
        stages.append(Reader(inputs, ReplayKeys(settings, group_of(settings, "identity"), PARTITIONS)))
    deadline = time.monotonic() + RUN_SECONDS
    async with Ends(settings) as ends:
        while not await ends.reached(await applied_of(stages)):
            if child.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the run did not come to its end:\n" + child.tail())
            await asyncio.sleep(POLL_SECONDS)
    for stage in stages:
        await stage.keys.close()


def main() -> None:
    """Run the cases one after the other and print them with their ratios to whole persons."""
    parser = argparse.ArgumentParser(description="What the identity stage costs, as a ratio to a run without it.")
    parser.add_argument("--scale", type=float, default=SCALE, help="1 is a million touches")
    parser.add_argument("--workers", type=int, default=1, help="worker processes of each stage")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default=",".join(CASES), help="cases, separated by commas")
    parser.add_argument("--keep", action="store_true", help="put the figures into RESULTS.md, beside the others there")
    given = parser.parse_args()
    costs = compare(int(TOUCHES * given.scale), given.workers, given.rounds, given.only.split(","))
    print(table(costs) + verdict(costs), end="")
    if given.keep:
        rewrite(HERE, identity=costs)


if __name__ == "__main__":
    main()
