"""Kafka refuses a batch of credits: the transaction must not go through without it."""

from tests.faults import refusals, verdict
from tests.faults.conftest import Make

TOO_SMALL = 300


def test_credits_are_refused_for_a_while(make: Make) -> None:
    """While the credits topic refuses batches nothing of them counts as done; afterwards everything is published."""
    with make() as cluster:
        cluster.send_waves(5)
        cluster.start()
        cluster.until_records(700)
        usual = refusals.limit(cluster)
        refusals.set_limit(cluster, TOO_SMALL)
        worker = cluster.workers[0]
        cluster.until(lambda: worker.said().count("claiming again") >= 3, "batches are refused")
        refusals.set_limit(cluster, usual)
        cluster.until_all_applied()
        cluster.stop()
        assert cluster.codes() == [0]
        verdict.check(cluster)
