"""The course of one world: records go in, from quiet point to quiet point, and each time the readers are looked at."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.support.oracle_people import Merge
from tests.worlds.checks import Checker, Known, Shown
from tests.worlds.kafka import Kafka, LogRecord
from tests.worlds.readers import Read, read
from tests.worlds.stage import crediting, settle, stopped_clock
from tests.worlds.world import Arrival, World

# How often something goes wrong, in troubles a quiet point; half of the worlds are calm.
TROUBLES = (0.0, 0.0, 0.02, 0.1)
# And how often in a world at most, on average: after each, large worlds have much to read again.
TROUBLES_MOST = 100
PARTITIONS = (1, 2, 3)
COUNTED = (
    *("restated", "tombstones", "merged", "moved", "touches_duplicate", "conversions_duplicate"),
    *("forgotten", "touches_forgotten", "conversions_forgotten"),
)


class Course:
    """Runs a world through the credit stage; ids are resolved outside."""

    def __init__(self, of: World) -> None:
        self.world = of
        self._rng = random.Random(f"course {of.seed}")
        self.kafka = Kafka(self._rng.choice(PARTITIONS))
        self.reports: list[Any] = []
        self._stages = [crediting(self.kafka, of.policy, self._rng, self.reports)]
        self._troubles = min(self._rng.choice(TROUBLES), TROUBLES_MOST / len(of.cuts))
        self.checker = Checker(Known(of.policy), self._rng, len(of.cuts))
        self._read = 0

    def run(self) -> Counter[str]:
        """To the end of the world; what came up in it. AssertionError where a reader is wrong."""
        with stopped_clock():
            for number, part in enumerate(self._arrivals()):
                for arrival in part:
                    self._append(arrival)
                if self._rng.random() < self._troubles:
                    self._rng.choice(self._stages).trouble()
                settle(*self._stages)
                if self._rng.random() < 0.02:
                    for stage in self._stages:
                        stage.remember()
                self._note_facts()
                self.checker.quiet(number, list(self._fresh()))
            self.checker.end(self.world.policy)
        return self._seen()

    def _arrivals(self) -> Iterator[list[Arrival]]:
        return self.world.direct()

    def _note_facts(self) -> None:
        """What stages said to each other since the last quiet point is no fact: it follows from those that came in."""

    def _append(self, arrival: Arrival) -> None:
        key = None if arrival.key is None else arrival.key.encode()
        value = json.dumps(arrival.record, ensure_ascii=False).encode()
        record = self.kafka.append(arrival.topic, key, value, arrival.record_ms)
        self._came(arrival, record)

    def _came(self, arrival: Arrival, record: LogRecord) -> None:
        note(self.checker.known, arrival.topic, arrival.record, record)

    def _fresh(self) -> Iterator[Read]:
        credits = self.kafka.appended["credits"]
        for partition, record in credits[self._read :]:
            assert record.key is not None
            yield read(partition, record.key, record.value)
        self._read = len(credits)

    def _seen(self) -> Counter[str]:
        seen = sum((stage.seen for stage in self._stages), self.checker.seen)
        for report in self.reports:
            for name in COUNTED:
                seen[name] += getattr(report, name)
            for reason, count in report.dead_by_reason.items():
                seen[f"dead: {reason}"] += count
        return seen


def note(known: Known, topic: str, record: dict[str, Any], as_logged: LogRecord) -> None:
    """A fact as the oracle is to know it, at the record time that it has in the log."""
    fact = {**record, "_record_ms": as_logged.timestamp, "_order": as_logged.offset}
    if topic == "touches":
        known.touch(fact)
    elif topic == "conversions":
        known.conversion(fact)
    elif record["do"] == "forget":
        known.forget(record["person_id"], as_logged.timestamp)
    else:
        known.merge(Merge(as_logged.timestamp, record["person_id"], record["into"]))


def final_view(of: World) -> list[Shown]:
    """What readers of this world have at its end."""
    course = Course(of)
    course.run()
    return course.checker.view()
