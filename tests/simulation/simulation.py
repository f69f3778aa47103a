"""One simulated world: a producer, workers that come and go, a store that forgets; all from one seed.

Nothing here knows what the credits should be. What goes wrong is in the schedule; it is finite, so that every world
comes to rest.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from faust.types import TP

from state.keys import APPLIED, prefix
from state.memory import MemoryStore
from state.store import StoreError
from streams import processor
from streams.processor import Applied
from streams.publish import Refused, Superseded, Uncertain
from streams.report import BatchReport
from tests.simulation.scenario import Scenario
from tests.simulation.schedule import ANY_TIME, Schedule
from tests.simulation.worker import Crash, Left, Worker, leave
from tests.support import fakes
from tests.support.fakes import TOUCHES

# Simulated seconds after which a world that has not come to rest never will.
REST_S = 900.0
SNAPSHOTS_MAX = 20
# What a worker may say when it ends itself, and how that is called in the table.
ENDS = {
    "Superseded": "superseded",
    "Fenced": "fenced",
    "Uncertain": "uncertain",
    "expected records": "given records again",
}


class Simulation:
    """Runs a scenario to its rest."""

    def __init__(self, scenario: Scenario, schedule: Schedule, seen: Counter[str]) -> None:
        self.scenario, self.schedule, self.seen = scenario, schedule, seen
        self.rng = random.Random(f"simulation {scenario.seed}")
        self.kafka = fakes.Kafka()
        self.memory = MemoryStore(grown_bytes=self.rng.choice((150, 1 << 16)))
        self.reports: list[BatchReport] = []
        self.story: list[str] = []
        # How many transactions there were when a replay began, and when it was one from the beginning of the log.
        self.rebuilds: list[int] = []
        self._snapshots: list[tuple[dict[bytes, bytes], dict[bytes, int]]] = [({}, {})]
        self._worker: Worker | None = None
        self._zombies: list[Worker] = []
        self._leaving: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """To the rest, then to a stop in good order.

        AssertionError where it does not come to rest, or a worker dies of something unforeseen.
        """
        producer = asyncio.ensure_future(self._produce())
        stopped = False
        while not stopped:
            await self._come_to_rest(producer)
            self.schedule.end()
            stopped = await self._stop()
        producer.result()
        for zombie in self._zombies:
            zombie.kill()

    async def _come_to_rest(self, producer: "asyncio.Task[None]") -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + REST_S
        nudges_s = [loop.time() + REST_S * part for part in (0.3, 0.5, 0.7)]
        while not (producer.done() and self._is_at_rest()):
            assert loop.time() < until_s, f"no rest: applied {self.applied()}, end {self.kafka.end()}"
            if producer.done() and nudges_s and loop.time() > nudges_s[0]:
                nudges_s.pop(0)
                self._nudge()
            await self._keep_alive()
            await self._trouble()
            await asyncio.sleep(self.rng.choice((0, 0.01, 0.1, 0.3)))

    async def _stop(self) -> bool:
        """Whether the last worker ended in good order; a fault that is still on its way may end it otherwise."""
        if self._worker is None or self._worker.end is not None:
            return False
        worker, self._worker = self._worker, None
        return await self._survives(worker, worker.stop())

    def applied(self) -> Applied | None:
        """Where the store stands."""
        text = self.memory.data.get(prefix("memory", 0) + APPLIED)
        return None if text is None else Applied.parse(text)

    # -- what workers ask

    def strike(self, place: str, worker: Worker | None) -> str:
        what = self.schedule.strike(place)
        if not what:
            return ""
        if what in ("flush", "roll-back"):
            self._damage_store(what)
        elif what == "revocation":
            if worker is not self._worker or worker is None or self._leaving is not None:
                return ""
            self._leaving, self._worker = asyncio.ensure_future(self._hand_over(worker)), None
        self.count(f"{what} at {place}")
        return what

    def count(self, name: str) -> None:
        self.seen[name] += 1
        self.story.append(f"{asyncio.get_running_loop().time() - 1_000:9.3f} s  {name}")

    def presume_dead(self, worker: Worker) -> None:
        if worker is self._worker:
            self._zombies.append(worker)
            self._worker = None

    def claimed(self, worker: Worker, starts: Mapping[TP, int]) -> None:
        first = tuple(starts[tp] for tp in self.kafka.logs)
        committed = tuple(self.kafka.committed.get(tp.topic, 0) for tp in self.kafka.logs)
        self.story.append(f"{'':12}claimed from {first}, committed {committed}")
        if not worker.task.replaying:
            return
        self.count("committed ahead of applied")
        if any(end > done for end, done in zip(self.kafka.end(), committed, strict=True)):
            self.count("catch-up with newer records in the log")
        if not any(first) and committed[1] > 0:
            self.rebuilds.append(self.kafka.transactions)
            self.count("rebuild from the beginning")

    # -- the world

    async def _produce(self) -> None:
        rng = self.rng
        for arriving in self.scenario.arriving:
            log = self.kafka.logs[arriving.tp]
            log.append(arriving.key, arriving.value, arriving.record_ms, [("trace", b"1")])
            if rng.random() < 0.1:
                log.gap(rng.randrange(1, 3))
            if rng.random() < 0.3:
                await asyncio.sleep(rng.choice((0, 0.01, 0.2, 0.6)))

    def _nudge(self) -> None:
        """One more record: an idle worker finds out that the store has forgotten everything when the next one comes."""
        record_ms = max((a.record_ms for a in self.scenario.arriving), default=fakes.START_MS)
        self.kafka.logs[TOUCHES].append(None, None, record_ms)
        self.scenario.bad += 1

    def _is_at_rest(self) -> bool:
        applied = self.applied()
        return (
            applied is not None
            and applied.offsets == self.kafka.end()
            and self._worker is not None
            and self._worker.end is None
            and not self._worker.task.replaying
            and not self._worker.consumer.went_back
        )

    async def _keep_alive(self) -> None:
        """Notice deaths; start a worker where there is none. A start may die too."""
        if self._leaving is not None:
            await self._leaving  # a partition has one owner at a time, as far as the group knows
            self._leaving = None
        for zombie in [z for z in self._zombies if z.end is not None]:
            self._bury(zombie, "zombie ")
            self._zombies.remove(zombie)
        if self._worker is not None and self._worker.end is not None:
            self._bury(self._worker, "worker ")
            self._worker = None
        if self._worker is None:
            worker = Worker(self, random.Random(self.rng.random()))
            if await self._survives(worker, worker.start()):
                self._worker = worker

    async def _survives(self, worker: Worker, doing: Any) -> bool:
        """Whether the process lives on after something that it may die of."""
        try:
            await doing
        except Left as end:
            self._count_end(end, "worker ")
        except (Crash, StoreError, Refused, Superseded, Uncertain):
            pass
        else:
            return True
        worker.kill()
        return False

    def _bury(self, worker: Worker, who: str) -> None:
        end = worker.end
        assert isinstance(end, Crash | Left), f"died of {end!r}"
        if worker.task.reclaims:
            self.count("claimed again in process")
        if isinstance(end, Left):
            self._count_end(end, who)
        worker.kill()

    def _count_end(self, end: Left, who: str) -> None:
        """A worker may end itself for reasons that were foreseen, and no others."""
        known = [name for said, name in ENDS.items() if said in str(end)]
        assert known, f"left because of {end}"
        self.count(f"{who}{known[0]}")

    # -- trouble

    async def _trouble(self) -> None:
        if self.rng.random() < 0.3 and len(self._snapshots) < SNAPSHOTS_MAX:
            self._snapshots.append((dict(self.memory.data), dict(self.memory.expires_ms)))
        worker = self._worker
        if worker is None:
            return
        what = self.strike(ANY_TIME, worker)
        if what == "zombie":
            self.presume_dead(worker)
        elif what == "rebalance":
            if not await self._survives(worker, worker.claim_again()):
                self._worker = None
        elif what == "handover":
            self._worker = None
            await self._hand_over(worker)
        elif what == "step back" and worker.consumer.go_back():
            self.count("transport went back")

    async def _hand_over(self, worker: Worker) -> None:
        if await self._survives(worker, worker.stop()) and worker.task.reclaims:
            self.count("claimed again in process")

    def _damage_store(self, what: str) -> None:
        if what == "roll-back":
            data, expires_ms = self.rng.choice(self._snapshots)
        else:
            data, expires_ms = {}, {}
        self.memory.data, self.memory.expires_ms = dict(data), dict(expires_ms)


@contextmanager
def mortal() -> Iterator[None]:
    """The processor's way to end the process ends a simulated one; its log says nothing of the deaths we plan."""
    log = logging.getLogger("touchstream.processor")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with mock.patch.object(processor, "leave", leave):
            yield
    finally:
        log.setLevel(level)
