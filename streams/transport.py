"""Batch transport: one Faust event is one fetched chunk of one partition number, all topics of a stage together.

Faust stays the host (group membership, co-partitioned assignment, rebalances, flow control); only its path of single
events is replaced. The transport chunks, marks incarnations and moves positions. It commits nothing: offsets belong to
the Kafka transaction of the partition task. It rests on private methods of faust-streaming 0.15.3 and aiokafka 0.14.0,
which is why both are pinned.

Rules that keep every record, each learnt from a loss:
- A fetch can land after a re-claim or while the flow is stopped. Its records are dropped and the position is put back
  to the next offset that was not accepted, never to the first offset of what was dropped.
- Every (re-)claim of a partition number gets a new incarnation; batches of an older one are acked and ignored.
- Nothing is accepted of a partition number from its revocation to the end of its claim. The fetcher goes on in that
  time, from the position that Kafka's own group protocol gave it, which is not where the claim will begin.
- A chunk is accepted only if it begins where the one before it ended, so neither a gap nor a repeat goes unnoticed.
- "Everything known has been read" is decided from accepted and processed offsets, not from the fetch position, which
  runs ahead of records still on their way through threads and queues.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, cast

import faust
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from streams import fetched
from streams.fetched import Chunk

SCHEME = "touchstream-kafka"

# Unacked batches of one partition number. A step takes all that there are, so there must be room for the next step's
# beside its own: with fewer, every second step of a worker that is behind is a small one.
BATCHES_IN_FLIGHT = 6
# Records taken from Kafka and not yet handed out, per topic partition. Beyond it the partition is not asked for.
TAKEN_MAX = 40_000
# A fetch that finds nothing waits so long at the broker. Partitions that were not part of it wait with it, so this is
# also the longest delay that an idle partition can cause a busy one.
FETCH_WAIT_MS = 50
POLL_S = 0.05


# A chunk that does not begin where the last one ended is fetched again so often; then the log itself has changed.
BROKEN_MAX = 5


class BrokenSequence(RuntimeError):
    """The broker does not give the records that follow those taken so far."""


class CoPartitioningError(RuntimeError):
    """This worker does not own the same partition numbers of all topics of its stage."""


class Owner(Protocol):
    """Who processes the partition numbers of this worker. `inputs`: topics, those handed out first in front."""

    inputs: tuple[str, ...]
    batch_records: int

    def unpack(self, topic: str, records: Iterator[Any]) -> list[Any]:
        """The records of a fetch, or in place of one whatever has its `offset`, `timestamp` and `key`. This is called
        in the consumer's thread."""

    async def on_assigned(self, consumer: "Consumer", partitions: set[int]) -> Mapping[TP, int]:
        """Claim the partition numbers; gives the offset at which each topic partition starts."""

    async def on_revoked(self, partitions: set[int]) -> None:
        """Stop working on the partition numbers; returns when nothing is under way any more."""


@dataclass(slots=True)
class Batch:
    """Consecutive records of one partition number, as the owner unpacked them from aiokafka's own C records (offset,
    timestamp, key, value, headers); `parts` are those of each input topic, in the order of the owner's `inputs`."""

    partition: int
    parts: tuple[list[Any], ...]
    incarnation: int

    @property
    def count(self) -> int:
        return sum(map(len, self.parts))


class BatchMessage(ConsumerMessage):
    """What Faust sees of a batch; acks free a place in the window and let a revocation go on, nothing else."""

    __slots__ = ()


class BatchSchema(faust.Schema[Any, Any]):
    """Hands a batch to the agent undecoded."""

    def compile(self, app: Any, **_: Any) -> Any:
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return create_event(None, message.value, None, message)

        return decode


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Reads committed records only, and does not wait long at the broker."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        # aiokafka hands it on to each chunk, where `_get_all` finds it.
        app: Any = self.app
        consumer._value_deserializer = app.batch_owner.unpack
        return consumer

    async def move(self, tp: TP, offset: int) -> None:
        """Seek in this thread, so that it cannot fall into the middle of a fetch being taken."""

        async def seek() -> None:
            consumer: Any = self._ensure_consumer()
            consumer.seek(tp, offset)
            consumer._subscription.subscription.assignment.state_value(tp).touchstream_passed = None

        await self.call_thread(seek)


class Consumer(driver.Consumer):
    """Faust's consumer, handing out batches of the topics of its owner."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app: Any = self.app
        owner: Owner = app.batch_owner
        self._owner = owner
        self._batched = frozenset(owner.inputs)
        self._taken: dict[TP, list[Any]] = {}
        self._in_flight: defaultdict[int, int] = defaultdict(int)
        self._incarnation: defaultdict[int, int] = defaultdict(int)
        self._next: dict[TP, int] = {}
        self._reached: dict[TP, int] = {}
        self._broken: defaultdict[TP, int] = defaultdict(int)
        self._ends: dict[TP, tuple[int, int]] = {}
        self._claimed: set[int] = set()
        self._revocations = 0
        self._held_back: set[TP] = set()
        self._wake = asyncio.Event()

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # -- acks and offsets: Faust's own bookkeeping stays out of the batched topics

    def ack(self, message: Any) -> bool:
        if not isinstance(message, BatchMessage):
            return bool(super().ack(message))
        if not message.acked:
            message.acked = True
            self._unacked_messages.discard(message)
            batch = cast(Batch, message.value)
            if batch.incarnation == self._incarnation[batch.partition]:
                self._in_flight[batch.partition] -= 1
            self._wake.set()
            waiting = self._waiting_for_ack
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
        return True

    def _new_offset(self, tp: TP) -> int | None:
        return None if tp.topic in self._batched else super()._new_offset(tp)

    async def _add_gap(self, tp: TP, first: int, last: int) -> None:
        if tp.topic not in self._batched:
            await super()._add_gap(tp, first, last)

    # -- positions

    def incarnation(self, partition: int) -> int:
        """Batches of another number than this one are of an earlier claim."""
        return self._incarnation[partition]

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has; 0 while that is not known, which is before any record comes."""
        # Faust's `topic_partitions` reads what only the leader of a group keeps: all others would be told None.
        found = cast(Any, self._thread)._ensure_consumer().partitions_for_topic(topic)
        return len(found or ())

    def hold_back(self, tp: TP, yes: bool) -> None:
        """Stop asking for a topic partition for a while, or go on; for the bound on held conversions."""
        if yes:
            self._held_back.add(tp)
        elif tp in self._held_back:
            self._held_back.discard(tp)
            self._wake.set()

    def invalidate(self, partition: int) -> None:
        """Everything handed out of this partition number is of the past."""
        self._incarnation[partition] += 1
        self._in_flight[partition] = 0
        for tp in [tp for tp in self._taken if tp.partition == partition]:
            del self._taken[tp]
        self._held_back = {tp for tp in self._held_back if tp.partition != partition}
        self._wake.set()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        partitions = {tp.partition for tp in revoked if tp.topic in self._batched}
        self._revocations += 1
        self._claimed -= partitions
        for tp in revoked:
            self._taken.pop(tp, None)
        await super().on_partitions_revoked(revoked)  # waits for acks
        for partition in partitions:
            self.invalidate(partition)
        if partitions:
            await self._owner.on_revoked(partitions)

    async def perform_seek(self) -> None:
        mine = {tp for tp in self.assignment() if tp.topic in self._batched}
        if self.assignment() - mine:
            await super().perform_seek()
        partitions = self._partition_numbers(mine)
        self._claimed -= partitions
        for partition in partitions:
            self.invalidate(partition)
        # Where a revocation comes meanwhile, the assignment after it claims and positions everything anew.
        revocations = self._revocations
        starts = await self._owner.on_assigned(self, partitions) if partitions else {}
        if revocations == self._revocations:
            await self._seek_all(starts)
        if revocations == self._revocations:
            self._claimed |= partitions
        self._wake.set()

    def _partition_numbers(self, assigned: Iterable[TP]) -> set[int]:
        """The partition numbers owned, which must be the same of all topics: a journey needs each of them."""
        owned: dict[str, set[int]] = {topic: set() for topic in self._owner.inputs}
        for tp in assigned:
            owned[tp.topic].add(tp.partition)
        first, numbers = next(iter(owned.items()))
        for topic, others in owned.items():
            if others != numbers:
                raise CoPartitioningError(
                    f"assigned partitions {sorted(numbers)} of {first} but {sorted(others)} of {topic}; "
                    "these topics must have the same number of partitions"
                )
        return numbers

    async def _seek_all(self, starts: Mapping[TP, int]) -> None:
        self._next.update(starts)
        self._reached.update(starts)
        for tp, offset in starts.items():
            self._ends.pop(tp, None)
            self._broken.pop(tp, None)
            await self.seek(tp, offset)

    async def reseek(self, partition: int, starts: Mapping[TP, int]) -> None:
        """Re-position one partition number while running, after a new claim."""
        self._claimed.discard(partition)
        self.invalidate(partition)
        await self._seek_all(starts)
        self._claimed.add(partition)
        self._wake.set()

    async def _seek(self, partition: TP, offset: int) -> None:
        await cast(ConsumerThread, self._thread).move(partition, offset)

    async def _put_back(self, tp: TP) -> None:
        """Records of tp were fetched and dropped: read on from the first one that was not accepted."""
        offset = self._reached.get(tp)
        if offset is not None:
            try:
                await self._seek(tp, offset)
            except Exception as exc:  # not assigned any more: its next owner positions it
                self.log.info("cannot put %r back: %r", tp, exc)

    async def offsets(self, kind: str, tps: Iterable[TP]) -> dict[TP, int | None]:
        """Asks the broker for `committed`, `beginning` or `end` (last stable) offsets."""
        thread = self._thread
        client = thread._ensure_consumer()
        if kind == "committed":
            return {tp: await thread.call_thread(client.committed, tp) for tp in tps}
        ask = client.beginning_offsets if kind == "beginning" else client.end_offsets
        found = await thread.call_thread(ask, list(tps))
        return {TP(tp.topic, tp.partition): offset for tp, offset in found.items()}

    async def first_record_ms(self, tp: TP) -> int | None:
        """Record time of the oldest record that tp holds; None where it holds none."""
        thread = self._thread
        found = await thread.call_thread(thread._ensure_consumer().offsets_for_times, {tp: 0})
        oldest = next(iter(found.values()), None)
        return None if oldest is None else int(oldest.timestamp)

    # -- fetching

    def _has_room(self, tp: TP) -> bool:
        taken = self._taken.get(tp)
        return (
            tp.partition in self._claimed
            and tp not in self._held_back
            and (taken is None or len(taken) < TAKEN_MAX)
            and self._in_flight[tp.partition] < BATCHES_IN_FLIGHT
        )

    async def _wait_next_records(self, timeout: float) -> tuple[Any, set[TP]]:  # noqa: ASYNC109 Faust's signature
        if not self.flow_active:
            await self.wait(cast(Any, self.can_resume_flow))
        active: set[TP] = self._get_active_partitions()
        wanted = {tp for tp in active if tp.topic not in self._batched or self._has_room(tp)}
        if not wanted:  # an empty set would ask aiokafka for all partitions
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_S)
            return {}, active
        if any(self._taken.values()):
            timeout = 0.01
        return await self._getmany(active_partitions=wanted, timeout=min(timeout, POLL_S)), active

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109 Faust's signature
        incarnations = dict(self._incarnation)
        records, active = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if records is None or self.should_stop:
            return
        if not self.flow_active:
            for tp in records:
                await self._put_back(tp)
            return
        for tp, found in records.items():
            if tp.topic not in self._batched:
                for record in found:
                    yield tp, self._to_message(tp, record)
            elif (
                tp not in active
                or tp.partition not in self._claimed
                or incarnations.get(tp.partition, 0) != self._incarnation[tp.partition]
                or not self._accept(TP(tp.topic, tp.partition), found)
            ):
                await self._put_back(tp)  # mostly asked for before a re-claim moved the position
        self._note_ends(active)
        for partition in {tp.partition for tp, taken in self._taken.items() if taken}:
            while self._in_flight[partition] < BATCHES_IN_FLIGHT:
                if not self.flow_active or self.app.consumer_generation_id != generation:
                    return
                message = self._next_message(partition, generation)
                if message is None:
                    break
                self._in_flight[partition] += 1
                # Faust drops, without a word, what lies below the last offset it handed on. It notes that offset when
                # the hand-over returns, which may be after a re-claim moved back: what may pass is known here alone.
                self._read_offset[message.tp] = None
                yield message.tp, message

    def _accept(self, tp: TP, chunk: Chunk) -> bool:
        """Take a chunk; False where it does not begin where the one before it ended."""
        self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
        if chunk.start != self._reached.get(tp):
            self._broken[tp] += 1
            message = f"expected {tp.topic}/{tp.partition} from {self._reached.get(tp)}, got it from {chunk.start}"
            if self._broken[tp] > BROKEN_MAX:
                raise BrokenSequence(message)
            self.log.warning("%s: fetching again", message)
            return False
        self._broken.pop(tp, None)
        self._reached[tp] = chunk.end
        self._next[tp] = chunk[-1].offset + 1
        taken = self._taken.get(tp)
        if taken:
            taken.extend(chunk)
        else:
            self._taken[tp] = chunk
        return True

    def _next_message(self, partition: int, generation: int) -> BatchMessage | None:
        """The next chunk of a partition number, of the first topics first (conversions wait for touches)."""
        left = self._owner.batch_records
        parts: list[list[Any]] = []
        places: list[TP] = []
        for topic in self._owner.inputs:
            tp = TP(topic, partition)
            part: list[Any] = []
            taken = self._taken.get(tp)
            if taken and left > 0:
                count = min(len(taken), left)
                part, self._taken[tp] = (taken, []) if count == len(taken) else (taken[:count], taken[count:])
                left -= count
                if places:
                    self._read_offset[tp] = part[-1].offset + 1
                places.append(tp)
            parts.append(part)
        if not places:
            return None
        tp = places[0]
        batch = Batch(partition, tuple(parts), self._incarnation[partition])
        records = next(part for part in parts if part)
        first, last = records[0], records[-1]
        return BatchMessage(
            tp.topic,
            partition,
            first.offset,
            last.timestamp / 1000.0,
            0,
            None,
            None,
            cast(Any, batch),
            None,
            0,
            0,
            tp,
            generation_id=generation,
        )

    # -- how far reading has come

    def _note_ends(self, active: Iterable[TP]) -> None:
        """Note how far everything there is has been accepted; called when no chunk is on its way to `_accept`."""
        for tp in active:
            # While a partition number is claimed its position is still the old one.
            if tp.topic in self._batched and tp.partition in self._claimed:
                state = self._state(tp)
                end = _end_of(state)
                if end is not None and _is_at(state, end):
                    self._ends[tp] = (self._next.get(tp, 0), end)

    def known_end(self, tp: TP) -> int | None:
        """The last stable offset of tp as the broker's latest answer gave it; None before the first."""
        return _end_of(self._state(tp))

    def is_to_come(self, partition: int, records: int) -> bool:
        """Whether so many more records of a partition number are known to lie there, and may be handed out now."""
        if self._in_flight[partition] >= BATCHES_IN_FLIGHT:
            return False
        places = [tp for topic in self._owner.inputs if (tp := TP(topic, partition)) not in self._held_back]
        return sum(max(0, (self.known_end(tp) or 0) - self._next.get(tp, 0)) for tp in places) >= records

    def _state(self, tp: TP) -> Any:
        thread: Any = self._thread
        return thread._consumer._subscription.subscription.assignment.state_value(tp)

    def has_read(self, tp: TP, processed: int, end: int) -> bool:
        """Every record of tp below `end` has been processed, `processed` being the next offset after the last one.

        Markers of transactions take offsets, so the last record can lie well below `end`. The fetch position does not
        tell: it is beyond records that are on their way between threads.
        """
        accepted, noted_end = self._ends.get(tp, (0, -1))
        return processed >= end or (accepted <= processed and noted_end >= end)


def _end_of(state: Any) -> int | None:
    if state is None:
        return None
    stable = state.lso
    end: int | None = state.highwater if stable is None or stable < 0 else stable
    return end


def _is_at(state: Any, offset: int) -> bool:
    """True where the fetch position is at or beyond the offset; markers at the end have moved it too."""
    return state is not None and state.has_valid_position and bool(state.position >= offset)


class Transport(driver.Transport):
    Consumer = Consumer
    driver_version = driver.Transport.driver_version + " batch"


def install() -> None:
    """Register the transport with Faust, and let aiokafka hand out its own C records, not a dataclass for each."""
    TRANSPORTS.aliases[SCHEME] = "streams.transport:Transport"
    fetched.install()
