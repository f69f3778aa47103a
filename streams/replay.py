"""`touchstream replay`: files through the same topics, agents and state as `run`.

A replay has a prefix, group and keys of its own and removes them at the end. It lets all touches be processed before
it sends a conversion, so the order of lines does not matter and nothing in it is late.
"""

import asyncio
import contextlib
import json
import subprocess
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from models.accounts import read_waiting
from models.journey import read_frames, read_state, unique
from models.linking import Arrived
from models.outcome import Reason
from models.raw import own_headers
from models.whereabouts import read_whereabouts
from streams import embedded, files, topics
from streams.errors import ConnectError, RunFailed
from streams.options import ReplayOptions
from streams.replay_keys import ReplayKeys
from streams.settings import Settings
from streams.settled import Ends, Reader, applied_of
from streams.spawn import spawn
from streams.topics import topics_of

PARTITIONS = 4
# No record processed for so long means that something is wrong; a replay that goes on may take its time.
STALL_S = 60.0
POLL_S = 0.01
COMMIT_EVERY_MS = 200
READ_RECORDS = 20_000
SENT_AHEAD = 20_000
REASON = "touchstream-reason"


class Line(msgspec.Struct):
    """The ids of an input line that decide its topic and key."""

    person_id: str | None = None
    account_id: str | None = None
    anonymous_id: str | None = None
    user_id: str | None = None
    email: str | None = None

    @property
    def is_raw(self) -> bool:
        """Whether it says whose it is, but not by person_id."""
        return bool(not self.person_id and (self.anonymous_id or self.user_id or self.email))


@dataclass(slots=True)
class Summary:
    """What a replay did; printed as one line."""

    touches: int = 0
    conversions: int = 0
    credits: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Published:
    """A record of the credits or dead letters topic."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


@dataclass(slots=True)
class _Run:
    options: ReplayOptions
    settings: Settings
    summary: Summary = field(default_factory=Summary)
    workers: list[Any] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)

    @property
    def resolves(self) -> bool:
        """Whether the identity stage runs: it does from the first record on that needs it."""
        return len(self.readers) > 1


def replay(options: ReplayOptions) -> Summary:
    """Run the files through and write the credits; the summary of it. Raises TouchstreamError."""
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        broker = options.broker or stack.enter_context(embedded.broker()).url
        redis = options.redis or stack.enter_context(embedded.valkey()).url
        run = _Run(options, _own_settings(options.settings, broker, redis))
        asyncio.run(_replay(run))
    run.summary.seconds = round(time.monotonic() - started, 3)
    return run.summary


def _own_settings(settings: Settings, broker: str, redis: str) -> Settings:
    """The user's policy under a prefix of its own, committing often as the end is waited for."""
    prefix = f"touchstream-replay-{uuid.uuid4().hex[:12]}"
    return settings.model_copy(
        update={
            "kafka": settings.kafka.model_copy(update={"broker": broker, "prefix": prefix}),
            "redis": settings.redis.model_copy(update={"url": redis}),
            # Files end, and what is wrong in them shall be told of all of them.
            "processing": settings.processing.model_copy(
                update={"commit_interval": COMMIT_EVERY_MS, "trip_wire": False}
            ),
            "web": settings.web.model_copy(update={"host": "127.0.0.1", "port": 0}),
        }
    )


async def _replay(run: _Run) -> None:
    options, names = run.options, topics_of(run.settings)
    await topics.ensure(run.settings, PARTITIONS)
    _start(run, "credit", run.settings.kafka.prefix, (names.touches, names.conversions, names.moves))
    store = run.readers[0].keys
    try:
        by_account = run.settings.policy().journey == "account"
        if options.identities is not None:
            _resolve(run)
            await _send(run, options.identities, lambda line: (names.identities, _identity_key(line)))
            if by_account:
                # The account of an event is the one that is known when it comes: here, the last one.
                await _processed(run, names.identities)
        run.summary.touches = await _send(
            run, options.touches, lambda line: _place(run, line, names.touches, names.raw_touches, by_account)
        )
        await _processed(run, names.touches)
        run.summary.conversions = await _send(
            run,
            options.conversions,
            lambda line: _place(run, line, names.conversions, names.raw_conversions, by_account),
        )
        await _processed(run, names.conversions)
        totals = [await _stop(worker) for worker in run.workers]
        stored_duplicates, waiting = await _look_into(store)
        for reader in run.readers[1:]:
            waiting += await _left_over(reader.keys)
        credits = await _read(run, names.credits)
        dead = await _read(run, names.dead_letters)
        _write(run, credits, [*dead, *waiting])
        counted = totals[0]
        run.summary.duplicates = counted["touches_duplicate"] + counted["conversions_duplicate"] + stored_duplicates
    finally:
        for worker in run.workers:
            worker.kill()
            worker.wait()
        try:
            if not options.keep:
                await _remove(run)
        finally:
            for reader in run.readers:
                await reader.keys.close()


def _start(run: _Run, stage: str, table: str, inputs: Sequence[str]) -> None:
    run.readers.append(Reader(inputs, ReplayKeys(run.settings, table, PARTITIONS)))
    run.workers.append(spawn(run.settings, log_level="WARNING", stage=stage, stdout=subprocess.PIPE))


def _resolve(run: _Run) -> None:
    """Start the identity stage where it does not run yet."""
    if not run.resolves:
        names = topics_of(run.settings)
        inputs = (names.links, names.identities, names.raw_touches, names.raw_conversions)
        _start(run, "identity", topics.group_of(run.settings, "identity"), inputs)


# -- in


async def _send(run: _Run, path: str, place: Callable[[bytes], tuple[str, bytes | None]]) -> int:
    """Produce every line of a file to the topic and under the key that `place` gives; the number of lines."""
    producer = AIOKafkaProducer(
        **run.settings.kafka.client_options(),
        acks="all",
        enable_idempotence=True,
        linger_ms=20,
        max_batch_size=256 << 10,
        max_request_size=8 << 20,
    )
    await producer.start()
    count, pending = 0, []
    try:
        for line in files.lines(path):
            topic, key = place(line)
            pending.append(await producer.send(topic, key=key, value=line))
            count += 1
            if len(pending) >= SENT_AHEAD:
                await asyncio.gather(*pending)
                pending.clear()
        await asyncio.gather(*pending)
    finally:
        await producer.stop()
    return count


_line = msgspec.json.Decoder(Line).decode


def _place(run: _Run, line: bytes, topic: str, raw: str, by_account: bool) -> tuple[str, bytes | None]:
    """Where a careful producer would send it, and under which key; where the line does not tell, it is dead anyway."""
    try:
        ids = _line(line)
    except (msgspec.MsgspecError, ValueError):
        return topic, None
    if ids.is_raw or (by_account and not ids.account_id and run.options.identities is not None):
        _resolve(run)
        return raw, None
    owner = ids.account_id if by_account else ids.person_id
    return topic, None if owner is None else owner.strip().encode()


def _identity_key(line: bytes) -> bytes | None:
    """All ids of the record: the topic is compacted, and this is what tells records apart."""
    try:
        ids = _line(line)
    except (msgspec.MsgspecError, ValueError):
        return b"?"
    return "|".join(id_ or "" for id_ in (ids.anonymous_id, ids.user_id, ids.email)).encode()


# -- meanwhile


async def _processed(run: _Run, topic: str) -> None:
    """Wait until every partition has applied all of a topic, and where ids are resolved, all of everything."""
    if run.resolves:
        async with Ends(run.settings) as ends:
            await _wait(run, topic, lambda: _all_reached(run, ends))
        return
    found = await _with_consumer(run, lambda c: c.end_offsets([TopicPartition(topic, p) for p in range(PARTITIONS)]))
    await _wait(run, topic, lambda: _reached(run, found))


async def _reached(run: _Run, ends: Mapping[TopicPartition, int]) -> tuple[bool, object]:
    """The producers of these inputs use no transactions, so that their ends are those of records."""
    applied = await applied_of(run.readers)
    return all(applied[tp] >= end for tp, end in ends.items()), applied


async def _all_reached(run: _Run, ends: Ends) -> tuple[bool, object]:
    applied = await applied_of(run.readers)
    return await ends.reached(applied), applied


async def _wait(run: _Run, topic: str, look: Callable[[], Awaitable[tuple[bool, object]]]) -> None:
    last, moved_s = None, time.monotonic()
    while True:
        done, found = await look()
        if done:
            return
        now_s = time.monotonic()
        if found != last:
            last, moved_s = found, now_s
        for worker in run.workers:
            if worker.poll() is not None:
                raise RunFailed("T210", "the worker of this replay ended", "replay", f"exit code {worker.returncode}")
        if now_s - moved_s > STALL_S:
            raise RunFailed("T211", "the replay does not move on", topic, f"nothing was processed for {STALL_S:g} s")
        await asyncio.sleep(POLL_S)


async def _stop(worker: Any) -> dict[str, int]:
    """Let the worker finish in good order; the totals it reports."""
    worker.terminate()
    out, _ = await asyncio.to_thread(worker.communicate, timeout=STALL_S)
    if worker.returncode != 0 or not out:
        raise RunFailed("T210", "the worker of this replay ended badly", "replay", f"exit code {worker.returncode}")
    totals: dict[str, int] = json.loads(out)
    return totals


async def _look_into(store: ReplayKeys) -> tuple[int, list[Published]]:
    """Duplicates in journeys that were never read, and corrections whose create never came."""
    duplicates, waiting = 0, []
    touches: dict[bytes, list[bytes]] = {}
    async for subkey, blob in store.values():
        if subkey.startswith(b"t:"):
            touches.setdefault(subkey.split(b":", 2)[2], []).append(blob)
        elif subkey.startswith(b"c:"):
            waiting += [
                Published(p.key, p.value, [*p.headers, (REASON, Reason.NO_CREATE.value.encode())])
                for p in read_state(blob).pending
            ]
    for blobs in touches.values():
        frames = [touch for blob in blobs for touch in read_frames(blob)]
        duplicates += len(frames) - len(unique(frames))
    return duplicates, waiting


async def _left_over(store: ReplayKeys) -> list[Published]:
    """Raw events whose account nobody named, and corrections whose create never came."""
    found: list[tuple[Arrived, Reason]] = []
    async for subkey, blob in store.values():
        if subkey.startswith(b"a:"):
            found += [(each, Reason.NO_ACCOUNT) for each in read_waiting(blob)]
        elif subkey.startswith(b"w:"):
            found += [(each, Reason.NO_CREATE) for each in read_whereabouts(blob).waiting]
    return [
        Published(each.key, each.value, [*own_headers(each.headers), (REASON, reason.value.encode())])
        for each, reason in found
    ]


# -- out


async def _with_consumer(run: _Run, use: Callable[[Any], Awaitable[Any]]) -> Any:
    consumer = AIOKafkaConsumer(
        **run.settings.kafka.client_options(),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=8 << 20,
    )
    await consumer.start()
    try:
        return await use(consumer)
    finally:
        await consumer.stop()


async def _read(run: _Run, topic: str) -> list[Published]:
    """Every committed record of a topic, partition by partition."""

    async def use(consumer: Any) -> list[Published]:
        parts = [TopicPartition(topic, p) for p in range(PARTITIONS)]
        ends = await consumer.end_offsets(parts)
        found: list[Published] = []
        for part in parts:
            consumer.assign([part])
            consumer.seek(part, 0)
            deadline = time.monotonic() + STALL_S
            while await consumer.position(part) < ends[part]:
                for records in (await consumer.getmany(part, timeout_ms=100)).values():
                    deadline = time.monotonic() + STALL_S
                    found += [Published(r.key, r.value, r.headers) for r in records]
                if time.monotonic() > deadline:
                    raise RunFailed("T212", "a topic cannot be read to its end", f"{topic}, partition {part.partition}")
        return found

    result: list[Published] = await _with_consumer(run, use)
    return result


def _write(run: _Run, credits: list[Published], dead: list[Published]) -> None:
    options, summary = run.options, run.summary
    values = [c.value for c in credits if c.value is not None]
    lines = list(files.final_view(values)) if options.view == "final" else values
    summary.credits = len(lines)
    summary.dead_letters = len(dead)
    files.write(options.credits, lines)
    if options.dead_letters is not None:
        files.write(options.dead_letters, _dead_lines(dead))


def _dead_lines(dead: Sequence[Published]) -> Iterator[bytes]:
    """One JSON object a dead letter: reason, message, place, and the record's own bytes as text or base64."""
    for letter in dead:
        yield files.dead_line(letter.key, letter.value, letter.headers)


async def _remove(run: _Run) -> None:
    """Take away what this replay left: keys, and topics also where the keys cannot be reached."""
    try:
        for reader in run.readers:
            await reader.keys.remove()
    finally:
        with contextlib.suppress(ConnectError):
            await topics.delete(run.settings)
