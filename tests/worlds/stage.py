"""The tasks of one stage, driven by hand: fed in any portions, killed anywhere, until nothing is left to do.

A task is the product's own. It is given batches and a clock; there is no event loop, as nothing here waits.
"""

import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from faust.types import TP

from models.policy import Policy
from models.rules import Rules
from state.keys import APPLIED, OWNER, prefix
from state.memory import MemoryStore
from state.store import Lost
from streams import credit_task, decode, step
from streams.credit_task import CreditTask
from streams.decode import Decoder
from streams.native import load
from streams.publish import Uncertain
from streams.step import Applied, Limits
from streams.topics import Topics
from streams.transport import Batch
from tests.support.oracle import duration_ms
from tests.worlds.kafka import Consumer, Kafka, LogRecord, Publisher

TOPICS = Topics("touches", "conversions", "moves", "credits", "dead-letters")
APP = "worlds"
# A stage that takes more steps than this to become quiet never will.
STEPS_MAX = 10_000
TROUBLES = ("crash", "crash", "crash", "lost", "unanswered", "flush", "roll-back")
PASSINGS_MAX = 12

Make = Callable[[int, MemoryStore, Publisher, Callable[[str], None]], Any]


class Crash(BaseException):
    """The process died."""


class Clock:
    """Machine time, seconds; stands in for the `time` module."""

    now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s

    perf_counter = monotonic


CLOCK = Clock()


@contextmanager
def stopped_clock() -> Iterator[None]:
    """Machine time moves in here only where a stage lets it."""
    with ExitStack() as stack:
        for module in (credit_task, decode, step):
            stack.enter_context(mock.patch.object(module, "time", CLOCK))
        yield


def drive(doing: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never really waits."""
    try:
        while True:
            doing.send(None)
    except StopIteration as end:
        return end.value


class Seat:
    """One partition number of a stage: whoever works on it at the time, and what outlives him."""

    def __init__(
        self, kafka: Kafka, group: str, partition: int, make: Make, rng: random.Random, producer: type[Publisher]
    ) -> None:
        self.partition = partition
        self._kafka, self._group, self._make, self._rng, self._producer = kafka, group, make, rng, producer
        self._store = MemoryStore(APP, grown_bytes=rng.choice((150, 1 << 16)), now_ms=lambda: kafka.now_ms)
        self._snapshot: tuple[dict[bytes, bytes], dict[bytes, int]] = ({}, {})
        self._passings = 0
        self.seen: Counter[str] = Counter()
        self.sit_down()

    def sit_down(self) -> None:
        """A new worker claims the partition."""
        self._publisher = self._producer(self._kafka, self._group, self.partition, self._pass)
        self._consumer = Consumer(self._kafka, self._group)
        self._task = self._make(self.partition, self._store, self._publisher, self._pass)
        self._read: dict[TP, int] = drive(self._task.claim(self._consumer))
        self.seen["claims that replay"] += self._task.replaying

    def is_quiet(self) -> bool:
        """Everything that is there was taken in and decided."""
        text = self._store.data.get(prefix(APP, self.partition) + APPLIED)
        if text is None or self._task.replaying:
            return False
        applied = Applied.parse(text).offsets
        logs = self._kafka.logs
        return not any(logs[tp].reaches(at, logs[tp].end) for tp, at in zip(self._task.inputs, applied, strict=True))

    def turn(self) -> None:
        """One step with the next portion of each input; a worker that dies in it is replaced."""
        try:
            drive(self._task.step(self._next_batches()))
        except (Crash, Lost, Uncertain):
            self._passings = 0
            self._again()

    def trouble(self) -> None:
        """Something goes wrong soon."""
        what = self._rng.choice(TROUBLES)
        self.seen[what] += 1
        if what == "crash":
            self._passings = self._rng.randint(1, PASSINGS_MAX)
        elif what in ("lost", "unanswered"):
            self._publisher.fault = what
        else:
            data, expires_ms = self._snapshot if what == "roll-back" else ({}, {})
            owner = prefix(APP, self.partition) + OWNER
            self._store.data = {**data, owner: b"nobody"} if data else {}
            self._store.expires_ms = dict(expires_ms)
            self._again()

    def remember(self) -> None:
        """What a roll-back will bring back."""
        self._snapshot = dict(self._store.data), dict(self._store.expires_ms)

    def _again(self) -> None:
        while True:
            try:
                self.sit_down()
                return
            except Crash:
                continue

    def _pass(self, point: str) -> None:
        """Every crash point comes by here."""
        if self._passings:
            self._passings -= 1
            if not self._passings:
                raise Crash(point)

    def _next_batches(self) -> list[Batch]:
        parts = tuple(self._next_records(tp) for tp in self._task.inputs)
        return [Batch(self.partition, parts, 0)] if any(parts) else []

    def _next_records(self, tp: TP) -> list[LogRecord]:
        if tp in self._consumer.held_back:
            return []
        records = self._kafka.logs[tp].since(self._read[tp])
        records = records[: self._rng.choice((1, 3, 50, 50, 50))]
        if records:
            self._read[tp] = records[-1].offset + 1
        return records


class Stage:
    """All partition numbers of a stage."""

    def __init__(
        self,
        kafka: Kafka,
        group: str,
        make: Make,
        rng: random.Random,
        settle_ms: int,
        producer: type[Publisher] = Publisher,
    ) -> None:
        self._rng = rng
        self._settle_s = max(settle_ms, 1) / 1000
        self.seats = [Seat(kafka, group, p, make, rng, producer) for p in range(kafka.partitions)]

    def step(self) -> bool:
        """Let everybody who is not done take a turn; False where all are done."""
        busy = [seat for seat in self.seats if not seat.is_quiet()]
        for seat in busy:
            seat.turn()
        CLOCK.now_s += self._settle_s / 2
        return bool(busy)

    def trouble(self) -> None:
        self._rng.choice(self.seats).trouble()

    def remember(self) -> None:
        """What a roll-back will bring back."""
        for seat in self.seats:
            seat.remember()

    @property
    def seen(self) -> Counter[str]:
        """What came up."""
        return sum((seat.seen for seat in self.seats), Counter())


def settle(*stages: Stage) -> None:
    """Go on until nobody has anything to do."""
    for _ in range(STEPS_MAX):
        if not any([stage.step() for stage in stages]):  # noqa: C419 each takes its turn
            return
    raise AssertionError(f"not quiet after {STEPS_MAX} steps")


def crediting(kafka: Kafka, policy: dict[str, Any], rng: random.Random, reports: list[Any]) -> Stage:
    """The credit stage under this policy; what it does is added to `reports`."""
    settle_ms = duration_ms(policy["processing"]["settle"])
    compiled = Policy.from_effective({name: policy[name] for name in ("attribution", "conversions")})
    decoder = Decoder(TOPICS.touches, TOPICS.conversions, TOPICS.moves, False, native=load())

    def make(partition: int, store: MemoryStore, publisher: Any, crash_point: Callable[[str], None]) -> CreditTask:
        limits = Limits(settle_ms, rng.choice((1, 3, 50)), held_max=rng.choice((2, 100)), trip_wire=False)
        return CreditTask(
            partition,
            TOPICS,
            store,
            publisher,
            decoder,
            Rules(compiled, settle_ms),
            limits,
            crash_point,
            reports.append,
        )

    return Stage(kafka, "credit", make, rng, settle_ms)
