"""What Kafka tells of the log a store is made from, on the embedded broker and on Apache Kafka."""

import uuid

import pytest
from aiokafka.errors import UnknownTopicOrPartitionError

from streams import embedded, topics
from streams.origin import Origin, Topic, read_origin
from streams.settings import Settings
from tests.support import servers


def settings_for(url: str) -> Settings:
    return Settings.model_validate({"kafka": {"broker": url, "prefix": f"origin-{uuid.uuid4().hex[:10]}"}})


async def check_a_topic_made_again(url: str) -> None:
    settings = settings_for(url)
    await topics.ensure(settings, 2)
    before = await read_origin(settings)
    assert before.cluster
    assert len(before.topics) == 4
    assert all(topic.id and topic.partitions == 2 for topic in before.topics.values())
    assert (await read_origin(settings)).differences(before) == []
    assert Origin.parse(before.text()) == before
    await topics.delete(settings)
    await topics.ensure(settings, 3)
    after = await read_origin(settings)
    assert len(after.differences(before)) == 4
    same_count = Origin(after.cluster, {n: Topic(t.id, 2) for n, t in after.topics.items()})
    assert all("made again" in told for told in same_count.differences(before))
    await topics.delete(settings)


async def test_a_topic_made_again_is_another_one(embedded_broker: embedded.Broker) -> None:
    """Ids stay as long as a topic lives, and a topic of the same name that comes after it has another one."""
    await check_a_topic_made_again(embedded_broker.url)


async def test_a_topic_that_is_not_known_is_no_other_log(embedded_broker: embedded.Broker) -> None:
    """A broker that has just started may not know it yet: an error that a new start gets over."""
    with pytest.raises(UnknownTopicOrPartitionError):
        await read_origin(settings_for(embedded_broker.url))


@pytest.mark.slow
async def test_a_topic_made_again_is_another_one_on_apache_kafka(kafka: servers.ApacheKafka) -> None:
    """The same with the ids that Apache Kafka gives."""
    await check_a_topic_made_again(f"kafka://{kafka.bootstrap}")


def test_what_is_not_known_fits_anything() -> None:
    """Brokers before 3.1 tell no ids; then cluster, names and counts must do."""
    known = Origin("c", {"t": Topic("id", 4)})
    assert Origin("c", {"t": Topic("", 4)}).differences(known) == []
    assert Origin("", {"t": Topic("id", 4)}).differences(known) == []
    assert Origin("d", {"t": Topic("", 4)}).differences(known) == ["the cluster is d, not c"]
    assert Origin("c", {"t": Topic("", 5)}).differences(known) == ["t has 5 partitions, not 4"]
    assert Origin("c", {"u": Topic("", 4)}).differences(known) == ["u was not there"]
