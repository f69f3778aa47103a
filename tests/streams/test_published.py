"""Reading credits, causes, policies and journeys beside the workers, on a real broker and a real Valkey."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from confluent_kafka import Producer
from redis import Redis

from models.facts import Conversion
from models.journey import BUCKET_MS, frame, read_frames, state_key, touches_key, write_state
from models.policy import Policy
from models.revisions import Place, PublishedCredit, Revision
from models.rules import Rules
from state.keys import prefix
from streams import embedded, published, topics
from streams.errors import RunFailed
from streams.journeys import read_journey
from streams.murmur import partition_of
from streams.settings import Settings, load_settings
from tests.support.drawn import draw
from tests.support.told import tell

PARTITIONS = 3
Use = Callable[[Any], Awaitable[Any]]


class Topics:
    """Topics of a prefix of their own, and a producer that says in which partition a record goes."""

    def __init__(self, broker: embedded.Broker, redis: str) -> None:
        name = f"published-{uuid.uuid4().hex[:8]}"
        self.settings: Settings = load_settings(
            None, {"kafka.broker": broker.url, "kafka.prefix": name, "redis.url": redis}
        )
        asyncio.run(topics.ensure(self.settings, PARTITIONS))
        self.producer = self.new_producer()
        self._broker = broker

    def new_producer(self, **options: Any) -> Producer:
        return Producer({"bootstrap.servers": ",".join(self.settings.kafka.bootstrap_servers()), **options})

    def send(self, topic: str, partition: int, key: str, value: bytes | None, *headers: tuple[str, bytes]) -> None:
        self.producer.produce(
            topics.name_of(self.settings, topic), value, key.encode(), partition, headers=list(headers)
        )
        assert self.producer.flush(30) == 0

    def credit(self, partition: int, key: str, revision: int | None, source: bytes = b"") -> None:
        row = None if revision is None else json.dumps({"revision": revision}).encode()
        self.send("credits", partition, key, row, ("touchstream-source", source))

    def read(self, use: Use) -> Any:
        async def work() -> Any:
            async with published.consumer(self.settings) as reader:
                return await use(reader)

        return asyncio.run(work())

    def credits(self, conversion_id: str, person: str | None = None) -> list[PublishedCredit]:
        found: list[PublishedCredit] = self.read(
            lambda reader: published.credits(self.settings, reader, conversion_id, person, PARTITIONS, lambda _: None)
        )
        return found


@pytest.fixture
def there(embedded_broker: embedded.Broker, embedded_valkey: embedded.Valkey) -> Topics:
    return Topics(embedded_broker, embedded_valkey.url)


def test_only_the_conversion_s_own_credits_are_found(there: Topics) -> None:
    """In the order of their partition, tombstones too; ids that start alike or hold a `|` are others."""
    for key, revision in (("c1|m|t1", 1), ("c10|m|t1", 1), ("c1\\|m|m|t1", 2), ("c1|m|t2", 3), ("c1|m|t1", None)):
        there.credit(1, key, revision, b"p.touches/2/77")
    found = there.credits("c1")
    assert [(each.key, each.row and each.row["revision"]) for each in found] == [
        ("c1|m|t1", 1),
        ("c1|m|t2", 3),
        ("c1|m|t1", None),
    ]
    assert found[0].source == Place("p.touches", 2, 77)
    assert [each.key for each in there.credits("c1|m")] == ["c1\\|m|m|t1"]
    assert there.credits("never") == []


@pytest.mark.parametrize("partition", range(PARTITIONS))
def test_a_person_s_credits_are_found_wherever_they_lie(there: Topics, partition: int) -> None:
    """First where the default partitioner puts the key, else everywhere: another producer may have put them there."""
    there.credit(partition, "c1|m|t1", 1)
    assert len(there.credits("c1", "ada")) == 1
    assert len(there.credits("c1")) == 1


def test_what_was_aborted_is_not_seen(there: Topics) -> None:
    """Reading is read_committed, and ends behind the markers of transactions."""
    producer = there.new_producer(**{"transactional.id": uuid.uuid4().hex})
    producer.init_transactions(30)
    name = topics.name_of(there.settings, "credits")
    for key, end in (("c1|m|lost", producer.abort_transaction), ("c1|m|kept", producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce(name, b'{"revision":1}', key.encode(), 0)
        producer.flush(30)
        end(30)
    assert [each.key for each in there.credits("c1")] == ["c1|m|kept"]


def test_the_connect_envelope_is_opened(there: Topics) -> None:
    """A credit with schema and payload is the payload."""
    there.send("credits", 0, "c1|m|t", b'{"schema":{},"payload":{"revision":4}}')
    (found,) = there.credits("c1")
    assert found.row == {"revision": 4}


def test_causes_are_the_records_at_their_places(there: Topics) -> None:
    """A place beyond the end, one of another topic and one that holds no record of ours are left out."""
    created = {"conversion_id": "c1", "person_id": "ada", "occurred_at": 1_717_243_200_000, "value": "2"}
    for value in (json.dumps(created).encode(), b"no json"):
        there.send("conversions", 1, "ada", value)
    name = topics.name_of(there.settings, "conversions")
    places = [Place(name, 1, 0), Place(name, 1, 1), Place(name, 1, 2), Place(name, 2, 5), Place("elsewhere", 0, 0)]
    history = [Revision(n, 0, place, ()) for n, place in enumerate(places)]
    found = there.read(lambda reader: published.causes(there.settings, reader, history))
    assert list(found) == [places[0]]
    assert isinstance(found[places[0]], Conversion)
    assert found[places[0]].value_micros == 2_000_000


def test_policies_besides_the_running_one(there: Topics) -> None:
    """Earlier policies are read under their versions; the running one and one of a later program are left out."""
    running, earlier = Policy.default(), Policy.from_effective({"attribution": {"models": ["linear"]}})
    for policy in (running, earlier):
        there.send("policies", 0, policy.version, json.dumps({"policy": policy.effective()}).encode())
    there.send("policies", 0, "later", b'{"policy":{"attribution":{"models":["telepathy"]}}}')
    there.send("policies", 0, "torn", b"{")
    assert there.read(lambda reader: published.policies(there.settings, reader, running)) == [earlier]


def test_topics_that_are_missing_are_a_block(embedded_broker: embedded.Broker) -> None:
    """A prefix that nobody uses is an error which names the topics."""
    settings = load_settings(None, {"kafka.broker": embedded_broker.url, "kafka.prefix": "nobody-s"})
    with pytest.raises(RunFailed, match="T244") as caught:
        asyncio.run(published.partitions(settings))
    assert "nobody-s.credits" in caught.value.where


def test_partitions_are_those_of_the_topics(there: Topics) -> None:
    """Counts come from the cluster."""
    counts = asyncio.run(published.partitions(there.settings))
    assert counts == {"touches": PARTITIONS, "conversions": PARTITIONS, "credits": PARTITIONS, "policies": 1}


@pytest.mark.parametrize("partition", range(PARTITIONS))
def test_a_journey_is_read_wherever_it_lies(there: Topics, partition: int) -> None:
    """All buckets of its touches in the order of acceptance and its conversions; nothing is written, nobody fenced."""
    told = tell("ads@-3d > conversion=5")
    start = prefix(there.settings.kafka.prefix, partition)
    with Redis.from_url(there.settings.redis.url) as redis:
        now_ms = int(redis.time()[0]) * 1000  # type: ignore[index]
        bucket = now_ms // BUCKET_MS
        drawn = draw("ads@-3d > email@-2d > shop@-1d").facts
        frames = [frame(touch) for touch in drawn]  # type: ignore[arg-type]
        redis.set(start + touches_key(bucket - 1, b"ada"), frames[0])
        redis.set(start + touches_key(bucket, b"ada"), frames[1] + frames[2])
        redis.set(start + state_key(b"ada"), write_state(told.state))
        before = sorted(redis.keys(start + b"*"))  # type: ignore[type-var]
        found = asyncio.run(read_journey(there.settings, "ada", PARTITIONS, Rules(Policy.default(), 250)))
        assert sorted(redis.keys(start + b"*")) == before  # type: ignore[type-var]
    assert found is not None
    assert (found.key, found.partition) == ("ada", partition)
    assert found.touches == read_frames(b"".join(frames))
    assert found.state == told.state


def test_nobody_s_journey_is_none(there: Topics) -> None:
    """A key under which nothing lies has no journey."""
    assert asyncio.run(read_journey(there.settings, "nobody", PARTITIONS, Rules(Policy.default(), 250))) is None


def test_a_journey_of_another_version_is_a_block(there: Topics) -> None:
    """Bytes that this program does not read are told with what to do."""
    start = prefix(there.settings.kafka.prefix, partition_of(b"ada", PARTITIONS))
    with Redis.from_url(there.settings.redis.url) as redis:
        redis.set(start + state_key(b"ada"), b"\xc1 not msgpack")
    with pytest.raises(RunFailed, match="T243"):
        asyncio.run(read_journey(there.settings, "ada", PARTITIONS, Rules(Policy.default(), 250)))
