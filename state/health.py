"""What about a Redis would make it forget journeys, found out by asking it."""

from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

WARNING = "warning: "  # starts a text that must not make a worker unready


async def problems(redis: "Redis") -> list[str]:
    """Return the faults of this server in words, [] if it may be trusted.

    INFO names the eviction policy on every server since Redis 4; CONFIG is asked only where it does not, as
    hosted services forbid it.
    """
    try:
        info = await redis.info()
    except ResponseError:
        info = {}
    return [*await _eviction(redis, info), *_evicted(info), *_persistence(info)]


async def _eviction(redis: "Redis", info: dict[str, Any]) -> list[str]:
    policy = info.get("maxmemory_policy")
    if policy is None:
        try:
            policy = (await redis.config_get("maxmemory-policy")).get("maxmemory-policy")
        except ResponseError as error:
            return [f"{WARNING}the eviction policy cannot be read, make sure that it is noeviction ({error})"]
    if policy == "noeviction":
        return []
    return [f"maxmemory-policy is {policy}, not noeviction: Redis may forget journeys when memory is short"]


def _evicted(info: dict[str, Any]) -> list[str]:
    count = int(info.get("evicted_keys", 0))
    return [f"evicted_keys is {count}: Redis has forgotten keys since it started"] if count else []


def _persistence(info: dict[str, Any]) -> list[str]:
    if info.get("aof_last_write_status", "ok") == "ok":
        return []
    return ["aof_last_write_status is not ok: Redis cannot write its append-only file and refuses writes"]
