"""What must hold on the wire and in the final view, whatever happened on the way."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tests.support import oracle, readers
from tests.support.cluster import Cluster

Set = tuple[str, str]
NOT_CONTENT = frozenset({"revision"})


def check(cluster: Cluster) -> None:
    """After a stop in good order: the right credits, each once, and offsets, store and topics agree."""
    broker, names = cluster.settings.kafka.broker, cluster.names
    touches, broken_touches = _input(readers.read_topic(broker, names.touches))
    conversions, broken_conversions = _input(readers.read_topic(broker, names.conversions))
    assert len(touches) + len(conversions) + len(broken_touches) + len(broken_conversions) == cluster.sent

    credits = readers.read_topic(broker, names.credits)
    assert readers.repeated(credits) == [], "published twice"
    view = readers.append_only_view(credits)
    assert readers.upsert_view(credits) == view, "the two readers differ"
    expected = oracle.final_view(touches, conversions, _policy(cluster))
    _same(_comparable(expected), _comparable(view))
    check_history(credits)

    dead = [readers.dead_letter(record).value for record in readers.read_topic(broker, names.dead_letters)]
    expected_dead = Counter(broken_touches + broken_conversions)
    missing, surplus = expected_dead - Counter(dead), Counter(dead) - expected_dead
    assert (missing, surplus) == ({}, {}), "dead letters"
    assert cluster.applied() == cluster.ends(), cluster.progress()
    assert cluster.committed() == cluster.applied(), cluster.progress()


def check_history(credits: Sequence[readers.Read]) -> None:
    """Every set is published whole, once, at rising revisions, and never without a change; the first among them."""
    history: dict[Set, list[tuple[int, list[dict[str, Any]]]]] = defaultdict(list)
    for record in credits:
        if record.value is None:
            continue
        row = json.loads(record.value)
        sets = history[row["conversion_id"], row["attribution_model"]]
        if not sets or sets[-1][0] != row["revision"]:
            sets.append((row["revision"], []))
        sets[-1][1].append({name: value for name, value in row.items() if name not in NOT_CONTENT})
    for name, sets in history.items():
        revisions = [revision for revision, _ in sets]
        assert revisions == sorted(set(revisions)), f"{name}: revisions {revisions}"
        for revision, rows in sets:
            assert all(row["set_size"] == len(rows) for row in rows), f"{name} at {revision}: {rows}"
        for (_, before), (revision, after) in pairwise(sets):
            assert before != after, f"{name}: nothing changed at {revision}"


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
            "allowed_lateness": f"{settings.attribution.allowed_lateness}ms",
        },
        "processing": {"settle": f"{settings.processing.settle}ms"},
    }


def _comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return oracle.comparable(rows, without=(*oracle.NOT_THE_ORACLES, "reason"))


def _same(expected: list[dict[str, Any]], got: list[dict[str, Any]]) -> None:
    """Equal, told by the first few differences: the whole would be megabytes."""
    wanted, found = {r["credit_id"]: r for r in expected}, {r["credit_id"]: r for r in got}
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    assert not missing, f"{len(missing)} credits missing: {missing[:5]}"
    assert not extra, f"{len(extra)} credits too many: {extra[:5]}"
    wrong = [(wanted[name], found[name]) for name in wanted if wanted[name] != found[name]]
    assert not wrong, f"{len(wrong)} credits differ: {wrong[:2]}"
    assert expected, "the oracle has no credits: the input is too easy"
