"""Reading one journey from Redis for people: plain reads that fence nobody and change nothing."""

import time
from typing import NamedTuple

from models.durations import DAY_MS
from models.facts import JourneyTouch
from models.forgetting import SECRET, Hashing
from models.journey import (
    JourneyState,
    buckets,
    forward_key,
    read_frames,
    read_state,
    state_key,
    touches_key,
)
from models.rules import Rules
from state.keys import prefix
from state.route import Route
from streams.kept import kept
from streams.moves import read_pointer
from streams.murmur import partition_of
from streams.settings import Settings

# How far apart the broker's clock, which gives record times their bucket, and ours may be.
CLOCKS_MS = 2 * DAY_MS
# Pointers only go up, so that this is far more than there can be in a row.
MERGES_MAX = 64


class StoredJourney(NamedTuple):
    """A journey as Redis holds it: touches in the order in which they were accepted, duplicates included.

    `merged`: the persons that led here, where the one asked for was merged into another; the one asked for first.
    """

    key: str
    partition: int
    touches: list[JourneyTouch]
    state: JourneyState
    merged: tuple[str, ...] = ()


async def read_journey(settings: Settings, key: str, partitions: int, rules: Rules) -> StoredJourney | None:
    """The journey of a person (or account); None where Redis has nothing under that key.

    It lies where the default partitioner puts the key; producers with another one put it elsewhere, so the other
    partitions are asked after that. Where the person was merged into another one, it is the other's. `rules` say how
    far back touches can lie. Raises ConnectError, and RunFailed where the bytes are of another version of this program.
    """
    span = _buckets(int(time.time() * 1000), rules)
    merged: list[str] = []
    async with kept(settings, key) as route:
        while len(merged) < MERGES_MAX:
            found = await _look(route, settings.kafka.prefix, key, partitions, span)
            if found is None:
                return None
            partition, into, blobs = found
            if into is None:
                touches = [touch for blob in blobs[1:] if blob for touch in read_frames(blob)]
                return StoredJourney(key, partition, touches, read_state(blobs[0]), tuple(merged))
            merged.append(key)
            _, key = read_pointer(into)
    return None


async def partitions_with(settings: Settings, key: str, partitions: int) -> list[int]:
    """The partition numbers whose store has anything of a person (or account). Raises ConnectError."""
    span = _buckets(int(time.time() * 1000), Rules(settings.policy(), settings.processing.settle))
    async with kept(settings) as route:
        found = [await _blobs(route, settings.kafka.prefix, p, key.encode(), span) for p in range(partitions)]
    return [p for p, blobs in enumerate(found) if any(blob is not None for blob in blobs)]


async def was_forgotten(settings: Settings, key: str, partitions: int) -> bool:
    """Whether there is a mark for this person (or account). False also where the settings lack the secret."""
    secret = settings.identity.email_key.get_secret_value().encode()
    async with kept(settings) as route:
        for start in (prefix(settings.kafka.prefix, p) for p in range(partitions)):
            text: bytes | None = await route.call(start, "GET", start + SECRET)
            hashing = None if text is None else Hashing.read(text, secret)
            if hashing is not None and await route.call(start, "EXISTS", start + hashing.mark(key.encode())):
                return True
    return False


async def _look(
    route: Route, app: str, key: str, partitions: int, span: range
) -> tuple[int, bytes | None, list[bytes | None]] | None:
    """The partition that knows the key, the person it was merged into, its conversions and touches."""
    mine = partition_of(key.encode(), partitions)
    for partition in (mine, *(p for p in range(partitions) if p != mine)):
        into, *blobs = await _blobs(route, app, partition, key.encode(), span)
        if into is not None or any(blob is not None for blob in blobs):
            return partition, into, blobs
    return None


def _buckets(now_ms: int, rules: Rules) -> range:
    """The buckets of record time in which touches can still lie."""
    return buckets(now_ms - rules.kept_ms, now_ms + CLOCKS_MS)


async def _blobs(route: Route, app: str, partition: int, key: bytes, span: range) -> list[bytes | None]:
    """Whom it was merged into, the conversions and all touches, in one command, so that they are of one moment."""
    start = prefix(app, partition)
    names = [start + forward_key(key), start + state_key(key), *(start + touches_key(bucket, key) for bucket in span)]
    found: list[bytes | None] = await route.call(start, "MGET", *names)
    return found
