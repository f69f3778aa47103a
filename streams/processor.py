"""The way of a record: one task a partition number, one step a batch.

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
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from faust.types import TP

from models.crediting import Arrival, Event, Outcome, Rules, Source, decide, stored
from models.facts import JourneyTouch
from models.journey import (
    BUCKET_MS,
    buckets,
    frame_again,
    key_of,
    read_frames,
    read_state,
    state_key,
    touches_key,
    write_state,
)
from models.outcome import Reason
from state.recent import RecentConversions
from state.store import Fenced, Lost, StoreError, Unreachable, Writes
from streams.decode import Decoder, Taken, TakenTouch
from streams.gate import Gate, Held
from streams.metrics import Position
from streams.patience import Patience
from streams.publish import DeadLetter, Output, Publisher, Refused, Superseded, Uncertain
from streams.report import BatchReport
from streams.routing import misrouted
from streams.topics import Topics
from streams.transport import Batch, Consumer

log = logging.getLogger("touchstream.processor")

EXIT_RESTART = 75
IDLE_WAIT_S = 1.0
FINISH_TRIES = 3
# Keys of journeys outlive their use by this much: clocks differ, and a worker may have to catch up.
TTL_MARGIN_MS = 14 * 86_400_000
# Journeys decided without a look at the event loop: some ten milliseconds, for heartbeats and other partitions.
YIELD_EVERY = 200
# A conversion can give thousands of credits, so not more than this many are released into one step.
RELEASED_MAX = 2_000


class StartError(RuntimeError):
    """The topics and the store do not belong together; nothing was changed."""


class Applied(NamedTuple):
    """What the store says of a partition: next offsets, and the event time of the latest conversion (-1: none)."""

    touches: int
    conversions: int
    latest_ms: int

    def text(self) -> bytes:
        return b"%d,%d,%d" % self

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


class Decided(NamedTuple):
    """What a step came to: what to publish, what to save, and which conversions journeys have now."""

    output: Output
    writes: Writes
    accepted: list[tuple[bytes, int]]


class PartitionTask:
    """Owns one partition number from assignment to revocation."""

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
        policy = rules.policy
        self._reach_ms = policy.retention_ms + max(policy.corrections_ms, rules.late_ms)
        # Garbage collection only: what counts is decided by record times, never by what has expired.
        self._ttl_ms = BUCKET_MS + max(2 * policy.retention_ms, self._reach_ms) + TTL_MARGIN_MS
        self._inbox: deque[Any] = deque()
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._consumer: Consumer | None = None
        self.replaying = False
        self.reclaims = 0
        self._patience = Patience(limits.retry_s)

    # -- life

    async def claim(self, consumer: Consumer) -> Mapping[TP, int]:
        """Fence the previous owner in Kafka, then in the store, then read what was committed; in this order."""
        self._consumer = consumer
        await self._publisher.start()
        self._crash_point("claim_producer")
        self._token = uuid.uuid4().hex.encode()
        text = await self._store.claim(self.partition, self._token)
        self._crash_point("claim_store")
        both = (self.touches, self.conversions)
        committed = await consumer.offsets("committed", both)
        beginning = await consumer.offsets("beginning", both)
        first = [beginning[tp] or 0 for tp in both]
        done = [committed[tp] for tp in both]
        self._applied = await self._first_applied(text, first, done)
        self._committed = self._first_committed(first, done)
        if self._applied.conversions > self._committed[1]:
            raise StartError(
                f"partition {self.partition}: the store is at conversion {self._applied.conversions}, "
                f"Kafka's group at {self._committed[1]}; they do not belong together"
            )
        self._reset()
        if None in done and text is not None:
            log.warning("partition %d: the group's offsets are gone: committing what is applied", self.partition)
            await self._publish(Output(), self._applied[:2], BatchReport(self.partition))
        log.info(
            "partition %d claimed: applied %d,%d committed %d,%d%s",
            self.partition,
            self._applied.touches,
            self._applied.conversions,
            *self._committed,
            ", replaying" if self.replaying else "",
        )
        return {self.touches: self._applied.touches, self.conversions: self._applied.conversions}

    async def _first_applied(self, text: bytes | None, first: Sequence[int], done: Sequence[int | None]) -> Applied:
        """Where the store stands; an empty or outdated one starts at the beginning of what the topics retain."""
        if text is not None:
            applied = Applied.parse(text)
            behind = any(applied[i] < first[i] and applied[i] < (done[i] or 0) for i in (0, 1))
            if not behind:
                return applied
            log.warning("partition %d: the store is older than the topics reach back: rebuilding", self.partition)
            await self._store.drop(self.partition, self._token)
        applied = Applied(first[0], first[1], -1)
        await self._store.begin(self.partition, self._token, applied.text())
        return applied

    def _first_committed(self, first: Sequence[int], done: Sequence[int | None]) -> tuple[int, int]:
        """What counts as published: the group's offsets; where it has none, what is applied."""
        touches, conversions = (
            self._applied[i] if offset is None else max(offset, first[i]) for i, offset in enumerate(done)
        )
        return touches, conversions

    def _reset(self) -> None:
        applied = self._applied
        self._read = (applied.touches, applied.conversions)
        self._later = Taken()
        self._grown: list[bytes] = []
        self._front_ms = -1
        self._last_ms = (-1, -1)
        self._gate = Gate(self._limits.settle_ms, self._limits.held_max)
        self._recent = RecentConversions(applied.latest_ms)
        self._ack_inbox()
        self._committed_at = time.monotonic()
        self.replaying = applied.touches < self._committed[0] or applied.conversions < self._committed[1]

    def start(self) -> None:
        """Begin to work on what the transport hands in."""
        self._stopping = False
        self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """Finish the step under way, commit what is applied, and end."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task
            self._task = None
        self._ack_inbox()

    async def close(self) -> None:
        """Let go of the producer."""
        await self._publisher.stop()

    @property
    def held(self) -> int:
        """Conversions that wait at the gate."""
        return len(self._gate)

    def positions(self) -> list[Position]:
        """Where both topics of this partition number stand."""
        found = []
        for i, tp in enumerate((self.touches, self.conversions)):
            end = self._owned_by().known_end(tp)
            found.append(
                Position(
                    tp.topic,
                    self.partition,
                    self._applied[i],
                    self._committed[i],
                    -1 if end is None else end,
                    self._last_ms[i],
                )
            )
        return found

    def take(self, event: Any) -> bool:
        """A batch from the agent; False where nobody works on this partition number any more."""
        if self._task is None or self._stopping:
            return False
        self._inbox.append(event)
        self._wake.set()
        return True

    async def _run(self) -> None:
        try:
            while not self._stopping:
                await self._turn()
            await self._commit_at_the_end()
        except (Fenced, Superseded, Uncertain) as exc:
            leave(f"partition {self.partition}: {exc!r}")
        except Exception as exc:
            log.exception("partition %d stopped", self.partition)
            leave(f"partition {self.partition}: {exc!r}")

    async def _commit_at_the_end(self) -> None:
        """Commit what is applied. Where that is refused the next owner does it: it had no output."""
        for _ in range(FINISH_TRIES):
            with suppress(Refused):
                await self._commit_applied()
                return

    async def _turn(self) -> None:
        if not self._inbox:
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._gate.wait_s(time.monotonic(), IDLE_WAIT_S))
        events, batches = self._next_batches()
        try:
            await self.step(batches)
        except (Lost, Unreachable, Refused) as exc:
            await self._claim_again(events, exc)
            return
        for event in events:
            self._ack(event)

    def _next_batches(self) -> tuple[list[Any], list[Batch]]:
        events, batches, count = [], [], 0
        incarnation = self._owned_by().incarnation(self.partition)
        while self._inbox and count < self._limits.step_records:
            event = self._inbox.popleft()
            batch: Batch = event.message.value
            if batch.incarnation != incarnation:
                self._ack(event)
                continue
            events.append(event)
            batches.append(batch)
            count += batch.count
        return events, batches

    def _ack(self, event: Any) -> None:
        self._owned_by().ack(event.message)

    def _ack_inbox(self) -> None:
        """Drop what waits. Each is acked, as Faust holds a rebalance up until nothing is left unacked."""
        while self._inbox:
            self._ack(self._inbox.popleft())

    def _owned_by(self) -> Consumer:
        if self._consumer is None:
            raise StartError(f"partition {self.partition} was never claimed")
        return self._consumer

    async def _claim_again(self, events: Sequence[Any], cause: Exception) -> None:
        """Drop what is under way and start over from the store; the other partitions go on."""
        consumer = self._owned_by()
        log.warning("partition %d: %r: claiming again", self.partition, cause)
        for event in events:
            self._ack(event)
        self._ack_inbox()
        consumer.invalidate(self.partition)
        while not self._stopping:
            await self._patience.wait(cause)
            self.reclaims += 1
            try:
                starts = await self.claim(consumer)
            except Fenced:
                raise
            except (StoreError, Refused, OSError) as exc:
                cause = exc
            else:
                await consumer.reseek(self.partition, starts)
                return

    # -- one step

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
        most = 2 * self._limits.step_records
        consumer = self._owned_by()
        consumer.hold_back(self.touches, len(later.touches) + len(later.dead) > most)
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
        ready = gate.release(now_s, lambda end: consumer.has_read(self.touches, read, end), RELEASED_MAX)
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
        appends, arrivals = self._group(taken, keys)
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
            span = self._buckets(ready)
            loaded = await self._load(order, span)
            report.stage("load", started)
            started = time.perf_counter()
            width = 1 + len(span)
            for i, key in enumerate(order):
                if i % YIELD_EVERY == YIELD_EVERY - 1:
                    await asyncio.sleep(0)
                blobs = loaded[i * width : (i + 1) * width]
                self._decide_one(
                    key, blobs, span, arrivals.get(key, ()), events.get(key, ()), revision, decided, report
                )
        self._count_dead(decided.output.dead, report)
        report.stage("decide", started)
        return decided

    def _to_load(self, taken: Taken, events: Mapping[bytes, list[Event]]) -> dict[bytes, None]:
        keys = dict.fromkeys(events)
        keys.update(dict.fromkeys(self._grown))
        if not self.replaying:
            last, floor_ms = self._recent.last, self._recent.floor_ms - 1
            late = [key for _, _, key, occurred_ms, _ in taken.touches if occurred_ms <= last.get(key, floor_ms)]
            keys.update(dict.fromkeys(late))
        return keys

    def _group(
        self, taken: Taken, keys: Mapping[bytes, None]
    ) -> tuple[dict[int, dict[bytes, bytes]], dict[bytes, list[TakenTouch]]]:
        """Touches to append, by bucket and journey, and those of journeys that are loaded."""
        appends: dict[int, dict[bytes, bytes]] = {}
        arrivals: dict[bytes, list[TakenTouch]] = {}
        bucket_end_ms, frames = -1, {}
        for touch in taken.touches:
            _, record_ms, key, _, frame = touch
            if key in keys:
                arrivals.setdefault(key, []).append(touch)
                continue
            if not bucket_end_ms - BUCKET_MS <= record_ms < bucket_end_ms:
                bucket = record_ms // BUCKET_MS
                bucket_end_ms = (bucket + 1) * BUCKET_MS
                frames = appends.setdefault(bucket, {})
            known = frames.get(key)
            frames[key] = frame if known is None else known + frame
        return appends, arrivals

    def _buckets(self, ready: Sequence[Held]) -> range:
        """The buckets of record time in which touches can lie that matter to any open conversion."""
        now_ms = max([self._front_ms, *(held.record_ms for held in ready)])
        # Until a touch is read after a claim, those stored already may be younger than anything known here.
        return buckets(now_ms - self._reach_ms, now_ms if self._front_ms >= 0 else now_ms + self._rules.late_ms)

    async def _load(self, keys: Sequence[bytes], span: range) -> list[bytes | None]:
        subkeys = []
        for key in keys:
            subkeys.append(state_key(key))
            subkeys += [touches_key(bucket, key) for bucket in span]
        loaded: list[bytes | None] = await self._store.load(self.partition, self._token, self._applied.text(), subkeys)
        return loaded

    def _decide_one(
        self,
        key: bytes,
        blobs: Sequence[bytes | None],
        span: range,
        arrivals: Sequence[TakenTouch],
        events: Sequence[Event],
        revision: int,
        decided: Decided,
        report: BatchReport,
    ) -> None:
        journey = stored([read_frames(blob) for blob in blobs[1:] if blob], read_state(blobs[0]))
        new = read_frames(b"".join([frame for *_, frame in arrivals])) if arrivals else []
        out = decide(
            journey,
            [
                Arrival(touch, Source("touches", offset, record_ms))
                for touch, (offset, record_ms, *_) in zip(new, arrivals, strict=True)
            ],
            events,
            self._rules,
            revision,
            replaying=self.replaying,
        )
        writes = decided.writes
        if out.changed:
            writes.puts[state_key(key)] = write_state(out.state)
        if out.rewrite or journey.stored_duplicates:
            rewritten = {touches_key(b, key): blob for b, blob in by_bucket(out.touches).items()}
            writes.puts.update(rewritten)
            held = [touches_key(b, key) for b, blob in zip(span, blobs[1:], strict=True) if blob]
            writes.deletes += [subkey for subkey in held if subkey not in rewritten]
        else:
            for bucket, blob in by_bucket(out.fresh).items():
                writes.appends[touches_key(bucket, key)] = blob
        decided.output.add(out.publications)
        for event, reason, message in out.dead:
            decided.output.dead.append(self._dead(event, reason, message))
        for event in events:
            e = event.conversion
            if e.action == "create":
                decided.accepted.append((key, e.occurred_ms))
        self._count(out, journey.stored_duplicates, events, report)

    def _dead(self, event: Event, reason: Reason, message: str) -> DeadLetter:
        topic, offset = self.conversions.topic, event.conversion.offset
        return DeadLetter(
            topic, self.partition, offset, event.key, event.value, event.headers, reason, message, "decide"
        )

    def _count(self, out: Outcome, stored_duplicates: int, events: Sequence[Event], report: BatchReport) -> None:
        report.touches_accepted += len(out.fresh)
        report.touches_duplicate += out.duplicate_touches + stored_duplicates
        report.touches_dropped += out.dropped_touches
        report.conversions_accepted += out.accepted
        report.conversions_duplicate += out.duplicate_conversions
        report.credited += out.credited
        report.restated += out.restated
        report.unattributed += out.unattributed
        report.retracted += out.retracted
        report.milestones += out.milestones
        report.tombstones += out.tombstones
        report.mismatched += out.mismatched
        report.credits += sum(len(p.records) for p in out.publications) - out.tombstones
        report.credited_at += [
            (e.conversion.occurred_ms, e.conversion.record_ms) for e in events if e.conversion.action == "create"
        ]

    def _count_dead(self, dead: Sequence[DeadLetter], report: BatchReport) -> None:
        for letter in dead:
            report.dead_by_reason[letter.reason.value] += 1
            if letter.topic == self.touches.topic:
                report.touches_dead += 1
            else:
                report.conversions_dead += 1

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
        applied = Applied(*ends, self._recent.latest_ms)
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


def by_bucket(touches: Sequence[JourneyTouch]) -> dict[int, bytes]:
    """Touches as the bytes of the keys in which they lie."""
    parts: dict[int, list[bytes]] = {}
    for touch in touches:
        parts.setdefault(touch.record_ms // BUCKET_MS, []).append(frame_again(touch))
    return {bucket: b"".join(frames) for bucket, frames in parts.items()}


def leave(why: str) -> None:
    """End this process at once: waiting would block the rebalance that gives the partition to its next owner."""
    log.error("leaving: %s", why)
    logging.shutdown()
    os._exit(EXIT_RESTART)
