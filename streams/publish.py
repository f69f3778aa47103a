"""One transaction of one partition number: credits, dead letters and the input offsets, all or nothing.

aiokafka sends TxnOffsetCommit without group metadata, so fencing rests on the transactional id: one id per partition
number, initialised when the partition is claimed and nowhere else.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidProducerEpoch, KafkaError, ProducerFenced
from aiokafka.structs import TopicPartition

from models.credit import Record
from models.crediting import Publication, Source
from models.outcome import Reason
from streams.batches import Row, batches, owner_of

# Uncompressed; one request carries one batch of a partition, and brokers refuse batches beyond 1 MiB by default.
BATCH_BYTES = 900 << 10
# A dead letter may be as large as the largest input record and its headers.
REQUEST_BYTES = 16 << 20
# Kafka 4 answers the first produce of many transactions with a retriable error while it verifies the partition.
RETRY_BACKOFF_MS = 10
TRANSACTION_TIMEOUT_MS = 20_000
# After looking for a broker in vain. Retries wait for the look to end, so this is their pace while Kafka is away.
AWAY_S = 0.25
STOP_S = 5.0
# For a transaction, or the fence of a claim. Longer than a request of aiokafka may take, and shorter than a rebalance
# waits: aiokafka itself would try for ever, and hold the whole group up.
ANSWER_S = 45.0

CREDIT_SCHEMA = ("touchstream-schema", b"credit/1")


class Refused(Exception):
    """The transaction was aborted: nothing of it is visible, and the batch may be tried again."""


class Superseded(Exception):
    """Another producer took over this transactional id: this worker does not own the partition any more."""


class Uncertain(Exception):
    """No answer to the commit: it may have gone through or not; only a new claim can tell."""


@dataclass(slots=True)
class DeadLetter:
    """A record that could not be processed, exactly as it came, and why."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    reason: Reason
    message: str
    stage: str = "decode"

    def all_headers(self) -> list[tuple[str, bytes | None]]:
        """The record's own headers, untouched, and where and why it ended here (Kafka Connect's names)."""
        return [
            *self.headers,
            ("__connect.errors.topic", self.topic.encode()),
            ("__connect.errors.partition", str(self.partition).encode()),
            ("__connect.errors.offset", str(self.offset).encode()),
            ("__connect.errors.stage", self.stage.upper().encode()),
            ("__connect.errors.exception.class.name", b"models.outcome.Rejected"),
            ("__connect.errors.exception.message", self.message.encode()),
            ("touchstream-reason", self.reason.value.encode()),
        ]


@dataclass(slots=True)
class Output:
    """What one transaction publishes."""

    publications: list[Publication] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    # Records for other topics of ours: kind of topic, key, value.
    sends: list[tuple[str, bytes, bytes]] = field(default_factory=list)

    def add(self, publications: Sequence[Publication]) -> None:
        """Take the records of some causes."""
        self.publications += publications

    def __bool__(self) -> bool:
        return bool(self.publications or self.dead or self.sends)


class BatchedOutput(Output):
    """An output whose records go into Kafka batches as they come.

    A step can have fifty thousand credits of 600 bytes. Kept as objects until the commit they would leave the
    processor's caches, and cost twice as much.
    """

    __slots__ = ("_append", "_batch", "_count", "_new_batch", "_partition", "_place", "away", "full")

    def __init__(
        self, partition: int, new_batch: Callable[[], Any], place: Callable[[str, int], tuple[str, bytes]]
    ) -> None:
        """`partition` is where publications go that name no home; `place` gives the header that names where a cause
        lies: topic kind and offset in."""
        super().__init__()
        self._partition = [partition]
        self._new_batch = new_batch
        self._place = place
        # Publications for the homes of conversions that came from other partitions.
        self.away: list[Publication] = []
        self.full: list[tuple[Any, int]] = []
        self._count: int = 0
        self._start()

    def add(self, publications: Sequence[Publication]) -> None:
        for publication in publications:
            source, records, homes = publication
            if homes and homes != self._partition:
                self.away.append(publication)
                if self._partition[0] not in homes:
                    continue
            self._put(source, records)

    def _put(self, source: Source, records: Sequence[Record]) -> None:
        headers = self.headers(source)
        stamp = source.record_ms
        append, count = self._append, self._count
        for key, value in records:
            if append(count, stamp, key, value, headers) is None:
                self.full.append((self._batch, count))
                self._start()
                append, count = self._append, 0
                append(0, stamp, key, value, headers)
            count += 1
        self._count = count

    def headers(self, source: Source) -> list[tuple[str, bytes]]:
        """The headers of a record that this brought about."""
        return [CREDIT_SCHEMA, self._place(source.kind, source.offset)]

    def sends_away(self) -> Iterator[tuple[int, Publication]]:
        """What goes to other partitions of the credits topic."""
        for publication in self.away:
            for home in publication.homes:
                if home != self._partition[0]:
                    yield home, publication

    def close(self) -> list[tuple[Any, int]]:
        """The batches, each with its number of records."""
        if self._count:
            self.full.append((self._batch, self._count))
            self._count = 0
        return self.full

    def __bool__(self) -> bool:
        return bool(self._count or self.full or self.away or self.dead or self.sends)

    def _start(self) -> None:
        self._batch = self._new_batch()
        # The C builder directly: BatchBuilder.append costs three times as much.
        self._append = self._batch._builder.append
        self._count = 0


class Publisher:
    """The transactional producer of one partition number."""

    def __init__(
        self,
        client: Mapping[str, Any],
        transactional_id: str,
        group: str,
        topics: Mapping[str, str],
        crash_point: Callable[[str], None],
    ) -> None:
        """`topics`: full names by kind, `credits` and `dead_letters` among them."""
        self._client = client
        self._transactional_id = transactional_id
        self._group = group
        self._topics = topics
        self._crash_point = crash_point
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        """Fence every earlier producer of this id; returns when its open transaction has ended. May raise Refused."""
        await self.stop()
        self._producer = AIOKafkaProducer(
            **self._client,
            transactional_id=self._transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            acks="all",
            enable_idempotence=True,
            compression_type="zstd",
            linger_ms=0,
            max_batch_size=BATCH_BYTES,
            max_request_size=REQUEST_BYTES,
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )
        pause_when_away(self._producer.client)
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._producer.start()
        except TimeoutError as exc:
            raise Refused(f"no producer id within {ANSWER_S:g} s") from exc

    async def stop(self) -> None:
        """Close the producer; an open transaction is left to the fence or the timeout."""
        producer, self._producer = self._producer, None
        if producer is not None:
            # It is of no use any more, and the next claim fences it.
            with suppress(TimeoutError, KafkaError):
                await asyncio.wait_for(producer.stop(), STOP_S)

    def output(self, partition: int) -> Output:
        """An empty output for the next transaction."""
        producer = self._producer
        if producer is None:
            raise Refused("the producer is closed")
        return self._new_output(partition, producer)

    def _new_output(self, partition: int, producer: AIOKafkaProducer) -> Output:
        return BatchedOutput(partition, producer.create_batch, self._places(partition))

    def _places(self, partition: int) -> Callable[[str, int], tuple[str, bytes]]:
        """What gives the header that names where a cause lies."""

        def place(kind: str, offset: int) -> tuple[str, bytes]:
            return "touchstream-source", f"{self._topics[kind]}/{partition}/{offset}".encode()

        return place

    async def commit(self, partition: int, output: Output, offsets: Mapping[str, int]) -> None:
        """Publish the output together with the next offsets of the input topics.

        Raises Refused (aborted, nothing visible), Superseded or Uncertain.
        """
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._commit(partition, output, offsets)
        except TimeoutError as exc:
            raise Uncertain(f"no answer within {ANSWER_S:g} s") from exc

    async def _commit(self, partition: int, output: Output, offsets: Mapping[str, int]) -> None:
        producer = self._producer
        if producer is None:
            raise Refused("the producer is closed")
        begun = False
        try:
            await producer.begin_transaction()
            begun = True
            pending = await self._send(producer, partition, output)
            self._crash_point("sent")
            await producer.send_offsets_to_transaction(
                {TopicPartition(topic, partition): offset for topic, offset in offsets.items()}, self._group
            )
            # aiokafka commits a transaction although one of its batches failed: see each of them through first.
            if pending:
                await asyncio.gather(*pending)
        except (ProducerFenced, InvalidProducerEpoch) as exc:
            raise Superseded(repr(exc)) from exc
        except (KafkaError, OSError) as exc:
            await self._abort(producer, begun)
            raise Refused(repr(exc)) from exc
        try:
            await producer.commit_transaction()
        except (ProducerFenced, InvalidProducerEpoch) as exc:
            raise Superseded(repr(exc)) from exc
        except (KafkaError, OSError) as exc:
            raise Uncertain(repr(exc)) from exc

    async def _abort(self, producer: AIOKafkaProducer, begun: bool) -> None:
        if begun:
            try:
                await producer.abort_transaction()
            except Exception as exc:  # whatever it was, the next claim ends the transaction
                if producer._txn_manager.is_fatal_error():
                    # Fenced, by whatever name: brokers have newer codes for it than aiokafka knows. Claiming again
                    # here would fence the rightful owner.
                    raise Superseded(repr(exc)) from exc
                raise Refused(f"and the abort failed: {exc!r}") from exc

    async def _send(self, producer: AIOKafkaProducer, partition: int, output: Output) -> list[Any]:
        pending: list[Any] = []
        if output.publications:
            raise ValueError("credits must be added to an output of this publisher")
        if isinstance(output, BatchedOutput):
            for batch, count in output.close():
                # Its builder was filled directly, so the batch does not know its count.
                batch._relative_offset = count
                batch.close()
                pending.append(await producer.send_batch(batch, self._topics["credits"], partition=partition))
            credits_topic = self._topics["credits"]
            for home, (source, records, _) in output.sends_away():
                headers = output.headers(source)
                pending += [
                    await producer.send(credits_topic, value, key, home, source.record_ms, headers)
                    for key, value in records
                ]
        for (topic, place), full in (await self._by_key(producer, output.sends)).items():
            pending += [await producer.send_batch(each, topic, partition=place) for each in full]
        dead_letters = self._topics["dead_letters"]
        pending += [
            await producer.send(dead_letters, key=letter.key, value=letter.value, headers=letter.all_headers())
            for letter in output.dead
        ]
        return pending

    async def _by_key(
        self, producer: AIOKafkaProducer, sends: Sequence[tuple[str, bytes, bytes]]
    ) -> dict[tuple[str, int], list[Any]]:
        """Records as batches by topic and the partition of their key, each in the order in which they came to be."""
        found: dict[tuple[str, int], list[Row]] = {}
        counts: dict[str, int] = {}
        now_ms = time.time_ns() // 1_000_000
        for kind, key, value in sends:
            topic = self._topics[kind]
            if topic not in counts:
                counts[topic] = len(await producer.partitions_for(topic))
            place = self._owner_of(key, counts[topic])
            found.setdefault((topic, place), []).append((now_ms, key, value, []))
        return {place: self._batches(producer, rows) for place, rows in found.items()}

    def _owner_of(self, key: bytes, partitions: int) -> int:
        return owner_of(key.decode(), partitions)

    def _batches(self, producer: AIOKafkaProducer, rows: list[Row]) -> list[Any]:
        return batches(producer, rows)


def pause_when_away(client: Any) -> None:
    """Make an aiokafka client wait after it found no broker that answers.

    Else it tries again after `RETRY_BACKOFF_MS`, which is meant for a broker that is there: a worker with dozens of
    partitions would connect thousands of times a second to a broker that is just trying to come up.
    """
    update = client._metadata_update

    async def update_or_wait(*args: Any) -> bool:
        found: bool = await update(*args)
        if not found:
            await asyncio.sleep(AWAY_S)
        return found

    client._metadata_update = update_or_wait
