"""Redis forgets: everything, or the latest part. Seen while running, repaired from the topics, by itself."""

import json

import pytest

from tests.faults import verdict
from tests.faults.conftest import Make
from tests.faults.snapshots import roll_back, snapshot
from tests.support import readers


def test_redis_is_emptied_under_load(make: Make) -> None:
    """Whatever is lost, twice, and once while it is rebuilt, is rebuilt without a credit too many or too few."""
    with make() as cluster:
        cluster.send_waves(5)
        cluster.start()
        for records in (700, 1_600, 300):
            cluster.until_records(records)
            assert cluster.waves, "all was sent before Redis was emptied"
            cluster.redis.flushall()
        cluster.until_all_applied()
        cluster.stop()
        assert cluster.codes() == [0], "a worker that can claim again has no need to end"
        verdict.check(cluster)


@pytest.mark.slow
def test_redis_is_emptied_between_two_batches_of_an_idle_worker(make: Make) -> None:
    """What is lost while nothing is to do is missed with the next batch, and rebuilt."""
    with make() as cluster:
        cluster.send_waves(25)
        cluster.start()
        cluster.until(lambda: cluster.applied() == cluster.ends(), "the first half applied", feeding=False)
        cluster.redis.flushall()
        cluster.until_all_applied()
        cluster.stop()
        assert cluster.codes() == [0]
        verdict.check(cluster)


def test_redis_comes_back_older_under_load(make: Make) -> None:
    """A store rolled back to what it held a while ago, owner included, is caught up from the topics."""
    with make() as cluster:
        cluster.send_waves(5)
        cluster.start()
        cluster.until_records(600)
        before, kept = cluster.records_applied(), snapshot(cluster.redis)
        cluster.until_records(1_600)
        assert cluster.waves, "all was sent before Redis was rolled back"
        roll_back(cluster.redis, kept)
        assert before <= cluster.records_applied()
        cluster.until_all_applied()
        cluster.stop()
        assert cluster.codes() == [0]
        assert cluster.workers[0].said().count("claiming again") >= 1, "nobody noticed"
        verdict.check(cluster)


@pytest.mark.slow
def test_redis_comes_back_older_while_nobody_works(make: Make) -> None:
    """A worker that starts on a store older than the offsets committed catches up before it decides anything."""
    with make() as cluster:
        cluster.send_waves(5)
        cluster.start()
        cluster.until_records(600)
        kept = snapshot(cluster.redis)
        cluster.until_records(1_600)
        cluster.stop()
        roll_back(cluster.redis, kept)
        cluster.start()
        cluster.until_all_applied()
        cluster.stop()
        assert cluster.codes() == [0, 0]
        assert "replaying" in cluster.workers[1].said()
        verdict.check(cluster)


def test_a_store_is_rebuilt_from_what_the_topics_still_hold(make: Make) -> None:
    """Half of the log is deleted, then the store is lost: nothing is published twice, and what is sealed stays so."""
    with make() as cluster:
        cluster.send_waves(30)
        cluster.start()
        cluster.until(lambda: cluster.applied() == cluster.ends(), "all applied", feeding=False)
        cluster.stop()
        published = cluster.log(cluster.names.credits)
        cluster.delete_below([(touches // 2, conversions // 2) for touches, conversions in cluster.ends()])
        cluster.redis.flushall()
        cluster.start()
        cluster.until(lambda: cluster.applied() == cluster.ends(), "rebuilt", feeding=False)
        cluster.send_wave()
        cluster.until(lambda: cluster.applied() == cluster.ends(), "going on", feeding=False)
        cluster.stop()
        assert cluster.codes() == [0, 0]
        again = cluster.log(cluster.names.credits)
        assert len(again) > len(published), "the last wave changed nothing"
        assert readers.repeated(again) == []
        assert verdict.history_faults(again) == []
        places = {(record.partition, record.offset) for record in published}
        new = [record for record in again if (record.partition, record.offset) not in places]
        before, since = (
            {json.loads(record.value)["conversion_id"] for record in found if record.value is not None}
            for found in (published, new)
        )
        assert since, "no conversion of the last wave was credited"
        assert not before & since, "touches of these are gone, so they are sealed"
