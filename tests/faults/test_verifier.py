"""The verifier passes what the product publishes, and rejects every way of corrupting it by the invariant it breaks."""

import ast
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.faults import corrupted, exact, verifier, verifying
from tests.faults.conftest import Make
from tests.faults.corrupted import World
from tests.faults.exact import Rules, parse, parts_of, split
from tests.support.cluster import Cluster
from tests.support.readers import append_only_view, hosts

# A world with restatements, tombstones, a retract, duplicates and dead letters.
SEED = 24
SEEDS = [seed for seed in range(100) if corrupted.is_covered(seed)]
LINES_MAX = 300
FORBIDDEN = ("models", "state", "streams", "tests.support.oracle")

OF_A_WORLD: list[tuple[Callable[[World], World], set[str]]] = [
    (corrupted.with_wrong_sum, {"I1"}),
    (corrupted.with_moved_micro, {"I1"}),
    (corrupted.with_set_twice, {"I1", "I2"}),
    (corrupted.with_set_again_higher, {"I2"}),
    (corrupted.with_half_a_set, {"I1", "I2", "I3"}),
    (corrupted.without_tombstone, {"I2"}),
    (corrupted.without_conversion, {"I4"}),
    (corrupted.without_dead_letter, {"I4"}),
    (corrupted.with_dead_letter_twice, {"I2"}),
    (corrupted.with_other_bytes, {"I4"}),
    (corrupted.with_good_record_dead, {"I4"}),
    (corrupted.with_applied_ahead, {"I5"}),
    (corrupted.with_lag, {"I6"}),
    (corrupted.with_other_replay, {"I7"}),
    (corrupted.with_falling_revision, {"I1", "I2", "I7", "I8"}),
    (corrupted.with_late_write, {"I8"}),
    (corrupted.with_offsets_put_back, {"I6", "I8"}),
]


@pytest.fixture(scope="module")
def true() -> World:
    """A world in which all went well."""
    return corrupted.true_world(SEED)


def broken(report: verifier.Report) -> set[str]:
    """The invariants that findings name."""
    return {finding.invariant for finding in report.findings}


def test_true_worlds_pass() -> None:
    """Whatever went wrong on the way, the verifier finds nothing, and has looked at every invariant."""
    checked: Counter[str] = Counter()
    for seed in SEEDS:
        report = corrupted.true_world(seed, troubled=True).verify()
        assert report.findings == [], f"seed {seed}"
        checked += report.checked
    assert set(verifying.INVARIANTS) <= checked.keys()
    assert checked["I1"] > 1_000


def test_every_record_ends_in_one_place(true: World) -> None:
    """The report's table counts each input record once: accepted, duplicate, dropped or dead."""
    table, together = true.verify().records, Counter[str]()
    for topic in (corrupted.TOUCHES, corrupted.CONVERSIONS):
        ends = table[topic, 0]
        assert ends["consumed"] == len(true.topic(topic)) == ends.total() - ends["consumed"]
        together += ends
    assert together["dead"] == len(true.topic(corrupted.DEAD)) > 0
    assert together["duplicate"] > 0


@pytest.mark.parametrize(("corrupt", "invariants"), OF_A_WORLD, ids=[c.__name__ for c, _ in OF_A_WORLD])
def test_corrupted_topics_are_rejected(true: World, corrupt: Callable[[World], World], invariants: set[str]) -> None:
    """A world that is corrupted in one way is rejected, by the invariants that it breaks and no others."""
    assert broken(corrupt(true).verify()) == invariants


@pytest.mark.parametrize("corrupt", [corrupted.with_lost_touch, corrupted.with_invented_touch])
def test_a_touch_lost_or_invented_is_noticed(corrupt: Callable[[int], World]) -> None:
    """Credits that are consistent in themselves, of a path with a touch less or more than the log, break I3."""
    report = corrupt(SEED).verify()
    assert "I3" in broken(report)
    assert broken(report) <= {"I1", "I3"}


def test_a_journey_beyond_its_bound_is_checked_for_inventions(true: World) -> None:
    """Where touches were dropped, credits may lack some, but may name none that the log does not have."""
    report = _bounded(true).verify()
    assert report.findings == []
    assert report.records[corrupted.TOUCHES, 0]["dropped"] > 0
    assert broken(_bounded(corrupted.with_invented_touch(SEED)).verify()) == {"I3"}


def _bounded(world: World) -> World:
    return replace(world, rules=replace(world.rules, journey_touches_max=1))


def test_findings_are_bounded(true: World) -> None:
    """Of one invariant so many findings are kept; all are counted."""
    report = true.but(corrupted.CREDITS, [c for _ in range(3) for c in true.topic(corrupted.CREDITS)]).verify()
    kept = Counter(finding.invariant for finding in report.findings)
    assert max(kept.values()) == verifier.FINDINGS_MAX < max(report.breaches.values())


# The arithmetic


def test_a_split_is_by_largest_remainder() -> None:
    """What whole parts leave goes to the largest remainders, to the earlier of equal ones."""
    assert split(10, [Fraction(1, 3)] * 3) == [4, 3, 3]
    assert split(1, [Fraction(1, 4), Fraction(1, 2), Fraction(1, 4)]) == [0, 1, 0]
    assert split(7_770_000, [Fraction(2, 5), Fraction(1, 5), Fraction(2, 5)]) == [3_108_000, 1_554_000, 3_108_000]


def test_parts_by_hand() -> None:
    """Attribution models on a path of three, an hour and a week apart, by the formulas of the documentation."""
    week_ms = 7 * exact.DAY_MS
    channels = (("a", "Email"), ("b", "Paid"), ("c", "Direct"))
    path = [
        {"event_id": name, "at": at, "channel": channel}
        for (name, channel), at in zip(channels, (0, 0, week_ms), strict=True)
    ]
    given = {name: parts_of(name, path, 100, Rules()) for name in ("last_non_direct", "j_shaped", "time_decay", "odd")}
    assert given == {
        "last_non_direct": {"b": (2, 1.0, 100)},
        "j_shaped": {"a": (1, 0.2, 20), "b": (2, 0.2, 20), "c": (3, 0.6, 60)},
        "time_decay": {"a": (1, 0.25, 25), "b": (2, 0.25, 25), "c": (3, 0.5, 50)},
        "odd": None,
    }
    assert parts_of("inverse_j", path[:2], 4, Rules()) == {"a": (1, 0.75, 3), "b": (2, 0.25, 1)}
    in_half = Rules(short_path="split_middle")
    assert parts_of("j_shaped", path[:2], 10, in_half) == {"a": (1, 0.3, 3), "b": (2, 0.7, 7)}
    assert parts_of("participation", path[:2], 7, Rules()) == {"a": (1, 1.0, 7), "b": (2, 1.0, 7)}


def touch(at: str) -> bytes:
    """The bytes of a touch at that time, as JSON writes it."""
    return f'{{"event_id": "t", "person_id": "p", "occurred_at": {at}}}'.encode()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff", "can't decode"),
        (b"[]", "no object"),
        (b'{"event_id": 5}', "no object of texts"),
        (touch("1717200000000").replace(b'"p"', b'"q"'), "the key is another"),
        (touch("1717200000000").replace(b'"t"', b'" "'), "an id is missing"),
        (touch("1717200000"), "not believed"),
        (touch("1717400000000"), "not believed"),
        (touch("null"), "Invalid isoformat"),
        (touch('"2024-06-01T00:00:00"'), "without an offset"),
    ],
)
def test_bad_records_are_refused(value: bytes | None, why: str) -> None:
    """A record that the contract refuses cannot be read."""
    with pytest.raises(ValueError, match=why):
        parse(value, b"p", 1_717_200_000_000, "event_id")


def test_a_good_record_is_read() -> None:
    """Money is exact however it is written, and a time of any offset is that of the epoch."""
    start = b'{"conversion_id": " c ", "person_id": "p", "occurred_at": '
    one = parse(start + b'1717200000000, "value": "0.000001"}', b"p", 1_717_200_000_000, "conversion_id")
    two = parse(start + b'"2024-06-01T02:00:00.000+02:00", "value": 12.5}', b"p", 1_717_200_000_000, "conversion_id")
    assert (one["at"], one["micros"], one["conversion_id"]) == (1_717_200_000_000, 1, "c")
    assert (two["at"], two["micros"]) == (1_717_200_000_000, 12_500_000)


# Its independence


def test_the_verifier_shares_nothing() -> None:
    """It imports neither the product nor the oracle, and is short enough to be read."""
    for part in (verifier, exact, verifying):
        path = Path(str(part.__file__))
        text = path.read_text()
        imported = [n.module or "" for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom)]
        imported += [a.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import) for a in n.names]
        assert not [name for name in imported if f"{name}.".startswith(tuple(f"{f}." for f in FORBIDDEN))], path.name
        assert len(text.splitlines()) <= LINES_MAX, path.name


# On a broker


def test_the_command_on_a_broker(make: Make, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """After a kill the command passes what lies in the topics, and rejects one credit that is written behind it."""
    with make(crashes=["published:3"]) as cluster:
        cluster.send_waves(5)
        cluster.start()
        cluster.until_all_applied()
        cluster.stop()
        assert verifying.of_cluster(cluster).findings == []
        assert run(cluster) == 0, capsys.readouterr().out
        assert "I6: 0 of" in capsys.readouterr().out
        assert run(cluster, "--replay", view_without(cluster, 1, tmp_path / "view.ndjson")) == 1
        assert "I7: 1 of" in capsys.readouterr().out
        write_late(cluster)
        assert run(cluster) == 1
        assert "\nI8 " in capsys.readouterr().out
        assert verifying.main(["--broker", cluster.settings.kafka.broker, "--prefix", "nowhere"]) == 3
        assert "cannot be read" in capsys.readouterr().err


def view_without(cluster: Cluster, count: int, path: Path) -> str:
    """The final view of the cluster as a replay would write it, but for so many credits."""
    rows = append_only_view(verifying.read_topic(cluster.settings.kafka.broker, cluster.names.credits))
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows[count:]))
    return str(path)


def run(cluster: Cluster, *more: str) -> int:
    """The command's exit code, with the policy of the cluster and what its store says."""
    settings = cluster.settings
    rules = vars(verifying.rules_of(settings)).items()
    applied = ";".join(f"{touches},{conversions}" for touches, conversions in cluster.applied())
    where = ["--broker", settings.kafka.broker, "--prefix", settings.kafka.prefix, "--applied", applied]
    return verifying.main([*where, *more, *(str(part) for n, v in rules for part in (f"--{n.replace('_', '-')}", v))])


def write_late(cluster: Cluster) -> None:
    """What a worker that lost its partition would write: the first credit of a partition, behind all others."""
    topic = cluster.names.credits
    first = min((r for r in verifying.read_topic(cluster.settings.kafka.broker, topic) if r.value), key=lambda r: r[:2])
    producer = Producer({"bootstrap.servers": hosts(cluster.settings.kafka.broker)})
    producer.produce(topic, first.value, first.key, first.partition)
    assert producer.flush(30) == 0
