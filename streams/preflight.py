"""What must hold before a worker starts, told in words where it does not."""

import asyncio

from redis.exceptions import AuthenticationError, RedisError

from streams.errors import ConnectError, RunFailed
from streams.settings import Settings
from streams.topics import admin_client, name_of, read_cluster

NEEDED = ("touches", "conversions", "moves", "credits", "dead-letters", "policies")
CO_PARTITIONED = ("touches", "conversions", "moves", "credits")
REDIS_S = 5.0


async def preflight(settings: Settings) -> None:
    """Raise ConnectError where Kafka or Redis does not answer, RunFailed where the topics are not as needed."""
    async with admin_client(settings) as client:
        cluster = await read_cluster(client, settings)
    missing = [name for name in NEEDED if name_of(settings, name) not in cluster.topics]
    if missing:
        names = ", ".join(name_of(settings, name) for name in missing)
        raise RunFailed(
            "T220", "topics are missing", names, "nothing creates them by itself", "touchstream topics apply"
        )
    counts = {name_of(settings, n): cluster.topics[name_of(settings, n)].partitions for n in CO_PARTITIONED}
    if len(set(counts.values())) > 1:
        where = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise RunFailed(
            "T221",
            "topics have different numbers of partitions",
            where,
            "a journey needs its touches, conversions and credits in the same partition number",
            "choose a new kafka.prefix, `touchstream topics apply`, and replay into it",
        )
    await _ping(settings)


async def _ping(settings: Settings) -> None:
    from state.connection import connect  # noqa: PLC0415
    from state.route import is_cluster  # noqa: PLC0415

    client = connect(settings.redis.url, REDIS_S)
    try:
        async with asyncio.timeout(REDIS_S):
            await client.ping()
            clustered = await is_cluster(client)
    except AuthenticationError as exc:
        why = f"it does not accept the user or the password: {exc}"
        fix = "set redis.url (redis://user:password@host:6379/0)"
        raise ConnectError("T302", "Redis refuses the connection", settings.redis.shown(), why, fix) from exc
    except (RedisError, OSError, TimeoutError) as exc:
        raise ConnectError.of_redis(settings.redis.shown(), exc) from exc
    finally:
        await client.aclose()
    if settings.redis.cluster and not clustered:
        why, fix = "redis.cluster is true, and this server is not part of a cluster", "set redis.cluster = false"
        raise RunFailed("T224", "not a Redis Cluster", settings.redis.shown(), why, fix)
