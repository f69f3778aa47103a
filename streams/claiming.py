"""Where a partition number begins: what the store says is applied, what Kafka says is committed, and what that means.

Asked once the earlier owner is fenced in both, so that neither answer can change any more. Store and log must belong
together: the same cluster, topics and partition counts that the store was made from (`streams/origin.py`), and no
offset beyond the end of the log. Where they do not, nothing of the store is changed but its owner.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from faust.types import TP

from models.formats import FORMAT, OLDEST, told
from state.store import Writes
from streams.origin import ORIGIN, Origin
from streams.step import Applied, Offsets, StartError
from streams.transport import Consumer
from streams.tripwire import TRIP

log = logging.getLogger("touchstream.processor")

# Behind a fail-over the end of a log can be told too low for a moment; no log is refused for that.
END_TRIES, END_PAUSE_S = 10, 1.0
# A record time that no record reaches.
NEVER_MS = 1 << 53
ELSEWHERE = "use a new kafka.prefix and replay into it, or bring back the store that belongs to these topics"
# KIP-664. find-hanging looks for transactions that are older than 15 minutes unless told another number of minutes.
HANGING = f"""a broker that went down hard may have left a transaction hanging, which holds offsets back; look on each:
kafka-transactions.sh --bootstrap-server HOST:PORT find-hanging --broker-id ID --max-transaction-timeout 1
and end what it lists, then start again:
kafka-transactions.sh --bootstrap-server HOST:PORT abort --topic TOPIC --partition NUMBER --start-offset OFFSET
where it lists nothing, or that did not help: {ELSEWHERE}"""
# The subkey of a partition under which the store keeps the latest format that anything in it may have; 1 where absent.
FORMAT_KEY = b"format"
FORMAT_FIX = """start the version of Touchstream that ran before, which reads this format; or give up the store:
stop all workers, delete the keys of this prefix in Redis, and start: journeys are built again from the topics"""
REPUBLISH = (
    "bring back the store or the group's offsets; or, to publish every credit again, `touchstream run --republish` once"
)


class Start(NamedTuple):
    """Where the work begins. `offsets_gone`: Kafka's group knows no offsets, though the store has applied some."""

    applied: Applied
    committed: Offsets
    offsets_gone: bool
    trip: bytes | None


@dataclass(frozen=True)
class Claiming:
    """One partition number and the log its state must be made from; `origin` None does not look.

    `published` is where the stage's output lies, None where a repeat of it does no harm. `retention_ms`: how long
    before a conversion's record time a record of the first input can count for it; None where nothing is sealed.
    `lazy`: see `Steps`. `state_format`: in which format this worker writes.
    """

    inputs: tuple[TP, ...]
    published: TP | None
    store: Any
    retention_ms: int | None
    lazy: frozenset[int] = frozenset()
    origin: Origin | None = None
    republish: bool = False
    state_format: int = FORMAT

    @property
    def _partition(self) -> int:
        return self.inputs[0].partition

    async def find(self, token: bytes, text: bytes | None, consumer: Consumer) -> Start:
        """Compare store and Kafka; `text` is what the store had as applied when `token` claimed it.

        Raises StartError where they do not belong together, StoreError, and what Kafka's client raises.
        """
        made_from, trip, number = None, None, None
        if text is not None:
            subkeys = [ORIGIN, TRIP, FORMAT_KEY]
            made_from, trip, number = await self.store.load(self._partition, token, text, subkeys)
            self._refuse_another_format(int(number or b"1"))
            self._refuse_another_log(made_from)
        committed = await consumer.offsets("committed", self.inputs)
        beginning = await consumer.offsets("beginning", self.inputs)
        first = [beginning[tp] or 0 for tp in self.inputs]
        done = [committed[tp] for tp in self.inputs]
        stored = None if text is None else Applied.parse(text)
        await self._refuse_beyond_the_end(consumer, stored, done)
        if stored is None and not any(offset is not None for offset in done):
            await self._refuse_to_repeat(consumer)
        applied = await self._applied(stored, token, consumer, first, done)
        until = _first_committed(applied, first, done)
        for i, tp in enumerate(self.inputs):
            if i not in self.lazy and applied.offsets[i] > until[i]:
                raise StartError(
                    f"partition {self._partition}: the store is at offset {applied.offsets[i]} of {tp.topic}, Kafka's "
                    f"group at {until[i]}; they do not belong together, or its offsets wait in a transaction",
                    HANGING,
                )
        puts = {}
        if self.origin is not None and (made_from is None or applied is not stored):
            puts[ORIGIN] = self.origin.text()
        # Before anything is written in it, so that no program that cannot read it ever begins.
        if self.state_format > int((applied is stored and number) or b"1"):
            puts[FORMAT_KEY] = b"%d" % self.state_format
        if puts:
            await self.store.save(self._partition, token, applied.text(), applied.text(), Writes(puts=puts))
        return Start(applied, until, None in done and text is not None, trip)

    def _refuse_another_format(self, found: int) -> None:
        """What was written in may be read by the programs of that format and the next only."""
        if not OLDEST <= found <= FORMAT:
            raise StartError(
                f"partition {self._partition}: the store has state of format {found}, "
                f"{told(range(OLDEST, FORMAT + 1))}",
                FORMAT_FIX,
            )

    def _refuse_another_log(self, made_from: bytes | None) -> None:
        """A store of before this was kept is taken as belonging here."""
        if self.origin is not None and made_from is not None:
            found = self.origin.differences(Origin.parse(made_from))
            if found:
                raise StartError(
                    f"partition {self._partition}: the store was made from another log: {'; '.join(found)}"
                )

    async def _refuse_beyond_the_end(
        self, consumer: Consumer, stored: Applied | None, done: Sequence[int | None]
    ) -> None:
        reached = [max(offset or 0, stored.offsets[i] if stored else 0) for i, offset in enumerate(done)]
        for attempt in range(END_TRIES):
            ends = await consumer.offsets("end", self.inputs)
            beyond = [(tp, at) for tp, at in zip(self.inputs, reached, strict=True) if at > (ends[tp] or 0)]
            if not beyond:
                return
            if attempt < END_TRIES - 1:
                await asyncio.sleep(END_PAUSE_S)
        tp, at = beyond[0]
        told = f"partition {self._partition}: {tp.topic} ends at {ends[tp]}, but {at} was processed already"
        raise StartError(f"{told}; records are gone, or stand behind a transaction that is open", HANGING)

    async def _refuse_to_repeat(self, consumer: Consumer) -> None:
        """Without store and offsets everything would be credited again, beside what is there."""
        if self.published is None or self.republish:
            return
        count = (await consumer.offsets("end", [self.published]))[self.published] or 0
        if count:
            raise StartError(
                f"partition {self._partition}: the store is empty and Kafka's group has no offsets, but {count} "
                f"records lie in {self.published.topic}: starting would publish every credit again",
                REPUBLISH,
            )

    async def _applied(
        self,
        stored: Applied | None,
        token: bytes,
        consumer: Consumer,
        first: Sequence[int],
        done: Sequence[int | None],
    ) -> Applied:
        """Where the store stands; an empty or outdated one starts at the beginning of what the topics retain."""
        if stored is not None:
            self._tell_of_unread(stored, first, done)
            if not any(at < low and at < (d or 0) for at, low, d in zip(stored.offsets, first, done, strict=True)):
                return await self._at_least(stored, token, first)
            log.warning("partition %d: the store is older than the topics reach back: rebuilding", self._partition)
            await self.store.drop(self._partition, token)
        applied = Applied(tuple(first))
        # Where touches are gone, conversions that can have counted them must stay as they were published.
        if first[0] > 0 and self.retention_ms is not None:
            oldest_ms = await consumer.first_record_ms(self.inputs[0])
            applied = applied._replace(sealed_below_ms=NEVER_MS if oldest_ms is None else oldest_ms + self.retention_ms)
        await self.store.begin(self._partition, token, applied.text())
        return applied

    def _tell_of_unread(self, stored: Applied, first: Sequence[int], done: Sequence[int | None]) -> None:
        for i, tp in enumerate(self.inputs):
            read = max(stored.offsets[i], done[i] or 0)
            if read < first[i]:
                log.error(
                    "%s/%d: offsets %d to %d were deleted before they were read; retention must outlast downtimes",
                    *(tp.topic, tp.partition, read, first[i] - 1),
                )

    async def _at_least(self, stored: Applied, token: bytes, first: Sequence[int]) -> Applied:
        """What the log has no more cannot be taken in: go on where it begins."""
        applied = stored._replace(offsets=tuple(map(max, stored.offsets, first)))
        if applied == stored:
            return stored
        await self.store.save(self._partition, token, stored.text(), applied.text(), Writes())
        return applied


def _first_committed(applied: Applied, first: Sequence[int], done: Sequence[int | None]) -> Offsets:
    """What counts as published: the group's offsets; where it has none, what is applied."""
    return tuple(applied.offsets[i] if offset is None else max(offset, first[i]) for i, offset in enumerate(done))
