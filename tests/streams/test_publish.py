"""The publisher over a producer that a test holds in its hand: what is committed, and what an error comes to."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import (
    InvalidProducerEpoch,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    ProducerFenced,
    UnknownError,
)
from aiokafka.producer.message_accumulator import BatchBuilder

from models.crediting import Publication, Source
from models.outcome import Reason
from streams import publish
from streams.publish import DeadLetter, Output, Publisher, Refused, Superseded, Uncertain

TOPICS = {"touches": "touches", "conversions": "conversions", "credits": "credits", "dead_letters": "dead"}
OFFSETS = {"touches": 7, "conversions": 3}


class Producer:
    """Stands for aiokafka's: notes what it is asked in `asked`; `fails` has the error that a call meets.

    The futures of what is produced are done a while later, as a broker's answer would make them; `produce` fails them.
    """

    def __init__(self, fails: Mapping[str, Exception], *, fatal: bool = False) -> None:
        self.asked: list[Any] = []
        self._fails = fails
        self._txn_manager = SimpleNamespace(is_fatal_error=lambda: fatal)

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(1 << 20, 0, is_transactional=1)

    async def begin_transaction(self) -> None:
        self._ask("begin")

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> "asyncio.Future[None]":
        return self._produce(topic)

    async def send(
        self, topic: str, *, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
    ) -> "asyncio.Future[None]":
        return self._produce(topic)

    async def send_offsets_to_transaction(self, offsets: Mapping[Any, int], group: str) -> None:
        self._ask("offsets")

    async def commit_transaction(self) -> None:
        self._ask("commit")

    async def abort_transaction(self) -> None:
        self._ask("abort")

    def _produce(self, topic: str) -> "asyncio.Future[None]":
        return asyncio.ensure_future(self._answer(topic))

    async def _answer(self, topic: str) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        self._ask(f"produce to {topic}")

    def _ask(self, what: str) -> None:
        if what in self._fails:
            raise self._fails[what]
        self.asked.append(what)


def publisher(producer: Producer) -> Publisher:
    made = Publisher({}, "t.credit.0", "group", TOPICS, lambda _: None)
    made._producer = producer  # type: ignore[assignment]
    return made


def output(made: Publisher) -> Output:
    """A credit and a dead letter."""
    out = made.output(0)
    out.add([Publication(Source("conversions", 2, 1_700_000_000_000), [(b"c|linear|t", b"{}")])])
    out.dead.append(DeadLetter("touches", 0, 6, None, b"{", [], Reason.INVALID_JSON, "no JSON"))
    return out


async def asked(**fails: Exception) -> list[Any]:
    """What a producer is asked that works, or fails as said."""
    producer = Producer({name.replace("_", " "): error for name, error in fails.items()})
    made = publisher(producer)
    await made.commit(0, output(made), OFFSETS)
    return producer.asked


async def test_everything_is_acknowledged_before_the_commit() -> None:
    """Credits, dead letters and offsets have all arrived when the transaction is committed."""
    found = await asked()
    assert (found[0], found[-1]) == ("begin", "commit")
    assert sorted(found[1:-1]) == ["offsets", "produce to credits", "produce to dead"]


@pytest.mark.parametrize("topic", ["credits", "dead"])
async def test_a_refused_batch_is_never_committed_around(topic: str) -> None:
    """aiokafka would commit the rest: the transaction is aborted, and the batch may be tried again."""
    producer = Producer({f"produce to {topic}": MessageSizeTooLargeError()})
    made = publisher(producer)
    with pytest.raises(Refused):
        await made.commit(0, output(made), OFFSETS)
    assert "commit" not in producer.asked
    assert producer.asked[-1] == "abort"


@pytest.mark.parametrize("error", [KafkaConnectionError(), UnknownError(), OSError("reset")])
async def test_no_answer_to_the_commit_is_uncertain(error: Exception) -> None:
    """It may have gone through, so the batch may not be tried again, nor the transaction aborted."""
    producer = Producer({"commit": error})
    made = publisher(producer)
    with pytest.raises(Uncertain):
        await made.commit(0, output(made), OFFSETS)
    assert "abort" not in producer.asked


@pytest.mark.parametrize("step", ["begin", "offsets", "produce to credits", "commit"])
@pytest.mark.parametrize("error", [ProducerFenced(), InvalidProducerEpoch()])
async def test_a_fence_is_told_wherever_it_strikes(step: str, error: KafkaError) -> None:
    """Another producer took over: nothing is committed, and nothing is aborted that is another's by now."""
    producer = Producer({step: error})
    made = publisher(producer)
    with pytest.raises(Superseded):
        await made.commit(0, output(made), OFFSETS)
    assert {"commit", "abort"} & set(producer.asked) == set()


async def test_a_fence_by_whatever_name_is_a_fence() -> None:
    """Where aiokafka knows the error as fatal and will not abort, the worker must leave, not claim again."""
    fails = {"offsets": UnknownError(), "abort": UnknownError()}
    made = publisher(Producer(fails, fatal=True))
    with pytest.raises(Superseded):
        await made.commit(0, output(made), OFFSETS)
    made = publisher(Producer(fails))
    with pytest.raises(Refused):
        await made.commit(0, output(made), OFFSETS)


@pytest.mark.parametrize("step", ["send_offsets_to_transaction", "commit_transaction"])
async def test_a_transaction_without_an_answer_ends_as_uncertain(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """aiokafka would wait for ever, and with it the rebalance that could give the partition to another worker."""
    producer = Producer({})

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(producer, step, hang)
    monkeypatch.setattr(publish, "ANSWER_S", 0.01)
    made = publisher(producer)
    with pytest.raises(Uncertain, match="no answer within"):
        await made.commit(0, output(made), OFFSETS)


async def test_a_claim_without_a_producer_id_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that does not answer for a transactional id must not hold the assignment up for ever."""

    class Unanswered:
        client = SimpleNamespace(_metadata_update=None)

        def __init__(self, **_: object) -> None:
            """Takes any options."""

        async def start(self) -> None:
            await asyncio.Event().wait()

        async def stop(self) -> None:
            """Nothing was begun."""

    monkeypatch.setattr(publish, "AIOKafkaProducer", Unanswered)
    monkeypatch.setattr(publish, "ANSWER_S", 0.01)
    with pytest.raises(Refused, match="no producer id within"):
        await Publisher({}, "t.credit.0", "group", TOPICS, lambda _: None).start()


async def test_a_closed_publisher_refuses() -> None:
    """Between a claim that failed and the next one there is no producer: nothing is published, nothing is unsure."""
    made = Publisher({}, "t.credit.0", "group", TOPICS, lambda _: None)
    with pytest.raises(Refused):
        made.output(0)
    with pytest.raises(Refused):
        await made.commit(0, Output(), OFFSETS)


@pytest.mark.parametrize(("found", "pauses"), [(False, [publish.AWAY_S]), (True, [])])
async def test_a_client_that_finds_no_broker_waits(
    monkeypatch: pytest.MonkeyPatch, found: bool, pauses: list[float]
) -> None:
    """Looking for a broker in vain takes its time, so that a broker which comes up is not flooded with connections."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def update(cluster: object, topics: object) -> bool:
        return found

    client = SimpleNamespace(_metadata_update=update)
    publish.pause_when_away(client)
    monkeypatch.setattr(publish.asyncio, "sleep", sleep)
    assert await client._metadata_update(None, None) is found
    assert slept == pauses
