"""The verifier's command: `python -m tests.faults.verifier --broker URL --prefix NAME`.

It reads the four topics and the group's offsets, and prints how records ended, what was looked at, and all findings.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.faults.exact import Rules
from tests.faults.verifier import INPUTS, Offsets, Record, Report, verify
from tests.support.readers import Read, hosts, read_topic

ANSWER_S = 30.0
TOPICS = (*INPUTS, "credits", "dead-letters")
INVARIANTS = [f"I{number}" for number in range(1, 9)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify what a broker holds; the exit code: 0 fine, 1 findings or nothing to look at, 3 cannot be read."""
    given = vars(_parser().parse_args(arguments))
    try:
        report = verified(given)
    except (KafkaException, LookupError, OSError) as error:
        print(f"{given['prefix']} on {given['broker']} cannot be read: {error}", file=sys.stderr)
        return 3
    print("\n".join(told(report)))
    return 1 if report.findings or not report.checked["I1"] else 0


def verified(given: dict[str, Any]) -> Report:
    """Read what the arguments name, and verify it."""
    broker, prefix = given["broker"], given["prefix"]
    records = [r for topic in TOPICS for r in as_records(f"{prefix}.{topic}", read_topic(broker, f"{prefix}.{topic}"))]
    return verify(
        records,
        prefix,
        Rules(**{one.name: given[one.name] for one in fields(Rules)}),
        applied=None if given["applied"] is None else parse_applied(given["applied"]),
        committed=committed(broker, prefix, given["group"] or f"{prefix}.credit"),
        replayed=None if given["replay"] is None else map(json.loads, given["replay"].read_text().splitlines()),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.verifier", description=(__doc__ or "").split("\n")[2])
    parser.add_argument("--broker", required=True, help="kafka://host:port; several: kafka://a:1;kafka://b:2")
    parser.add_argument("--prefix", required=True, help="of the topics")
    parser.add_argument("--group", help="the consumer group; default: PREFIX.credit")
    parser.add_argument("--applied", help="what the store says, partition by partition: '120,14;98,11' (for I5)")
    parser.add_argument("--replay", type=Path, help="NDJSON of the final view of a replay of the same log (for I7)")
    for one in fields(Rules):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(one.default), default=one.default)
    return parser


def of_cluster(cluster: Any) -> Report:
    """Verify what the workers of a `tests.support.cluster.Cluster` left, once they have stopped."""
    settings, names = cluster.settings, cluster.names
    broker, prefix = settings.kafka.broker, settings.kafka.prefix
    topics = [(name, cluster.log(name)) for name in (names.touches, names.conversions)]
    topics += [(name, read_topic(broker, name)) for name in (names.credits, names.dead_letters)]
    return verify(
        [record for name, found in topics for record in as_records(name, found)],
        prefix,
        rules_of(settings),
        applied=dict(enumerate(cluster.applied())),
        committed=dict(enumerate(cluster.committed())),
    )


def rules_of(settings: Any) -> Rules:
    """The rules that settings say; what they say beyond is not covered, and must be left at its default."""
    given = settings.attribution
    names = ("max_touches", "journey_touches_max", "currency", "short_path")
    times = ("lookback", "allowed_lateness", "corrections")
    return Rules(
        ",".join(given.models),
        settle_ms=settings.processing.settle,
        **{name: getattr(given, name) for name in names},
        **{f"{name}_ms": getattr(given, name) for name in times},
    )


def as_records(topic: str, found: Iterable[Read]) -> list[Record]:
    """Records as a reader gives them, with the full name of their topic."""
    return [Record(topic, r.partition, r.offset, r.timestamp_ms, r.key, r.value, r.headers) for r in found]


def parse_applied(text: str) -> dict[int, tuple[int, int]]:
    """`120,14;98,11`: the next offsets of touches and conversions of each partition; what follows them is left out."""
    pairs = [part.split(",") for part in text.split(";")]
    return {partition: (int(pair[0]), int(pair[1])) for partition, pair in enumerate(pairs)}


def committed(broker: str, prefix: str, group: str) -> Offsets:
    """The group's offsets of both input topics, 0 where there are none."""
    consumer = Consumer({"bootstrap.servers": hosts(broker), "group.id": group})
    try:
        topic = consumer.list_topics(f"{prefix}.touches", timeout=ANSWER_S).topics[f"{prefix}.touches"]
        asked = [TopicPartition(f"{prefix}.{kind}", p) for p in sorted(topic.partitions) for kind in INPUTS]
        found = [max(0, one.offset) for one in consumer.committed(asked, timeout=ANSWER_S)]
    finally:
        consumer.close()
    return dict(enumerate(zip(found[::2], found[1::2], strict=True)))


def told(report: Report) -> list[str]:
    """The report as lines: how records ended, what was looked at, and every finding."""
    lines = [
        f"{topic}/{partition}: " + ", ".join(f"{count} {end}" for end, count in ends.items())
        for (topic, partition), ends in sorted(report.records.items())
    ]
    for name in INVARIANTS:
        looks, breaches = report.checked[name], report.breaches[name]
        lines.append(f"{name}: {breaches} of {looks} looks failed" if looks else f"{name}: not looked at")
    return lines + [f"{found.invariant} {found.where}: {found.what}" for found in report.findings]
