"""The way of a record through one partition number: one step a batch.

    take → decode → hold → release → load and prove → decide → publish → save → ack

A step commits in this order and no other:
  1. load      one command proves that the store is where this worker left it, and reads the journeys
  2. decide    a pure function of journeys, events and policy
  3. publish   credits, dead letters and both input offsets in one Kafka transaction
  -- past this line the batch counts as done and may not be decided again --
  4. save      journeys and applied offsets in one fenced script
  5. ack       frees a place in the transport's window

A batch without output and without conversions skips 3: applied then runs ahead of committed, and whatever lies between
them had no output. On assignment the producer is initialised, the store claimed and the committed offsets read, in
this order; where applied is behind committed, records up to committed are taken in without output.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from faust.types import TP

from models.crediting import Event
from models.journey import buckets, key_of, state_key, touches_key
from models.rules import Rules
from state.recent import RecentConversions
from state.store import Writes
from streams.deciding import Decided, Deciding, count_dead, count_filtered, group
from streams.decode import Decoder, Taken
from streams.gate import Gate, Held, Pace
from streams.publish import Output, Publisher
from streams.report import BatchReport
from streams.routing import misrouted
from streams.topics import Topics
from streams.transport import Batch, Consumer
from streams.tripwire import TRIP, TRIPPED, WINDOW, Tripped, TripWire, flags_of

log = logging.getLogger("touchstream.processor")

# Journeys decided without a look at the event loop: some ten milliseconds, for heartbeats and other partitions.
YIELD_EVERY = 200


class StartError(RuntimeError):
    """The topics and the store do not belong together; nothing was changed. `fix` says what a person can do."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


class Applied(NamedTuple):
    """What the store says of a partition.

    The next offsets; the event time of the latest conversion (-1: none); and the record time below which conversions
    that were read again are sealed, as their touches are gone from the log (-1: none are).
    """

    touches: int
    conversions: int
    latest_ms: int
    sealed_below_ms: int = -1

    def text(self) -> bytes:
        return b"%d,%d,%d,%d" % self

    @classmethod
    def parse(cls, text: bytes) -> "Applied":
        return cls(*map(int, text.split(b",")))


@dataclass(frozen=True, slots=True)
class Limits:
    """How batches are cut and how long things wait; results depend on `settle_ms` only."""

    settle_ms: int = 250
    step_records: int = 32_000
    held_max: int = 20_000
    commit_every_s: float = 5.0
    retry_s: float = 30.0
    trip_wire: bool = True


class Steps:
    """The steps of one partition number, from a claim on; whoever claims it says with `_start_at` where they begin."""

    def __init__(
        self,
        partition: int,
        topics: Topics,
        store: Any,
        publisher: Publisher,
        decoder: Decoder,
        rules: Rules,
        limits: Limits,
        crash_point: Callable[[str], None],
        report: Callable[[BatchReport], None],
    ) -> None:
        self.partition = partition
        self.touches = TP(topics.touches, partition)
        self.conversions = TP(topics.conversions, partition)
        self._store = store
        self._publisher = publisher
        self._decoder = decoder
        self._rules = rules
        self._limits = limits
        self._crash_point = crash_point
        self._report = report
        self._ttl_ms = rules.kept_ms
        self._consumer: Consumer | None = None
        self._gate = Gate(limits.settle_ms, limits.held_max)
        self.replaying = False

    def _start_at(self, token: bytes, applied: Applied, committed: tuple[int, int], trip: bytes | None) -> None:
        """Nothing of an earlier claim counts any more."""
        self._wire = TripWire(trip)
        self._token = token
        self._applied = applied
        self._committed = committed
        self._read = (applied.touches, applied.conversions)
        self._later = Taken()
        self._grown: list[bytes] = []
        self._front_ms = -1
        self._last_ms = (-1, -1)
        self._gate = Gate(self._limits.settle_ms, self._limits.held_max)
        self._pace = Pace()
        self._recent = RecentConversions(applied.latest_ms)
        self._committed_at = time.monotonic()
        self.replaying = applied.touches < committed[0] or applied.conversions < committed[1]

    async def step(self, batches: Sequence[Batch]) -> None:
        """Take in the batches, and credit what the gate lets go."""
        report = BatchReport(self.partition)
        taken = self._take(batches, report)
        ready = taken.conversions if self.replaying else await self._release(taken)
        ends = self._ends()
        if not (taken.touches or taken.dead or ready) and ends == self._applied[:2]:
            await self._commit_when_due()
            return
        decided = await self._decide(taken, ready, sum(ends), report)
        self._crash_point("decided")
        await self._watch_dead(taken, ready, decided)
        if self.replaying:
            # What these records came to was counted when they were published.
            report = BatchReport(self.partition, replayed=len(taken.touches) + len(taken.dead) + len(ready))
        elif decided.output or ends[1] > self._committed[1] or self._is_commit_due(ends[0]):
            await self._publish(decided.output, ends, report)
        self._crash_point("published")
        # ---- past this line the batch counts as done ----
        await self._save(decided, ends, report)
        self._crash_point("saved")
        if self.replaying:
            report.replayed += len(taken.filtered)
            self._end_replay_when_reached()
        self._report(report)

    def _take(self, batches: Sequence[Batch], report: BatchReport) -> Taken:
        """Decode, note how far was read, and while replaying set aside what lies beyond the committed offsets."""
        started = time.perf_counter()
        taken = Taken()
        if self._later and not self.replaying:
            taken, self._later = self._later, taken
        for batch in batches:
            self._prove_sequence(batch)
            self._decoder.touches(batch.touches, self.partition, taken)
            self._decoder.conversions(batch.conversions, self.partition, taken)
            if batch.touches:
                self._read = (batch.touches[-1].offset + 1, self._read[1])
                self._front_ms = max(self._front_ms, batch.touches[-1].timestamp)
                self._last_ms = (self._front_ms, self._last_ms[1])
            if batch.conversions:
                self._read = (self._read[0], batch.conversions[-1].offset + 1)
                self._last_ms = (self._last_ms[0], batch.conversions[-1].timestamp)
        self._count_misrouted(batches, report)
        report.stage("decode", started)
        return self._up_to_committed(taken) if self.replaying else taken

    def _prove_sequence(self, batch: Batch) -> None:
        """Raises RuntimeError where the transport went back without a claim: then it may have skipped records too."""
        for records, read in zip((batch.touches, batch.conversions), self._read, strict=True):
            if records and records[0].offset < read:
                raise RuntimeError(f"expected records from offset {read} on, got {records[0].offset}")

    def _count_misrouted(self, batches: Sequence[Batch], report: BatchReport) -> None:
        partitions = self._owned_by().partitions(self.touches.topic)
        for batch in batches:
            for records in (batch.touches, batch.conversions):
                report.misrouted += misrouted(records, self.partition, partitions) if records else 0

    def _up_to_committed(self, taken: Taken) -> Taken:
        """Nothing at or beyond either committed offset may be decided before both are reached."""
        touches_end, conversions_end = self._committed
        now, later = Taken(), self._later
        for touch in taken.touches:
            (now if touch[0] < touches_end else later).touches.append(touch)
        for held in taken.conversions:
            (now if held.offset < conversions_end else later).conversions.append(held)
        for letter in taken.dead:
            (now if letter.offset < touches_end else later).dead.append(letter)
        for filtered in taken.filtered:
            (now if filtered[0] < touches_end else later).filtered.append(filtered)
        most = 2 * self._limits.step_records
        consumer = self._owned_by()
        consumer.hold_back(self.touches, len(later.touches) + len(later.dead) + len(later.filtered) > most)
        consumer.hold_back(self.conversions, len(later.conversions) > most)
        return now

    async def _release(self, taken: Taken) -> list[Held]:
        """Hold the conversions, and take out those whose touches have all been taken."""
        gate, consumer = self._gate, self._owned_by()
        gate.hold(taken.conversions)
        gate.touches_reached(self._front_ms)
        now_s = time.monotonic()
        overdue = gate.overdue(now_s)
        if overdue:
            end = (await consumer.offsets("end", [self.touches]))[self.touches]
            for held in overdue:
                held.end = end
        read = self._read[0]
        ready = gate.release(now_s, lambda end: consumer.has_read(self.touches, read, end), self._pace.count)
        consumer.hold_back(self.conversions, gate.is_full)
        return ready

    def _ends(self) -> tuple[int, int]:
        """The next offsets after this step."""
        if self.replaying:
            return min(self._read[0], self._committed[0]), min(self._read[1], self._committed[1])
        return self._read[0], self._gate.first_offset(otherwise=self._read[1])

    async def _decide(self, taken: Taken, ready: Sequence[Held], revision: int, report: BatchReport) -> Decided:
        """Load the journeys that anything can change, and decide; all other touches are only appended."""
        started = time.perf_counter()
        events: dict[bytes, list[Event]] = {}
        for held in ready:
            if held.event is not None:
                events.setdefault(held.event.key, []).append(held.event)
        keys = self._to_load(taken, events)
        appends, arrivals = group(taken.touches, keys)
        writes = Writes(append_ttl_ms=self._ttl_ms, put_ttl_ms=self._ttl_ms)
        for bucket, frames in appends.items():
            start = touches_key(bucket, b"")
            writes.appends.update({start + key: blob for key, blob in frames.items()})
        decided = Decided(self._publisher.output(self.partition), writes, [])
        decided.output.dead.extend(taken.dead)
        decided.output.dead.extend(held.dead for held in ready if held.dead is not None)
        report.touches_accepted += len(taken.touches) - sum(map(len, arrivals.values()))
        if keys:
            order = list(keys)
            late = [record_ms for touches in arrivals.values() for _, record_ms, *_ in touches]
            span = self._buckets([*(held.record_ms for held in ready), *late])
            loaded = await self._load(order, span)
            report.stage("load", started)
            started = time.perf_counter()
            deciding = Deciding(
                self.conversions,
                self._rules,
                revision,
                self.replaying,
                self._applied.sealed_below_ms,
                decided,
                report,
            )
            width = 1 + len(span)
            for i, key in enumerate(order):
                if i % YIELD_EVERY == YIELD_EVERY - 1:
                    await asyncio.sleep(0)
                blobs = loaded[i * width : (i + 1) * width]
                deciding.journey(key, blobs, span, arrivals.get(key, ()), events.get(key, ()))
        if not self.replaying:
            self._pace.saw(len(ready), report.credits)
        count_dead(decided.output.dead, self.touches.topic, report)
        count_filtered(taken, ready, report)
        report.stage("decide", started)
        return decided

    def _to_load(self, taken: Taken, events: Mapping[bytes, list[Event]]) -> dict[bytes, None]:
        keys = dict.fromkeys(events)
        keys.update(dict.fromkeys(self._grown))
        if not self.replaying:
            keys.update(dict.fromkeys(self._recent.late(taken.touches)))
        return keys

    def _buckets(self, decided_ms: Sequence[int]) -> range:
        """The buckets of record time in which touches can lie that matter to what is decided, of these record times.

        They reach back from the oldest of them, as touches may have been read far ahead of a conversion.
        """
        first_ms = min(decided_ms, default=self._front_ms)
        last_ms = max([self._front_ms, *decided_ms])
        # Until a touch is read after a claim, those stored already may be younger than anything known here.
        return buckets(
            first_ms - self._rules.reach_ms, last_ms if self._front_ms >= 0 else last_ms + self._rules.late_ms
        )

    async def _load(self, keys: Sequence[bytes], span: range) -> list[bytes | None]:
        subkeys = []
        for key in keys:
            subkeys.append(state_key(key))
            subkeys += [touches_key(bucket, key) for bucket in span]
        loaded: list[bytes | None] = await self._store.load(self.partition, self._token, self._applied.text(), subkeys)
        return loaded

    async def _watch_dead(self, taken: Taken, ready: Sequence[Held], decided: Decided) -> None:
        """Raises Tripped, which the store then knows, where dead letters outnumber the records of use."""
        dead, wire = decided.output.dead, self._wire
        if self.replaying or not self._limits.trip_wire or (not dead and wire.is_calm):
            return
        if wire.trips(flags_of(taken, ready, dead, self.touches.topic)):
            text = f"more than half of {WINDOW} records up to offsets {self._read[0]},{self._read[1]} are dead letters"
            writes = Writes(puts={TRIP: TRIPPED + text.encode()})
            applied = self._applied.text()
            await self._store.save(self.partition, self._token, applied, applied, writes)
            raise Tripped(text)
        if wire.heals():
            decided.writes.deletes.append(TRIP)

    async def _publish(self, output: Output, ends: tuple[int, int], report: BatchReport) -> None:
        started = time.perf_counter()
        await self._publisher.commit(
            self.partition, output, {self.touches.topic: ends[0], self.conversions.topic: ends[1]}
        )
        self._committed = ends
        self._committed_at = time.monotonic()
        report.transactions += 1
        report.stage("publish", started)

    async def _save(self, decided: Decided, ends: tuple[int, int], report: BatchReport) -> None:
        started = time.perf_counter()
        for key, occurred_ms in decided.accepted:
            self._recent.add(key, occurred_ms)
        applied = Applied(*ends, self._recent.latest_ms, self._applied.sealed_below_ms)
        grown = await self._store.save(
            self.partition, self._token, self._applied.text(), applied.text(), decided.writes
        )
        self._grown = [key_of(subkey) for subkey in grown]
        self._applied = applied
        report.stage("save", started)

    def _end_replay_when_reached(self) -> None:
        """Both topics have been taken in up to the committed offsets: go on with what was set aside."""
        consumer = self._owned_by()
        if all(
            consumer.has_read(tp, read, end)
            for tp, read, end in zip((self.touches, self.conversions), self._read, self._committed, strict=True)
        ):
            self.replaying = False
            consumer.hold_back(self.touches, False)
            consumer.hold_back(self.conversions, False)
            log.info("partition %d replayed up to %d,%d", self.partition, *self._committed)

    # -- commits without output

    def _is_commit_due(self, touches_end: int) -> bool:
        late = time.monotonic() - self._committed_at >= self._limits.commit_every_s
        return late and touches_end > self._committed[0]

    async def _commit_when_due(self) -> None:
        if self.replaying:
            self._end_replay_when_reached()
        elif self._is_commit_due(self._applied.touches):
            await self._commit_applied()

    async def _commit_applied(self) -> None:
        """Commit what is applied. A transaction too, as a plain commit of a zombie could move the offsets back."""
        # Where a save failed after its transaction, applied is the older of the two: that must not be committed again.
        if not self.replaying and self._applied.touches > self._committed[0]:
            await self._publish(Output(), self._applied[:2], BatchReport(self.partition))

    def _owned_by(self) -> Consumer:
        if self._consumer is None:
            raise StartError(f"partition {self.partition} was never claimed")
        return self._consumer
