"""Servers of the fault tests."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from streams import embedded
from streams.embedded import Broker, Valkey
from tests.support.cluster import Cluster, cluster, small_settings

# Compaction would take away superseded credits, whose number is what these tests look at.
NEVER_MS = 3_600_000

Make = Callable[..., AbstractContextManager[Cluster]]


@pytest.fixture(scope="session")
def uncompacted_broker() -> Iterator[Broker]:
    """An embedded broker that keeps every record ever published."""
    with embedded.broker(cleaner_backoff_ms=NEVER_MS) as running:
        yield running


@pytest.fixture
def make(uncompacted_broker: Broker, embedded_valkey: Valkey, tmp_path: Path, seed: int) -> Make:
    """Makes a cluster on the embedded servers; `redis` and `broker` name others."""

    def made(broker: str = "", redis: str = "", **changes: Any) -> AbstractContextManager[Cluster]:
        settings = small_settings(broker or uncompacted_broker.url, redis or embedded_valkey.url)
        return cluster(settings, tmp_path, seed, **changes)

    return made
