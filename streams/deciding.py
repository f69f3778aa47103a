"""What a step decides of each journey: stored bytes and new events in; credits, dead letters and writes out.

The decision itself is `models.crediting.decide`, a pure function. Here its arguments are read from what the store
gave, and what it answers becomes what is published, saved and counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from faust.types import TP

from models.crediting import Arrival, Event, Outcome, Source, decide, stored
from models.facts import JourneyTouch
from models.journey import BUCKET_MS, frame_again, read_frames, read_state, state_key, touches_key, write_state
from models.outcome import Reason
from models.rules import Rules
from state.store import Writes
from streams.decode import HeldFiltered, Taken, TakenTouch
from streams.gate import Held
from streams.publish import DeadLetter, Output
from streams.report import BatchReport


class Decided(NamedTuple):
    """What a step came to: what to publish, what to save, and which conversions journeys have now."""

    output: Output
    writes: Writes
    accepted: list[tuple[bytes, int]]


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

    def journey(
        self,
        key: bytes,
        blobs: Sequence[bytes | None],
        span: range,
        arrivals: Sequence[TakenTouch],
        events: Sequence[Event],
    ) -> None:
        """Decide one journey. `blobs` are its state and its touches in the buckets of `span`, None where absent."""
        journey = stored([read_frames(blob) for blob in blobs[1:] if blob], read_state(blobs[0]))
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
        )
        writes = self.decided.writes
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
        self.decided.output.add(out.publications)
        for event, reason, message in out.dead:
            self.decided.output.dead.append(self._dead(event, reason, message))
        for event in events:
            e = event.conversion
            if e.action == "create":
                self.decided.accepted.append((key, e.occurred_ms))
        self._count(out, journey.stored_duplicates, events)

    def _dead(self, event: Event, reason: Reason, message: str) -> DeadLetter:
        topic, partition = self.conversions
        offset = event.conversion.offset
        return DeadLetter(topic, partition, offset, event.key, event.value, event.headers, reason, message, "decide")

    def _count(self, out: Outcome, stored_duplicates: int, events: Sequence[Event]) -> None:
        report = self.report
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


def count_dead(dead: Sequence[DeadLetter], touches: str, report: BatchReport) -> None:
    """Count dead letters by reason and by topic; `touches` is the name of the touches topic."""
    for letter in dead:
        report.dead_by_reason[letter.reason.value] += 1
        if letter.topic == touches:
            report.touches_dead += 1
        else:
            report.conversions_dead += 1


def count_filtered(taken: Taken, ready: Sequence[Held], report: BatchReport) -> None:
    """Count what filters dropped: touches as they are taken, conversions as they leave the gate."""
    for _, filtered in taken.filtered:
        report.filtered["touch", *filtered] += 1
    report.touches_filtered += len(taken.filtered)
    for held in ready:
        if isinstance(held, HeldFiltered) and held.filtered is not None:
            report.filtered["conversion", *held.filtered] += 1
            report.conversions_filtered += 1


def by_bucket(touches: Sequence[JourneyTouch]) -> dict[int, bytes]:
    """Touches as the bytes of the keys in which they lie."""
    parts: dict[int, list[bytes]] = {}
    for touch in touches:
        parts.setdefault(touch.record_ms // BUCKET_MS, []).append(frame_again(touch))
    return {bucket: b"".join(frames) for bucket, frames in parts.items()}
