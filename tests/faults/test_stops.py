"""Workers that come and go in good order, under load."""

import signal

from tests.faults import verdict
from tests.faults.conftest import Make


def test_a_worker_is_asked_to_stop_under_load(make: Make) -> None:
    """SIGTERM under load ends with 0 and everything applied committed; the next worker goes on from there."""
    with make() as cluster:
        cluster.send_waves(5)
        cluster.start()
        cluster.until_records(1_000)
        cluster.send_waves(8)
        cluster.stop()
        assert cluster.applied() != cluster.ends(), "there was no load left"
        assert cluster.committed() == cluster.applied(), cluster.progress()
        cluster.start()
        cluster.until_all_applied()
        cluster.stop()
        assert cluster.codes() == [0, 0]
        verdict.check(cluster)


def test_workers_join_and_leave_under_load(make: Make) -> None:
    """Two share the work, a third joins, the first leaves: no one dies of it, and no credit is lost or doubled."""
    with make() as cluster:
        cluster.send_waves(5)
        first = cluster.start()
        cluster.start()
        cluster.until(lambda: len(cluster.members()) == 2, "two members", feeding=False)
        cluster.until_records(600)
        cluster.start()
        cluster.until(lambda: len(cluster.members()) == 3, "three members", feeding=False)
        cluster.send_waves(10)  # while they rebalance
        cluster.until_records(1_200)
        cluster.send_waves(8)
        first.signal(signal.SIGTERM)
        cluster.until(lambda: first not in cluster.alive, "the first has left")
        cluster.until_all_applied()
        cluster.stop()
        assert cluster.codes() == [0, 0, 0]
        verdict.check(cluster)
