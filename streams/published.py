"""Reading what was published, and the records that caused it: beside the workers, and changing nothing.

No consumer group is joined and nothing is committed; only what is committed is seen (`read_committed`).
"""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from models.events import decode_conversion, decode_touch
from models.facts import Conversion, Touch
from models.ids import escape_id
from models.moving import Move, read_move
from models.outcome import Reason, Rejected
from models.policy import Policy
from models.revisions import Place, PublishedCredit, Revision, parse_place
from streams.errors import RunFailed
from streams.murmur import partition_of
from streams.settings import Settings
from streams.topics import admin_client, name_of, read_cluster, unreachable

# Without a single record for so long, a topic that has more to give does not answer.
STALL_S = 30.0
POLL_MS = 200
FETCH_WAIT_MS = 20  # at a topic's end the broker answers after this, and several ends are looked for
FETCH_BYTES = 8 << 20
SAY_EVERY_S = 2.0
# Restatements of one conversion are few; a conversion beyond this is a mistake in the data, and would fill memory.
RECORDS_MAX = 500_000
CAUSES_MAX = 1_000  # the latest ones are looked up

Say = Callable[[str], None]
Cause = Touch | Conversion | Move


async def partitions(settings: Settings) -> dict[str, int]:
    """Partitions of the topics that are read. Raises ConnectError, and RunFailed where one is missing."""
    async with admin_client(settings) as client:
        topics = (await read_cluster(client, settings)).topics
    wanted = {name: name_of(settings, name) for name in ("touches", "conversions", "credits", "policies")}
    if missing := [full for full in wanted.values() if full not in topics]:
        fix = "name the prefix that the workers use (--prefix), or run `touchstream topics apply`"
        raise RunFailed("T244", "topics are missing", ", ".join(missing), settings.kafka.broker, fix)
    return {name: topics[full].partitions for name, full in wanted.items()}


@asynccontextmanager
async def consumer(settings: Settings) -> AsyncIterator[Any]:
    """A consumer of no group that sees what is committed."""
    async with reading(
        settings,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=FETCH_BYTES,
        fetch_max_wait_ms=FETCH_WAIT_MS,
    ) as reader:
        yield reader


@asynccontextmanager
async def reading(settings: Settings, **options: Any) -> AsyncIterator[Any]:
    """A consumer of no group with these options of aiokafka. Raises ConnectError, also for what is done with it."""
    reader = AIOKafkaConsumer(**settings.kafka.client_options(), enable_auto_commit=False, **options)
    try:
        await reader.start()
        yield reader
    except (KafkaError, OSError, TimeoutError) as error:
        raise unreachable(settings, error) from error
    finally:
        await reader.stop()


async def _scan(reader: Any, places: Sequence[TopicPartition], say: Say | None = None) -> AsyncIterator[Any]:
    """Every record that lies in these partitions now, partition by partition in order, and perhaps a few newer ones."""
    ends = await reader.end_offsets(places)
    beginnings = await reader.beginning_offsets(places)
    left = {place for place in places if beginnings[place] < ends[place]}
    if not left:
        return
    reader.assign(list(left))
    count, moved_s, said_s = 0, time.monotonic(), time.monotonic()
    while left:
        found = await reader.getmany(*left, timeout_ms=POLL_MS)
        for records in found.values():
            count += len(records)
            for record in records:
                yield record
        now_s = time.monotonic()
        done = {place for place in left if await reader.position(place) >= ends[place]}
        left -= done
        if found or done:
            moved_s = now_s
        elif now_s - moved_s > STALL_S:
            where = ", ".join(sorted(f"{p.topic}, partition {p.partition}" for p in left))
            raise RunFailed("T242", "a topic cannot be read to its end", where, f"nothing came for {STALL_S:g} s")
        if say is not None and left and now_s - said_s > SAY_EVERY_S:
            said_s = now_s
            say(f"read {count:,} records of {places[0].topic}, {len(left)} partitions to go")


async def credits(
    settings: Settings, reader: Any, conversion_id: str, person: str | None, count: int, say: Say
) -> list[PublishedCredit]:
    """All records of a conversion's credits; with a person first where they mostly lie, then everywhere."""
    topic = name_of(settings, "credits")
    everywhere = list(range(count))
    first = everywhere if person is None else [partition_of(person.encode(), count)]
    start = f"{escape_id(conversion_id)}|".encode()
    found: list[PublishedCredit] = []
    for numbers in (first, [n for n in everywhere if n not in first]):
        if found or not numbers:
            continue
        async for record in _scan(reader, [TopicPartition(topic, n) for n in numbers], say):
            if record.key is not None and record.key.startswith(start):
                found.append(_published(record))
                if len(found) > RECORDS_MAX:
                    why = f"more than {RECORDS_MAX:,} records"
                    raise RunFailed("T245", "the conversion has too many credits to explain", conversion_id, why)
    return found


def _published(record: Any) -> PublishedCredit:
    source = next((value for name, value in record.headers if name == "touchstream-source"), None)
    row = None if record.value is None else json.loads(record.value)
    # With `credits.envelope = "connect"` the credit is the payload of a schema.
    row = row["payload"] if row is not None and "payload" in row else row
    return PublishedCredit(record.key.decode(), row, record.timestamp, parse_place(source))


async def causes(settings: Settings, reader: Any, history: Iterable[Revision]) -> dict[Place, Cause]:
    """The input records that caused the revisions; those that left their topic, or cannot be read, are not there."""
    kinds = {name_of(settings, name): name for name in ("touches", "conversions", "moves")}
    wanted = [each.source for each in history if each.source is not None and each.source.topic in kinds]
    found: dict[Place, Cause] = {}
    for place in dict.fromkeys(wanted[-CAUSES_MAX:]):
        record = await _record_at(reader, place)
        if record is not None:
            try:
                found[place] = _decoded(kinds[place.topic], record)
            except Rejected:
                continue  # the topic was made anew since: another record lies there now
    return found


def _decoded(kind: str, record: Any) -> Cause:
    if kind == "touches":
        return decode_touch(record.value, record.timestamp)
    if kind == "conversions":
        return decode_conversion(record.value, record.timestamp)
    move = read_move(record.key, record.value)
    if not isinstance(move, Move):
        raise Rejected(Reason.WRONG_TYPE, "expected a moved journey")
    return move


async def _record_at(reader: Any, place: Place) -> Any:
    """The record at that place; None where retention has taken it away."""
    tp = TopicPartition(place.topic, place.partition)
    beginning, end = (await reader.beginning_offsets([tp]))[tp], (await reader.end_offsets([tp]))[tp]
    if not beginning <= place.offset < end:
        return None
    reader.assign([tp])
    reader.seek(tp, place.offset)
    deadline_s = time.monotonic() + STALL_S
    while time.monotonic() < deadline_s:
        for record in (await reader.getmany(tp, timeout_ms=POLL_MS, max_records=1)).get(tp, []):
            return record if record.offset == place.offset else None
    raise RunFailed("T242", "a record cannot be read", "/".join(map(str, place)), f"nothing came for {STALL_S:g} s")


async def policies(settings: Settings, reader: Any, running: Policy) -> list[Policy]:
    """The policies that workers ever ran with, besides the running one; one that cannot be followed is left out."""
    stored: dict[bytes, Policy] = {}
    async for record in _scan(reader, [TopicPartition(name_of(settings, "policies"), 0)]):
        if record.key is not None and record.value is not None and record.key != running.version.encode():
            try:
                stored[record.key] = Policy.from_effective(json.loads(record.value)["policy"])
            except (ValueError, KeyError):
                continue  # of a later program: its conversions are explained as workers of this one restate them
    return list(stored.values())
