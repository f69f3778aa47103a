"""Worlds: people under several ids, what they do, and when it reaches which topic."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.support import oracle_people
from tests.support.oracle_people import Merge

Record = dict[str, Any]

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
# How long records still come under an id that was merged into another one.
STRAGGLE_MS = 10 * DAY_MS
EMAIL_KEY = b"a key for worlds"
TOPICS = {"touch": "touches", "conversion": "conversions"}
IDS = ("user_id", "email", "anonymous_id", "person_id")


class Item(NamedTuple):
    """A record on its way: `kind` is touch, conversion, identify or forget; ids are those its producer knew."""

    arrival_ms: int
    kind: str
    record: Record


class Arrival(NamedTuple):
    """A record as it is appended to a topic: `topic` without prefix, `key` None where it has none."""

    record_ms: int
    topic: str
    key: str | None
    record: Record


@dataclass
class Person:
    """Somebody, with the ids that records may name: (field, text)."""

    number: int
    ids: list[tuple[str, str]]


@dataclass
class World:
    """What happens: `items` by arrival, and `cuts`, the numbers of items after which all is left to become quiet."""

    seed: int
    policy: Record
    people: list[Person]
    items: list[Item] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)

    def raw(self) -> Iterator[list[Arrival]]:
        """What goes into raw-touches, raw-conversions and identities, from quiet point to quiet point."""
        topics = {"touch": "raw-touches", "conversion": "raw-conversions", "identify": "identities"}
        for part in self._parts():
            yield [Arrival(i.arrival_ms, topics[i.kind], _raw_key(i), _raw(i.record)) for i in part]

    def direct(self) -> Iterator[list[Arrival]]:
        """What goes into touches, conversions and moves where somebody else has resolved the ids.

        For some days after a merge, records still go to whom they belonged to before: finding the way is the journey's
        business then.
        """
        known = Identities()
        last_ms = 0
        for part in self._parts():
            arrivals: list[Arrival] = []
            for item in part:
                own = ids_of(item.record)
                for merge in known.link(own, item.arrival_ms):
                    last_ms = max(item.arrival_ms, last_ms + 1)
                    record = {"do": "merge", "person_id": merge.lower, "into": merge.higher}
                    arrivals.append(Arrival(last_ms, "moves", merge.lower, record))
                if len(part) == 1 and arrivals:
                    yield arrivals  # a merge that is to be on its own is, where the event has brought it about too
                    arrivals = []
                if item.kind == "forget":
                    last_ms = max(item.arrival_ms, last_ms + 1)
                    forget = {"do": "forget", "person_id": own[0]}
                    arrivals.append(Arrival(last_ms, "moves", own[0], forget))
                if item.kind in TOPICS:
                    last_ms = max(item.arrival_ms, last_ms + 1)
                    person_id = known.reached(own[0], item)
                    arrivals.append(Arrival(last_ms, TOPICS[item.kind], person_id, _under(person_id, item.record)))
            yield arrivals

    def _parts(self) -> Iterator[Sequence[Item]]:
        start = 0
        for cut in self.cuts:
            yield self.items[start:cut]
            start = cut


class Identities:
    """Who was merged into whom, as a single and patient identity stage would do it."""

    def __init__(self) -> None:
        self._up: dict[str, Merge] = {}

    def top(self, person_id: str) -> str:
        """Whom everything of this person belongs to."""
        while person_id in self._up:
            person_id = self._up[person_id].higher
        return person_id

    def reached(self, person_id: str, item: Item) -> str:
        """Whom a record is sent to: half of them do not know of the latest merges. Copies go the same way."""
        name = [item.record.get(field) for field in ("event_id", "conversion_id", "occurred_at")]
        straggles = zlib.crc32(repr(name).encode()) % 2
        while person_id in self._up:
            if straggles and item.arrival_ms < self._up[person_id].record_ms + STRAGGLE_MS:
                break
            person_id = self._up[person_id].higher
        return person_id

    def link(self, ids: Sequence[str], at_ms: int) -> list[Merge]:
        """The merges that make one person of these ids."""
        merges = []
        for person_id in ids[1:]:
            higher, lower = sorted((self.top(ids[0]), self.top(person_id)), key=oracle_people.precedence)
            if higher != lower:
                self._up[lower] = Merge(at_ms, lower, higher)
                merges.append(self._up[lower])
        return merges


def ids_of(record: Record) -> list[str]:
    """The person id texts that a record names, highest first."""
    return oracle_people.person_of(record, EMAIL_KEY)


def _raw(record: Record) -> Record:
    """Corrections need not name anybody; a third of them do not."""
    if "action" in record and zlib.crc32(repr(record).encode()) % 3 == 0:
        return {name: value for name, value in record.items() if name not in IDS}
    return record


def _raw_key(item: Item) -> str | None:
    if item.kind == "identify":
        return "|".join(f"{name}={item.record[name]}" for name in IDS if name in item.record)
    return item.record.get("user_id")


def _under(person_id: str, record: Record) -> Record:
    return {"person_id": person_id, **{name: value for name, value in record.items() if name not in IDS}}
