"""Servers of the fault tests: every test runs on the embedded pair, and again, slowly, on Apache Kafka and Redis."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from streams import embedded
from tests.support import servers
from tests.support.cluster import Cluster, cluster, small_settings

# Compaction would take away superseded credits, whose number is what these tests look at.
NEVER_MS = 3_600_000

Make = Callable[..., AbstractContextManager[Cluster]]


class Pair(NamedTuple):
    """Addresses of the two servers. `real`: no help from the test where a session has to end by itself."""

    broker: str
    redis: str
    real: bool


@pytest.fixture(scope="session")
def embedded_pair() -> Iterator[Pair]:
    """A broker that keeps every record ever published, and a Valkey that tests may empty."""
    with embedded.broker(cleaner_backoff_ms=NEVER_MS) as broker, embedded.valkey() as valkey:
        yield Pair(broker.url, valkey.url, False)


@pytest.fixture(scope="session")
def real_pair(kafka: servers.ApacheKafka) -> Iterator[Pair]:
    """Apache Kafka and a redis-server that tests may empty."""
    try:
        servers.redis_binary()
    except servers.MissingServer as error:
        pytest.skip(str(error))
    with servers.redis_server() as redis:
        yield Pair(kafka.url, redis.url, True)


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.slow)])
def pair(request: pytest.FixtureRequest) -> Pair:
    """The servers of this run of the test."""
    found: Pair = request.getfixturevalue(f"{request.param}_pair")
    return found


@pytest.fixture
def make(pair: Pair, tmp_path: Path, seed: int) -> Make:
    """Makes a cluster on the pair; `redis` names another way to Redis, `processing` changes those settings."""

    def made(redis: str = "", processing: Mapping[str, Any] = {}, **changes: Any) -> AbstractContextManager[Cluster]:
        settings = small_settings(pair.broker, redis or pair.redis)
        settings = settings.model_copy(update={"processing": settings.processing.model_copy(update=dict(processing))})
        return cluster(settings, tmp_path, seed, **{"evict": not pair.real, **changes})

    return made
