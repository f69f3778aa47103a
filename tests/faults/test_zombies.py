"""A worker that stands still, is replaced, and wakes up: it must notice before anyone else does."""

import signal

import pytest

from streams.errors import EXIT_RESTART
from tests.faults import verdict
from tests.faults.conftest import Make

# Under way with a batch, or between two steps of it: the worker has to leave, whatever it does next.
IN_A_BATCH = ("decided", "sent", "published")
# Between batches or while claiming it may also find that it is no member any more, and join again in good order.
ELSEWHERE = ("claim_producer", "claim_store", "saved")
QUICK = ("sent", "published", "claim_store")
STOP_AT = {"claim_producer": 2, "claim_store": 2}


def _slow(point: str) -> object:
    """Each takes two or three starts of a worker, so only the most telling ones are in the quick suite."""
    return point if point in QUICK else pytest.param(point, marks=pytest.mark.slow)


@pytest.mark.parametrize("point", [_slow(point) for point in IN_A_BATCH + ELSEWHERE])
def test_a_stopped_worker_is_replaced_and_wakes_up(make: Make, point: str) -> None:
    """A worker stopped at this point, replaced and woken under load publishes nothing that was not its own."""
    with make(restart=point not in IN_A_BATCH) as cluster:
        cluster.send_waves(5)
        zombie = cluster.start(f"{point}:{STOP_AT.get(point, 6)}:stop")
        cluster.until(zombie.is_stopped, "the worker stands still")
        members = cluster.members()
        heir = cluster.start()
        if cluster.evict:
            cluster.evict_members(members)
        cluster.until_records(1_500)
        zombie.signal(signal.SIGCONT)
        if point in IN_A_BATCH:
            cluster.until(lambda: zombie not in cluster.alive, "the zombie has left")
            assert cluster.codes() == [EXIT_RESTART], cluster.said()
        cluster.until_all_applied()
        cluster.stop()
        assert set(cluster.codes()) <= {0, EXIT_RESTART}
        if point in IN_A_BATCH:
            assert (heir.number, 0) in cluster.ended, cluster.said()
        verdict.check(cluster)
