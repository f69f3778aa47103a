"""What must hold on the wire and in the final view, whatever happened on the way."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from tests.support import oracle, readers
from tests.support.cluster import Cluster

Set = tuple[str, str]
NOT_CONTENT = frozenset({"revision"})
NOTES_MAX = 3


class Findings(NamedTuple):
    """What is wrong with the topics of a cluster at rest. All zero is the promise kept; `notes` name a few of each.

    records: of the input. conversions: those that were created. credits: published, tombstones left out.
    lost, duplicated, wrong: credits and dead letters.
    """

    records: int
    conversions: int
    credits: int
    lost: int
    duplicated: int
    wrong: int
    notes: list[str]


def check(cluster: Cluster) -> None:
    """After a stop in good order: the right credits, each once, and offsets, store and topics agree."""
    found = findings(cluster)
    assert (found.lost, found.duplicated, found.wrong) == (0, 0, 0), found.notes
    assert cluster.applied() == cluster.ends(), cluster.progress()
    assert cluster.committed() == cluster.applied(), cluster.progress()


def findings(cluster: Cluster) -> Findings:
    """Compare the topics with the oracle. AssertionError where the input itself is not what was sent."""
    broker, names = cluster.settings.kafka.broker, cluster.names
    touches, broken_touches = _input(cluster.log(names.touches))
    conversions, broken_conversions = _input(cluster.log(names.conversions))
    records = len(touches) + len(conversions) + len(broken_touches) + len(broken_conversions)
    assert records == cluster.sent, f"{cluster.sent} sent, {records} in the topics: the input itself is wrong"

    credits = readers.read_topic(broker, names.credits)
    repeated = [f"published twice: {pair}" for pair in readers.repeated(credits)]
    view = readers.append_only_view(credits)
    expected = oracle.final_view(touches, conversions, _policy(cluster))
    missing, extra, differing = _compared(_comparable(expected), _comparable(view))
    odd = history_faults(credits)
    if readers.upsert_view(credits) != view:
        odd.insert(0, "the upsert reader and the append-only reader end with different credits")

    dead = Counter(readers.dead_letter(record).value for record in readers.read_topic(broker, names.dead_letters))
    expected_dead = Counter(broken_touches + broken_conversions)
    lost_dead = [f"dead letter missing: {value!r}" for value in (expected_dead - dead).elements()]
    surplus_dead = [f"dead letter too many: {value!r}" for value in (dead - expected_dead).elements()]
    lost, duplicated, wrong = missing + lost_dead, repeated + extra + surplus_dead, differing + odd
    notes = [note for kind in (lost, duplicated, wrong) for note in kind[:NOTES_MAX]]
    published = sum(record.value is not None for record in credits)
    created = len({c["conversion_id"] for c in conversions if c.get("action", "create") == "create"})
    return Findings(records, created, published, len(lost), len(duplicated), len(wrong), notes)


def history_faults(credits: Sequence[readers.Read]) -> list[str]:
    """Every set is published whole, once, at rising revisions, and never without a change; what breaks that."""
    history: dict[Set, list[tuple[int, list[dict[str, Any]]]]] = defaultdict(list)
    for record in credits:
        if record.value is None:
            continue
        row = json.loads(record.value)
        sets = history[row["conversion_id"], row["attribution_model"]]
        if not sets or sets[-1][0] != row["revision"]:
            sets.append((row["revision"], []))
        sets[-1][1].append({name: value for name, value in row.items() if name not in NOT_CONTENT})
    return [fault for name, sets in history.items() for fault in _set_faults(name, sets)]


def _set_faults(name: Set, sets: Sequence[tuple[int, list[dict[str, Any]]]]) -> Iterator[str]:
    revisions = [revision for revision, _ in sets]
    if revisions != sorted(set(revisions)):
        yield f"{name}: revisions {revisions}"
    for revision, rows in sets:
        if any(row["set_size"] != len(rows) for row in rows):
            yield f"{name} at {revision} is not whole: {rows}"
    for (_, before), (revision, after) in pairwise(sets):
        if before == after:
            yield f"{name}: nothing changed at {revision}"


def restated(cluster: Cluster) -> int:
    """Sets that were published more than once, at different revisions: that the input was not too easy."""
    revisions: dict[Set, set[int]] = defaultdict(set)
    for record in readers.read_topic(cluster.settings.kafka.broker, cluster.names.credits):
        if record.value is not None:
            row = json.loads(record.value)
            revisions[row["conversion_id"], row["attribution_model"]].add(row["revision"])
    return sum(len(found) > 1 for found in revisions.values())


def _input(records: Sequence[readers.Read]) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The records as the oracle wants them, with the record times of the log, and the broken ones."""
    good, broken = [], []
    for record in records:
        assert record.value is not None
        if record.value.startswith(b'{"broken"'):
            broken.append(record.value)
        else:
            good.append({**json.loads(record.value), "_record_ms": record.timestamp_ms, "_order": record.offset})
    return good, broken


def _policy(cluster: Cluster) -> dict[str, Any]:
    settings = cluster.settings
    return {
        "attribution": {
            "models": list(settings.attribution.models),
            "lookback": f"{settings.attribution.lookback}ms",
            "max_touches": settings.attribution.max_touches,
            "allowed_lateness": f"{settings.attribution.allowed_lateness}ms",
        },
        "processing": {"settle": f"{settings.processing.settle}ms"},
    }


def _comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return oracle.comparable(rows, without=(*oracle.NOT_THE_ORACLES, "reason"))


def _compared(expected: list[dict[str, Any]], got: list[dict[str, Any]]) -> tuple[list[str], list[str], list[str]]:
    """Credits that are missing, too many, and different."""
    assert expected, "the oracle has no credits: the input is too easy"
    wanted, found = {r["credit_id"]: r for r in expected}, {r["credit_id"]: r for r in got}
    missing = [f"credit missing: {name}" for name in sorted(wanted.keys() - found.keys())]
    extra = [f"credit too many: {name}" for name in sorted(found.keys() - wanted.keys())]
    both = [name for name in wanted if name in found]
    return missing, extra, [f"{wanted[n]} became {found[n]}" for n in both if wanted[n] != found[n]]
