"""The policies of a prefix, kept in a compacted topic: announcing the one of this file, and reading them all.

Whoever starts with a policy that is not known announces it, under its version, with the record time from which it
counts (`models/schedule.py`). Announcements are made one at a time: the transactional id fences whoever is at it, and
what is there is read after the fence.
"""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from models.durations import SECOND_MS
from models.policy import Policy
from models.schedule import (
    Announced,
    ScheduleError,
    in_force,
    is_outdated,
    later,
    read_announced,
    start_of,
    write_announced,
)
from models.times import format_time
from streams import published
from streams.errors import RunFailed, SettingsError
from streams.settings import Settings
from streams.topics import name_of, unreachable

log = logging.getLogger("touchstream.policies")

READ_S = 20.0
POLL_MS = 100
TRANSACTION_MS = 5_000
ATTEMPTS, PAUSE_S = 8, 0.5
# The broker's clock, which stamps records, and this machine's may be so far apart.
CLOCKS_MS = 5 * SECOND_MS
WHERE = "attribution.effective_from"


async def join(settings: Settings) -> list[Announced]:
    """Announce this policy where it is not known yet; all that are, by their times.

    Raises SettingsError where it may not be announced, RunFailed where what counts now cannot be followed, KafkaError,
    TimeoutError.
    """
    mine = settings.policy()
    async with asyncio.timeout(READ_S):
        async with Reader(settings) as reader:
            known = await reader.read()
        if _start_of(mine, known) is not None:
            known = await _announce(settings, mine)
    now = in_force(known, _now_ms())
    if now is not None and now.policy is None:
        why = f"the policy {now.version} counts since {format_time(now.from_ms)}, and is of a later program"
        fix = "start the program that announced it, or a later one"
        raise RunFailed("T226", "the policy in force cannot be followed", "", why, fix)
    if is_outdated(mine, known, _now_ms()):
        log.warning("%s", _outdated(mine, known))
    return known


def refuse_outdated(settings: Settings, known: Sequence[Announced]) -> None:
    """Raises SettingsError where the file's policy was replaced: whoever starts by hand wants to know."""
    mine = settings.policy()
    if is_outdated(mine, known, _now_ms()):
        fix = f"start with the newest file; to bring this policy back: {later(_now_ms())}"
        # Without a time this policy is the one that was announced before, so a time is needed.
        raise SettingsError("T128", "this policy is not in force any more", "attribution", _outdated(mine, known), fix)


async def look(settings: Settings) -> list[tuple[Announced, str]]:
    """What was announced, and whether it is over, in force or to come. Raises ConnectError, RunFailed."""
    await published.partitions(settings)
    try:
        async with asyncio.timeout(READ_S), Reader(settings) as reader:
            known = await reader.read()
    except (KafkaError, OSError, TimeoutError) as exc:
        raise unreachable(settings, exc) from exc
    now = in_force(known, _now_ms())
    at_ms = now.from_ms if now is not None else 0
    states = ["in force" if each is now else "over" if each.from_ms < at_ms else "to come" for each in known]
    return list(zip(known, states, strict=True))


class Reader:
    """Reads what was announced, from the beginning and then what is new."""

    def __init__(self, settings: Settings) -> None:
        self._place = TopicPartition(name_of(settings, "policies"), 0)
        self._client = settings.kafka.client_options()
        self._consumer: Any = None
        self._records: dict[bytes, tuple[bytes | None, bytes | None, int]] = {}
        self._known: list[Announced] = []

    async def __aenter__(self) -> "Reader":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def read(self) -> list[Announced]:
        """Everything that was committed before this call. Raises KafkaError."""
        if self._consumer is None:
            await self._open()
        consumer, place, before = self._consumer, self._place, len(self._records)
        end = (await consumer.end_offsets([place]))[place]
        consumer.resume(place)
        while await consumer.position(place) < end:
            for record in (await consumer.getmany(place, timeout_ms=POLL_MS)).get(place, []):
                if record.key is not None:
                    self._records.setdefault(record.key, (record.key, record.value, record.timestamp))
        consumer.pause(place)  # nothing is fetched in between
        if len(self._records) > before:
            self._known = read_announced(self._records.values())
        return self._known

    async def _open(self) -> None:
        # Reset, not seek: a seek to the beginning can be overtaken by the reset to the end that assigning has begun.
        consumer = AIOKafkaConsumer(
            **self._client,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=POLL_MS,
        )
        try:
            await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
        consumer.assign([self._place])
        self._consumer = consumer

    async def close(self) -> None:
        """Let go of the connection; the next `read` opens a new one."""
        consumer, self._consumer = self._consumer, None
        self._records, self._known = {}, []
        if consumer is not None:
            await consumer.stop()


async def _announce(settings: Settings, mine: Policy) -> list[Announced]:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await _announce_once(settings, mine)
        except KafkaError as exc:
            # Mostly: another worker was at it, too, and has fenced this one.
            if attempt == ATTEMPTS:
                raise
            log.info("announcing the policy %s again: %r", mine.version, exc)
            await asyncio.sleep(random.uniform(0, PAUSE_S * attempt))
    raise AssertionError("the loop ends by return or raise")


async def _announce_once(settings: Settings, mine: Policy) -> list[Announced]:
    producer = AIOKafkaProducer(
        **settings.kafka.client_options(),
        # Of those that `touchstream run` needs rights for anyway.
        transactional_id=f"{settings.kafka.prefix}.credit.policies",
        transaction_timeout_ms=TRANSACTION_MS,
        acks="all",
    )
    try:
        await producer.start()
        async with Reader(settings) as reader:
            known = await reader.read()
            from_ms = _start_of(mine, known)
            if from_ms is None:
                return known
            async with producer.transaction():
                key, value = write_announced(mine, from_ms)
                sent = await producer.send_and_wait(name_of(settings, "policies"), value, key)
                if known:
                    _check_clock(sent.timestamp)
            log.info("announced the policy %s, which counts from %s on", mine.version, format_time(from_ms))
            return await reader.read()
    finally:
        await producer.stop()


def _start_of(mine: Policy, known: Sequence[Announced]) -> int | None:
    try:
        return start_of(mine, known, _now_ms())
    except ScheduleError as exc:
        raise SettingsError("T127", "this policy cannot take effect", WHERE, str(exc), exc.fix) from exc


def _check_clock(record_ms: int) -> None:
    """The time was chosen by this machine's clock, and counts by the broker's."""
    apart_ms = record_ms - _now_ms()
    if abs(apart_ms) > CLOCKS_MS:
        why = f"the clocks of Kafka and of this machine are {apart_ms / 1000:+.1f} s apart, its time is read from both"
        raise RunFailed("T227", "the policy was not announced", "", why, "run NTP on both machines, and start again")


def _outdated(mine: Policy, known: Sequence[Announced]) -> str:
    now = in_force(known, _now_ms())
    assert now is not None
    return f"the policy of this file ({mine.version}) gave way to {now.version} at {format_time(now.from_ms)}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
