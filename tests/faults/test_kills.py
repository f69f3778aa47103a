"""kill -9 at every boundary between two steps of the protocol."""

import signal

import pytest

from streams.crash import CRASH_POINTS
from tests.faults import verdict
from tests.faults.conftest import Make

# Twice in each test: early, and after the restart has worked for a while.
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
