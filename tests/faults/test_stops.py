"""Workers that come and go in good order, under load."""

import json
import signal
from collections.abc import Sequence

import pytest

from tests.faults import verdict
from tests.faults.conftest import Make
from tests.support.cluster import Applied, Cluster
from tests.support.readers import Read

# A settle beyond this lets all touches be taken while their conversions still wait at the gate.
LONG_MS = 1_000


@pytest.mark.parametrize("settle_ms", [50, pytest.param(3_000, marks=pytest.mark.slow)], ids=["at once", "held"])
def test_a_worker_is_asked_to_stop_under_load(make: Make, settle_ms: int) -> None:
    """After SIGTERM under load applied = committed = what was published, and the next worker repeats nothing of it."""
    with make(processing={"settle": settle_ms}) as cluster:
        cluster.send_waves(5)
        cluster.start()
        cluster.until_records(1_000)
        cluster.send_waves(8)
        if settle_ms > LONG_MS:
            cluster.until(lambda: touches(cluster.applied()) == touches(cluster.ends()), "all touches", feeding=False)
        cluster.stop()
        stopped, published = cluster.applied(), cluster.log(cluster.names.credits)
        assert stopped != cluster.ends(), "there was no load left"
        assert cluster.committed() == stopped, cluster.progress()
        below = creates_below(cluster, stopped)
        assert credited(published) == below, "not all below was published, or something beyond it"
        cluster.start()
        cluster.until(lambda: cluster.applied() == cluster.ends(), "all of before the stop", feeding=False)
        seen = {(record.partition, record.offset) for record in published}
        new = [one for one in cluster.log(cluster.names.credits) if (one.partition, one.offset) not in seen]
        assert published_again(cluster, new, stopped) == []
        waited = creates_below(cluster, cluster.ends()) - below
        assert waited, "no conversion waited over the stop"
        assert waited <= credited(new)
        print(f"{len(waited)} conversions waited over the stop")
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


def touches(offsets: Sequence[Applied]) -> list[int]:
    """The next offsets of touches alone."""
    return [at for at, _ in offsets]


def creates_below(cluster: Cluster, offsets: Sequence[Applied]) -> set[str]:
    """Conversions whose create lies below these offsets."""
    found = [(record, _row(record)) for record in cluster.log(cluster.names.conversions)]
    created = [(record, row) for record, row in found if row.get("action", "create") == "create" and row]
    return {row["conversion_id"] for record, row in created if record.offset < offsets[record.partition][1]}


def credited(records: Sequence[Read]) -> set[str]:
    """Conversions that these credits are of."""
    return {_row(record)["conversion_id"] for record in records if record.value is not None}


def published_again(cluster: Cluster, new: Sequence[Read], stopped: Sequence[Applied]) -> list[str]:
    """Credits of which nothing lies at or beyond those offsets: no record of their conversion, no touch of its person.

    A revision is the sum of the two next offsets that its transaction commits.
    """
    touched = {
        _row(r).get("person_id") for r in cluster.log(cluster.names.touches) if r.offset >= stopped[r.partition][0]
    }
    said = [(record, _row(record)) for record in cluster.log(cluster.names.conversions)]
    people = {row["conversion_id"]: row["person_id"] for _, row in said if row}
    news = {row["conversion_id"] for record, row in said if row and record.offset >= stopped[record.partition][1]}
    found = []
    for record in new:
        conversion = (record.key or b"").decode().partition("|")[0]
        has_cause = conversion in news or people[conversion] in touched
        is_later = record.value is None or int(_row(record)["revision"]) > sum(stopped[record.partition])
        if not has_cause or not is_later:
            found.append(f"{record.key!r} {record.value!r}")
    return found


def _row(record: Read) -> dict[str, str]:
    """The fields of a record, none of a broken one."""
    return {} if (record.value or b'{"broken"').startswith(b'{"broken"') else json.loads(record.value or b"")
