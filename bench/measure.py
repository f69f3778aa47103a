"""One run of one system: start, clock from first fetch to last readable output, CPU and memory, clean up."""

import re
import shutil
import sys
import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.generate import DataSet
from bench.processes import Child
from bench.servers import Kafka, Redis
from bench.systems import PREFIX, Place, System, apply_topics
from bench.verify import verify

POLL_SECONDS = 0.02
RUN_SECONDS = 600.0
# A bounded job (Flink) ends by itself once it has committed; the reader then needs moments, not this long.
ENDED_SECONDS = 20.0
PARTITIONS = 4


@dataclass(frozen=True)
class Measured:
    """What one run gave; times in seconds, memory in MiB. `client_total_cpu` has the start-up in it as well."""

    system: str
    round: int
    events: int
    outputs: int
    surplus: int
    seconds: float
    seconds_with_start: float
    client_cpu: float
    client_total_cpu: float
    redis_cpu: float
    broker_cpu: float
    client_peak_mib: float
    redis_peak_mib: float
    faults: tuple[str, ...] | None = None

    @property
    def rate(self) -> float:
        """Events a second of wall time."""
        return self.events / self.seconds

    @property
    def per_cpu(self) -> float:
        """Events a CPU second of the client and its state store (RocksDB is inside the peers' processes)."""
        return self.events / (self.client_cpu + self.redis_cpu)


class Failed(Exception):
    """A run that gave no measurement: the system ended or stood still; the message has the end of its log."""


# What a worker logs when it knows where a partition begins, in local time; nothing is fetched before.
_CLAIMED = re.compile(r"^(\S+ \S+),(\d{3}) INFO touchstream\.processor \[\w+\] partition \d+ claimed: ", re.MULTILINE)


def first_claim(log: Path) -> int | None:
    """Epoch milliseconds of the first claim in a worker's log; None before it."""
    found = _CLAIMED.search(log.read_text(errors="replace"))
    if found is None:
        return None
    return int(datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").astimezone().timestamp()) * 1000 + int(found[2])


@dataclass(frozen=True)
class _Marks:
    client: float
    redis: float
    broker: float


class Bench:
    """The servers and the data set that all runs share."""

    def __init__(self, kafka: Kafka, redis: Redis, data: DataSet, work: Path) -> None:
        self.kafka, self.redis, self.data, self.work = kafka, redis, data, work
        self.admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        self._count = 0

    def run(self, system: System, number: int, check: bool = False, quiet: float = 0.0) -> Measured:
        """Measure `system` once; topics, groups, Redis keys and files of the run are gone afterwards.

        With `check`, the output is read again after the clock has stopped and its sums are proved. With `quiet`, the
        number of records is not known beforehand (restatements): the end is the last one before so many quiet seconds.
        """
        self._count += 1
        run_id = f"run-{self._count}-{int(time.time())}"
        output = f"{PREFIX}.credits" if system.family == "Touchstream" else f"credits-{run_id}"
        scratch = self.work / run_id
        scratch.mkdir()
        place = Place(self.kafka.bootstrap, self.redis.url, output, run_id, scratch, self.data.events)
        launch = system.launch(place)
        before = self._groups()
        if system.family == "Touchstream":
            apply_topics(self.kafka.bootstrap)
        else:
            self._create(output)
        reader = self._reader(system, output, quiet or 1.0)
        children: list[Child] = []
        try:
            self._await_line(reader, "ready", [])
            self.redis.child.usage.reset_peak()
            for i, command in enumerate(launch.commands):
                children.append(Child(command, self.work / f"{run_id}-{i}.log", launch.env))
            measured = self._clock(system, number, children, reader, bool(quiet))
            self._end(system, children)
            return replace(measured, faults=self._faults(output)) if check and not system.limited else measured
        finally:
            self._end(system, children)
            reader.kill()
            self._remove(run_id, output, before if system.first_fetch == "claim" else self._groups())
            shutil.rmtree(scratch, ignore_errors=True)

    def _clock(self, system: System, number: int, children: list[Child], reader: Child, open_end: bool) -> Measured:
        first_ms = self._first_fetch(system, children)
        start = self._marks(children)
        events, outputs = self.data.events, 0
        if system.limited:
            end_ms, events = (int(x) for x in self._await_line(children[0], "limit", children))
        elif open_end:
            outputs, end_ms = (int(x) for x in self._await_line(reader, "final", children))
        else:
            end_ms, outputs = (int(x) for x in self._await_line(reader, "reached", children))
        end = self._marks(children)
        broker_end = self.kafka.child.usage.at(end_ms / 1000)  # before the observer reads the output
        surplus = 0 if system.limited else int(self._await_line(reader, "final", [])[0]) - self._expected(system)
        return Measured(
            system=system.name,
            round=number,
            events=events,
            outputs=outputs,
            surplus=surplus,
            seconds=(end_ms - first_ms) / 1000,
            seconds_with_start=end_ms / 1000 - children[0].started,
            client_cpu=end.client - start.client,
            client_total_cpu=end.client,
            redis_cpu=end.redis - start.redis if system.uses_redis else 0.0,
            broker_cpu=broker_end - start.broker,
            client_peak_mib=sum(c.usage.peak_bytes for c in children) / 2**20,
            redis_peak_mib=self.redis.child.usage.peak_bytes / 2**20 if system.uses_redis else 0.0,
        )

    @staticmethod
    def _end(system: System, children: list[Child]) -> None:
        """Touchstream keeps its group's name from run to run, so it is asked to leave; the peers' are new each time."""
        for child in children:
            if system.first_fetch == "claim":
                child.stop()
            else:
                child.kill()

    def _faults(self, output: str) -> tuple[str, ...]:
        # Touchstream's final view is the flat one whatever came late or twice; the grouped form has as many touches.
        return verify(self.kafka.bootstrap, output, PARTITIONS, self.data.conversions, self.data.flat).faults

    def _expected(self, system: System) -> int:
        return self.data.flat if system.flat else self.data.grouped

    def _marks(self, children: list[Child]) -> _Marks:
        return _Marks(
            sum(c.usage.sample() for c in children),
            self.redis.child.usage.sample(),
            self.kafka.child.usage.sample(),
        )

    def _first_fetch(self, system: System, children: list[Child]) -> int:
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            self._check(children)
            if system.first_fetch == "claim":
                claimed = [found for child in children if (found := first_claim(child.log))]
                if claimed:
                    return min(claimed)
            else:
                said = [int(s[0]) for s in (c.said("first-fetch") for c in children) if s]
                if said:
                    return min(said)
            time.sleep(POLL_SECONDS)
        raise Failed("no first fetch:\n" + children[0].tail())

    def _groups(self) -> set[str]:
        listed = self.admin.list_consumer_groups(request_timeout=10).result(10)
        return {g.group_id for g in listed.valid}

    def _reader(self, system: System, output: str, quiet: float) -> Child:
        options = {
            "broker": self.kafka.bootstrap,
            "topic": output,
            "partitions": str(PARTITIONS),
            "expected": str(self._expected(system)),
            "quiet": str(quiet),
        }
        words = [w for k, v in options.items() for w in (f"--{k}", v)]
        return Child([sys.executable, "-m", "bench.reader", *words], self.work / f"reader-{self._count}.log")

    def _await_line(self, child: Child, word: str, running: list[Child]) -> list[str]:
        deadline = time.monotonic() + RUN_SECONDS
        ended: float | None = None
        while time.monotonic() < deadline:
            said = child.said(word)
            if said is not None:
                return said
            self._check(running)
            if child.process.poll() is not None and child.said(word) is None:
                raise Failed(f"ended before it said {word}:\n" + child.tail())
            if running and ended is None and all(c.process.poll() == 0 for c in running):
                ended = time.monotonic()
            if ended is not None and time.monotonic() - ended > ENDED_SECONDS:
                raise Failed(f"the system ended with exit 0, its output incomplete; reader: {child.tail(1)}")
            time.sleep(POLL_SECONDS)
        raise Failed(
            f"no {word} within {RUN_SECONDS:.0f} s; reader: {child.tail(1)}\n{running[0].tail() if running else ''}"
        )

    @staticmethod
    def _check(children: list[Child]) -> None:
        for child in children:
            code = child.process.poll()
            if code:
                raise Failed(f"exit {code}:\n" + child.tail())

    def _create(self, topic: str) -> None:
        for future in self.admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
            future.result(30)

    def _remove(self, run_id: str, output: str, before: set[str]) -> None:
        """Delete what the run made in Kafka and Redis: nothing of it may help or slow the next."""
        mine = [t for t in self.admin.list_topics(timeout=10).topics if run_id in t or t == output]
        extra = [t for t in self.admin.list_topics(timeout=10).topics if t.startswith(f"{PREFIX}.") and t not in mine]
        mine += [t for t in extra if t.rsplit(".", 1)[1] not in ("touches", "conversions")]
        for future in self.admin.delete_topics(mine, operation_timeout=30).values():
            future.result(30)
        left = sorted(self._groups() - before)
        for future in self.admin.delete_consumer_groups(left).values() if left else ():
            future.result(30)
        self.redis.flush()
