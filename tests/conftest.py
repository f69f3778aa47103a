"""Servers that all tests share, the seed of the run, and no silent holes in CI."""

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from streams import embedded
from tests.support import servers

# The same in every run, so that a failure is of the change and not of the draw; TEST_SEED=… looks elsewhere.
SEED = int(os.environ.get("TEST_SEED", "20261121"))

# Deadlines would judge the machine, not the code; the blob lets a failure be repeated elsewhere.
hypothesis.settings.register_profile("touchstream", deadline=None, print_blob=True)
hypothesis.settings.load_profile("touchstream")


def pytest_report_header() -> str:
    """The seed, on top of every run."""
    return f"seed: {SEED} (repeat with TEST_SEED={SEED}); Hypothesis prints its own with a failure"


@pytest.fixture(scope="session")
def seed() -> int:
    """What every random choice of a test starts from; 32 bits, printed in the header of the run."""
    return SEED


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[embedded.Broker]:
    """The demo's broker, shared by all tests: use a topic prefix and a group of your own."""
    with embedded.broker() as running:
        yield running


@pytest.fixture(scope="session")
def embedded_valkey() -> Iterator[embedded.Valkey]:
    """The demo's Valkey, shared by all tests: use keys of your own."""
    with embedded.valkey() as running:
        yield running


@pytest.fixture(scope="session")
def kafka() -> Iterator[servers.ApacheKafka]:
    """Apache Kafka, shared by the slow tests; who wants to kill it starts one with `servers.apache_kafka()`."""
    try:
        servers.jars()
    except servers.MissingServer as error:
        pytest.skip(str(error))
    with servers.apache_kafka() as running:
        yield running


@pytest.fixture(scope="session")
def debian_redis() -> Iterator[servers.RedisServer]:
    """Debian's redis-server, shared by the slow tests: use keys of your own."""
    try:
        servers.redis_binary()
    except servers.MissingServer as error:
        pytest.skip(str(error))
    with servers.redis_server() as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """In CI, a test marked `slow`, `shared` or `native` that skips has failed: nobody would notice the hole."""
    report: pytest.TestReport = yield
    marked = any(item.get_closest_marker(name) for name in ("slow", "shared", "native"))
    if os.environ.get("CI") and marked and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} must not skip in CI: {_reason(report)}"
    return report


def _reason(report: pytest.TestReport) -> str:
    return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
