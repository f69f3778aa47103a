"""Reading one journey from Redis for people: plain reads that fence nobody and change nothing."""

import time
from typing import NamedTuple

from redis.exceptions import RedisError

from models.durations import DAY_MS
from models.facts import JourneyTouch
from models.journey import (
    CodecError,
    JourneyState,
    buckets,
    read_frames,
    read_state,
    state_key,
    touches_key,
)
from models.rules import Rules
from state.keys import prefix
from state.route import Route
from streams.errors import ConnectError, RunFailed
from streams.routing import partition_of
from streams.settings import Settings

TIMEOUT_S = 5.0
# How far apart the broker's clock, which gives record times their bucket, and ours may be.
CLOCKS_MS = 2 * DAY_MS


class StoredJourney(NamedTuple):
    """A journey as Redis holds it: touches in the order in which they were accepted, duplicates included."""

    key: str
    partition: int
    touches: list[JourneyTouch]
    state: JourneyState


async def read_journey(settings: Settings, key: str, partitions: int, rules: Rules) -> StoredJourney | None:
    """The journey of a person (or account); None where Redis has nothing under that key.

    It lies where the default partitioner puts the key; producers with another one put it elsewhere, so the other
    partitions are asked after that. `rules` say how far back touches can lie. Raises ConnectError, and RunFailed
    where the bytes are of another version of this program.
    """
    route = Route(settings.redis.url, TIMEOUT_S)
    mine = partition_of(key.encode(), partitions)
    span = _buckets(int(time.time() * 1000), rules)
    try:
        for partition in (mine, *(p for p in range(partitions) if p != mine)):
            blobs = await _blobs(route, settings.kafka.prefix, partition, key.encode(), span)
            if any(blob is not None for blob in blobs):
                touches = [touch for blob in blobs[1:] if blob for touch in read_frames(blob)]
                return StoredJourney(key, partition, touches, read_state(blobs[0]))
    except (RedisError, OSError, TimeoutError) as error:
        raise ConnectError.of_redis(settings.redis.shown(), error) from error
    except CodecError as error:
        fix = "use the touchstream that the workers run"
        raise RunFailed("T243", "the journey cannot be read", key, str(error), fix) from error
    finally:
        await route.close()
    return None


def _buckets(now_ms: int, rules: Rules) -> range:
    """The buckets of record time in which touches can still lie."""
    return buckets(now_ms - rules.kept_ms, now_ms + CLOCKS_MS)


async def _blobs(route: Route, app: str, partition: int, key: bytes, span: range) -> list[bytes | None]:
    """The conversions and all touches in one command, so that they are of one moment."""
    start = prefix(app, partition)
    names = [start + state_key(key), *(start + touches_key(bucket, key) for bucket in span)]
    found: list[bytes | None] = await route.call(start, "MGET", *names)
    return found
