"""`touchstream forget`: ask the owners of a person's ids to keep nothing of the person, and see that they did.

The request is a record of `moves`, and of `links` where the identity stage runs. Owners pass it on to the other ids of
the person with its number, so that the whole of it can be followed: each record of that number has an owner, and is
done when that owner has applied it. What an owner passes on is committed before that.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from models.identity import email_id, user_id
from models.ids import split_credit_id
from models.linking import ForgetId, write_message
from models.moving import Forget, write_move
from models.revisions import Place, parse_place
from state.keys import APPLIED, prefix
from state.route import Route
from streams import published
from streams.errors import RunFailed, UsageError
from streams.identities import email_key_of, present_id
from streams.journeys import partitions_with
from streams.kept import kept
from streams.murmur import partition_of
from streams.published import Say
from streams.settings import Settings
from streams.step import Applied
from streams.topics import admin_client, group_of, name_of, read_cluster, unreachable

LOOK_S = 0.1
SAY_EVERY_S = 5.0
POLL_MS = 100


class _Said(msgspec.Struct):
    """What tells a forget from other records of these topics, to which request it belongs, and whose id it names."""

    do: str
    request: str = ""
    id: str = ""
    person_id: str = ""


_said = msgspec.json.Decoder(_Said).decode


@dataclass(frozen=True)
class Asked:
    """What was asked, and what came of it.

    `done` is false where nobody waited. `ids`: of the person, as far as they are known; `conversions`: those whose
    credits were published again without the person.
    """

    person_id: str
    request: str
    done: bool = False
    ids: int = 0
    conversions: int = 0


class _Input(NamedTuple):
    """A topic of requests: the store of the stage that reads it, and its place among the stage's inputs."""

    topic: str
    app: str
    number: int


@dataclass
class _Followed:
    """Where the topics ended before the request, and the records of it found since: where they lie, whose id."""

    starts: dict[TopicPartition, int]
    found: dict[Place, str] = field(default_factory=dict)


def person_of(settings: Settings, text: str, email: bool = False, literal: bool = False) -> str:
    """The person id that a user means. Raises UsageError where it cannot be one.

    An e-mail address is hashed where there is a key to hash it with; `email` insists on that, and `literal` takes any
    text as the id itself, as people's user ids can be addresses too.
    """
    key = settings.identity.email_key.get_secret_value().encode()
    if email:
        key = email_key_of(settings)
    try:
        if email or (key and not literal and "@" in text and settings.policy().journey == "person"):
            return email_id(text, key)
        return user_id(text)
    except ValueError as error:
        raise UsageError(
            "T117", "this can be nobody's id", repr(text), str(error), "give an id as records have it"
        ) from error


async def forget(settings: Settings, person_id: str, wait_s: float | None, say: Say) -> Asked:
    """Write the request, and wait for at most `wait_s` until it is done; None does not wait.

    Raises ConnectError, and RunFailed where topics are missing or it is not done in time.
    """
    inputs, places = await _topics(settings)
    if len(inputs) > 1:
        # What an id was before it was split from somebody is that person's.
        person_id = await present_id(settings, person_id)
    request = uuid.uuid4().hex
    asked = Asked(person_id, request)
    # Where topics end is asked without isolation, open transactions included: whoever reads up to there has seen all.
    async with published.consumer(settings) as reader, published.reading(settings) as raw:
        starts = {place: int(end) for place, end in (await raw.end_offsets(places)).items()}
        followed = _Followed(starts)
        followed.found.update(dict.fromkeys(await _ask(settings, asked, inputs), person_id))
        if wait_s is None:
            return asked
        say(f"request {request} is written; waiting for the workers")
        await _until_done(settings, reader, raw, followed, inputs, asked, wait_s, say)
        conversions = await _republished(reader, raw, name_of(settings, "credits"), starts, followed.found)
    return Asked(person_id, request, True, len(set(followed.found.values())), len(conversions))


async def _topics(settings: Settings) -> tuple[list[_Input], list[TopicPartition]]:
    """The topics that requests lie in, and every partition that is to be read."""
    inputs = [_Input(name_of(settings, "moves"), settings.kafka.prefix, 2)]
    if settings.identity.enabled and settings.policy().journey == "person":
        inputs.append(_Input(name_of(settings, "links"), group_of(settings, "identity"), 0))
    async with admin_client(settings) as client:
        topics = (await read_cluster(client, settings)).topics
    wanted = [*(each.topic for each in inputs), name_of(settings, "credits")]
    if missing := [name for name in wanted if name not in topics]:
        fix = "name the prefix that the workers use (--prefix), or run `touchstream topics apply`"
        raise RunFailed("T244", "topics are missing", ", ".join(missing), settings.kafka.broker, fix)
    return inputs, [TopicPartition(name, n) for name in wanted for n in range(topics[name].partitions)]


async def _ask(settings: Settings, asked: Asked, inputs: Iterable[_Input]) -> list[Place]:
    """Write the request; gives where."""
    producer = AIOKafkaProducer(**settings.kafka.client_options(), acks="all", enable_idempotence=True)
    try:
        await producer.start()
        found = []
        for each in inputs:
            count = len(await producer.partitions_for(each.topic))
            if each.app == settings.kafka.prefix:
                key, value = write_move(Forget(asked.person_id, asked.request))
                # A producer with another partitioner has put records of the person elsewhere.
                also = await partitions_with(settings, asked.person_id, count)
            else:
                key, value = write_message(ForgetId(asked.person_id, asked.request, int(time.time() * 1000)))
                also = []
            for partition in {partition_of(key, count), *also}:
                done = await producer.send_and_wait(each.topic, value, key, partition)
                found.append(Place(each.topic, int(done.partition), int(done.offset)))
        return found
    except (KafkaError, OSError, TimeoutError) as error:
        raise unreachable(settings, error) from error
    finally:
        await producer.stop()


async def _until_done(
    settings: Settings,
    reader: Any,
    raw: Any,
    followed: _Followed,
    inputs: list[_Input],
    asked: Asked,
    wait_s: float,
    say: Say,
) -> None:
    deadline_s = time.monotonic() + wait_s
    said_s = time.monotonic()
    read = dict(followed.starts)
    async with kept(settings) as route:
        while True:
            waiting = [
                "/".join(map(str, place))
                for each in inputs
                for place in sorted(followed.found)
                if place.topic == each.topic and await _next_offset(route, each, place.partition) <= place.offset
            ]
            count = len(followed.found)
            # What those that are done have passed on lies in the topics by now.
            await _find_more(reader, raw, followed, read, inputs, asked.request, deadline_s)
            if not waiting and len(followed.found) == count:
                return
            now_s = time.monotonic()
            if now_s >= deadline_s:
                raise _not_in_time(asked, waiting, wait_s)
            if now_s - said_s >= SAY_EVERY_S:
                said_s = now_s
                say(f"waiting for {', '.join(waiting) or 'what was passed on'}")
            if waiting:
                await asyncio.sleep(LOOK_S)


async def _next_offset(route: Route, each: _Input, partition: int) -> int:
    key = prefix(each.app, partition) + APPLIED
    text: bytes | None = await route.call(key, "GET", key)
    return -1 if text is None else Applied.parse(text).offsets[each.number]


async def _find_more(
    reader: Any,
    raw: Any,
    followed: _Followed,
    read: dict[TopicPartition, int],
    inputs: Iterable[_Input],
    request: str,
    deadline_s: float,
) -> None:
    """Add the requests of this number up to where the topics end now."""
    topics = {each.topic for each in inputs}
    ends = await raw.end_offsets([place for place in read if place.topic in topics])
    async for record in _between(reader, {place: read[place] for place in ends}, ends, deadline_s):
        if whose := _whose(record.value, request):
            followed.found[Place(record.topic, record.partition, record.offset)] = whose
    read.update(ends)


def _whose(value: bytes | None, request: str) -> str:
    """Whose id a record of the request names; empty for other records."""
    if value is None or request.encode() not in value:
        return ""
    try:
        said = _said(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return said.id or said.person_id if said.do == "forget" and said.request == request else ""


async def _republished(
    reader: Any, raw: Any, topic: str, starts: Mapping[TopicPartition, int], causes: Container[Place | None]
) -> set[str]:
    """The conversions whose credits were published because of these."""
    begin = {place: start for place, start in starts.items() if place.topic == topic}
    found: set[str] = set()
    deadline_s = time.monotonic() + published.STALL_S
    async for record in _between(reader, begin, await raw.end_offsets(list(begin)), deadline_s):
        source = next((value for name, value in record.headers if name == "touchstream-source"), None)
        if record.key is not None and parse_place(source) in causes:
            found.add(split_credit_id(record.key.decode())[0])
    return found


async def _between(
    reader: Any, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int], deadline_s: float
) -> AsyncIterator[Any]:
    """The committed records from these offsets up to those. Raises RunFailed where they do not come in time."""
    left = {place for place, start in starts.items() if start < ends[place]}
    if not left:
        return
    reader.assign(list(left))
    for place in left:
        reader.seek(place, starts[place])
    while left:
        for place, records in (await reader.getmany(*left, timeout_ms=POLL_MS)).items():
            for record in records:
                if record.offset < ends[place]:
                    yield record
        left = {place for place in left if await reader.position(place) < ends[place]}
        if left and time.monotonic() > deadline_s:
            where = ", ".join(sorted(f"{place.topic}/{place.partition}" for place in left))
            raise RunFailed("T242", "a topic cannot be read to its end", where, "a transaction is open for too long")


def _not_in_time(asked: Asked, waiting: list[str], wait_s: float) -> RunFailed:
    where = ", ".join(waiting) or "what was passed on to other ids"
    why = f"the request {asked.request} was written, but not applied within {wait_s:g} s"
    fix = "start the workers (`touchstream run`): they apply it then; to see it, run this once more, which does no harm"
    return RunFailed("T250", "the person is not forgotten yet", where, why, fix)
