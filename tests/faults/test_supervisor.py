"""`touchstream run` keeps its workers going: killed ones, fenced ones, and all of them at the end."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from state import keys
from tests.faults import verdict
from tests.faults.conftest import Make
from tests.support import product
from tests.support.cluster import PARTITIONS, Cluster

CONFIG = """
[attribution]
allowed_lateness = "2s"
[processing]
settle = "50ms"
fetch_records = 40
step_records = 80
commit_interval = "300ms"
session_timeout = "6s"
[web]
port = 0
[identity]
enabled = false
"""


@pytest.mark.slow
def test_a_supervisor_brings_its_workers_back(make: Make, tmp_path: Path) -> None:
    """Two workers, one killed, later both fenced: they come back by themselves, the credits are right, the end is 0."""
    with make() as cluster:
        config = tmp_path / "touchstream.toml"
        config.write_text(CONFIG)
        kafka, redis = cluster.settings.kafka, cluster.settings.redis
        arguments = ["--broker", kafka.broker, "--redis", redis.url, "--prefix", kafka.prefix, "--config", config]
        cluster.send_waves(5)
        with product.running("run", "--workers", "2", *arguments) as command:
            cluster.until(lambda: len(cluster.members()) == 2, command.said(), feeding=False)
            cluster.until_records(600)
            killed = _workers(command.process.pid)[0]
            os.kill(killed, signal.SIGKILL)
            cluster.until_records(1_500)
            cluster.until(
                lambda: _replaced(command.process.pid, killed), "the killed worker was replaced", feeding=False
            )
            before = set(_workers(command.process.pid))
            cluster.send_waves(5)

            def both_ended() -> bool:
                # A theft does not touch a worker that has nothing claimed yet: the next one does.
                _steal(cluster)
                return not before & set(_workers(command.process.pid))

            cluster.until(both_ended, "both were started again")
            cluster.until_all_applied()
            cluster.until(lambda: len(cluster.members()) == 2, "two members", feeding=False)
            assert product.stop(command.process) == 0, command.said()
            verdict.check(cluster)


def _workers(supervisor: int) -> list[int]:
    return [child.pid for child in psutil.Process(supervisor).children()]


def _replaced(supervisor: int, killed: int) -> bool:
    workers = _workers(supervisor)
    return killed not in workers and len(workers) == 2


def _steal(cluster: Cluster) -> None:
    """Write another owner into every partition, as a worker would that claimed them all."""
    for partition in range(PARTITIONS):
        cluster.redis.set(keys.prefix(cluster.settings.kafka.prefix, partition) + keys.OWNER, "a-thief")
