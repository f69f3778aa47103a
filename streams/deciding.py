"""What a step decides of each journey: stored bytes and new events in; credits, dead letters and writes out.

The decision itself is `models.crediting.decide`, a pure function. Here its arguments are read from what the store
gave, and what it answers becomes what is published, saved and counted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from faust.types import TP

from models.crediting import Arrival, Event, Moved, Outcome, Source, decide, leave, stored
from models.facts import JourneyTouch
from models.forgetting import Forgotten, forget, forget_moved
from models.journey import (
    BUCKET_MS,
    JourneyState,
    frame_again,
    read_frames,
    read_state,
    state_key,
    touches_key,
    write_state,
)
from models.linking import forget_where
from models.moving import Merge, write_move
from models.outcome import Reason
from models.rules import Rules
from state.store import Writes
from streams.compiled import CompiledOutput
from streams.decode import HeldFiltered, Taken, TakenTouch
from streams.plain import PlainCredits
from streams.publish import DeadLetter, Output
from streams.report import BatchReport


@dataclass(slots=True)
class Decided:
    """What a step came to: what to publish, what to save, which conversions journeys have now (key, event time), and
    how many persons were merged into others and forgotten. `lasting` is saved for as long as can be."""

    output: Output
    writes: Writes
    accepted: list[tuple[bytes, int]]
    merged: int = 0
    forgotten: int = 0
    lasting: dict[bytes, bytes] = field(default_factory=dict)
    # Corrections that began to wait for their create: record time, offset, journey.
    waiting: list[tuple[int, int, bytes]] = field(default_factory=list)

    def tell(self, conversion_ids: Iterable[str]) -> None:
        """Tell the identity stage that the persons of these were forgotten."""
        self.output.sends += [("links", *forget_where(each)) for each in conversion_ids]


@dataclass(slots=True)
class Deciding:
    """Decides the journeys of one step; what they come to is gathered in `decided` and `report`."""

    conversions: TP
    rules: Rules
    revision: int
    replaying: bool
    sealed_below_ms: int
    decided: Decided
    report: BatchReport
    # Whether the identity stage is to be told of conversions that nobody has any more.
    tells: bool = False
    # In the format that the settings name.
    write_state: Callable[[JourneyState], bytes] = write_state
    # Who writes the credits of plain conversions, where the output is a compiled one.
    plain: PlainCredits | None = None

    def journey(
        self,
        key: bytes,
        blobs: Sequence[bytes | None],
        span: range,
        arrivals: Sequence[TakenTouch],
        events: Sequence[Event],
        moved: Sequence[Moved],
    ) -> None:
        """Decide one journey. `blobs` are its state and its touches in the buckets of `span`, None where absent."""
        state = read_state(blobs[0])
        if events and not moved and self._credit_plain(key, state, blobs, arrivals, events):
            return
        journey = stored([read_frames(blob) for blob in blobs[1:] if blob], state)
        new = read_frames(b"".join([frame for *_, frame in arrivals])) if arrivals else []
        out = decide(
            journey,
            [
                Arrival(touch, Source("touches", offset, record_ms))
                for touch, (offset, record_ms, *_) in zip(new, arrivals, strict=True)
            ],
            events,
            self.rules,
            self.revision,
            replaying=self.replaying,
            sealed_below_ms=self.sealed_below_ms,
            moved=moved,
            partition=self.conversions.partition,
        )
        writes = self.decided.writes
        if out.changed:
            writes.puts[state_key(key)] = self.write_state(out.state)
        if out.rewrite or journey.stored_duplicates:
            rewritten = {touches_key(b, key): blob for b, blob in by_bucket(out.touches).items()}
            writes.puts.update(rewritten)
            held = [touches_key(b, key) for b, blob in zip(span, blobs[1:], strict=True) if blob]
            writes.deletes += [subkey for subkey in held if subkey not in rewritten]
        else:
            for bucket, blob in by_bucket(out.fresh).items():
                writes.appends[touches_key(bucket, key)] = blob
        self.decided.output.add(out.publications)
        if out.waiting:
            self.decided.waiting += [(record_ms, offset, key) for record_ms, offset in out.waiting]
        for event, reason, message in out.dead:
            self.decided.output.dead.append(self._dead(event, reason, message))
        for event in events:
            e = event.conversion
            if e.action == "create":
                self.decided.accepted.append((key, e.occurred_ms))
        for move, _ in moved:
            self.decided.accepted += [(key, m.conversion.occurred_ms) for m in move.conversions]
            self.decided.accepted += [(key, e.correction.occurred_ms) for e in move.events]
        self._count(out, journey.stored_duplicates, events)

    def _credit_plain(
        self,
        key: bytes,
        state: JourneyState,
        blobs: Sequence[bytes | None],
        arrivals: Sequence[TakenTouch],
        events: Sequence[Event],
    ) -> bool:
        """What `journey` does, where the compiled part can write all credits; False for all others."""
        plain, output, writes = self.plain, self.decided.output, self.decided.writes
        if plain is None or self.replaying or not isinstance(output, CompiledOutput):
            return False
        credited = plain.credit(output, state, blobs, arrivals, events, self.revision)
        if credited is None:
            return False
        writes.puts[state_key(key)] = self.write_state(JourneyState(conversions=credited.conversions))
        parts: dict[int, list[bytes]] = {}
        for _, record_ms, _, _, frame in arrivals:
            parts.setdefault(record_ms // BUCKET_MS, []).append(frame)
        writes.appends.update({touches_key(bucket, key): b"".join(frames) for bucket, frames in parts.items()})
        created = [event.conversion for event in events]
        self.decided.accepted += [(key, e.occurred_ms) for e in created]
        report = self.report
        report.touches_accepted += len(arrivals)
        report.conversions_accepted += len(created)
        report.credited += len(created)
        report.credits += credited.credits
        report.mismatched += credited.mismatched
        report.credited_at += [(e.occurred_ms, e.record_ms) for e in created]
        return True

    def leaves(self, key: bytes, blobs: Sequence[bytes | None], span: range, merge: Merge, record_ms: int) -> None:
        """Send a journey on to the person it belongs to; `blobs` as in `journey`."""
        self.report.merged += 1
        if not any(blobs) and not self.rules.merges_seal:
            # Most visitors have nothing when they are merged, and then there is nothing to say.
            return
        journey = stored([read_frames(blob) for blob in blobs[1:] if blob], read_state(blobs[0]))
        partition = self.conversions.partition
        moves = leave(journey, merge.person_id, merge.into, self.rules, self.revision, record_ms, partition)
        self.decided.output.sends += [("moves", *write_move(move)) for move in moves]
        held = [touches_key(b, key) for b, blob in zip(span, blobs[1:], strict=True) if blob]
        self.decided.writes.deletes += [state_key(key), *held] if blobs[0] else held

    def forgets(self, key: bytes, blobs: Sequence[bytes | None], all_buckets: range, source: Source) -> None:
        """Publish a journey's credits without its person, and delete it; `blobs` as in `journey`.

        `all_buckets`: those in which its touches can lie, also where they matter to nothing any more.
        """
        journey = stored([read_frames(blob) for blob in blobs[1:] if blob], read_state(blobs[0]))
        if not self.replaying:
            self._publish_forgotten(forget(journey, self.rules, self.revision, source))
        self.decided.writes.deletes += [state_key(key), *(touches_key(b, key) for b in all_buckets)]
        if self.tells:
            self.decided.tell(c.conversion_id for c in journey.state.conversions)

    def drops(self, moved: Sequence[Moved]) -> None:
        """What arrives for somebody who was forgotten: what was published of it is published without a person."""
        # Touches were counted where they came from, conversion records that were sent after a journey were not.
        self.report.conversions_forgotten += sum(len(move.events) for move, _ in moved)
        conversions = [(c, source) for move, source in moved for c in move.conversions]
        if not self.replaying:
            self._publish_forgotten(forget_moved(conversions, self.rules, self.revision))

    def _publish_forgotten(self, done: Forgotten) -> None:
        tombstones = sum(value is None for p in done.publications for _, value in p.records)
        self.decided.output.add(done.publications)
        self.report.restated += done.conversions
        self.report.mismatched += done.mismatched
        self.report.tombstones += tombstones
        self.report.credits += sum(len(p.records) for p in done.publications) - tombstones

    def _dead(self, event: Event, reason: Reason, message: str) -> DeadLetter:
        topic, partition = self.conversions
        if event.partition is not None:
            partition = event.partition
        offset = event.conversion.offset
        return DeadLetter(topic, partition, offset, event.key, event.value, event.headers, reason, message, "decide")

    def _count(self, out: Outcome, stored_duplicates: int, events: Sequence[Event]) -> None:
        report = self.report
        report.touches_accepted += len(out.fresh) - out.moved_touches  # these were counted where they came from
        report.touches_duplicate += out.duplicate_touches + stored_duplicates
        report.touches_dropped += out.dropped_touches
        report.conversions_accepted += out.accepted
        report.conversions_duplicate += out.duplicate_conversions
        report.credited += out.credited
        report.restated += out.restated
        report.unattributed += out.unattributed
        report.retracted += out.retracted
        report.milestones += out.milestones
        report.moved += out.moved
        report.uncounted += out.uncounted
        report.tombstones += out.tombstones
        report.mismatched += out.mismatched
        report.credits += sum(len(p.records) for p in out.publications) - out.tombstones
        report.credited_at += [
            (e.conversion.occurred_ms, e.conversion.record_ms) for e in events if e.conversion.action == "create"
        ]


def group(
    touches: Sequence[TakenTouch], keys: Mapping[bytes, None]
) -> tuple[dict[int, dict[bytes, bytes]], dict[bytes, list[TakenTouch]]]:
    """Touches to append, by bucket and journey, and those of journeys that are loaded."""
    appends: dict[int, dict[bytes, bytes]] = {}
    arrivals: dict[bytes, list[TakenTouch]] = {}
    bucket_end_ms, frames = -1, {}
    for touch in touches:
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


def count_dead(dead: Sequence[DeadLetter], touches: str, conversions: str, report: BatchReport) -> None:
    """Count dead letters by reason and by topic; `touches` and `conversions` are the names of these topics."""
    for letter in dead:
        report.dead_by_reason[letter.reason.value] += 1
        if letter.topic == touches:
            report.touches_dead += 1
        elif letter.topic == conversions:
            report.conversions_dead += 1


def count_filtered(taken: Taken, report: BatchReport) -> None:
    """Count what filters dropped: touches as they are taken, conversions as they leave the gate."""
    for _, filtered in taken.filtered:
        report.filtered["touch", *filtered] += 1
    report.touches_filtered += len(taken.filtered)
    for held in taken.conversions:
        if isinstance(held, HeldFiltered) and held.filtered is not None:
            report.filtered["conversion", *held.filtered] += 1
            report.conversions_filtered += 1


def by_bucket(touches: Sequence[JourneyTouch]) -> dict[int, bytes]:
    """Touches as the bytes of the keys in which they lie."""
    parts: dict[int, list[bytes]] = {}
    for touch in touches:
        parts.setdefault(touch.record_ms // BUCKET_MS, []).append(frame_again(touch))
    return {bucket: b"".join(frames) for bucket, frames in parts.items()}
