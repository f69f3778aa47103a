"""One simulated world: a producer, workers that come and go, a store that forgets; all from one seed.

Nothing here knows what the credits should be. What can go wrong is drawn from the seed: crashes at every crash point,
a store that is emptied or rolled back between any two of its calls, refused and unanswered commits, lost replies,
zombies, rebalances. Trouble is rationed, so that every world comes to rest.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from models.crediting import Rules
from state.keys import APPLIED, prefix
from state.memory import MemoryStore
from state.store import StoreError, Unreachable
from streams import processor
from streams.crash import CRASH_POINTS
from streams.decode import Decoder
from streams.processor import Applied, Limits, PartitionTask
from streams.publish import Refused, Superseded, Uncertain
from streams.report import BatchReport
from tests.simulation.scenario import Scenario
from tests.support import fakes
from tests.support.fakes import CONVERSIONS, TOPICS, TOUCHES

# Simulated seconds after which a world that has not come to rest never will.
REST_S = 900.0
TROUBLES_MAX = 12
# What a run of many worlds must have met at least once each: a simulation that never gets there proves nothing.
COUNTED = (
    *(f"crash at {point}" for point in CRASH_POINTS),
    *(f"store {what} at {where}" for what in ("emptied", "rolled back") for where in ("rest", "load", "save")),
    *(f"publisher {what}" for what in ("refused", "lost", "unanswered")),
    *("store unreachable", "store reply lost", "uncertain", "fenced"),
    *("zombie", "zombie superseded", "zombie fenced", "rebalance", "handover", "claimed again"),
    "revoked while the store is away",
    *("replay", "replay with newer records", "rebuilt conversion restated"),
    *("commit without output", "held back", "grown journey", "restated", "tombstone", "dead letter"),
)


class Crash(BaseException):
    """The process died."""


class Left(BaseException):
    """The process ended itself with 75."""


def leave(why: str) -> None:
    raise Left(why)


class Worker:
    """A process with one partition task; its transport pumps until it dies."""

    def __init__(self, simulation: "Simulation") -> None:
        sim = self._sim = simulation
        self._rng = random.Random(sim.rng.random())
        self.consumer = fakes.Consumer(sim.kafka)
        self.publisher = fakes.Publisher(sim.kafka, sim.at)
        policy = sim.scenario.policy
        self.task: Any = PartitionTask(
            0,
            TOPICS,
            sim.store,
            self.publisher,  # type: ignore[arg-type]
            Decoder(TOPICS.touches, TOPICS.conversions, policy.journey == "account"),
            Rules(policy, sim.scenario.settle_ms),
            Limits(sim.scenario.settle_ms, step_records=self._rng.choice((1, 3, 50)), held_max=2, retry_s=30.0),
            sim.at,
            sim.reports.append,
        )
        self._pump: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Claim and begin; raises what a process dies of."""
        self.consumer.seek(await self.task.claim(self.consumer))
        self.task.start()
        self._pump = asyncio.ensure_future(self._hand_out())

    @property
    def end(self) -> BaseException | None:
        """What it died of, None while it lives."""
        running = self.task._task
        return running.exception() if running is not None and running.done() else None

    async def stop(self) -> None:
        """End in good order."""
        await self.task.stop()
        self.kill()

    async def claim_again(self) -> None:
        """What a rebalance does to a partition that stays."""
        await self.stop()
        self.consumer.invalidate(0)
        await self.start()

    def kill(self) -> None:
        """Nothing of it goes on."""
        for task in (self._pump, self.task._task):
            if task is not None:
                task.cancel()

    async def _hand_out(self) -> None:
        """Fetch and hand out in any order and any portions."""
        rng, consumer = self._rng, self.consumer
        while True:
            for tp in rng.sample((TOUCHES, CONVERSIONS), 2):
                if rng.random() < 0.5:
                    consumer.fetch(tp, rng.choice((1, 2, 9)))
            event = consumer.batch(rng.choice((0, 1, 2, 9)), rng.choice((0, 1, 2, 9)))
            if event is not None and not self.task.take(event):
                consumer.ack(event.message)
            self._count()
            await asyncio.sleep(rng.choice((0, 0.001, 0.05, 0.3)))

    def _count(self) -> None:
        seen, task = self._sim.seen, self.task
        seen["held back"] += CONVERSIONS in self.consumer.held_back
        seen["replay"] += task.replaying
        seen["replay with newer records"] += task.replaying and bool(task._later)
        seen["grown journey"] += bool(task._grown)


class Simulation:
    """Runs a scenario to its rest."""

    def __init__(self, scenario: Scenario, seen: Counter[str], *, troubles: int = TROUBLES_MAX) -> None:
        self.scenario = scenario
        self.rng = random.Random(f"simulation {scenario.seed}")
        self.seen = seen
        self.kafka = fakes.Kafka()
        self.memory = MemoryStore(grown_bytes=self.rng.choice((150, 1 << 16)))
        self.store = fakes.Store(self.memory, self.kafka.ledger)
        self.store.before = self._before_store
        self.reports: list[BatchReport] = []
        self._troubles = self.rng.randrange(troubles + 1) if troubles else 0
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
            self._troubles = 0
            stopped = await self._stop()
        producer.result()
        for zombie in self._zombies:
            zombie.kill()
        self._count()

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
            await asyncio.sleep(self.rng.choice((0, 0.01, 0.1, 0.7)))

    async def _stop(self) -> bool:
        """Whether the last worker ended in good order; a fault that is still on its way may end it otherwise."""
        if self._worker is None or self._worker.end is not None:
            return False
        worker, self._worker = self._worker, None
        try:
            await worker.stop()
        except (Left, Crash):
            worker.kill()
            return False
        return True

    def applied(self) -> Applied | None:
        """Where the store stands."""
        text = self.memory.data.get(prefix("memory", 0) + APPLIED)
        return None if text is None else Applied.parse(text)

    def at(self, point: str) -> None:
        """Every crash point comes by here."""
        if self._draws(0.02):
            self.seen[f"crash at {point}"] += 1
            raise Crash(point)

    # -- the world

    async def _produce(self) -> None:
        rng = self.rng
        for arriving in self.scenario.arriving:
            log = self.kafka.logs[arriving.tp]
            log.append(arriving.key, arriving.value, arriving.record_ms, [("trace", b"1")])
            if rng.random() < 0.1:
                log.gap(rng.randrange(1, 3))
            if rng.random() < 0.3:
                await asyncio.sleep(rng.choice((0, 0.01, 0.3, 2.0, 6.0)))

    def _count(self) -> None:
        seen, valued = self.seen, set()
        for credit in self.kafka.credits:
            if credit.value is not None:
                valued.add(credit.key)
            else:
                # Only the first restatement after a rebuild takes back what it does not know to have been published.
                seen["tombstone" if credit.key in valued else "rebuilt conversion restated"] += 1
        seen["commit without output"] += sum(entry[:3] == ("published", 0, 0) for entry in self.kafka.ledger)
        seen["restated"] += sum(report.restated for report in self.reports)
        seen["dead letter"] += len(self.kafka.dead)

    def _nudge(self) -> None:
        """One more record: an idle worker finds out that the store has forgotten everything when the next one comes."""
        record_ms = max((a.record_ms for a in self.scenario.arriving), default=fakes.START_MS)
        self.kafka.logs[TOUCHES].append(None, None, record_ms)
        self.scenario.bad += 1

    def _is_at_rest(self) -> bool:
        applied = self.applied()
        return (
            applied is not None
            and applied[:2] == self.kafka.end()
            and self._worker is not None
            and self._worker.end is None
            and not self._worker.task.replaying
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
            self._bury(self._worker, "")
            self._worker = None
        if self._worker is None:
            worker = Worker(self)
            try:
                await worker.start()
            except (Crash, StoreError, Refused, Superseded, Uncertain):
                worker.kill()
            else:
                self._worker = worker

    def _bury(self, worker: Worker, who: str) -> None:
        end = worker.end
        assert isinstance(end, Crash | Left), f"died of {end!r}"
        self.seen["claimed again"] += worker.task.reclaims
        if isinstance(end, Left):
            known = [name for name in ("Superseded", "Fenced", "Uncertain") if name in str(end)]
            assert known, f"left because of {end}"
            self.seen[f"{who}{known[0].lower()}"] += 1
        worker.kill()

    # -- trouble

    def _draws(self, chance: float) -> bool:
        if self._troubles <= 0 or self.rng.random() >= chance:
            return False
        self._troubles -= 1
        return True

    async def _trouble(self) -> None:
        if self._troubles and self.rng.random() < 0.3:
            self._snapshots.append((dict(self.memory.data), dict(self.memory.expires_ms)))
        self._damage_store("rest", 0.02)
        worker = self._worker
        if worker is None:
            return
        if self._draws(0.03):
            fault = self.rng.choice(("refused", "lost", "unanswered"))
            worker.publisher.faults.append(fault)
            self.seen[f"publisher {fault}"] += 1
        if self._draws(0.03):
            error = Unreachable("no answer")
            lost = self.rng.random() < 0.5
            self.store.faults += [("after", error)] if lost else [error] * self.rng.randrange(1, 4)
            self.seen["store reply lost" if lost else "store unreachable"] += 1
        if self.rng.random() < 0.3:
            await asyncio.sleep(self.rng.choice((0, 0.05, 0.3)))  # so that it may strike before the next trouble
        if self._draws(0.03):
            self.seen["zombie"] += 1
            self._zombies.append(worker)
            self._worker = None
        elif self._draws(0.3 if self.store.faults else 0.05):
            await self._rebalance(worker)

    async def _hand_over(self, worker: Worker) -> None:
        try:
            await worker.stop()
        except (Crash, Left):
            worker.kill()

    async def _rebalance(self, worker: Worker) -> None:
        stays = self.rng.random() < 0.5
        self.seen["rebalance" if stays else "handover"] += 1
        try:
            if stays:
                await worker.claim_again()
            else:
                await worker.stop()
        except (Crash, Left, StoreError, Refused, Superseded, Uncertain):
            worker.kill()
            self._worker = None
        else:
            self._worker = worker if stays else None

    def _before_store(self, call: str) -> None:
        if call in ("load", "save"):
            self._damage_store(call, 0.02)
        if call == "save" and self._leaving is None and self._worker is not None and self._draws(0.02):
            # The store is gone after a transaction, and stays away; the partition is taken away meanwhile.
            self.store.faults += [Unreachable("no answer")] * 3
            self.seen["revoked while the store is away"] += 1
            self._leaving, self._worker = asyncio.ensure_future(self._hand_over(self._worker)), None

    def _damage_store(self, where: str, chance: float) -> None:
        if not self._draws(chance):
            return
        what = self.rng.choice(("emptied", "rolled back"))
        data, expires_ms = ({}, {}) if what == "emptied" else self.rng.choice(self._snapshots)
        self.memory.data, self.memory.expires_ms = dict(data), dict(expires_ms)
        self.seen[f"store {what} at {where}"] += 1


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
