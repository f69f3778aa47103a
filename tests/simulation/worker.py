"""A simulated process: one partition task, its transport, its producer and its connection to the store."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from faust.types import TP

from models.rules import Rules
from state.memory import MemoryStore
from state.store import Fenced, Lost, Unreachable, Writes
from streams.credit_task import CreditTask
from streams.decode import Decoder
from streams.native import load
from streams.processor import Limits
from streams.publish import Output, Superseded, Uncertain
from streams.report import BatchReport
from tests.simulation.scenario import Scenario
from tests.simulation.schedule import HELD, TRANSACTION
from tests.support import fakes
from tests.support.fakes import CONVERSIONS, TOPICS

# How long a process that is suspended stands still: shorter and longer than it takes to be replaced.
SUSPENSIONS_S = (0.2, 1.0, 5.0)


class Crash(BaseException):
    """The process died."""


class Left(BaseException):
    """The process ended itself with 75."""


def leave(why: str) -> None:
    raise Left(why)


class World(Protocol):
    """What a worker sees of the simulation."""

    scenario: Scenario
    kafka: fakes.Kafka
    memory: MemoryStore
    reports: list[BatchReport]

    def strike(self, place: str, worker: "Worker") -> str:
        """What goes wrong here: done already, or to be done by the worker."""

    def count(self, name: str) -> None:
        """One more of these."""

    def presume_dead(self, worker: "Worker") -> None:
        """The group takes the partition away from it, and it does not know."""

    def claimed(self, worker: "Worker", starts: Mapping[TP, int]) -> None:
        """The worker knows where it starts."""


class _Consumer(fakes.Consumer):
    def __init__(self, worker: "Worker") -> None:
        super().__init__(worker.world.kafka)
        self._worker = worker

    def seek(self, starts: Mapping[TP, int]) -> None:
        self._worker.has_claimed = True
        self._worker.world.claimed(self._worker, starts)
        super().seek(starts)


class _Publisher(fakes.Publisher):
    def __init__(self, worker: "Worker") -> None:
        super().__init__(worker.world.kafka, worker.at)
        self._worker = worker
        self.pause = worker.pause

    async def start(self) -> None:
        assert not self._worker.knows_better, f"a producer is initialised after {self._worker.knows_better}"
        await super().start()

    async def commit(self, partition: int, output: Output, offsets: Mapping[str, int]) -> None:
        assert not self._worker.knows_better, f"a transaction after {self._worker.knows_better}"
        fault = self._worker.world.strike(TRANSACTION, self._worker)
        if fault:
            self.faults.append(fault)
        try:
            await super().commit(partition, output, offsets)
        except Superseded:
            self._worker.world.count("zombie write: commit")
            self._worker.knows_better = "the producer was fenced"
            raise
        except Uncertain:
            self._worker.knows_better = "a commit without an answer"
            raise


class _Store(fakes.Store):
    def __init__(self, worker: "Worker") -> None:
        super().__init__(worker.world.memory, worker.world.kafka.ledger)
        self._worker = worker
        self._asks_twice = False
        self.pause = self._pause

    async def save(
        self, partition: int, token: bytes, applied: bytes, next_applied: bytes, writes: Writes
    ) -> list[bytes]:
        try:
            grown = await super().save(partition, token, applied, next_applied, writes)
        except Fenced:
            self._worker.world.count("zombie write: save")
            self._worker.knows_better = "the store was fenced"
            raise
        if self._asks_twice:
            # The client had no answer and asked again by itself: what is done already must count as done.
            self._asks_twice = False
            try:
                await self.memory.save(partition, token, applied, next_applied, writes)
            except Lost as error:
                raise AssertionError("a save that was done already was refused when it was asked again") from error
        return grown

    async def load(self, partition: int, token: bytes, applied: bytes, subkeys: Sequence[bytes]) -> list[bytes | None]:
        try:
            return await super().load(partition, token, applied, subkeys)
        except Fenced:
            self._worker.world.count("zombie load")
            self._worker.knows_better = "the store was fenced"
            raise

    async def _pause(self, call: str) -> None:
        what = await self._worker.pause(f"store {call}")
        error = Unreachable("no answer")
        if what == "unreachable":
            self.faults += [error] * self._worker.rng.randrange(1, 4)
        elif what == "repetition":
            self._asks_twice = True
        elif what == "lost reply":
            self.faults.append(("after", error))
        elif what == "revocation":
            # The store is gone after a transaction, and stays away; the partition is taken away meanwhile.
            self.faults += [error] * 3


class Worker:
    """A process with one partition task; its transport goes on until it dies."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.consumer = _Consumer(self)
        scenario = world.scenario
        settle_ms, policy = scenario.settle_ms, scenario.policy
        publisher = _Publisher(self)
        # Workers with the compiled part and without take turns: they must be able to follow each other.
        publisher.native = load() if world.kafka.epoch % 2 else None
        self.task: Any = CreditTask(
            0,
            TOPICS,
            _Store(self),
            publisher,  # type: ignore[arg-type]
            Decoder(
                TOPICS.touches,
                TOPICS.conversions,
                TOPICS.moves,
                policy.journey == "account",
                native=publisher.native,
            ),
            Rules(policy, settle_ms),
            Limits(settle_ms, rng.choice((1, 3, 50)), held_max=2, commit_every_s=rng.choice((0.2, 2.0)), retry_s=30.0),
            self.at,
            world.reports.append,
        )
        self.has_claimed = False
        # Why this process must end; from then on it may neither claim nor publish.
        self.knows_better = ""
        self._pump: asyncio.Task[None] | None = None
        self._once: set[str] = set()

    async def start(self) -> None:
        """Claim and begin; raises what a process dies of."""
        self.consumer.assign()
        if self._pump is None:
            self._pump = asyncio.ensure_future(self._hand_out())
        self.consumer.seek(await self.task.claim(self.consumer))
        self.task.start()

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
        await self.task.stop()
        await self.start()

    def kill(self) -> None:
        """Nothing of it goes on."""
        for task in (self._pump, self.task._task):
            if task is not None:
                task.cancel()
        self._pump = None

    def at(self, point: str) -> None:
        """Every crash point comes by here."""
        held = self.has_claimed and self.task.held > 0
        if "crash" in (self.world.strike(point, self), self.world.strike(HELD, self) if held else ""):
            if held:
                self.world.count("held conversions at a crash")
            raise Crash(point)

    async def pause(self, place: str) -> str:
        """Before something takes effect; a suspended process stands still here, and never learns that it did."""
        what = self.world.strike(place, self)
        if what == "suspension":
            self.world.presume_dead(self)
            await asyncio.sleep(self.rng.choice(SUSPENSIONS_S))
        await asyncio.sleep(0)
        return what

    async def _hand_out(self) -> None:
        """Fetch and hand out in any order and any portions."""
        rng, consumer = self.rng, self.consumer
        while True:
            for tp in self.world.kafka.logs:
                if rng.random() < 0.5:
                    consumer.ask(tp, rng.choice((1, 2, 9)))
            await asyncio.sleep(rng.choice((0, 0, 0.01, 0.05)))
            for tp in self.world.kafka.logs:
                consumer.land(tp)
            self._see()
            event = consumer.batch(rng.choice((0, 1, 2, 9)), rng.choice((0, 1, 2, 9)))
            if event is not None:
                await asyncio.sleep(rng.choice((0, 0, 0.01, 0.1)))  # on its way through Faust's stream
                self._deliver(event)
            await asyncio.sleep(rng.choice((0, 0.001, 0.02, 0.1)))

    def _deliver(self, event: fakes.Event) -> None:
        earlier = event.message.value.incarnation != self.consumer.incarnation(0)
        if not self.task.take(event):
            self.consumer.ack(event.message)
        elif earlier:
            self.world.count("batch of an earlier claim")

    def _see(self) -> None:
        """States that a world should come through, each counted once a process."""
        task = self.task
        states = {
            "conversions held back": CONVERSIONS in self.consumer.held_back,
            "newer records set aside": task.replaying and bool(task._later),
            "fetched records put back": self.consumer.put_back > 0,
        }
        for name, there in states.items():
            if there and name not in self._once:
                self._once.add(name)
                self.world.count(name)
