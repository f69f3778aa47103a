"""The transport between a scripted consumer thread and an owner: what it hands out, and where it puts the position."""

import asyncio
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import faust
import pytest
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.consumer.subscription_state import TopicPartitionState
from faust.types import TP

from streams import fetched, transport
from streams.fetched import Chunk
from streams.transport import BATCHES_IN_FLIGHT, BROKEN_MAX, Batch, BrokenSequence, Consumer

TOUCHES, CONVERSIONS = TP("touches", 0), TP("conversions", 0)


class Record(NamedTuple):
    offset: int
    timestamp: int = 1_700_000_000_000


def chunk(first: int, last: int) -> Chunk:
    """Records first to last, without markers between."""
    return Chunk([Record(n) for n in range(first, last + 1)], first, last + 1)


class Thread:
    """Stands for the consumer thread: gives the chunks that a test lays down, and notes where it is sent."""

    def __init__(self) -> None:
        self.answers: list[Mapping[TP, Chunk]] = []
        self.moves: list[tuple[TP, int]] = []
        self.asked: list[set[TP]] = []
        self.while_fetching = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.while_moving = asyncio.Event()
        self.moving = asyncio.Event()
        self.moving.set()
        self.state = SimpleNamespace(lso=1_000, highwater=1_000, has_valid_position=True, position=0)
        assignment = SimpleNamespace(state_value=lambda tp: self.state)
        self._consumer = SimpleNamespace(
            _subscription=SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))
        )

    def assignment(self) -> set[TP]:
        return {TOUCHES, CONVERSIONS}

    def highwater(self, tp: TP) -> int:
        return 1_000

    async def move(self, tp: TP, offset: int) -> None:
        self.while_moving.set()
        await self.moving.wait()
        self.moves.append((tp, offset))

    async def getmany(self, active: set[TP], timeout: float) -> Mapping[TP, Chunk]:  # noqa: ASYNC109 Faust's signature
        self.asked.append(set(active))
        self.while_fetching.set()
        await self.go_on.wait()
        return self.answers.pop(0) if self.answers else {}


class Owner:
    """Claims at the offsets it is told; `claiming` holds a claim up until `claimed` is set."""

    inputs, batch_records = ("touches", "conversions"), 100

    def __init__(self) -> None:
        self.starts = {TOUCHES: 0, CONVERSIONS: 0}
        self.claiming = asyncio.Event()
        self.claimed = asyncio.Event()
        self.claimed.set()

    async def on_assigned(self, consumer: Consumer, partitions: set[int]) -> Mapping[TP, int]:
        self.claiming.set()
        await self.claimed.wait()
        return self.starts

    async def on_revoked(self, partitions: set[int]) -> None:
        """Nothing is under way."""


class Case(NamedTuple):
    consumer: Consumer
    thread: Thread
    owner: Owner


def install_for_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it changes in aiokafka would change the consumers of the tests that follow in this process."""
    monkeypatch.setattr(aiokafka_fetcher.PartitionRecords, "_consumer_record", fetched._consumer_record)
    monkeypatch.setattr(aiokafka_fetcher.FetchResult, "getall", fetched._get_all)
    transport.install()


@pytest.fixture
async def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    """A consumer with one partition number, claimed at offset 0."""
    install_for_one_test(monkeypatch)
    app: Any = faust.App("transport-test", broker=f"{transport.SCHEME}://127.0.0.1:1", set_as_current=False)
    owner = app.batch_owner = Owner()

    async def ignore(*_: Any) -> None:
        """No callback of Faust's is of interest here."""

    made: Any = app.transport.create_consumer(
        callback=ignore, on_partitions_revoked=ignore, on_partitions_assigned=ignore
    )
    thread = Thread()
    made._thread = thread
    made.resume_flow()
    monkeypatch.setattr(made, "_get_active_partitions", lambda: {TOUCHES, CONVERSIONS})
    await made.perform_seek()
    thread.moves.clear()
    thread.while_moving.clear()
    return Case(made, thread, owner)


async def handed_out(consumer: Consumer) -> list[int]:
    """Offsets of the touches that one look hands out; each batch is acked at once."""
    offsets: list[int] = []
    async for _, message in consumer.getmany(timeout=0.01):
        batch: Batch = message.value
        offsets += [record.offset for record in batch.parts[0]]
        consumer.ack(message)
    return offsets


async def all_handed_out(consumer: Consumer, looks: int = 4) -> list[int]:
    return [offset for _ in range(looks) for offset in await handed_out(consumer)]


async def test_chunks_are_handed_out_in_their_order(case: Case) -> None:
    """What follows on what was taken is handed out, and the position is left alone."""
    case.thread.answers = [{TOUCHES: chunk(0, 4)}, {TOUCHES: chunk(5, 5)}]
    assert await all_handed_out(case.consumer) == [0, 1, 2, 3, 4, 5]
    assert case.thread.moves == []


async def test_what_is_to_come_is_what_may_be_handed_out(case: Case) -> None:
    """Records beyond those handed out count where their topic is not held back and the window has room."""
    consumer = case.consumer
    case.thread.answers = [{TOUCHES: chunk(0, 99)}]
    assert await handed_out(consumer) == list(range(100))
    assert consumer.is_to_come(0, 1_900)  # 900 touches and 1,000 conversions
    assert not consumer.is_to_come(0, 1_901)
    consumer.hold_back(CONVERSIONS, True)
    assert consumer.is_to_come(0, 900)
    assert not consumer.is_to_come(0, 901)
    consumer._in_flight[0] = BATCHES_IN_FLIGHT
    assert not consumer.is_to_come(0, 1)


async def test_nothing_is_fetched_while_a_partition_is_being_claimed(case: Case) -> None:
    """The fetcher does not stop for a claim: what it finds meanwhile, at Kafka's position, must not be handed out."""
    case.owner.claiming.clear()
    case.owner.claimed.clear()
    case.owner.starts = {TOUCHES: 7, CONVERSIONS: 0}
    claim = asyncio.ensure_future(case.consumer.perform_seek())
    await case.owner.claiming.wait()
    case.thread.answers = [{TOUCHES: chunk(9, 12)}]
    assert await handed_out(case.consumer) == []
    assert case.thread.asked == [], "a partition was asked for whose position is not known yet"
    case.owner.claimed.set()
    await claim
    case.thread.answers = [{TOUCHES: chunk(7, 12)}]
    assert await all_handed_out(case.consumer) == [7, 8, 9, 10, 11, 12]


async def test_a_claim_that_a_revocation_overtakes_positions_nothing(case: Case) -> None:
    """Where a rebalance begins while partitions are claimed, only the assignment after it may hand them out."""
    case.owner.claiming.clear()
    case.owner.claimed.clear()
    claim = asyncio.ensure_future(case.consumer.perform_seek())
    await case.owner.claiming.wait()
    await case.consumer.on_partitions_revoked({TOUCHES, CONVERSIONS})
    case.owner.claimed.set()
    await claim
    assert case.thread.moves == []
    assert await handed_out(case.consumer) == []
    assert case.thread.asked == []


async def test_a_fetch_from_before_a_claim_is_put_back(case: Case) -> None:
    """A chunk asked for before a claim that arrives after it is dropped, and read again from where the claim begins."""
    case.thread.go_on.clear()
    case.thread.answers = [{TOUCHES: chunk(3, 8)}]
    case.thread.while_fetching.clear()
    look = asyncio.ensure_future(handed_out(case.consumer))
    await case.thread.while_fetching.wait()
    case.owner.starts = {TOUCHES: 3, CONVERSIONS: 0}
    await case.consumer.perform_seek()
    case.thread.moves.clear()
    case.thread.go_on.set()
    assert await look == []
    assert case.thread.moves == [(TOUCHES, 3)]


async def test_a_fetch_that_lands_after_a_revocation_is_put_back(case: Case) -> None:
    """While the flow is stopped nothing is taken, and the position goes back to the first record not accepted."""
    case.thread.answers = [{TOUCHES: chunk(0, 4)}]
    assert await handed_out(case.consumer) == [0, 1, 2, 3, 4]
    case.thread.go_on.clear()
    case.thread.answers = [{TOUCHES: chunk(5, 8)}]
    case.thread.while_fetching.clear()
    look = asyncio.ensure_future(handed_out(case.consumer))
    await case.thread.while_fetching.wait()
    case.consumer.stop_flow()
    case.thread.go_on.set()
    assert await look == []
    assert case.thread.moves == [(TOUCHES, 5)]


@pytest.mark.parametrize("found", [chunk(3, 8), chunk(7, 8)], ids=["repeat", "gap"])
async def test_a_chunk_that_does_not_follow_is_fetched_again(case: Case, found: Chunk) -> None:
    """Neither a repeat nor a gap is handed out; a log that goes on so ends the worker."""
    case.thread.answers = [{TOUCHES: chunk(0, 4)}, {TOUCHES: found}, {TOUCHES: chunk(5, 8)}]
    assert await all_handed_out(case.consumer) == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert case.thread.moves == [(TOUCHES, 5)]
    case.thread.answers = [{TOUCHES: found}] * (BROKEN_MAX + 1)
    with pytest.raises(BrokenSequence, match=f"from 9, got it from {found.start}"):
        await all_handed_out(case.consumer, BROKEN_MAX + 1)


async def test_a_revoked_partition_is_not_asked_for(case: Case) -> None:
    """From its revocation to its next claim no chunk of a partition number is fetched."""
    await case.consumer.on_partitions_revoked({TOUCHES, CONVERSIONS})
    case.thread.answers = [{TOUCHES: chunk(0, 4)}]
    assert await handed_out(case.consumer) == []
    assert case.thread.asked == []


async def test_records_between_threads_are_not_read_yet(case: Case) -> None:
    """The fetch position is past a chunk before the chunk is handed out: until then nobody has read it."""
    case.thread.answers = [{TOUCHES: chunk(0, 4)}]
    case.thread.state.position = case.thread.state.lso = 5
    await handed_out(case.consumer)
    assert case.consumer.has_read(TOUCHES, 5, 5)
    case.thread.go_on.clear()
    case.thread.while_fetching.clear()
    case.thread.answers = [{TOUCHES: chunk(5, 7)}]
    look = asyncio.ensure_future(handed_out(case.consumer))
    await case.thread.while_fetching.wait()
    case.thread.state.position = case.thread.state.lso = 9  # a marker follows the chunk
    assert not case.consumer.has_read(TOUCHES, 5, 9)
    case.thread.go_on.set()
    assert await look == [5, 6, 7]
    assert not case.consumer.has_read(TOUCHES, 5, 9), "handed out, and not processed"
    assert case.consumer.has_read(TOUCHES, 8, 9)


async def test_the_position_before_a_claim_says_nothing_after_it(case: Case) -> None:
    """While a claim goes back, the position is still at the end: that must not count as having read up to there."""
    case.thread.answers = [{TOUCHES: chunk(0, 4)}]
    case.thread.state.position = case.thread.state.lso = 5
    await handed_out(case.consumer)
    case.thread.moving.clear()
    claim = asyncio.ensure_future(case.consumer.perform_seek())
    await case.thread.while_moving.wait()
    await handed_out(case.consumer)
    case.thread.moving.set()
    await claim
    assert not case.consumer.has_read(TOUCHES, 0, 5)


# -- chunks as aiokafka fetches them


class Fetched:
    """Stands for aiokafka's `PartitionRecords`: some records, then the position after them."""

    def __init__(self, start: int, offsets: Iterable[int], end: int) -> None:
        self.next_fetch_offset = start
        self._records_iterator = self._unpack(list(offsets), end)
        self._records = self._value_deserializer = None

    def _unpack(self, offsets: list[int], end: int) -> Iterable[Record]:
        for offset in offsets:
            self.next_fetch_offset = offset + 1
            yield [Record(offset)]
        self.next_fetch_offset = end


class Assignment:
    """One topic partition that is being consumed."""

    active = True

    def __init__(self) -> None:
        self.state = TopicPartitionState(self)
        self.state.seek(0)

    def state_value(self, _tp: TP) -> TopicPartitionState:
        return self.state

    def fetch(self, *found: Any) -> Any:
        result = FetchResult(TOUCHES, assignment=self, partition_records=Fetched(*found), backoff=0)
        return fetched._get_all(result)


async def test_chunks_join_across_markers() -> None:
    """Markers of transactions take offsets, alone in a fetch or at its end: each chunk begins where the last ended."""
    assignment = Assignment()
    first = assignment.fetch(0, [0, 1], 3)
    assert assignment.fetch(3, [], 5) == assignment.fetch(5, [], 6) == []
    last = assignment.fetch(6, [7], 9)
    assert [(first.start, first.end), (last.start, last.end)] == [(0, 3), (3, 9)]
    assert assignment.state.position == 9


async def test_a_fetch_for_another_position_is_dropped() -> None:
    """After a seek nothing of an earlier fetch is handed out, and the position stays."""
    assignment = Assignment()
    assignment.state.seek(4)
    assert assignment.fetch(0, [0, 1], 2) == []
    assert assignment.state.position == 4
