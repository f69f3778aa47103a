"""`touchstream dead-letters accept`: let partitions go on that the trip wire stopped (`streams/tripwire.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from state.keys import prefix
from streams.errors import RunFailed, UsageError
from streams.kept import kept
from streams.settings import Settings
from streams.topics import admin_client, name_of, read_cluster
from streams.tripwire import ACCEPTED, TRIP, TRIPPED

# KEYS trip; ARGV what was seen there, what it becomes. A worker may have moved on since it was seen.
ACCEPT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""

What = Literal["accepted now", "accepted before", "has changed meanwhile"]


@dataclass(frozen=True)
class Stopped:
    """A partition number that the trip wire stopped, why, and what was done about it."""

    partition: int
    why: str
    done: What


async def accept(settings: Settings, partitions: Sequence[int] = ()) -> list[Stopped]:
    """Accept what these partitions, or all, were stopped for; the worker that owns one goes on within seconds.

    Raises ConnectError where Kafka or Redis does not answer, RunFailed without topics, UsageError for a partition that
    there is not.
    """
    async with admin_client(settings) as client:
        cluster = await read_cluster(client, settings)
    conversions = cluster.topics.get(name_of(settings, "conversions"))
    if conversions is None:
        where = name_of(settings, "conversions")
        raise RunFailed("T220", "topics are missing", where, "nothing was ever processed here", "is the prefix right?")
    for number in partitions:
        if not 0 <= number < conversions.partitions:
            why = f"there are {conversions.partitions}, from 0"
            raise UsageError("T113", "there is no such partition", f"--partition {number}", why)
    async with kept(settings) as route:
        wanted = sorted(set(partitions)) or range(conversions.partitions)
        found = [await _accept_one(route, settings.kafka.prefix, number) for number in wanted]
    return [stopped for stopped in found if stopped is not None]


async def _accept_one(route: Any, app: str, number: int) -> Stopped | None:
    key = prefix(app, number) + TRIP
    seen: bytes | None = await route.call(key, "GET", key)
    if seen is None:
        return None
    if not seen.startswith(TRIPPED):
        return Stopped(number, seen.removeprefix(ACCEPTED).decode(), "accepted before")
    why = seen.removeprefix(TRIPPED)
    done = await route.call(key, "EVAL", ACCEPT, 1, key, seen, ACCEPTED + why)
    return Stopped(number, why.decode(), "accepted now" if done else "has changed meanwhile")
