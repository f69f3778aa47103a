"""A verifier that shares nothing with the product or its oracle: what the topics say, checked in fractions.

    I1  the parts of a conversion are the exact ones, and add up        I5  applied = committed at rest
    I2  one live set of credits, nothing twice, both readers agree      I6  the lag is 0
    I3  no touch lost or invented                                       I7  a replay gives the same final view
    I4  every record is accepted, a duplicate, dropped or dead          I8  no write after a newer owner wrote

I8 is read off the revisions: each transaction gives what it publishes the sum of the two next offsets that it commits,
so they never fall along a credits partition, whoever writes, unless somebody wrote who did not own it any more.
How parts are computed, and which policies are covered, stands in `exact.py`.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import inf
from typing import NamedTuple

from tests.faults.exact import ORIGIN, Fields, Parts, Rules, parse, parts_of, path_of

FINDINGS_MAX = 50  # kept of one invariant; all are counted
INPUTS = {"touches": "event_id", "conversions": "conversion_id"}
FACTS = ("conversion_value_micros", "currency", "converted_at", "person_id", "account_id")
NOT_CONTENT = ("revision", "policy_version", "weights_version")
# Reasons of dead letters that are taken as they are: details of the contract that nothing here repeats.
UNJUDGED = {"unknown-currency", "too-many-conversions", "too-much-output", "wrong-type", "bad-id", "bad-action"}

Place = tuple[str, int, int]
Name = tuple[str, str]  # of a set: conversion and attribution model
Offsets = Mapping[int, tuple[int, int]]  # by partition: the next offsets of touches and conversions


class Record(NamedTuple):
    """A record as it lies in a topic; `topic` is the full name."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Finding(NamedTuple):
    """A breach of an invariant (`I1` … `I8`) and where it shows."""

    invariant: str
    where: str
    what: str


@dataclass
class Report:
    """What was found. `checked` counts looks, `breaches` those that failed; `records` how each partition's ended."""

    findings: list[Finding] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)
    breaches: Counter[str] = field(default_factory=Counter)
    records: dict[tuple[str, int], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


@dataclass
class Journey:
    """What the input topics say of a person. `heard`: until which record time an event_id is a duplicate."""

    touches: dict[str, Fields] = field(default_factory=dict)
    creates: dict[str, Fields] = field(default_factory=dict)
    corrections: dict[str, list[Fields]] = field(default_factory=lambda: defaultdict(list))
    heard: dict[str, float] = field(default_factory=dict)


def verify(
    records: Iterable[Record],
    prefix: str,
    rules: Rules,
    *,
    applied: Offsets | None = None,
    committed: Offsets | None = None,
    replayed: Iterable[Fields] | None = None,
) -> Report:
    """Check all records that `read_committed` readers see in the four topics; credits must not be compacted yet.

    `applied` is what the store says, `committed` the group; `replayed` the final view of a replay of the same log.
    """
    logs: dict[str, dict[int, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in sorted(records, key=lambda r: r[:3]):
        logs[record.topic.removeprefix(f"{prefix}.")][record.partition].append(record)
    run = _Run(rules)
    for letter in chain(*logs["dead-letters"].values()):
        run.bury(letter)
    for kind in INPUTS:
        for record in chain(*logs[kind].values()):
            run.take(kind, record)
    for partition, log in logs["credits"].items():
        highest = run.read_wire(log)
        for offsets in (o[partition] for o in (applied, committed) if o is not None):
            run.expect("I8", highest <= sum(offsets), partition, f"revision {highest}, but offsets {offsets}")
    for partition, offsets in (committed or {}).items():
        if applied is not None:
            run.expect("I5", applied[partition] == offsets, partition, f"{applied[partition]} applied, {offsets} not")
        for kind, offset in zip(INPUTS, offsets, strict=True):
            left = sum(r.offset >= offset for r in logs[kind][partition])
            run.expect("I6", left == 0, (kind, partition), f"{left} records lie at or beyond {offset}")
    if replayed is not None:
        run.compare(replayed)
    run.check_final_view()
    return run.report


class _Run:
    """One run over the topics: dead letters first, then input, credits, and in the end what must have come out."""

    def __init__(self, rules: Rules) -> None:
        self.report = Report()
        self._rules = rules
        self._dead: dict[Place, Record] = {}
        self._journeys: dict[str, Journey] = defaultdict(Journey)
        self._view: dict[Name, list[Fields]] = {}
        self._news: dict[tuple[str, int], bool] = defaultdict(bool)

    def expect(self, invariant: str, holds: bool, where: object, what: str) -> None:
        """Count a look, and note a finding where the claim does not hold."""
        self.report.checked[invariant] += 1
        self.report.breaches[invariant] += not holds
        if not holds and self.report.breaches[invariant] <= FINDINGS_MAX:
            self.report.findings.append(Finding(invariant, str(where), what))

    # Input: how each record must have ended

    def bury(self, letter: Record) -> None:
        """Remember a dead letter by the place of its record."""
        topic, partition, offset = (_header(letter, f"__connect.errors.{n}") for n in ("topic", "partition", "offset"))
        place = (topic, int(partition or -1), int(offset or -1))
        self.expect("I2", place not in self._dead, place, "a dead letter twice")
        self._dead[place] = letter

    def take(self, kind: str, record: Record) -> None:
        """Say how an input record must have ended, and keep what counts."""
        letter = self._dead.pop(record[:3], None)
        reason = _header(letter, "touchstream-reason") if letter else ""
        try:
            given = parse(record.value, record.key, record.timestamp_ms, INPUTS[kind])
            given["offset"] = record.offset
            ended = "dead" if reason in UNJUDGED else self._end(kind, given, reason)
        except (ValueError, RecursionError):
            ended = "dead"
        self.report.records[record[:2]].update(("consumed", ended))
        self.expect("I4", (ended == "dead") == bool(letter), record[:3], f"{ended}, with a dead letter: {reason!r}")
        if letter:
            same = (letter.key, letter.value, letter.headers[: len(record.headers)]) == record[4:]
            self.expect("I4", same, record[:3], "the dead letter is not the record as it was")

    def _end(self, kind: str, given: Fields, reason: str) -> str:
        journey, corrections_ms = self._journeys[given["person_id"]], self._rules.corrections_ms
        event_id, name, at_ms = given["event_id"], given["conversion_id"], given["record_ms"]
        if kind == "touches":
            full = len(journey.touches) >= self._rules.journey_touches_max
            first = journey.touches.setdefault(event_id, given) is given
            return "duplicate" if not first else "dropped" if full else "accepted"
        if event_id and journey.heard.get(event_id, -inf) >= at_ms:
            return "duplicate"
        create = journey.creates.get(name)
        if given["action"] in ("", "create"):
            if create is None:
                journey.creates[name], journey.heard[event_id] = given, inf
            return "accepted" if create is None else "duplicate"
        if create is not None and at_ms > create["record_ms"] + corrections_ms:
            return "dead"
        # One that waited in vain is remembered for as long as it may wait. Whether that was so, `_corrected` sees.
        given["refused"] = create is None and reason == "no-create"
        journey.heard[event_id] = at_ms + corrections_ms if given["refused"] else inf
        journey.corrections[name].append(given)
        return "dead" if given["refused"] else "accepted"

    # Credits on the wire

    def read_wire(self, log: Sequence[Record]) -> int:
        """Take in a credits partition as an append-only and as an upsert reader; the highest revision."""
        sets, before, highest = dict[Name, list[Fields]](), dict[Name, list[Fields]](), -1
        live: dict[bytes | None, Fields] = {}
        for record in log:
            live.pop(record.key, None)
            if record.value is None:
                continue
            row = live[record.key] = json.loads(record.value)
            name, revision = (row["conversion_id"], row["attribution_model"]), row["revision"]
            escaped = (part.replace("\\", "\\\\").replace("|", "\\|") for part in (*name, row["touch_id"]))
            fits = (record.key or b"").decode() == row["credit_id"] == "|".join(escaped)
            self.expect("I2", fits, record[:3], "the key is not the credit's")
            self.expect("I8", revision >= highest, record[:3], f"revision {revision} after {highest}")
            highest = max(highest, revision)
            if name not in sets or revision > sets[name][0]["revision"]:
                before[name] = self._whole(name, sets.get(name, []), before.get(name, []))
                sets[name] = [row]
            elif revision == sets[name][0]["revision"]:
                twice = any(row["credit_id"] == known["credit_id"] for known in sets[name])
                self.expect("I2", not twice, record[:3], f"{row['credit_id']} twice at revision {revision}")
                sets[name].append(row)
        for name in sets:
            self._whole(name, sets[name], before[name])
            self.expect("I2", name not in self._view, name, "credits in two partitions")
        ends = {(row["credit_id"], row["revision"]) for row in live.values()}
        for odd in ends ^ {(row["credit_id"], row["revision"]) for rows in sets.values() for row in rows}:
            self.expect("I2", False, odd, "only one of an append-only and an upsert reader ends with it")
        self._view |= sets
        return highest

    def _whole(self, name: Name, rows: list[Fields], before: list[Fields]) -> list[Fields]:
        """A set that is complete: it must have all its parts and add up, and the restatement say something new."""
        for row in rows[:1]:
            whole, total = row["conversion_value_micros"], sum(r["value_micros"] for r in rows)
            self.expect("I2", all(r["set_size"] == len(rows) for r in rows), name, f"{len(rows)} records in a set")
            self.expect("I1", not row["additive"] or total == whole, name, f"{total} in place of {whole}")
            # After a rebuild all sets are published again with the first that changes.
            self._news[name[0], row["revision"]] |= set(map(_content, rows)) != set(map(_content, before))
        return rows

    def compare(self, replayed: Iterable[Fields]) -> None:
        """Whether a replay ends with the same view but for revisions."""
        ours, theirs = (Counter(map(_content, r)) for r in ((r for s in self._view.values() for r in s), replayed))
        for content in ours | theirs:
            once = ours[content] == theirs[content]
            self.expect("I7", once, dict(content).get("credit_id"), "is in one of the two views only")

    # What must have come out

    def check_final_view(self) -> None:
        """Compute the credits of every conversion, and see what is left over."""
        for journey in self._journeys.values():
            touches = sorted(journey.touches.values(), key=lambda t: (t["at"], t["event_id"]))
            times = [touch["at"] for touch in touches]
            for name, create in journey.creates.items():
                c = self._corrected(create, journey.corrections[name])
                path = [] if c["retracted"] else path_of(c, touches, times, self._rules)
                for attribution_model in self._rules.models.split(","):
                    rows = self._view.pop((name, attribution_model), [])
                    self.expect("I4", bool(rows), (name, attribution_model), "accepted, and never credited")
                    self._check_set((name, attribution_model), rows, c, path, journey)
        for restatement, changed in self._news.items():
            self.expect("I2", changed, restatement, "nothing changed at this revision")
        for name in self._view:
            self.expect("I4", False, name, "credits that no accepted conversion explains")
        for place in self._dead:
            self.expect("I4", False, place, "a dead letter of a record that is not there")

    def _corrected(self, create: Fields, corrections: list[Fields]) -> Fields:
        value, currency, retracted = create["micros"] or 0, create["currency"], False
        for c in sorted(corrections, key=lambda c: (c["at"], c["offset"])):
            in_vain = create["record_ms"] - c["record_ms"] > self._rules.corrections_ms
            self.expect("I4", c["refused"] == in_vain, c, "refused for want of a create, or not, and wrongly so")
            if not in_vain and c["action"] == "restate":
                value = value if c["micros"] is None else c["micros"]
                currency = c["currency"] or currency
            retracted |= not in_vain and c["action"] == "retract"
        currency = currency or self._rules.currency
        return {**create, "micros": 0 if retracted else value, "currency": currency, "retracted": retracted}

    def _check_set(self, name: Name, rows: list[Fields], c: Fields, path: list[Fields], journey: Journey) -> None:
        kept = path[-self._rules.max_touches :]
        shape = ("retracted" if c["retracted"] else "credited" if path else "unattributed", len(kept), path != kept)
        nobody: Parts = {"": (0, float(not c["retracted"]), c["micros"])}
        parts = parts_of(name[1], kept, c["micros"], self._rules) if path else nobody
        if len(journey.touches) > self._rules.journey_touches_max:
            parts = None  # what was dropped of the journey depends on when; but nothing may be invented
        facts = [*(c[n] for n in ("micros", "currency", "at", "person_id")), c["account_id"] or None, c["type"]]
        for row in rows:
            told = [*(row.get(n) for n in FACTS), row["conversion_type"] if c["type"] else ""]
            self.expect("I1", told == facts, row["credit_id"], f"the conversion says {facts}")
            touch = journey.touches.get(row["touch_id"], {"at": None})
            same = row.get("touched_at") == touch["at"] and (touch["at"] is None) == (not row["touch_id"])
            same &= all(touch.get(n) in ("", None, row.get(n)) for n in ORIGIN)
            self.expect("I3", same, row["credit_id"], "no such touch")
            if parts is not None:
                same = (row["status"], row["path_length"], row["path_truncated"]) == shape
                self.expect("I3", same, row["credit_id"], f"not of a path that is {shape}")
                got = row["position"], row["share"], row["value_micros"]
                exact = parts.get(row["touch_id"], got)
                self.expect("I1", got == exact, row["credit_id"], f"{got}, exact is {exact}")
        if rows and parts is not None:
            odd = parts.keys() ^ {row["touch_id"] for row in rows}
            self.expect("I3", not odd, name, f"touches lost or invented: {odd}")


def _header(record: Record, name: str) -> str:
    return (dict(record.headers).get(name) or b"").decode()


def _content(row: Fields) -> frozenset[tuple[str, object]]:
    return frozenset((name, value) for name, value in row.items() if name not in NOT_CONTENT and value is not None)


if __name__ == "__main__":
    from tests.faults.verifying import main

    sys.exit(main())
