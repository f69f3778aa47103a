"""What a worker's readiness says of partitions that the trip wire stopped."""

from dataclasses import dataclass
from types import SimpleNamespace

from models.policy import Policy
from streams.report import BatchReport
from streams.watch import Watch


@dataclass
class Part:
    """As much of a partition task as the check asks."""

    tripped: str = ""


def test_a_stopped_partition_makes_the_worker_unready_and_says_why() -> None:
    """The reason names the partition and the way out; without one, a worker of mostly dead records tells too."""
    watch = Watch(Policy.from_effective({"attribution": {"models": ["linear"]}}))
    parts = {0: Part(), 3: Part("more than half are dead letters")}
    watch._owner = SimpleNamespace(parts=parts)
    told = watch._dead_letters()
    assert told is not None
    assert told.startswith("partition 3: more than half are dead letters")
    assert "touchstream dead-letters accept" in told
    parts[3].tripped = ""
    assert watch._dead_letters() is None
    watch.report(BatchReport(0, touches_accepted=40, touches_dead=400))
    told = watch._dead_letters()
    assert told is not None
    assert "400 of the last 440" in told
