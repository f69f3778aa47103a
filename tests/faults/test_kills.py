"""kill -9 at every boundary between two steps of the protocol."""

import signal

import pytest

from streams.crash import CRASH_POINTS
from tests.faults import verdict
from tests.faults.conftest import Make

# Partitions claim side by side, so that in the first assignment the fourth is the last.
COUNTS = {"claim_producer": (1, 3), "claim_store": (2, 4)}
COUNTS_IN_STEPS = (2, 13)


def test_nothing_happens(make: Make) -> None:
    """Without any fault the credits are those of the oracle, and the input is one that restates."""
    with make() as cluster:
        cluster.send_waves(5)
        cluster.start()
        cluster.until_all_applied()
        cluster.stop()
        verdict.check(cluster)
        assert cluster.codes() == [0]
        assert verdict.restated(cluster) > 20


@pytest.mark.parametrize(
    "crashes",
    [("published:2", "claim_producer:1", "sent:9"), ("decided:7", "claim_store:3", "saved:5")],
    ids=["-".join(points) for points in (("published", "producer", "sent"), ("decided", "store", "saved"))],
)
def test_kills_one_after_the_other(make: Make, crashes: tuple[str, ...]) -> None:
    """A worker killed at one point, whose successors die at others, neither loses nor doubles a credit."""
    with make(crashes=list(crashes)) as cluster:
        cluster.send_waves(5)
        cluster.start()
        cluster.until_all_applied()
        cluster.stop()
        assert cluster.codes() == [-signal.SIGKILL] * len(crashes) + [0]
        verdict.check(cluster)


@pytest.mark.slow
@pytest.mark.parametrize("point", CRASH_POINTS)
def test_kill_at_each_crash_point(make: Make, point: str) -> None:
    """A worker killed at this point, and once more after its restart, neither loses nor doubles a credit."""
    first, second = COUNTS.get(point, COUNTS_IN_STEPS)
    with make(crashes=[f"{point}:{first}", f"{point}:{second}"]) as cluster:
        cluster.send_waves(5)
        cluster.start()
        cluster.until_all_applied()
        cluster.stop()
        assert cluster.codes() == [-signal.SIGKILL, -signal.SIGKILL, 0]
        verdict.check(cluster)
