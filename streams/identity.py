"""The identity stage of one partition number: who is who, and raw events for whom they belong to.

    links, identities, raw-touches, raw-conversions  →  links, moves, touches, conversions, raw-touches, raw-conversions

Records of any order are fine, so nothing waits at a gate. An event goes to the owner of its highest id, over the raw
topic itself where another partition number owns it, up the pointers that lead from there, and comes out keyed by the id
at the top. What owners tell each other goes over `links`. `models/linking.py` says why that comes to rest.

While replaying, the inputs may be taken in in another order than the first time. Pointers do not depend on it, as they
are set by the records of `links` alone, in the order of their offsets. What else is kept may differ only in which of
too many ids were refused, and those that were taken in the first time point already.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from faust.types import TP

from models.linking import Arrived, Outcome, conversion_key
from models.mail import IdentityRules, Mail, conversion_subkey
from models.outcome import Reason
from models.raw import own_headers
from models.whereabouts import give_up, read_whereabouts
from state.store import TTL_MAX_MS, Writes
from streams.batches import owners, partitioner
from streams.claiming import Claiming
from streams.identity_decode import (
    IDENTITIES,
    LINKS,
    RAW_CONVERSIONS,
    RAW_TOUCHES,
    Item,
    OfAccount,
    RawDecoder,
    TakenRaw,
)
from streams.identity_publish import Relayed
from streams.marks import Marks
from streams.origin import Origin
from streams.processor import PartitionTask
from streams.publish import DeadLetter, Publisher
from streams.report import BatchReport
from streams.routing import misrouted
from streams.settling import LOOK_EVERY_S, Settling, TouchesFirst
from streams.step import Applied, Limits, Offsets
from streams.transport import Batch, Consumer
from streams.waiting import Waiting

# Ids decided without a look at the event loop: some ten milliseconds, for heartbeats and other partitions.
YIELD_EVERY = 2_000


class Resolved(NamedTuple):
    """What a step came to: what to publish, what to save, and counts."""

    output: Relayed
    writes: Writes
    outcome: Outcome
    lasting: dict[bytes, bytes]


class IdentityTask(PartitionTask[TakenRaw, Resolved]):
    """Resolves the raw events of one partition number, and owns its ids."""

    # Whatever has no output only changes what is kept, and comes to the same when it is done again.
    lazy = frozenset(range(4))

    def __init__(
        self,
        partition: int,
        inputs: Sequence[str],
        store: Any,
        publisher: Publisher,
        decoder: RawDecoder,
        rules: IdentityRules,
        limits: Limits,
        crash_point: Callable[[str], None],
        report: Callable[[BatchReport], None],
        tell: Callable[[Outcome], None],
        origin: Origin | None = None,
        secret: bytes = b"",
        behind: set[int] | None = None,
    ) -> None:
        """`inputs`: full names of links, identities, raw-touches and raw-conversions. `tell` gets the counts of each
        step that was published, which replayed ones are not. `behind`: see `TouchesFirst`."""
        places = tuple(TP(topic, partition) for topic in inputs)
        claiming = Claiming(places, None, store, None, self.lazy, origin, state_format=limits.state_format)
        super().__init__(places, store, publisher, limits, crash_point, report, claiming=claiming)
        self._decoder = decoder
        self._owner_of, self._partition_of = owners(decoder.native), partitioner(decoder.native)
        self._rules = rules
        self._tell = tell
        self._secret = secret
        self._settling = Settling(places[: IDENTITIES + 1], places[RAW_TOUCHES:])
        self._touches_first = TouchesFirst(
            places[RAW_TOUCHES], places[RAW_CONVERSIONS], set() if behind is None else behind
        )

    def _wait_s(self) -> float:
        return LOOK_EVERY_S if self._settling or self._touches_first else super()._wait_s()

    async def _release(self, taken: TakenRaw) -> None:
        """Let events come once it is known who is who, and conversions once the touches before them were read."""
        consumer, said = self._owned_by(), any(taken.parts[: IDENTITIES + 1])
        self._settling.look(consumer, self._read[: IDENTITIES + 1], said)
        if not self._settling:
            self._touches_first.look(consumer, self._read[RAW_TOUCHES])

    def _nothing(self) -> TakenRaw:
        return TakenRaw()

    def _decode(self, batch: Batch, taken: TakenRaw) -> None:
        self._decoder.add(batch.parts, self.partition, taken)

    def _count_misrouted(self, batches: Sequence[Batch], report: BatchReport) -> None:
        """Raw events and Identify records may lie anywhere; what owners tell each other may not."""
        partitions = self._owned_by().partitions(self.inputs[LINKS].topic)
        for batch in batches:
            records = batch.parts[LINKS]
            report.misrouted += misrouted(records, self.partition, partitions, self._partition_of)

    async def _decide(self, taken: TakenRaw, ends: Offsets, report: BatchReport) -> Resolved:
        """Load what is known of all ids that are spoken of, and decide each on its own."""
        started = time.perf_counter()
        output, out = self._output(), Outcome()
        partition, partitions = self.partition, self._owned_by().partitions(self.inputs[LINKS].topic)
        owner_of = self._owner_of
        mail = Mail(lambda text: owner_of(text, partitions) == partition, out, self._rules.by_account)
        self._sort(taken, mail, output)
        subkeys = mail.subkeys()
        blobs = await self._load(subkeys) if subkeys else []
        report.stage("load", started)
        started = time.perf_counter()
        writes = Writes(append_ttl_ms=min(self._rules.kept_ms, TTL_MAX_MS))
        if self._rules.by_account:
            # What waits for an account lives as long as its latest event may wait.
            writes.renew_below_ms = min(self._rules.wait_ms, writes.append_ttl_ms)
        forgotten = await self._forgotten_of(mail.ids())
        for i, change in enumerate(mail.decide(blobs, self._rules, forgotten)):
            if i % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
            if change is None:
                continue
            if change.value is None:
                writes.deletes.append(change.subkey)
            else:
                (writes.appends if change.append else writes.puts)[change.subkey] = change.value
        await self._give_up(taken, out, writes)
        output.relayed = out.sends
        output.dead += [self._dead(arrived, reason, message) for arrived, reason, message in out.dead]
        for letter in output.dead:
            report.dead_by_reason[letter.reason.value] += 1
        lasting = await self._marks.new({id_.encode(): at for id_, at in out.forgotten}) if out.forgotten else {}
        report.forgotten += len(out.forgotten)
        touches = sum(arrived.event.kind == "touches" for arrived in out.dropped)
        report.touches_forgotten += touches
        report.conversions_forgotten += len(out.dropped) - touches
        self._count(out, output, report)
        report.stage("decide", started)
        return Resolved(output, writes, out, lasting)

    def _count(self, out: Outcome, output: Relayed, report: BatchReport) -> None:
        raw = {self.inputs[RAW_TOUCHES].topic, self.inputs[RAW_CONVERSIONS].topic}
        report.raw_delivered += out.touches + out.conversions
        report.raw_passed_on += out.passed_on
        report.raw_waiting += out.waiting
        report.raw_forgotten += len(out.dropped)
        report.raw_dead += sum(letter.topic in raw for letter in output.dead)
        report.ids_linked += out.admitted
        report.ids_refused += out.refused
        report.merges_sent += out.merged

    async def _give_up(self, taken: TakenRaw, out: Outcome, writes: Writes) -> None:
        """Refuse the corrections that have waited for too long, as of the raw conversions of this step."""
        conversions = cast("list[Item | Arrived]", taken.parts[RAW_CONVERSIONS])
        due = await self._waiting.turn(conversions, out.began, writes)
        if not due:
            return
        subkeys = {conversion_subkey(conversion_key(name.decode())): until_ms for name, until_ms in due.items()}
        blobs = await self._load(list(subkeys))
        for (subkey, until_ms), blob in zip(subkeys.items(), blobs, strict=True):
            if subkey in writes.puts:
                continue  # its person was forgotten just now
            known = read_whereabouts((blob or b"") + writes.appends.get(subkey, b""))
            frames = give_up(known, until_ms, self._rules.wait_ms, out)
            if frames is None:
                writes.appends.pop(subkey, None)
                writes.deletes.append(subkey)
            elif frames:
                writes.appends[subkey] = writes.appends.get(subkey, b"") + frames

    async def _forgotten_of(self, ids: Sequence[str]) -> dict[str, int]:
        """Those of the ids that were forgotten, and when; nobody asks before that was ever so."""
        if not self._applied.forgotten or not ids:
            return {}
        marks = await self._load(await self._marks.subkeys([id_.encode() for id_ in ids]))
        return {id_: int(mark) for id_, mark in zip(ids, marks, strict=True) if mark is not None}

    def _output(self) -> Relayed:
        output = self._publisher.output(self.partition)
        if not isinstance(output, Relayed):
            raise TypeError("the identity stage needs a RelayPublisher")
        return output

    async def _load(self, subkeys: Sequence[bytes]) -> list[bytes | None]:
        loaded: list[bytes | None] = await self._store.load(self.partition, self._token, self._applied.text(), subkeys)
        return loaded

    def _sort(self, taken: TakenRaw, mail: Mail, output: Relayed) -> None:
        """Into the mail, or to the dead letters."""
        item: Item | Arrived
        for i, items in enumerate(taken.parts):
            for item in mail.touches(items) if i == RAW_TOUCHES else cast("list[Item | Arrived]", items):
                if isinstance(item, Arrived):
                    mail.event(item)
                    continue
                match item.what:
                    case DeadLetter():
                        output.dead.append(item.what)
                    case OfAccount(ids, account_id):
                        mail.people(ids, item.record_ms)
                        mail.belongs(ids[0], account_id, item.record_ms)
                    case tuple():
                        mail.people(item.what, item.record_ms)
                    case _:
                        mail.message(item.what)

    def _dead(self, arrived: Arrived, reason: Reason, message: str) -> DeadLetter:
        topic = self.inputs[RAW_TOUCHES if arrived.event.kind == "touches" else RAW_CONVERSIONS].topic
        headers = own_headers(arrived.headers)
        key, value, offset = arrived.key, arrived.value, arrived.offset
        return DeadLetter(topic, self.partition, offset, key, value, headers, reason, message, "decide")

    def _flags(self, taken: TakenRaw, dead: Sequence[DeadLetter]) -> list[bool]:
        # Corrections that waited in vain are left out: they came long ago.
        found = {(letter.topic, letter.offset) for letter in dead}
        places = zip(self.inputs, taken.parts, strict=True)
        return [(tp.topic, item.offset) in found for tp, items in places for item in items]

    def _next_applied(self, decided: Resolved, ends: Offsets) -> Applied:
        if not self.replaying:
            self._tell(decided.outcome)
        applied = super()._next_applied(decided, ends)
        return applied._replace(
            forgotten=applied.forgotten + len(decided.outcome.forgotten),
            waited=self._waiting.waited,
            given_up=self._waiting.given_up,
        )

    def _start_at(self, token: bytes, applied: Applied, committed: Offsets, trip: bytes | None) -> None:
        self._marks = Marks(self.partition, self._secret, self._load)
        self._waiting = Waiting(
            self._rules.wait_ms, self._rules.unread_ms, self._load, applied.waited, applied.given_up
        )
        super()._start_at(token, applied, committed, trip)

    async def claim(self, consumer: Consumer) -> Mapping[TP, int]:
        """As every task, and see that people who were forgotten are known as such."""
        starts = await super().claim(consumer)
        if self._applied.forgotten:
            await self._marks.subkeys(())
        await self._settling.begin(consumer, self._applied.offsets[: IDENTITIES + 1])
        await self._touches_first.begin(consumer, self._applied.offsets[RAW_TOUCHES])
        return starts

    async def stop(self) -> None:
        """As every task; others do not wait for this one."""
        self._touches_first.leave()
        await super().stop()
