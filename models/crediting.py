"""The core: a journey and new facts give a new journey and the records to publish.

Everything published of a conversion is a pure function of facts: the conversion with its corrections, and the touches
that count for it by event time and record time. A restatement is the difference of that function before and after the
new facts, so nothing that was published needs to be remembered, and a replay of the log gives the same final view.
"""

from collections.abc import Collection, Iterator, Sequence
from copy import copy
from itertools import chain
from typing import NamedTuple

import msgspec

from models import path as paths
from models.counting import can_change, not_first, remembered_ms, uncounted
from models.credit import CreditSet, Record
from models.facts import Conversion, JourneyTouch
from models.journey import EMPTY_STATE, JourneyConversion, JourneyState, PendingCorrection, by_time, in_order, unique
from models.moving import Move, MovedConversion, split
from models.outcome import Reason
from models.policy import Policy
from models.rules import Rules, place_of

# Conversions of one journey that can still be corrected. A journey beyond this is a mistake in the data (everybody's
# orders under one id); its further conversions become dead letters, as each one more makes every step dearer.
OPEN_CONVERSIONS_MAX = 1_000
PENDING_MAX = 1_000

NO_TOUCHES: list[JourneyTouch] = []
NEVER_CREATED = "its create did not come as long as corrections says"


class Source(NamedTuple):
    """The record that caused something: its topic's kind (`touches`, `conversions`, `moves`), offset, record time."""

    kind: str
    offset: int
    record_ms: int


class Arrival(NamedTuple):
    """A touch of this batch."""

    touch: JourneyTouch
    source: Source


class Moved(NamedTuple):
    """Facts of another journey, arriving in this batch."""

    move: Move
    source: Source


class Event(NamedTuple):
    """A conversion record of this batch, with its bytes in case it must wait; `partition` as in `PendingCorrection`."""

    conversion: Conversion
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes | None]]
    partition: int | None = None


class Publication(NamedTuple):
    """Records that one cause brings about; values are None for tombstones.

    `homes`: the partitions of the credits topic they go to; none means that of the journey.
    """

    source: Source
    records: list[Record]
    homes: Sequence[int] = ()


class Journey(msgspec.Struct, gc=False):
    """What is stored: touches unique and in order, and the rest."""

    touches: list[JourneyTouch]
    state: JourneyState
    stored_duplicates: int = 0


class Outcome(msgspec.Struct):
    """What the facts of one batch do to one journey. `rewrite` is true where the stored touches shall be replaced."""

    state: JourneyState
    touches: list[JourneyTouch]
    fresh: list[JourneyTouch]
    publications: list[Publication] = []
    dead: list[tuple[Event, Reason, str]] = []
    # Record times and offsets of the corrections that began to wait for their create.
    waiting: list[tuple[int, int]] = []
    changed: bool = False
    rewrite: bool = False
    moved: int = 0
    moved_touches: int = 0
    duplicate_touches: int = 0
    duplicate_conversions: int = 0
    dropped_touches: int = 0
    accepted: int = 0
    credited: int = 0
    unattributed: int = 0
    retracted: int = 0
    restated: int = 0
    milestones: int = 0
    uncounted: int = 0
    tombstones: int = 0
    mismatched: int = 0


def decide(
    journey: Journey,
    arrivals: Sequence[Arrival],
    events: Sequence[Event],
    rules: Rules,
    revision: int,
    *,
    replaying: bool = False,
    sealed_below_ms: int = -1,
    moved: Sequence[Moved] = (),
    partition: int = 0,
) -> Outcome:
    """What new touches and conversion records do to a journey, and the facts that are `moved` here from others.

    `revision` is given to every record published. While replaying, facts are taken in and nothing is published:
    it was, by a transaction that committed these records' offsets. Conversions taken in so whose record time lies below
    `sealed_below_ms` (epoch ms) are never restated: touches that they were credited with are in the log no more.
    `partition` is the journey's, where conversions that begin here are published.
    """
    return _Decision(journey, rules, revision, replaying, sealed_below_ms, partition).run(arrivals, events, moved)


def leave(
    journey: Journey, of: str, into: str, rules: Rules, revision: int, record_ms: int, partition: int
) -> list[Move]:
    """A journey as the records that take it to `into`, by a merge of this record time.

    Conversions that nothing can change any more stay as they were published; those older than `corrections` go along
    sealed, as under `reset_after_conversion` they tell where the later ones begin.
    """
    conversions = []
    state = journey.state
    no_credit = uncounted(state.conversions, rules)
    for c in state.conversions:
        policy, _ = rules.of(c.policy_version)
        if c.record_ms + max(kept_ms(rules, c), remembered_ms(c, rules)) < record_ms:
            continue
        path = None
        if not c.retracted and c.conversion_id not in no_credit:
            path = path_of(c, journey.touches, state.conversions, no_credit, state.dropped_ms, rules)
        there = copy(c)
        there.sealed = c.sealed or c.record_ms + policy.corrections_ms < record_ms
        there.floor = c.floor + revision
        there.homes = c.homes or [partition]
        shown = journey.touches if c.rebuilt else path.touches if path else []
        conversions.append(MovedConversion(there, [t.event_id for t in shown]))
    return list(split(into, of, partition, journey.touches, conversions, state.pending, state.dropped_ms, record_ms))


class _Decision:
    def __init__(
        self, journey: Journey, rules: Rules, revision: int, replaying: bool, sealed_below_ms: int, partition: int
    ) -> None:
        self._before = journey
        self._rules = rules
        self._revision = revision
        self._replaying = replaying
        self._sealed_below_ms = sealed_below_ms
        self._partition = partition
        # Conversions that came from another journey in this batch, and the ids of the touches they were shown with.
        self._shown: dict[str, set[str]] = {}
        self._merged_ms = -1
        # Conversions that are sealed and came in this batch: they are not restated, but those after them are.
        self._bounds: dict[str, Source] = {}
        self._conversions = {c.conversion_id: c for c in journey.state.conversions}
        self._pending = journey.state.pending
        self._were_uncounted = uncounted(journey.state.conversions, rules)
        self._uncounted = self._were_uncounted
        self._causes: dict[str, Source] = {}
        self._out = Outcome(journey.state, journey.touches, NO_TOUCHES, publications=[], dead=[], waiting=[])

    def run(self, arrivals: Sequence[Arrival], events: Sequence[Event], moved: Sequence[Moved]) -> Outcome:
        out = self._out
        if moved:
            arrivals = [*arrivals, *(Arrival(touch, source) for move, source in moved for touch in move.touches)]
            self._merged_ms = max(m.move.merged_ms for m in moved)
        if arrivals:
            self._take_touches(arrivals)
        self._cap(events)  # without arrivals too: most touches are appended without being looked at
        if moved:
            self._take_in_order(events, moved)
        else:
            for event in events:
                self._take_event(event)
        if (events or moved) and self._rules.resets_ms:
            self._mark_after_reset()
        if not self._replaying:
            for conversion_id, source in self._causes.items():
                self._publish(conversion_id, source)
        if out.changed:
            out.state = JourneyState(
                conversions=list(self._conversions.values()),
                pending=list(self._pending),
                dropped_ms=self._out.state.dropped_ms,
            )
        return out

    # -- facts

    def _take_in_order(self, events: Sequence[Event], moved: Sequence[Moved]) -> None:
        """As they would have come one by one: what is in time for what goes by record times."""
        facts = [(e.conversion.record_ms, 0, i) for i, e in enumerate(events)]
        facts += [(m.source.record_ms, 1, i) for i, m in enumerate(moved)]
        for _, is_move, i in sorted(facts):
            if is_move:
                self._take_moved(moved[i])
            else:
                self._take_event(events[i])

    def _take_touches(self, arrivals: Sequence[Arrival]) -> None:
        out = self._out
        known = {t.event_id for t in self._before.touches}
        fresh = []
        older: list[Arrival] = []
        for arrival in arrivals:
            if arrival.touch.event_id in known:
                out.duplicate_touches += 1
                if arrival.source.kind == "moves":
                    older.append(arrival)
                continue
            known.add(arrival.touch.event_id)
            fresh.append(arrival)
        out.fresh = [a.touch for a in fresh]
        out.moved_touches = sum(a.source.kind == "moves" for a in fresh)
        if fresh:
            out.touches = in_order([*self._before.touches, *out.fresh])
        if older:
            fresh += self._first_records(older)
        if fresh:
            self._mark_late(fresh)

    def _first_records(self, moved: Sequence[Arrival]) -> list[Arrival]:
        """The first record of a touch stays, also where a later one was here before the first came by a merge."""
        touches = {t.event_id: t for t in self._out.touches}
        changed: list[Arrival] = []
        for touch, source in moved:
            later = touches[touch.event_id]
            if touch.record_ms < later.record_ms:
                touches[touch.event_id] = touch
                # What counted the later one may not count the first.
                changed += [Arrival(touch, source), Arrival(later, source)]
        if changed:
            self._out.touches = in_order(list(touches.values()))
            self._out.rewrite = True
        return changed

    def _cap(self, events: Sequence[Event]) -> None:
        """Drop the oldest touches beyond the cap, and remember up to when."""
        out = self._out
        if len(out.touches) <= self._rules.touches_always:
            return
        latest_ms = max(chain((t.record_ms for t in out.touches), (e.conversion.record_ms for e in events)))
        over = len(out.touches) - self._rules.at(latest_ms).journey_touches_max
        if over > 0:
            dropped_ms = max(out.state.dropped_ms, out.touches[over - 1].occurred_ms)
            out.touches = out.touches[over:]
            out.dropped_touches = over
            out.state = copy(out.state)
            out.state.dropped_ms = dropped_ms
            out.changed = out.rewrite = True

    def _take_moved(self, moved: Moved) -> None:
        """Take in the conversions and events that came."""
        out, (move, source) = self._out, moved
        self._seal(move.merged_ms)
        if self._pending:
            self._give_up_waiting(move.merged_ms)
        if move.dropped_ms > out.state.dropped_ms:
            out.state = copy(out.state)
            out.state.dropped_ms = move.dropped_ms
            out.changed = True
        for c, shown in ((m.conversion, m.shown) for m in move.conversions):
            self._take_conversion(c, shown, move, source)
            self._end_waiting(c.conversion_id, move.merged_ms)
        self._sort_by_record()
        self._count_moved(source)
        for waiting in move.events:
            event = _as_event(waiting, move.person_id, move.partition)
            e = event.conversion
            if e.action != "create" and e.record_ms + self._waits_ms(e) < move.merged_ms:
                out.dead.append((event, Reason.NO_CREATE, NEVER_CREATED))
            else:
                self._take_event(event, move.merged_ms)

    def _seal(self, merged_ms: int) -> None:
        """A merge counts for conversions as long as `corrections` says; the others stay as they are from then on."""
        for c in list(self._conversions.values()):
            if not c.sealed and self._is_too_old(c, merged_ms):
                sealed = copy(c)
                sealed.sealed = True
                self._conversions[c.conversion_id] = sealed
                self._out.changed = True

    def _is_too_old(self, c: JourneyConversion, merged_ms: int) -> bool:
        return c.record_ms + self._rules.of(c.policy_version)[0].corrections_ms < merged_ms

    def _end_waiting(self, conversion_id: str, merged_ms: int) -> None:
        """Corrections can have come before the journey that has their conversion."""
        for p in self._end_pending(conversion_id):
            known = self._conversions[conversion_id]
            if self._may_correct(known, _as_event(p), merged_ms):
                self._apply(known, p.correction)

    def _count_moved(self, source: Source) -> None:
        """Among the conversions of both, others may be the first of their type."""
        now = uncounted(self._conversions.values(), self._rules)
        for conversion_id in sorted(now ^ self._uncounted):
            c = self._conversions.get(conversion_id)
            if c is not None and not c.sealed:
                self._cause(conversion_id, source)
        self._uncounted = now

    def _take_conversion(self, c: JourneyConversion, shown: Sequence[str], move: Move, source: Source) -> None:
        c.person_id = move.person_id
        c.rebuilt = c.rebuilt or self._replaying
        c.sealed = c.sealed or self._is_too_old(c, move.merged_ms)
        c.sealed = c.sealed or (self._replaying and c.record_ms < self._sealed_below_ms)
        ids = self._shown.setdefault(c.conversion_id, set())
        ids.update(shown)
        known = self._conversions.get(c.conversion_id)
        if known is not None:
            self._out.duplicate_conversions += 1
            c = self._one_of(known, c)
        self._conversions[c.conversion_id] = c
        self._out.changed = True
        self._out.moved += 1
        if self._rules.of(c.policy_version)[0].credited(c.type):
            if c.sealed:
                self._bounds[c.conversion_id] = source
            else:
                self._cause(c.conversion_id, source)

    def _sort_by_record(self) -> None:
        """They are looked through in this order."""
        self._conversions = {c.conversion_id: c for c in sorted(self._conversions.values(), key=_by_record)}

    def _one_of(self, known: JourneyConversion, arrived: JourneyConversion) -> JourneyConversion:
        """One conversion was reported under two persons: the first record stays, and what is said of either counts.

        Both were published, each at home, so from now on whatever is published goes to both places.
        """
        here = copy(known)
        here.homes = known.homes or [self._partition]
        kept, other = sorted((here, arrived), key=_by_record)
        kept.homes = sorted({*kept.homes, *other.homes})
        kept.floor = max(kept.floor, other.floor)
        kept.retracted = kept.retracted or other.retracted
        kept.rebuilt = kept.rebuilt or other.rebuilt
        kept.seen = [*kept.seen, *other.seen]
        if other.value_from is not None and (kept.value_from is None or other.value_from > kept.value_from):
            kept.value_from, kept.value_micros = other.value_from, other.value_micros
        if other.currency_from is not None and (kept.currency_from is None or other.currency_from > kept.currency_from):
            kept.currency_from, kept.currency = other.currency_from, other.currency
        return kept

    def _mark_late(self, fresh: Sequence[Arrival]) -> None:
        """Find the conversions that a touch of this batch counts for."""
        for c in self._conversions.values():
            policy, _ = self._rules.of(c.policy_version)
            if c.retracted or c.sealed or not policy.credited(c.type):
                continue
            if self._is_too_old(c, self._merged_ms):
                continue
            first_ms = c.occurred_ms - policy.lookback_max_ms(c.type)
            first, last = self._rules.window(c)
            for touch, source in fresh:
                if first_ms <= touch.occurred_ms <= c.occurred_ms and first <= touch.record_ms <= last:
                    self._cause(c.conversion_id, source)

    def _take_event(self, event: Event, merged_ms: int = -1) -> None:
        """`merged_ms`: record time of the merge that brought it here."""
        e = event.conversion
        if self._conversions:
            self._forget(e.record_ms)
        if self._pending:
            self._give_up_waiting(e.record_ms)
        if e.event_id is not None and self._is_seen(e.event_id):
            self._out.duplicate_conversions += 1
        elif e.action == "create":
            self._create(event)
        else:
            self._correct(event, merged_ms)

    def _forget(self, record_ms: int) -> None:
        """Let go of the conversions that nothing can change any more, as of the journey's next conversion record.

        By record time, so that it does not depend on when a batch was cut. They come in that order, so mostly one look
        at the first is enough.
        """
        if self._causes and self._rules.resets_ms:
            return  # what earlier records of this batch change may begin after a conversion that is old by now
        for c in list(self._conversions.values()):
            if c.record_ms + kept_ms(self._rules, c) >= record_ms:
                return
            if c.record_ms + remembered_ms(c, self._rules) >= record_ms:
                continue
            if c.conversion_id not in self._causes:  # a touch of this very batch still changes it
                del self._conversions[c.conversion_id]
                self._out.changed = True

    def _give_up_waiting(self, record_ms: int) -> None:
        """Refuse the corrections that waited for longer than `corrections`, as the journey's next record shows."""
        waiting = []
        for p in self._pending:
            if p.correction.record_ms + self._waits_ms(p.correction) < record_ms:
                self._out.dead.append((_as_event(p), Reason.NO_CREATE, NEVER_CREATED))
                self._out.changed = True
            else:
                waiting.append(p)
        self._pending = waiting

    def _waits_ms(self, correction: Conversion) -> int:
        """How long a correction waits for its create."""
        return self._rules.at(correction.record_ms).corrections_ms

    def _is_seen(self, event_id: str) -> bool:
        return any(event_id in c.seen for c in self._conversions.values()) or any(
            event_id == p.correction.event_id for p in self._pending
        )

    def _create(self, event: Event) -> None:
        e, out = event.conversion, self._out
        known = self._conversions.get(e.conversion_id)
        if known is not None:
            out.duplicate_conversions += 1
            if e.record_ms < known.record_ms or (known.homes and self._replaying):
                self._also_here(known, e)
            return
        if len(self._conversions) >= OPEN_CONVERSIONS_MAX:
            message = f"the journey has {OPEN_CONVERSIONS_MAX} open conversions already"
            out.dead.append((event, Reason.TOO_MANY_CONVERSIONS, message))
            return
        self._conversions[e.conversion_id] = self._new(e)
        out.accepted += 1
        out.changed = True
        if self._rules.at(e.record_ms).credited(e.type):
            source = Source("conversions", e.offset, e.record_ms)
            self._cause(e.conversion_id, source)
            self._count_again(self._conversions[e.conversion_id], source)
        else:
            out.milestones += 1
        if self._pending:
            self._correct_with_pending(e.conversion_id)

    def _also_here(self, known: JourneyConversion, e: Conversion) -> None:
        """A create older than one from another journey; while replaying, perhaps one that was here before it."""
        created = self._new(e)
        created.homes = [self._partition]
        self._conversions[e.conversion_id] = self._one_of(known, created)
        self._sort_by_record()
        self._out.changed = True
        if not known.sealed and self._rules.of(known.policy_version)[0].credited(known.type):
            self._cause(e.conversion_id, Source("conversions", e.offset, e.record_ms))

    def _new(self, e: Conversion) -> JourneyConversion:
        created = new_conversion(e, self._rules.at(e.record_ms))
        created.rebuilt = self._replaying
        created.sealed = self._replaying and e.record_ms < self._sealed_below_ms
        return created

    def _count_again(self, other: JourneyConversion, source: Source) -> None:
        """A conversion came or was taken back: others of its type may begin or cease to be the first."""
        rules = self._rules
        if not remembered_ms(other, rules):
            return
        for conversion_id in sorted(uncounted(self._conversions.values(), rules) ^ self._uncounted):
            c = self._conversions.get(conversion_id)
            if c is not None and can_change(c, other, rules):
                self._uncounted ^= {conversion_id}
                self._cause(conversion_id, source)

    def _correct_with_pending(self, conversion_id: str) -> None:
        for p in self._end_pending(conversion_id):
            self._apply(self._conversions[conversion_id], p.correction)

    def _end_pending(self, conversion_id: str) -> list[PendingCorrection]:
        """Take out the corrections that waited for this conversion."""
        waiting = [p for p in self._pending if p.correction.conversion_id == conversion_id]
        self._pending = [p for p in self._pending if p.correction.conversion_id != conversion_id]
        return waiting

    def _correct(self, event: Event, merged_ms: int) -> None:
        e, out = event.conversion, self._out
        known = self._conversions.get(e.conversion_id)
        if known is None:
            if len(self._pending) >= PENDING_MAX:
                out.dead.append((event, Reason.NO_CREATE, f"{PENDING_MAX} corrections wait for their create already"))
                return
            self._pending = [
                *self._pending,
                PendingCorrection(e, event.key, event.value, list(event.headers), event.partition),
            ]
            out.waiting.append((e.record_ms, e.offset))
            out.accepted += 1
            out.changed = True
            return
        if self._may_correct(known, event, merged_ms):
            out.accepted += 1
            self._apply(known, e)

    def _may_correct(self, known: JourneyConversion, event: Event, merged_ms: int) -> bool:
        """Whether it is in time, and so was the merge that brought both together; a dead letter else."""
        policy, _ = self._rules.of(known.policy_version)
        if event.conversion.record_ms + policy.corrections_ms < known.record_ms:
            # It came another way, and after the create for which it would have waited too long.
            self._out.dead.append((event, Reason.NO_CREATE, NEVER_CREATED))
            return False
        if event.conversion.record_ms > known.record_ms + policy.corrections_ms:
            message = "the conversion is older than attribution.corrections allows"
        elif self._is_too_old(known, merged_ms):
            # Also while replaying, where other sealed conversions take up what they took up when they were not.
            message = "its person became another one when the conversion was older than attribution.corrections allows"
        elif known.sealed and not self._replaying:
            message = "the topics hold the touches no more that the conversion was credited with"
        else:
            return True
        self._out.dead.append((event, Reason.CORRECTION_TOO_LATE, message))
        return False

    def _apply(self, known: JourneyConversion, e: Conversion) -> None:
        """Fold a correction in. Corrections are ordered by (occurred_ms, offset); value and currency win apart."""
        c = copy(known)
        policy, _ = self._rules.of(c.policy_version)
        place = (e.occurred_ms, e.offset)
        if e.action == "retract":
            c.retracted = True
        if e.value_micros is not None and e.action == "restate" and (c.value_from is None or place > c.value_from):
            c.value_from = place
            if policy.fixed_value_micros(c.type) is None:
                c.value_micros = e.value_micros
        if e.currency is not None and e.action == "restate" and (c.currency_from is None or place > c.currency_from):
            c.currency_from = place
            c.currency = e.currency
        if e.event_id is not None:
            c.seen = [*c.seen, e.event_id]
        self._conversions[c.conversion_id] = c
        self._out.changed = True
        if policy.credited(c.type):
            source = Source("conversions", e.offset, e.record_ms)
            self._cause(c.conversion_id, source)
            if e.action == "retract":
                self._count_again(c, source)

    def _mark_after_reset(self) -> None:
        """Under reset_after_conversion a conversion that comes or goes changes where later ones begin."""
        causes = {**self._bounds, **self._causes}
        changed = sorted((self._conversions[i] for i in causes if i in self._conversions), key=place_of)
        for c in self._conversions.values():
            if c.sealed or c.conversion_id in self._causes:
                continue
            cause = next((o for o in changed if self._rules.may_reset(o, c)), None)
            if cause is not None:
                self._causes[c.conversion_id] = causes[cause.conversion_id]

    def _cause(self, conversion_id: str, source: Source) -> None:
        known = self._causes.get(conversion_id)
        if known is None or source.record_ms >= known.record_ms:
            self._causes[conversion_id] = source

    # -- what follows from them

    def _publish(self, conversion_id: str, source: Source) -> None:
        out = self._out
        now = self._conversions[conversion_id]
        conversions = self._conversions.values()
        sets = list(self._sets(now, out.touches, conversions, self._uncounted, out.state.dropped_ms))
        out.mismatched += sum(s.mismatched for s in sets)
        before = self._earlier(conversion_id)
        if conversion_id in self._shown:
            self._publish_moved(now, before, sets, source)
            return
        if before is None:
            counts = conversion_id not in self._uncounted
            out.credited += counts
            out.uncounted += not counts
            out.retracted += now.retracted
            if sets and counts and not now.retracted:
                key = sets[0].records[0][0]
                # An empty touch_id ends the key; a touch_id that ends in `|` has it escaped.
                out.unattributed += key.endswith(b"|") and not key.endswith(b"\\|")
            out.publications.append(Publication(source, list(chain.from_iterable(s.records for s in sets)), now.homes))
            return
        earlier = self._before.state
        touches = self._before.touches
        old = list(self._sets(before, touches, earlier.conversions, self._were_uncounted, earlier.dropped_ms))
        records = self._difference(now, old, sets)
        if records:
            out.restated += 1
            out.tombstones += sum(value is None for _, value in records)
            out.publications.append(Publication(source, records, now.homes))

    def _publish_moved(
        self, now: JourneyConversion, before: JourneyConversion | None, sets: list[CreditSet], source: Source
    ) -> None:
        """All sets of a conversion that came from another journey, as its person is another one now."""
        shown = self._shown[now.conversion_id]
        if before is not None:
            earlier = self._before.state
            were = self._were_uncounted
            path = path_of(before, self._before.touches, earlier.conversions, were, earlier.dropped_ms, self._rules)
            touches = self._before.touches if before.rebuilt else path.touches if path else []
            shown = shown | {t.event_id for t in touches}
        records: list[Record] = list(chain.from_iterable(s.records for s in sets))
        kept = {key for key, _ in records}
        _, encoder = self._rules.of(now.policy_version)
        for _, keys in encoder.keys(now.conversion_id, sorted(shown)):
            records += [(key, None) for key in keys if key not in kept]
        self._out.restated += 1
        self._out.tombstones += sum(value is None for _, value in records)
        self._out.publications.append(Publication(source, records, now.homes))

    def _earlier(self, conversion_id: str) -> JourneyConversion | None:
        for c in self._before.state.conversions:
            if c.conversion_id == conversion_id:
                return c
        return None

    def _difference(self, now: JourneyConversion, old: list[CreditSet], new: list[CreditSet]) -> list[Record]:
        """The whole new set of each attribution model that changed, and tombstones for the keys it has no more."""
        changed = [(o, n) for o, n in zip(old, new, strict=True) if o.records != n.records]
        if not changed:
            return []
        if now.rebuilt:
            return self._all_of(now, [n for _, n in changed])
        records: list[Record] = []
        for o, n in changed:
            kept = {key for key, _ in n.records}
            records += n.records
            records += [(key, None) for key, _ in o.records if key not in kept]
        return records

    def _all_of(self, now: JourneyConversion, changed: list[CreditSet]) -> list[Record]:
        """A restatement after a rebuild: what was published before may rest on facts that are gone since.

        So the sets that changed are published with tombstones for every other key that they can have had. The others
        are left alone: nothing is known of them that would be better than what was published.
        """
        _, encoder = self._rules.of(now.policy_version)
        records: list[Record] = list(chain.from_iterable(s.records for s in changed))
        kept = {key for key, _ in records}
        names = {s.attribution_model for s in changed}
        touch_ids = [t.event_id for t in {t.event_id: t for t in [*self._before.touches, *self._out.touches]}.values()]
        for name, keys in encoder.keys(now.conversion_id, touch_ids):
            if name in names:
                records += [(key, None) for key in keys if key not in kept]
        return records

    def _sets(
        self,
        c: JourneyConversion,
        touches: Sequence[JourneyTouch],
        conversions: Collection[JourneyConversion],
        no_credit: Collection[str],
        dropped_ms: int,
    ) -> Iterator[CreditSet]:
        return credit_sets(c, touches, conversions, no_credit, dropped_ms, self._rules, self._revision)


def credit_sets(
    c: JourneyConversion,
    touches: Sequence[JourneyTouch],
    conversions: Collection[JourneyConversion],
    no_credit: Collection[str],
    dropped_ms: int,
    rules: Rules,
    revision: int,
) -> Iterator[CreditSet]:
    """All credits of a conversion, at a revision above its floor; `no_credit` are those that another one displaces."""
    _, encoder = rules.of(c.policy_version)
    above = c.floor + revision
    if c.retracted:
        return encoder.retracted(c, above)
    if c.conversion_id in no_credit:
        return not_first(encoder, c, above)
    path = path_of(c, touches, conversions, no_credit, dropped_ms, rules)
    return encoder.unattributed(c, above) if path is None else encoder.credited(c, path, above)


def path_of(
    c: JourneyConversion,
    touches: Sequence[JourneyTouch],
    conversions: Collection[JourneyConversion],
    no_credit: Collection[str],
    dropped_ms: int,
    rules: Rules,
) -> paths.Path | None:
    """The path of a conversion; None where no touch counts for it."""
    policy, _ = rules.of(c.policy_version)
    after_ms = None
    if policy.resets:
        credited = [o for o in conversions if o.conversion_id not in no_credit] if no_credit else conversions
        after_ms = rules.previous_ms(c, credited)
    path = paths.build(_counting(c, touches, rules), c.occurred_ms, c.type, policy, after_ms)
    if not path.touches:
        return None
    if dropped_ms >= c.occurred_ms - policy.lookback_max_ms(c.type):
        return paths.Path(path.touches, True)
    return path


def new_conversion(e: Conversion, policy: Policy) -> JourneyConversion:
    """A conversion as its create says it, under the policy that it is first credited with."""
    fixed = policy.fixed_value_micros(e.type)
    return JourneyConversion(
        e.conversion_id,
        e.person_id,
        e.type,
        e.occurred_ms,
        e.record_ms,
        e.offset,
        (e.value_micros or 0) if fixed is None else fixed,
        e.currency or policy.currency,
        e.account_id,
        policy.version,
        seen=[] if e.event_id is None else [e.event_id],
    )


def kept_ms(rules: Rules, c: JourneyConversion) -> int:
    """How long after its record time something can change a conversion, or it another one."""
    policy, _ = rules.of(c.policy_version)
    return max(policy.corrections_ms, policy.retention_ms, rules.lateness_of(policy), rules.resets_ms)


def _counting(c: JourneyConversion, touches: Sequence[JourneyTouch], rules: Rules) -> Sequence[JourneyTouch]:
    """Those that count by record time; event time is the path's business. Mostly all do: that is cheap to see."""
    first, last = rules.window(c)
    if all([first <= t.occurred_ms + t.lag_ms <= last for t in touches]):  # noqa: C419 a list is faster here
        return touches
    return [t for t in touches if first <= t.occurred_ms + t.lag_ms <= last]


def _by_record(c: JourneyConversion) -> tuple[int, list[int], int]:
    return c.record_ms, c.homes, c.offset


def _as_event(waiting: PendingCorrection, person_id: str | None = None, partition: int | None = None) -> Event:
    """A record that waited or was sent on, of `person_id` where it has come to another one, from `partition`."""
    conversion = waiting.correction
    if person_id is not None:
        conversion = copy(conversion)
        conversion.person_id = person_id
    lies = partition if waiting.partition is None else waiting.partition
    return Event(conversion, waiting.key, waiting.value, waiting.headers, lies)


def stored(blobs: Sequence[list[JourneyTouch]], state: JourneyState = EMPTY_STATE) -> Journey:
    """A journey from what its keys hold: the first of each event_id, in order of event time."""
    raw = blobs[0] if len(blobs) == 1 else list(chain.from_iterable(blobs))
    if len(raw) > 1:
        touches = unique(raw)
        duplicates = len(raw) - len(touches)
        touches.sort(key=by_time)
        return Journey(touches, state, duplicates)
    return Journey(raw, state)
