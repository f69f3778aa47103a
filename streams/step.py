"""The way of a record through one partition number of a stage: one step a batch.

    take → decode → hold → release → load and prove → decide → publish → save → ack

A step commits in this order and no other:
  1. load      one command proves that the store is where this worker left it, and reads what is decided on
  2. decide    a pure function of what is stored, records and policy
  3. publish   output, dead letters and all input offsets in one Kafka transaction
  -- past this line the batch counts as done and may not be decided again --
  4. save      the new state and applied offsets in one fenced script
  5. ack       frees a place in the transport's window

A batch without output that only moves on inputs named `lazy` skips 3: applied then runs ahead of committed, and
whatever lies between them had no output. On assignment the producer is initialised, the store claimed and the committed
offsets read, in this order; where applied is behind committed, records up to committed are taken in without output.

What a stage makes of its records is in its own task: `streams/credit_task.py`, `streams/identity.py`.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from faust.types import TP

from models.formats import FORMAT
from state.store import Writes
from streams.murmur import partition_of
from streams.publish import DeadLetter, Output, Publisher
from streams.report import BatchReport
from streams.routing import misrouted
from streams.transport import Batch, Consumer
from streams.tripwire import TRIP, TRIPPED, WINDOW, Tripped, TripWire

log = logging.getLogger("touchstream.processor")

Offsets = tuple[int, ...]


class StartError(RuntimeError):
    """The topics and the store do not belong together; nothing was changed. `fix` says what a person can do."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


class Applied(NamedTuple):
    """What the store says of a partition.

    The next offset of each input; the event time of the latest conversion (-1: none); the record time below which
    conversions that were read again are sealed, as their touches are gone from the log (-1: none are); how many
    persons of this partition were merged into others, and how many were forgotten; and how many corrections ever waited
    for their create, and how many of these were looked at again (`streams/waiting.py`).
    """

    offsets: Offsets
    latest_ms: int = -1
    sealed_below_ms: int = -1
    merged: int = 0
    forgotten: int = 0
    waited: int = 0
    given_up: int = 0

    def text(self) -> bytes:
        offsets = b",".join(b"%d" % offset for offset in self.offsets)
        # Without the last two where nothing ever waited, as it always was: programs of before can read that.
        return b";".join([offsets, *(b"%d" % each for each in (self[1:] if self.waited else self[1:-2]))])

    @classmethod
    def parse(cls, text: bytes) -> "Applied":
        offsets, *rest = text.split(b";")
        return cls(tuple(map(int, offsets.split(b","))), *map(int, rest))


@dataclass(frozen=True, slots=True)
class Limits:
    """How batches are cut and how long things wait; results depend on `settle_ms` only.

    `state_format`: in which format state is written (`models/formats.py`).
    """

    settle_ms: int = 250
    step_records: int = 32_000
    held_max: int = 20_000
    commit_every_s: float = 5.0
    retry_s: float = 30.0
    trip_wire: bool = True
    state_format: int = FORMAT


class Decision(Protocol):
    """What a step came to: what to publish, and what to save."""

    @property
    def output(self) -> Output: ...

    @property
    def writes(self) -> Writes: ...

    @property
    def lasting(self) -> dict[bytes, bytes]:
        """What is saved first, for as long as can be."""


class Records(Protocol):
    """What the fetched records of a step came to."""

    def __bool__(self) -> bool: ...

    @property
    def counts(self) -> Offsets:
        """How many records there are of each input."""

    def split(self, ends: Offsets, later: Self) -> Self:
        """Those below `ends`; the others are added to `later`."""


Taken = TypeVar("Taken", bound=Records)
Decided = TypeVar("Decided", bound=Decision)


class Steps(ABC, Generic[Taken, Decided]):
    """The steps of one partition number, from a claim on; whoever claims it says with `_start_at` where they begin."""

    # Inputs whose records alone, without output, need no transaction: their offsets are committed with the next one.
    lazy: frozenset[int] = frozenset()

    def __init__(
        self,
        inputs: Sequence[TP],
        store: Any,
        publisher: Publisher,
        limits: Limits,
        crash_point: Callable[[str], None],
        report: Callable[[BatchReport], None],
    ) -> None:
        """`inputs`: the topic partitions of the stage, all of one partition number."""
        self.inputs = tuple(inputs)
        self.partition = self.inputs[0].partition
        self._store = store
        self._publisher = publisher
        self._limits = limits
        self._crash_point = crash_point
        self._report = report
        self._consumer: Consumer | None = None
        # A task that has the compiled part at hand puts that here.
        self._partition_of: Callable[[bytes, int], int] = partition_of
        self.replaying = False

    # -- what a stage makes of its records

    @abstractmethod
    def _nothing(self) -> Taken:
        """No records taken."""

    @abstractmethod
    def _decode(self, batch: Batch, taken: Taken) -> None:
        """Add the records of the batch to `taken`."""

    async def _release(self, taken: Taken) -> None:
        """Keep back what has to wait, and add what waited; the records below `_ends` are those released."""

    @abstractmethod
    async def _decide(self, taken: Taken, ends: Offsets, report: BatchReport) -> Decided:
        """Load what anything can change, and decide."""

    @abstractmethod
    def _flags(self, taken: Taken, dead: Sequence[DeadLetter]) -> list[bool]:
        """True for each record of the step that is a dead letter, for the trip wire."""

    def _next_applied(self, decided: Decided, ends: Offsets) -> Applied:
        """What the store shall say when the step is saved."""
        return self._applied._replace(offsets=ends)

    def _note_grown(self, subkeys: Sequence[bytes]) -> None:
        """These keys have become long and should be written anew."""

    # -- the step

    def _start_at(self, token: bytes, applied: Applied, committed: Offsets, trip: bytes | None) -> None:
        """Nothing of an earlier claim counts any more."""
        self._wire = TripWire(trip)
        self._token = token
        self._applied = applied
        self._committed = committed
        self._read = applied.offsets
        self._later = self._nothing()
        # Record time of the last record taken of each input.
        self._last_ms = (-1,) * len(self.inputs)
        self._committed_at = time.monotonic()
        self.replaying = any(a < c for a, c in zip(applied.offsets, committed, strict=True))

    async def step(self, batches: Sequence[Batch]) -> None:
        """Take in the batches, and do what the stage does with them."""
        report = BatchReport(self.partition)
        taken = self._take(batches, report)
        if not self.replaying:
            await self._release(taken)
        ends = self._ends()
        if not taken and ends == self._applied.offsets:
            await self._commit_when_due()
            return
        decided = await self._decide(taken, ends, report)
        self._crash_point("decided")
        await self._watch_dead(taken, decided)
        if self.replaying:
            # What these records came to was counted when they were published.
            report = BatchReport(self.partition, replayed=sum(taken.counts))
        elif decided.output or self._must_commit(ends) or self._is_commit_due(ends):
            await self._publish(decided.output, ends, report)
        self._crash_point("published")
        # ---- past this line the batch counts as done ----
        await self._save(decided, ends, report)
        self._crash_point("saved")
        if self.replaying:
            self._end_replay_when_reached()
        self._report(report)

    def _take(self, batches: Sequence[Batch], report: BatchReport) -> Taken:
        """Decode, note how far was read, and while replaying set aside what lies beyond the committed offsets."""
        started = time.perf_counter()
        taken = self._nothing()
        if self._later and not self.replaying:
            taken, self._later = self._later, taken
        for batch in batches:
            self._prove_sequence(batch)
            self._decode(batch, taken)
            read, last_ms = list(self._read), list(self._last_ms)
            for i, records in enumerate(batch.parts):
                if records:
                    read[i] = records[-1].offset + 1
                    last_ms[i] = max(last_ms[i], records[-1].timestamp)
            self._read, self._last_ms = tuple(read), tuple(last_ms)
        self._count_misrouted(batches, report)
        report.stage("decode", started)
        return self._up_to_committed(taken) if self.replaying else taken

    def _prove_sequence(self, batch: Batch) -> None:
        """Raises RuntimeError where the transport went back without a claim: then it may have skipped records too."""
        for records, read in zip(batch.parts, self._read, strict=True):
            if records and records[0].offset < read:
                raise RuntimeError(f"expected records from offset {read} on, got {records[0].offset}")

    def _count_misrouted(self, batches: Sequence[Batch], report: BatchReport) -> None:
        partitions = self._owned_by().partitions(self.inputs[0].topic)
        for batch in batches if partitions else ():
            for records in batch.parts:
                report.misrouted += misrouted(records, self.partition, partitions, self._partition_of)

    def _up_to_committed(self, taken: Taken) -> Taken:
        """Nothing at or beyond any committed offset may be decided before all are reached."""
        now = taken.split(self._committed, self._later)
        most = 2 * self._limits.step_records
        consumer = self._owned_by()
        for tp, count in zip(self.inputs, self._later.counts, strict=True):
            consumer.hold_back(tp, count > most)
        return now

    def _ends(self) -> Offsets:
        """The next offsets after this step."""
        if self.replaying:
            return tuple(map(min, self._read, self._committed))
        return self._read

    async def _watch_dead(self, taken: Taken, decided: Decided) -> None:
        """Raises Tripped, which the store then knows, where dead letters outnumber the records of use."""
        dead, wire = decided.output.dead, self._wire
        if self.replaying or not self._limits.trip_wire or (not dead and wire.is_calm):
            return
        if wire.trips(self._flags(taken, dead)):
            read = ",".join(map(str, self._read))
            text = f"more than half of {WINDOW} records up to offsets {read} are dead letters"
            writes = Writes(puts={TRIP: TRIPPED + text.encode()})
            applied = self._applied.text()
            await self._store.save(self.partition, self._token, applied, applied, writes)
            raise Tripped(text)
        if wire.heals():
            decided.writes.deletes.append(TRIP)

    async def _publish(self, output: Output, ends: Offsets, report: BatchReport) -> None:
        started = time.perf_counter()
        offsets = {tp.topic: end for tp, end in zip(self.inputs, ends, strict=True)}
        await self._publisher.commit(self.partition, output, offsets)
        self._committed = ends
        self._committed_at = time.monotonic()
        report.transactions += 1
        report.stage("publish", started)

    async def _save(self, decided: Decided, ends: Offsets, report: BatchReport) -> None:
        if decided.lasting:
            now = self._applied.text()
            await self._store.save(self.partition, self._token, now, now, Writes(puts=decided.lasting))
        started = time.perf_counter()
        applied = self._next_applied(decided, ends)
        grown = await self._store.save(
            self.partition, self._token, self._applied.text(), applied.text(), decided.writes
        )
        self._note_grown(grown)
        self._applied = applied
        report.stage("save", started)

    def _end_replay_when_reached(self) -> None:
        """All inputs have been taken in up to the committed offsets: go on with what was set aside."""
        consumer = self._owned_by()
        if all(
            consumer.has_read(tp, read, end)
            for tp, read, end in zip(self.inputs, self._read, self._committed, strict=True)
        ):
            self.replaying = False
            for tp in self.inputs:
                consumer.hold_back(tp, False)
            log.info("partition %d replayed up to %s", self.partition, ",".join(map(str, self._committed)))

    # -- commits without output

    def _must_commit(self, ends: Offsets) -> bool:
        """Whether an input has moved on that may never be applied ahead of committed."""
        return any(
            end > committed
            for i, (end, committed) in enumerate(zip(ends, self._committed, strict=True))
            if i not in self.lazy
        )

    def _is_commit_due(self, ends: Offsets) -> bool:
        late = time.monotonic() - self._committed_at >= self._limits.commit_every_s
        return late and self._is_ahead(ends)

    def _is_ahead(self, ends: Offsets) -> bool:
        return any(ends[i] > self._committed[i] for i in self.lazy)

    async def _commit_when_due(self) -> None:
        if self.replaying:
            self._end_replay_when_reached()
        elif self._is_commit_due(self._applied.offsets):
            await self._commit_applied()

    async def _commit_applied(self) -> None:
        """Commit what is applied. A transaction too, as a plain commit of a zombie could move the offsets back."""
        # Where a save failed after its transaction, applied is the older of the two: that must not be committed again.
        if not self.replaying and self._is_ahead(self._applied.offsets):
            await self._publish(Output(), self._applied.offsets, BatchReport(self.partition))

    def _owned_by(self) -> Consumer:
        if self._consumer is None:
            raise StartError(f"partition {self.partition} was never claimed")
        return self._consumer
