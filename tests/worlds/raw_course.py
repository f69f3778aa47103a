"""The course of a world whose records name any ids: through the identity stage, and then through the credit stage.

The oracle is told what lies in touches, conversions and moves, at the record times it has there. That these hold each
raw record once, under one of its person's ids, and that merges connect exactly those ids that belong together, is
looked at on its own. In some worlds ids are split from who they were found to be: then merges may connect less, and
never those who were split with whom they were split from.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from models.linking import Outcome, Split, write_message
from models.mail import IdentityRules
from models.splitting import next_incarnation
from state.memory import MemoryStore
from streams import identity, settling
from streams.identity import IdentityTask
from streams.identity_decode import RawDecoder
from streams.native import load
from streams.step import Limits
from tests.support import oracle_people
from tests.support.oracle_people import Merge, canonical, joined
from tests.worlds import policies
from tests.worlds.course import Course, note
from tests.worlds.kafka import Kafka, LogRecord, RelayPublisher
from tests.worlds.stage import CLOCK, Stage
from tests.worlds.world import DAY_MS, EMAIL_KEY, IDS, Arrival, World

INPUTS = ("links", "identities", "raw-touches", "raw-conversions")
FACTS = ("touches", "conversions", "moves")
# In how many worlds wrong links are taken back, and how often there, in splits a quiet point.
WITH_SPLITS, SPLITS = 0.4, 0.03


class RawCourse(Course):
    """Runs a world through both stages."""

    def __init__(self, of: World) -> None:
        super().__init__(of)
        self.linked: list[Outcome] = []
        self._stages.insert(0, _identities(self.kafka, of, self._rng, self.linked))
        self._noted = Counter[str]()
        self._merges: list[Merge] = []
        self._has_splits = self._rng.random() < WITH_SPLITS
        self._splits: list[tuple[str, str]] = []
        self._created: set[str] = set()

    def run(self) -> Counter[str]:
        with (
            mock.patch.object(identity, "time", CLOCK),
            # The clock moves by a millisecond or so a step, and a world has hundreds of starts.
            mock.patch.multiple(settling, time=CLOCK, QUIET_S=0.01, CHASE_S=0.05),
        ):
            seen = super().run()
        self._check_ids()
        self._check_events()
        seen["splits"] += len(self._splits)
        return seen

    def _arrivals(self) -> Iterator[list[Arrival]]:
        for part in self.world.raw():
            if self._has_splits and self._merges and part and self._rng.random() < SPLITS:
                self._split(self._rng.choice(self._merges), part[0].record_ms)
            yield self._without_copies(part) if self._has_splits else part

    def _without_copies(self, part: list[Arrival]) -> list[Arrival]:
        """Of each conversion the first create: one before a split and one after it are two people's, and both count."""
        kept = []
        for arrival in part:
            created = arrival.record.get("conversion_id") if "action" not in arrival.record else None
            if created is None or created not in self._created:
                kept.append(arrival)
            if created is not None:
                self._created.add(created)
        return kept

    def _split(self, merge: Merge, at: int) -> None:
        """What the merge connected is asked to be two again, unless it was already."""
        present = merge.lower
        if not any(present == lower for lower, _ in self._splits):
            key, value = write_message(Split(present))
            self.kafka.append("links", key, value, at)
            self._splits.append((present, merge.higher))

    def _came(self, arrival: Arrival, record: LogRecord) -> None:
        """Nothing is known of it before it has been resolved."""

    def _note_facts(self) -> None:
        for topic in FACTS:
            appended = self.kafka.appended[topic]
            for _, logged in appended[self._noted[topic] :]:
                record = json.loads(logged.value or b"")
                if topic != "moves" or record["do"] == "merge":
                    note(self.checker.known, topic, record, logged)
                if topic == "moves" and record["do"] == "merge":
                    self._merges.append(Merge(logged.timestamp, record["person_id"], record["into"]))
            self._noted[topic] = len(appended)

    def _check_ids(self) -> None:
        """Merges connect what the records say is one person, and nothing else."""
        if self._splits:
            self._check_splits()
            return
        named = [oracle_people.person_of(arrival.record, EMAIL_KEY) for part in self.world.raw() for arrival in part]
        first: dict[str, Merge] = {}
        for merge in self._merges:
            first.setdefault(merge.lower, merge)
        found = canonical([merge[1:] for merge in first.values()])
        for person_id, highest in canonical([ids for ids in named if ids]).items():
            top = found.get(person_id, person_id)
            assert top == highest, f"{person_id} is {top}, not {highest}"

    def _check_splits(self) -> None:
        """Who was split has not come together again, and merges connect nobody whom no record does."""
        named = [oracle_people.person_of(arrival.record, EMAIL_KEY) for part in self.world.raw() for arrival in part]
        canon = canonical([ids for ids in named if ids])
        for lower, higher in self._splits:
            now = joined(next_incarnation(lower), self._merges)
            assert higher not in now, f"{lower} was split from {higher}, and is linked to it again: {now}"
        for merge in self._merges:
            one, other = (canon[each.partition("~")[0]] for each in (merge.lower, merge.higher))
            assert one == other, f"{merge} connects strangers"

    def _check_events(self) -> None:
        """Each raw record lies once in touches or conversions, but for corrections that found no conversion."""
        came, went = (Counter(_facts_in(self.kafka, topics)) for topics in (INPUTS[2:], FACTS[:2]))
        assert not went - came, f"events out of nothing: {went - came}"
        lost = [text for text in (came - went) if '"action"' not in text]
        assert not lost, f"events that were lost: {lost}"


def _facts_in(kafka: Kafka, topics: tuple[str, ...]) -> Iterator[str]:
    """The records of these topics without their ids; what owners send on to each other over a raw topic is left out."""
    for topic in topics:
        for _, logged in kafka.appended[topic]:
            if not logged.headers:
                record = json.loads(logged.value or b"")
                yield json.dumps({name: record[name] for name in sorted(record) if name not in IDS})


def _identities(kafka: Kafka, of: World, rng: random.Random, linked: list[Outcome]) -> Stage:
    """The identity stage, without caps."""
    lateness_ms, corrections_ms, kept_ms = policies.times_ms(of.policy)
    unread_ms = kept_ms + DAY_MS
    rules = IdentityRules(1_000, corrections_ms, corrections_ms + unread_ms + lateness_ms + DAY_MS, unread_ms)
    decoders = [RawDecoder(INPUTS, EMAIL_KEY), RawDecoder(INPUTS, EMAIL_KEY, native=load())]

    def make(partition: int, store: MemoryStore, publisher: Any, crash_point: Callable[[str], None]) -> IdentityTask:
        decoder = rng.choice(decoders)
        limits = Limits(0, rng.choice((1, 3, 50)), trip_wire=False)
        return IdentityTask(
            partition, INPUTS, store, publisher, decoder, rules, limits, crash_point, lambda _: None, linked.append
        )

    return Stage(kafka, "identity", make, rng, 0, RelayPublisher)
