"""A credits topic that refuses batches beyond a size."""

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from tests.support.cluster import ADMIN_S, Cluster

SETTING = "max.message.bytes"


def limit(cluster: Cluster) -> int:
    """The largest batch that the credits topic takes, in bytes."""
    admin = _admin(cluster)  # kept, as what it was asked ends with it
    (described,) = admin.describe_configs([_resource(cluster)]).values()
    return int(described.result(ADMIN_S)[SETTING].value)


def set_limit(cluster: Cluster, most: int) -> None:
    """From now on the credits topic refuses larger batches."""
    resource = _resource(cluster)
    resource.add_incremental_config(ConfigEntry(SETTING, str(most), incremental_operation=AlterConfigOpType.SET))
    admin = _admin(cluster)
    (altered,) = admin.incremental_alter_configs([resource]).values()
    altered.result(ADMIN_S)


def _resource(cluster: Cluster) -> ConfigResource:
    return ConfigResource(ResourceType.TOPIC, cluster.names.credits)


def _admin(cluster: Cluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": ",".join(cluster.settings.kafka.bootstrap_servers())})
