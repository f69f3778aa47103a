"""The crediting stage of one partition number: touches and conversions in, credits out.

Conversions wait at the gate for the touches before them. Journeys that a merge gives to another person leave through
the topic `moves`, and facts that come for them later are sent after them: the pointer stays. Persons who are forgotten
leave a mark, and what comes for them later is dropped (`models/forgetting.py`).
"""

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, TypeVar

from faust.types import TP

from models.crediting import Event
from models.facts import JourneyTouch
from models.journey import BUCKET_MS, buckets, forward_key, key_of, state_key, state_writer, touches_key
from models.moving import Move, write_move
from models.rules import Rules
from state.recent import RecentConversions
from state.store import Writes
from streams.batches import partitioner
from streams.claiming import Claiming
from streams.deciding import Decided, Deciding, by_bucket, count_dead, count_filtered, group
from streams.decode import Decoder, Taken, TakenMove
from streams.following import Following
from streams.gate import Gate, Held, Pace
from streams.marks import Marks
from streams.moves import MOVED_BYTES, MOVES_FIRST, MOVES_MAX, TOUCH_BYTES, Moves, read_pointer, together
from streams.origin import Origin
from streams.plain import PlainCredits
from streams.processor import IDLE_WAIT_S, PartitionTask
from streams.publish import DeadLetter, Publisher
from streams.report import BatchReport
from streams.step import Applied, Limits, Offsets
from streams.topics import Topics
from streams.transport import Batch, Consumer
from streams.tripwire import flags_of
from streams.waiting import Waiting, give_up

# Journeys decided without a look at the event loop: some ten milliseconds, for heartbeats and other partitions.
YIELD_EVERY = 200

TOUCHES, CONVERSIONS, MOVES = range(3)
# Persons that need not be looked up again, a few megabytes; beyond, it begins anew.
UNMERGED_MAX = 50_000
# A record time that no record reaches.
FAR_MS = 1 << 53

Timed = TypeVar("Timed", Held, TakenMove)


class CreditTask(PartitionTask[Taken, Decided]):
    """Credits the conversions of one partition number."""

    lazy = frozenset({TOUCHES})

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
        origin: Origin | None = None,
        republish: bool = False,
        secret: bytes = b"",
        tells: bool = False,
        following: Following | None = None,
    ) -> None:
        """`origin` is the log that the store must be made from; None takes any. `republish`: see `Claiming`.

        `secret`: what the settings have to make the marks of people who were forgotten with; empty: one is drawn.
        `tells`: whether there is an identity stage that wants to know of conversions that nobody has any more.
        `following` says which policies were announced meanwhile; None: `rules` are those for good.
        """
        inputs = tuple(TP(topic, partition) for topic in (topics.touches, topics.conversions, topics.moves))
        claiming = Claiming(
            inputs,
            TP(topics.credits, partition),
            store,
            rules.retention_ms,
            self.lazy,
            origin,
            republish,
            limits.state_format,
        )
        super().__init__(inputs, store, publisher, limits, crash_point, report, claiming=claiming)
        self._decoder = decoder
        self._partition_of = partitioner(decoder.native)
        self._following = following
        self._use(rules)
        self._write_state = state_writer(limits.state_format)
        self._secret = secret
        self._tells = tells
        self._gate = Gate(limits.settle_ms, limits.held_max)

    def _use(self, rules: Rules) -> None:
        """From now on decide by these."""
        self._rules = rules
        self._ttl_ms = rules.kept_ms
        self._plain = PlainCredits(rules)
        self._claiming = replace(self._claiming, retention_ms=rules.retention_ms)

    @property
    def touches(self) -> TP:
        """Where the touches lie."""
        return self.inputs[TOUCHES]

    @property
    def conversions(self) -> TP:
        """Where the conversions lie."""
        return self.inputs[CONVERSIONS]

    @property
    def held(self) -> int:
        """Conversions that wait at the gate."""
        return len(self._gate)

    def _wait_s(self) -> float:
        return 0.0 if self._moves else self._gate.wait_s(time.monotonic(), IDLE_WAIT_S)

    def _start_at(self, token: bytes, applied: Applied, committed: Offsets, trip: bytes | None) -> None:
        self._gate = Gate(self._limits.settle_ms, self._limits.held_max)
        self._moves: list[TakenMove] = []
        self._ahead = Taken()
        self._pace = Pace()
        self._moves_pace = Pace(MOVED_BYTES, MOVES_MAX, MOVES_FIRST)
        # Persons of whom this claim has read that they are nobody else, and who have not become so since: only the
        # owner writes that.
        self._unmerged: set[bytes] = set()
        self._recent = RecentConversions(applied.latest_ms)
        self._marks = Marks(self.partition, self._secret, self._read_store)
        self._grown: list[bytes] = []
        rules = self._rules
        self._waiting = Waiting(
            rules.policy.corrections_ms, rules.unread_ms, self._read_store, applied.waited, applied.given_up
        )
        super()._start_at(token, applied, committed, trip)

    # -- taking records in

    def _nothing(self) -> Taken:
        return Taken()

    def _decode(self, batch: Batch, taken: Taken) -> None:
        touches, conversions, moves = batch.parts
        self._decoder.touches(touches, self.partition, taken)
        self._decoder.conversions(conversions, self.partition, taken)
        self._decoder.moves(moves, self.partition, taken)

    def _up_to_committed(self, taken: Taken) -> Taken:
        """Conversions and moves in the order of their record times, as they were taken the first time: what is in time
        for what else goes by these. What is ahead of the other topic waits, and its topic is held back."""
        now, ahead = super()._up_to_committed(taken), self._ahead
        ahead.conversions += now.conversions
        ahead.moves += now.moves
        consumer, until_ms = self._owned_by(), FAR_MS
        for i in (CONVERSIONS, MOVES):
            if not consumer.has_read(self.inputs[i], self._read[i], self._committed[i]):
                until_ms = min(until_ms, self._last_ms[i])
        now.conversions, ahead.conversions = _cut(ahead.conversions, until_ms)
        now.moves, ahead.moves = _cut(ahead.moves, until_ms)
        for i in (CONVERSIONS, MOVES):
            most = 2 * self._limits.step_records
            consumer.hold_back(self.inputs[i], max(ahead.counts[i], self._later.counts[i]) > most)
        return now

    async def _release(self, taken: Taken) -> None:
        """Hold the conversions, and take out those whose touches have all been taken."""
        gate, consumer = self._gate, self._owned_by()
        gate.hold(taken.conversions)
        if not self._tells:
            # What comes by way of the identity stage is in no order of record times: one of its partitions is ahead of
            # another. So all that lies there has to be read.
            gate.touches_reached(self._last_ms[TOUCHES])
        now_s = time.monotonic()
        overdue = gate.overdue(now_s)
        if overdue:
            end = (await consumer.offsets("end", [self.touches]))[self.touches]
            for held in overdue:
                held.end = end
        read = self._read[TOUCHES]
        taken.conversions = gate.release(
            now_s, lambda end: consumer.has_read(self.touches, read, end), self._pace.count
        )
        consumer.hold_back(self.conversions, gate.is_full)
        self._moves += taken.moves
        count = together(self._moves, self._moves_pace.count)
        taken.moves, self._moves = self._moves[:count], self._moves[count:]
        consumer.hold_back(self.inputs[MOVES], len(self._moves) > self._limits.held_max)

    def _ends(self) -> Offsets:
        touches, conversions, moves = super()._ends()
        if self.replaying:
            waiting = self._ahead
            return (
                touches,
                waiting.conversions[0].offset if waiting.conversions else conversions,
                waiting.moves[0].offset if waiting.moves else moves,
            )
        return (
            touches,
            self._gate.first_offset(otherwise=conversions),
            self._moves[0].offset if self._moves else moves,
        )

    def _flags(self, taken: Taken, dead: Sequence[DeadLetter]) -> list[bool]:
        own = [letter for letter in dead if letter.partition == self.partition]
        return flags_of(taken, own, self.touches.topic, self.conversions.topic)

    # -- deciding

    async def _decide(self, taken: Taken, ends: Offsets, report: BatchReport) -> Decided:
        """Load the journeys that anything can change, and decide; all other touches are only appended."""
        await self._follow(taken)
        started = time.perf_counter()
        events: dict[bytes, list[Event]] = {}
        for held in taken.conversions:
            if held.event is not None:
                events.setdefault(held.event.key, []).append(held.event)
        decided = Decided(
            self._publisher.output(self.partition),
            Writes(append_ttl_ms=self._ttl_ms, put_ttl_ms=self._ttl_ms),
            [],
        )
        dead = decided.output.dead
        dead.extend(taken.dead)
        dead.extend(held.dead for held in taken.conversions if held.dead is not None)
        moves = await self._moves_of(taken, events, decided, report)
        keys = self._to_load(taken, events)
        for others in (moves.leaving, moves.forgetting):
            keys.update(dict.fromkeys(others))
        unread = await self._unread(moves, keys)
        keys.update(dict.fromkeys(moves.arriving))
        appends, arrivals = group(taken.touches, keys)
        _append(decided.writes.appends_under, appends, unread)
        report.touches_accepted += len(taken.touches) - sum(map(len, arrivals.values()))
        if keys:
            order = list(keys)
            late = [record_ms for touches in arrivals.values() for _, record_ms, *_ in touches]
            at = [held.record_ms for held in taken.conversions] + [move.record_ms for move in taken.moves]
            reach_ms = self._rules.whole_ms if taken.moves else self._rules.reach_ms
            span = self._buckets([*at, *late], reach_ms)
            loaded = await self._load(order, span)
            self._note_moved(taken.moves, loaded)
            report.stage("load", started)
            started = time.perf_counter()
            deciding = Deciding(
                self.conversions,
                self._rules,
                sum(ends),
                self.replaying,
                self._applied.sealed_below_ms,
                decided,
                report,
                self._tells,
                self._write_state,
                self._plain,
            )
            width = 1 + len(span)
            for i, key in enumerate(order):
                if i % YIELD_EVERY == YIELD_EVERY - 1:
                    await asyncio.sleep(0)
                blobs = loaded[i * width : (i + 1) * width]
                if key in moves.leaving:
                    deciding.leaves(key, blobs, span, *moves.leaving[key])
                elif key in moves.forgotten:
                    if key in moves.forgetting:
                        deciding.forgets(key, blobs, self._all_buckets(at), moves.forgetting[key])
                    deciding.drops(moves.arriving.get(key, ()))
                else:
                    moved = moves.arriving.get(key, ())
                    deciding.journey(key, blobs, span, arrivals.get(key, ()), events.get(key, ()), moved)
        # After the journeys that leave: a fact that was known there already must not be taken for a new one.
        decided.output.sends += [("moves", *write_move(move)) for move in moves.sent]
        await self._give_up(taken, moves, decided)
        if not self.replaying:
            self._pace.saw(len(taken.conversions), report.credits)
        count_dead(dead, self.touches.topic, self.conversions.topic, report)
        count_filtered(taken, report)
        report.stage("decide", started)
        return decided

    def _note_moved(self, taken: Sequence[TakenMove], loaded: Sequence[bytes | None]) -> None:
        """See how large the journeys are that leave, are forgotten or arrive."""
        if taken and not self.replaying:
            size = sum(TOUCH_BYTES * len(each.move.touches) for each in taken if isinstance(each.move, Move))
            self._moves_pace.saw(len(taken), size + sum(len(blob) for blob in loaded if blob is not None))

    async def _follow(self, taken: Taken) -> None:
        """Know every policy that can count for what is decided."""
        if self._following is not None:
            times = [held.record_ms for held in taken.conversions] + [move.record_ms for move in taken.moves]
            if times:
                rules = await self._following.until(max(times))
                if rules is not self._rules:
                    self._use(rules)

    async def _unread(self, moves: Moves, keys: Mapping[bytes, None]) -> dict[bytes, list[JourneyTouch]]:
        """Take out of what arrives the touches for journeys that have nothing else: they are appended like all others.

        Most visitors never convert, so that a look at whether there are conversions is cheaper than their journeys.
        """
        plain = [
            key
            for key, moved in moves.arriving.items()
            if key not in keys and key not in moves.forgotten and all(move.is_plain for move, _ in moved)
        ]
        states = await self._read_store([state_key(key) for key in plain]) if plain else []
        found = {}
        for key, state in zip(plain, states, strict=True):
            if state is None:
                touches = [touch for move, _ in moves.arriving.pop(key) for touch in move.touches]
                # Mostly there are none: the news of a merge is all that came.
                if touches:
                    found[key] = touches
        return found

    async def _give_up(self, taken: Taken, moves: Moves, decided: Decided) -> None:
        """End what waits for a create for too long, as of the conversions of this step."""
        due = await self._waiting.turn(taken.conversions, decided.waiting, decided.writes)
        if due:
            await give_up(due, self._read_store, self.conversions, decided)
        if moves.forgetting:
            await self._waiting.forget(moves.forgetting, decided.writes)

    def _to_load(self, taken: Taken, events: Mapping[bytes, list[Event]]) -> dict[bytes, None]:
        keys = dict.fromkeys(events)
        keys.update(dict.fromkeys(self._grown))
        if not self.replaying:
            keys.update(dict.fromkeys(self._recent.late(taken.touches)))
        return keys

    def _buckets(self, decided_ms: Sequence[int], reach_ms: int) -> range:
        """The buckets of record time in which touches can lie that matter to what is decided, of these record times.

        They reach back from the oldest of them, as touches may have been read far ahead of a conversion.
        """
        front_ms = self._last_ms[TOUCHES]
        first_ms = min(decided_ms, default=front_ms)
        last_ms = max([front_ms, *decided_ms])
        # Until a touch is read after a claim, those stored already may be younger than anything known here.
        return buckets(first_ms - reach_ms, last_ms if front_ms >= 0 else last_ms + self._rules.late_ms)

    def _all_buckets(self, decided_ms: Sequence[int]) -> range:
        """The buckets in which a journey's touches can lie at all, as nobody looks into the oldest ones."""
        times = [*decided_ms, max(self._last_ms)]
        return buckets(min(times) - self._rules.kept_ms - BUCKET_MS, max(times) + BUCKET_MS)

    async def _load(self, keys: Sequence[bytes], span: range) -> list[bytes | None]:
        subkeys = []
        for key in keys:
            subkeys.append(state_key(key))
            subkeys += [touches_key(bucket, key) for bucket in span]
        return await self._read_store(subkeys)

    async def _read_store(self, subkeys: Sequence[bytes]) -> list[bytes | None]:
        loaded: list[bytes | None] = await self._store.load(self.partition, self._token, self._applied.text(), subkeys)
        return loaded

    def _next_applied(self, decided: Decided, ends: Offsets) -> Applied:
        for key, occurred_ms in decided.accepted:
            self._recent.add(key, occurred_ms)
        applied = self._applied
        return applied._replace(
            offsets=ends,
            latest_ms=self._recent.latest_ms,
            merged=applied.merged + decided.merged,
            forgotten=applied.forgotten + decided.forgotten,
            waited=self._waiting.waited,
            given_up=self._waiting.given_up,
        )

    def _note_grown(self, subkeys: Sequence[bytes]) -> None:
        self._grown = [key_of(subkey) for subkey in subkeys]

    # -- persons that are others, and those who were forgotten

    async def _moves_of(
        self, taken: Taken, events: dict[bytes, list[Event]], decided: Decided, report: BatchReport
    ) -> Moves:
        """Sort the records of `moves`, and take out of `taken` and `events` what is to be sent on or dropped."""
        moves = Moves(self.partition)
        await self._look_up(taken, events, moves)
        moves.sort(taken.moves, decided)
        self._unmerged.difference_update(moves.leaving)
        if moves.into:
            report.touches_accepted += sum(touch[2] in moves.into for touch in taken.touches)
            moves.send_on(taken, events)
        if moves.forgotten:
            moves.drop(taken, events, decided, report, self._tells)
        if moves.forgetting:
            decided.lasting = await self._marks.new({key: at.record_ms for key, at in moves.forgetting.items()})
            report.forgotten += decided.forgotten
            for key in moves.forgetting:
                self._recent.last.pop(key, None)
        return moves

    async def _look_up(self, taken: Taken, events: Mapping[bytes, Sequence[Event]], moves: Moves) -> None:
        """One MGET for the persons of the step, only where anybody here was ever merged or forgotten."""
        merged, forgotten = bool(self._applied.merged), bool(self._applied.forgotten)
        if not merged and not forgotten:
            return
        named = {touch[2] for touch in taken.touches}
        named.update(events, [move.key for move in taken.moves])
        keys, unsure = list(named), list(named - self._unmerged) if merged else []
        subkeys = [forward_key(key) for key in unsure]
        if forgotten:
            subkeys += await self._marks.subkeys(keys)
        found = await self._read_store(subkeys)
        if merged:
            moves.into = {key: read_pointer(text) for key, text in zip(unsure, found, strict=False) if text is not None}
            if len(self._unmerged) + len(unsure) > UNMERGED_MAX:
                self._unmerged.clear()
            self._unmerged.update(unsure[:UNMERGED_MAX])
            self._unmerged.difference_update(moves.into)
        if forgotten:
            marks = found[len(found) - len(keys) :]
            moves.forgotten = {key for key, mark in zip(keys, marks, strict=True) if mark is not None}

    async def claim(self, consumer: Consumer) -> Mapping[TP, int]:
        """As every task, and see that people who were forgotten are known as such, and all policies of those before."""
        starts = await super().claim(consumer)
        if self._following is not None:
            self._use(await self._following.again())
        if self._applied.forgotten:
            await self._marks.subkeys(())
        return starts


def _append(
    writes: dict[bytes, dict[bytes, bytes]],
    appends: dict[int, dict[bytes, bytes]],
    unread: Mapping[bytes, Sequence[JourneyTouch]],
) -> None:
    """Add what is appended unread: touches of this step, by bucket and journey, and those that were moved here."""
    for key, touches in unread.items():
        for bucket, blob in by_bucket(touches).items():
            frames = appends.setdefault(bucket, {})
            frames[key] = frames.get(key, b"") + blob
    writes.update({touches_key(bucket, b""): frames for bucket, frames in appends.items()})


def _cut(records: list[Timed], until_ms: int) -> tuple[list[Timed], list[Timed]]:
    """Those up to a record time, and the rest; they are in the order of record times."""
    count = bisect_right(records, until_ms, key=attrgetter("record_ms"))
    return records[:count], records[count:]
