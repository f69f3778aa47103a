"""Kafka refuses a batch of credits: the transaction must not go through without it."""

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from tests.faults import verdict
from tests.faults.conftest import Make
from tests.support.cluster import ADMIN_S, Cluster

SETTING = "max.message.bytes"
TOO_SMALL = 300


def test_credits_are_refused_for_a_while(make: Make) -> None:
    """While the credits topic refuses batches nothing of them counts as done; afterwards everything is published."""
    with make() as cluster:
        cluster.send_waves(5)
        cluster.start()
        cluster.until_records(700)
        usual = _limit(cluster)
        _set_limit(cluster, TOO_SMALL)
        worker = cluster.workers[0]
        cluster.until(lambda: worker.said().count("claiming again") >= 3, "batches are refused")
        _set_limit(cluster, usual)
        cluster.until_all_applied()
        cluster.stop()
        assert cluster.codes() == [0]
        verdict.check(cluster)


def _resource(cluster: Cluster) -> ConfigResource:
    return ConfigResource(ResourceType.TOPIC, cluster.names.credits)


def _admin(cluster: Cluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": ",".join(cluster.settings.kafka.bootstrap_servers())})


def _limit(cluster: Cluster) -> int:
    admin = _admin(cluster)
    (described,) = admin.describe_configs([_resource(cluster)]).values()
    return int(described.result(ADMIN_S)[SETTING].value)


def _set_limit(cluster: Cluster, limit: int) -> None:
    resource = _resource(cluster)
    resource.add_incremental_config(ConfigEntry(SETTING, str(limit), incremental_operation=AlterConfigOpType.SET))
    admin = _admin(cluster)
    (altered,) = admin.incremental_alter_configs([resource]).values()
    altered.result(ADMIN_S)
