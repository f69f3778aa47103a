"""Redis did what it was asked, and nobody heard of it."""

from tests.faults import verdict
from tests.faults.conftest import Make, Pair
from tests.support.proxy import losing_replies


def test_replies_to_saves_are_lost(make: Make, pair: Pair) -> None:
    """A save whose reply was lost is asked again and found done: nothing is appended or published twice."""
    with losing_replies(pair.redis, every=4) as proxy, make(redis=proxy.url) as cluster:
        cluster.send_waves(5)
        cluster.start()
        cluster.until_all_applied()
        cluster.stop()
        assert proxy.lost >= 3, f"{proxy.lost} of {proxy.saves} replies lost"
        assert cluster.codes() == [0]
        verdict.check(cluster)
