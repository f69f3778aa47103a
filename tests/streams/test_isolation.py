"""What producers upstream abort is none of our business: the worker's consumer, over the embedded broker."""

import uuid
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from streams import embedded, transport
from streams.app import as_they_are
from tests.streams.test_transport import install_for_one_test


async def test_aborted_records_are_not_read(embedded_broker: embedded.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an aborted transaction nothing is handed out; what follows it is."""
    install_for_one_test(monkeypatch)
    bootstrap, name = embedded_broker.bootstrap, f"isolation-{uuid.uuid4().hex}"
    partition = TopicPartition(name, 0)
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(name, 1, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=name) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(name, b"aborted")
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send_and_wait(name, b"committed")
    async with workers_consumer(bootstrap) as consumer:
        consumer.assign([partition])
        consumer.seek(partition, 0)
        end = (await consumer.end_offsets([partition]))[partition]
        values = []
        while await consumer.position(partition) < end:
            found = await consumer.getmany(timeout_ms=200)
            values += [record.value for record in found.get(partition, [])]
    assert values == [b"committed"]


def workers_consumer(bootstrap: str) -> AIOKafkaConsumer:
    """The client that the transport gives to a worker's consumer thread."""
    app: Any = faust.App("isolation", broker=f"{transport.SCHEME}://{bootstrap}", set_as_current=False)
    app.batch_owner = SimpleNamespace(inputs=("touches", "conversions"), unpack=as_they_are)

    async def ignore(*_: Any) -> None:
        """No callback of Faust's is of interest here."""

    made: Any = app.transport.create_consumer(
        callback=ignore, on_partitions_revoked=ignore, on_partitions_assigned=ignore
    )
    return made._new_consumer_thread()._create_worker_consumer(app.transport)
