"""`touchstream simulate`: made-up journeys, sent to Kafka at a steady rate.

Open loop: every record has its due time by the clock, whatever the broker does. If the broker falls behind, the
backlog is sent as soon as it can be, and never thinned out, so that latencies measured downstream are honest.
"""

import asyncio
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from math import ceil
from typing import Any, Literal

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from streams.errors import ConnectError, RunFailed
from streams.settings import addresses
from streams.topics import INPUT_BYTES
from streams.world.world import Record, TopicKind, World

__all__ = ["Record", "World", "simulate"]

TOPIC_KINDS: tuple[TopicKind, ...] = ("touches", "conversions")
START_SECONDS = 15  # a broker that gives no metadata within this is reported as unreachable
ACK_SECONDS = 60  # the longest that a sent record may go without the broker's answer
TICK_SECONDS = 0.01
PROGRESS_SECONDS = 1.0
TICK_RECORDS_MAX = 1_000  # of a backlog, so that the loop gets to send what it has
UNACKED_MAX = 20_000  # bounds the memory of records that the broker has not confirmed

Counts = dict[str, int]


async def simulate(
    broker: str,
    prefix: str = "touchstream",
    rate: float = 200.0,
    seed: int = 7,
    people: int = 20_000,
    *,
    duration: float | None = None,
    count: int | None = None,
    on_progress: Callable[[Counts], None] | None = None,
    journey: Literal["person", "account"] = "person",
    client_options: Mapping[str, Any] | None = None,
) -> Counts:
    """Send `rate` records a second for `duration` seconds or `count` records, whichever ends first, or for ever.

    `broker` is `kafka://host:port`, several separated by semicolons; `client_options` are further ones of aiokafka
    (TLS, SASL). Returns the records confirmed, by what should become of them (ok, duplicate, late, dead), and
    those `refused` by a broker that takes no record as large. `on_progress` gets the same about once a second.
    Raises ConnectError where Kafka does not answer, RunFailed where a topic is missing or sending fails.
    """
    if rate <= 0:
        raise ValueError(f"rate must be above 0, not {rate}")
    world = World(seed, people, rate, time.time_ns() // 1_000_000, journey=journey)
    producer = await _started(broker, prefix, client_options or {})
    sender = _Sender(producer, prefix, on_progress)
    try:
        await _pace(world, sender, rate, duration, count)
        await sender.settle()
    finally:
        await _stopped(producer)
    return dict(sender.counts)


async def _pace(world: World, sender: "_Sender", rate: float, duration: float | None, count: int | None) -> None:
    """Send what is due at every tick, until time or count is up."""
    clock = asyncio.get_running_loop().time
    begin, sent = clock(), 0
    limits = (count, None if duration is None else ceil(rate * duration))
    end = min((limit for limit in limits if limit is not None), default=sys.maxsize)
    while sent < end:
        due = min(int((clock() - begin) * rate) + 1, end) - sent
        if due > 0:
            for record in world.next_batch(time.time_ns() // 1_000_000, min(due, TICK_RECORDS_MAX)):
                await sender.send(record)
                sent += 1
        await asyncio.sleep(0 if due > 0 else TICK_SECONDS)


class _Sender:
    """Sends records, keeps what is not confirmed yet, and counts what is."""

    def __init__(self, producer: AIOKafkaProducer, prefix: str, on_progress: Callable[[Counts], None] | None) -> None:
        self.counts: Counter[str] = Counter()
        self._producer, self._on_progress = producer, on_progress
        self._topics = {kind: f"{prefix}.{kind}" for kind in TOPIC_KINDS}
        self._unacked: deque[tuple[str, asyncio.Future[Any]]] = deque()
        self._told = asyncio.get_running_loop().time()

    async def send(self, record: Record) -> None:
        """Hand one record to the producer; waits only where it or the broker is far behind."""
        topic = self._topics[record.topic_kind]
        acked = await self._answer(self._producer.send(topic, record.value, key=record.key))
        self._unacked.append((record.expected, acked))
        while self._unacked and (self._unacked[0][1].done() or len(self._unacked) > UNACKED_MAX):
            await self._settle_oldest()

    async def settle(self) -> None:
        """Wait until everything that was sent is confirmed."""
        while self._unacked:
            await self._settle_oldest()
        if self._on_progress:
            self._on_progress(dict(self.counts))

    async def _settle_oldest(self) -> None:
        expected, acked = self._unacked.popleft()
        try:
            await self._answer(acked)
        except MessageSizeTooLargeError:
            expected = "refused"
        self.counts[expected] += 1
        now = asyncio.get_running_loop().time()
        if self._on_progress and now - self._told >= PROGRESS_SECONDS:
            self._told = now
            self._on_progress(dict(self.counts))

    async def _answer(self, waiting: Awaitable[Any]) -> Any:
        """What the producer answers. Raises RunFailed where it fails or takes too long."""
        try:
            async with asyncio.timeout(ACK_SECONDS):
                return await waiting
        except MessageSizeTooLargeError:
            raise
        except (KafkaError, TimeoutError) as error:
            why = str(error) or f"no answer within {ACK_SECONDS} s"
            raise RunFailed("T230", "records could not be sent", self._topics["touches"], why) from error


async def _started(broker: str, prefix: str, options: Mapping[str, Any]) -> AIOKafkaProducer:
    """A producer that knows both topics. Keys go to partitions by murmur2, its default and Java's."""
    producer = AIOKafkaProducer(
        **{"bootstrap_servers": [f"{host}:{port}" for host, port in addresses(broker)], **options},
        acks="all",
        enable_idempotence=True,
        compression_type="lz4",
        linger_ms=5,
        max_request_size=INPUT_BYTES,
    )
    topic = ""
    try:
        async with asyncio.timeout(START_SECONDS):
            await producer.start()
            for topic in (f"{prefix}.{kind}" for kind in TOPIC_KINDS):
                await producer.partitions_for(topic)
    except (KafkaError, OSError, TimeoutError) as error:
        await _stopped(producer)
        why = str(error) or f"no answer within {START_SECONDS} s"
        if topic:
            fix = "create the topics with `touchstream topics apply`"
            raise RunFailed("T231", "a topic is missing", topic, why, fix) from error
        fix = "start Kafka, or name it with --broker"
        raise ConnectError("T301", "Kafka does not answer", broker, why, fix) from error
    return producer


async def _stopped(producer: AIOKafkaProducer) -> None:
    """Close the producer; a broker that is gone must not hold up the end, so what is left is given up then."""
    try:
        async with asyncio.timeout(START_SECONDS):
            await producer.stop()
    except (KafkaError, OSError, TimeoutError):
        return
