"""One partition task over fakes: the order of effects, what is committed when, and what a claim does."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import pytest

from models.journey import BUCKET_MS, read_frames
from models.moving import Merge, Move, write_move
from models.outcome import Reason
from models.policy import Policy
from models.rules import Rules
from state.keys import APPLIED, OWNER, prefix
from state.memory import MemoryStore
from state.store import Fenced, Lost, Unreachable
from streams import processor
from streams.credit_task import CreditTask
from streams.decode import Decoder
from streams.origin import ORIGIN, Origin, Topic
from streams.processor import Applied, Limits, StartError
from streams.publish import Refused, Superseded, Uncertain
from streams.report import BatchReport
from streams.transport import Batch
from streams.tripwire import ACCEPTED, TRIP, TRIPPED, WINDOW, Tripped
from tests.support import fakes
from tests.support.fakes import CONVERSIONS, MOVES, START_MS, TOPICS, TOUCHES, LogRecord, virtual_time

SETTLE_MS = 250
HOUR_MS = 3_600_000


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with virtual_time() as running:
        yield running


class Left(BaseException):
    """The process ended itself."""


class Crash(BaseException):
    """The process died at a crash point."""


class Desk:
    """One task with everything around it in reach; records come with `touch` and `conversion`, a minute apart."""

    def __init__(
        self,
        kafka: fakes.Kafka | None = None,
        store: fakes.Store | None = None,
        *,
        origin: Origin | None = None,
        republish: bool = False,
        attribution: dict[str, Any] | None = None,
        **limits: Any,
    ) -> None:
        self.kafka = kafka or fakes.Kafka()
        self.store = store or fakes.Store(MemoryStore(), self.kafka.ledger)
        self.publisher = fakes.Publisher(self.kafka, self._at)
        self.consumer = fakes.Consumer(self.kafka)
        self.reports: list[BatchReport] = []
        self.crash_at = ""
        self.now_ms = max([START_MS, *(log.records[-1].timestamp for log in self.kafka.logs.values() if log.records)])
        self._attribution = attribution or {}
        policy = Policy.from_effective({"attribution": {"models": ["linear"], **self._attribution}})
        self.task: Any = CreditTask(
            0,
            TOPICS,
            self.store,
            self.publisher,  # type: ignore[arg-type]
            Decoder(TOPICS.touches, TOPICS.conversions, TOPICS.moves, by_account=False),
            Rules(policy, SETTLE_MS),
            Limits(**{"settle_ms": SETTLE_MS, "held_max": 3, **limits}),
            self._at,
            self.reports.append,
            origin,
            republish,
        )

    def again(self, **options: Any) -> "Desk":
        """Another worker over the same Kafka and store."""
        return Desk(self.kafka, self.store, attribution=self._attribution, **options)

    async def claim(self) -> None:
        self.consumer.seek(await self.task.claim(self.consumer))

    def touch(self, event_id: str, occurred_ms: int | None = None, **fields: Any) -> LogRecord:
        return self._append(TOUCHES, {"event_id": event_id, "channel": "Email", **fields}, occurred_ms)

    def conversion(self, conversion_id: str, occurred_ms: int | None = None, **fields: Any) -> LogRecord:
        return self._append(CONVERSIONS, {"conversion_id": conversion_id, "value": "1", **fields}, occurred_ms)

    def move(self, move: Merge | Move) -> LogRecord:
        self.now_ms += 60_000
        return self.kafka.logs[MOVES].append(*write_move(move), self.now_ms)

    def bad(self, tp: Any) -> LogRecord:
        self.now_ms += 60_000
        return self.kafka.logs[tp].append(b"ada", b"{", self.now_ms, [("h", b"1")])

    def _append(self, tp: Any, fields: dict[str, Any], occurred_ms: int | None) -> LogRecord:
        self.now_ms += 60_000
        record = {"person_id": "ada", "occurred_at": occurred_ms or self.now_ms, **fields}
        return self.kafka.logs[tp].append(record["person_id"].encode(), json.dumps(record).encode(), self.now_ms)

    async def step(
        self,
        touches: Sequence[LogRecord] = (),
        conversions: Sequence[LogRecord] = (),
        moves: Sequence[LogRecord] = (),
    ) -> None:
        """One step over these records, which the transport has read."""
        parts = (list(touches), list(conversions), list(moves))
        for tp, records in zip((TOUCHES, CONVERSIONS, MOVES), parts, strict=True):
            if records:
                end = records[-1].offset + 1
                self.consumer._next[tp] = self.consumer._position[tp] = self.consumer._reached[tp] = end
        for tp, log in self.kafka.logs.items():
            if not list(log.since(self.consumer._next[tp])):
                self.consumer._position[tp] = self.consumer._reached[tp] = log.end
        await self.task.step([Batch(0, parts, self.consumer.incarnation(0))])

    async def settle(self) -> None:
        """Wait until conversions are due, and let them go."""
        await asyncio.sleep(SETTLE_MS / 1000)
        await self.step()

    def _at(self, point: str) -> None:
        if point == self.crash_at:
            raise Crash(point)

    @property
    def applied(self) -> tuple[int, ...]:
        return Applied.parse(self.store.memory.data[prefix("memory", 0) + APPLIED]).offsets

    @property
    def committed(self) -> tuple[int | None, ...]:
        return tuple(self.kafka.committed.get(tp.topic) for tp in (TOUCHES, CONVERSIONS, MOVES))

    def effects(self) -> list[str]:
        """What took effect, in order; cleared by asking."""
        names = [str(entry[0]) for entry in self.kafka.ledger]
        self.kafka.ledger.clear()
        return names

    def stored_touches(self) -> int:
        """Frames in the store, duplicates included."""
        return sum(len(read_frames(v)) for k, v in self.store.memory.data.items() if b":t:" in k)

    def view(self) -> dict[str, dict[str, Any]]:
        """The credits as an upsert reader has them."""
        latest: dict[str, dict[str, Any]] = {}
        for credit in self.kafka.credits:
            if credit.value is None:
                latest.pop(credit.key.decode(), None)
            else:
                latest[credit.key.decode()] = json.loads(credit.value)
        return latest


async def eventually(holds: Callable[[], bool], deadline_s: float = 30.0) -> None:
    """Wait in virtual time."""
    until_s = asyncio.get_running_loop().time() + deadline_s
    while not holds():
        assert asyncio.get_running_loop().time() < until_s, "never came true"
        await asyncio.sleep(0.01)


class TestOrderOfEffects:
    """Publish, then save, then ack; and nothing after what failed."""

    def test_publish_before_save_before_ack(self, runner: asyncio.Runner) -> None:
        """Credits and offsets are published first, then the journey is saved, then the batch is acked."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            touch, conversion, younger = desk.touch("t"), desk.conversion("c"), desk.touch("u")
            desk.task.start()
            desk.consumer.fetch(TOUCHES, 9)
            desk.consumer.fetch(CONVERSIONS, 9)
            event = desk.consumer.batch(9, 9)
            assert event is not None
            assert event.message.value.parts == ([touch, younger], [conversion], [])
            assert desk.task.take(event)
            await eventually(lambda: event.message.acked)
            assert desk.effects() == ["published", "saved", "acked"]
            assert desk.view().keys() == {"c|linear|t"}
            await desk.task.stop()

        runner.run(story())

    def test_a_task_that_is_far_behind_waits_to_fill_a_step(self, runner: asyncio.Runner) -> None:
        """A step takes what comes in the meantime, and begins at once where less is to come than it has room for."""

        async def story() -> None:
            desk = Desk(step_records=4)
            await desk.claim()
            for n in range(9):
                desk.touch(f"t{n}")
            desk.task.start()
            desk.consumer.fetch(TOUCHES, 9)
            taken = []
            for to_come, waits in ((7, True), (5, False), (1, False), (0, False)):
                event = desk.consumer.batch(2, 0)
                desk.consumer.to_come = to_come
                assert desk.task.take(event)
                taken.append(event)
                if not waits:
                    await eventually(lambda event=event: event.message.acked)
            assert [report.touches_accepted for report in desk.reports] == [4, 2, 2]
            await desk.task.stop()

        runner.run(story())

    def test_a_step_is_not_waited_for_longer_than_that(self, runner: asyncio.Runner) -> None:
        """What was told of may never come: the records that are there are taken all the same."""

        async def story() -> None:
            desk = Desk(step_records=4)
            await desk.claim()
            desk.touch("t")
            desk.task.start()
            desk.consumer.fetch(TOUCHES, 9)
            desk.consumer.to_come = 1_000
            started_s = asyncio.get_running_loop().time()
            event = desk.consumer.batch(2, 0)
            assert desk.task.take(event)
            await eventually(lambda: event.message.acked)
            assert asyncio.get_running_loop().time() - started_s >= processor.FILL_S
            await desk.task.stop()

        runner.run(story())

    def test_nothing_is_saved_when_publish_is_refused(self, runner: asyncio.Runner) -> None:
        """A refused transaction leaves the journeys as they are, and the batch is decided again from the log."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            desk.publisher.faults.append("refused")
            touch, conversion, younger = desk.touch("t"), desk.conversion("c"), desk.touch("u")
            with pytest.raises(Refused):
                await desk.step([touch, younger], [conversion])
            assert (desk.effects(), desk.applied, desk.kafka.credits) == ([], (0, 0, 0), [])
            await desk.claim()
            await desk.step(*(list(desk.kafka.logs[tp].since(at)) for tp, at in desk.consumer._next.items()))
            await desk.settle()
            assert desk.view().keys() == {"c|linear|t"}

        runner.run(story())

    @pytest.mark.parametrize("point", ["decided", "sent", "published", "saved"])
    def test_a_crash_anywhere_in_a_step_leaves_each_credit_once(self, runner: asyncio.Runner, point: str) -> None:
        """The next worker publishes what was not published, and nothing twice."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            await desk.step([desk.touch("t")], [desk.conversion("c")])
            desk.crash_at = point
            with pytest.raises(Crash):
                await desk.settle()
            published = bool(desk.kafka.credits)
            assert published == (point in ("published", "saved"))
            after = desk.again()
            await after.claim()
            assert after.task.replaying == (point == "published")
            await after.step(*(list(after.kafka.logs[tp].since(at)) for tp, at in after.consumer._next.items()))
            await after.settle()
            assert [credit.key for credit in after.kafka.credits] == [b"c|linear|t"]
            assert after.applied == (1, 1, 0)
            assert not after.task.replaying

        runner.run(story())


class TestCommits:
    """Which offsets are committed, and when."""

    def test_a_batch_without_output_waits_for_the_interval(self, runner: asyncio.Runner) -> None:
        """Touches are saved at once, and committed by the first transaction after `commit_every_s`."""

        async def story() -> None:
            desk = Desk(commit_every_s=5.0)
            await desk.claim()
            await desk.step([desk.touch("t")])
            assert (desk.effects(), desk.applied, desk.committed) == (["saved"], (1, 0, 0), (None, None, None))
            await desk.step()
            assert desk.effects() == []
            await asyncio.sleep(5.0)
            await desk.step()
            assert (desk.effects(), desk.committed) == (["published"], (1, 0, 0))
            await asyncio.sleep(5.0)
            await desk.step()
            assert desk.effects() == []

        runner.run(story())

    def test_conversions_are_never_applied_ahead_of_committed(self, runner: asyncio.Runner) -> None:
        """A conversion without output (a duplicate, a correction that waits) is committed before it is saved."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            await desk.step([], [desk.conversion("c", action="restate")])
            assert "published" not in desk.effects()
            await desk.settle()
            assert desk.effects() == ["published", "saved"]
            assert desk.applied == desk.committed == (0, 1, 0)
            assert desk.kafka.credits == []

        runner.run(story())

    def test_offsets_never_pass_a_held_record(self, runner: asyncio.Runner) -> None:
        """While a conversion waits, neither applied nor committed moves over it, whatever else is published."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            waiting = desk.conversion("c")
            bad_touch = desk.kafka.logs[TOUCHES].append(None, b"{", START_MS)
            await desk.step([bad_touch], [waiting])
            assert desk.applied == desk.committed == (1, 0, 0)
            assert len(desk.kafka.dead) == 1
            await desk.settle()
            assert desk.applied == desk.committed == (1, 1, 0)

        runner.run(story())

    def test_dead_letters_keep_their_place_behind_held_conversions(self, runner: asyncio.Runner) -> None:
        """A bad conversion is published when those before it are, not before."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            await desk.step([], [desk.conversion("c"), desk.bad(CONVERSIONS), desk.conversion("d")])
            assert (desk.kafka.dead, desk.kafka.credits) == ([], [])
            await desk.settle()
            assert [(d.offset, d.value, list(d.headers)) for d in desk.kafka.dead] == [(1, b"{", [("h", b"1")])]
            assert desk.view().keys() == {"c|linear|", "d|linear|"}
            (report,) = [r for r in desk.reports if r.conversions_dead]
            assert (report.conversions_accepted, report.conversions_dead) == (2, 1)
            assert report.dead_by_reason == {"invalid-json": 1}

        runner.run(story())

    def test_a_stop_commits_what_is_applied(self, runner: asyncio.Runner) -> None:
        """A revocation in good order leaves nothing to replay."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            await desk.step([desk.touch("t")])
            desk.task.start()
            await desk.task.stop()
            assert desk.applied == desk.committed == (1, 0, 0)

        runner.run(story())

    def test_a_stop_after_a_failed_save_takes_no_offsets_back(self, runner: asyncio.Runner) -> None:
        """What was published stays committed, though the store is away and the task ends before it can claim again."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            desk.touch("t")
            desk.conversion("c")
            desk.task.start()
            desk.consumer.fetch(CONVERSIONS, 9)
            desk.consumer.fetch(TOUCHES, 9)

            def away(call: str) -> None:
                if call == "save" and desk.kafka.credits:
                    desk.store.faults += [Unreachable("gone")] * 50

            desk.store.before = away
            event = desk.consumer.batch(9, 9)
            assert desk.task.take(event)
            await eventually(lambda: desk.task.reclaims > 1)
            assert desk.committed == (1, 1, 0)
            await desk.task.stop()
            assert desk.committed == (1, 1, 0)
            desk.store.faults.clear()
            desk.store.before = lambda _: None
            after = desk.again()
            await after.claim()
            await after.step(*(list(after.kafka.logs[tp].since(at)) for tp, at in after.consumer._next.items()))
            assert len(after.kafka.credits) == 1

        runner.run(story())


class TestHolding:
    """Bounds on what waits."""

    def test_conversions_are_held_back_at_the_bound_and_let_on_again(self, runner: asyncio.Runner) -> None:
        """At `held_max` no more conversions are asked for; touches go on; after the release all goes on."""

        async def story() -> None:
            desk = Desk(held_max=2)
            await desk.claim()
            await desk.step([], [desk.conversion("c")])
            assert desk.consumer.held_back == set()
            await desk.step([], [desk.conversion("d")])
            assert desk.consumer.held_back == {CONVERSIONS}
            assert desk.task.held == 2
            await desk.settle()
            assert desk.consumer.held_back == set()
            assert desk.task.held == 0

        runner.run(story())

    def test_a_conversion_waits_for_touches_that_were_there_before_it(self, runner: asyncio.Runner) -> None:
        """Though `settle` is long over, it is not credited before the touches in the log have been processed."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            touch, conversion = desk.touch("t"), desk.conversion("c")
            desk.kafka.logs[TOUCHES].gap(2)
            await desk.step([], [conversion])
            await asyncio.sleep(60.0)
            await desk.step()
            assert desk.kafka.credits == []
            await desk.step([touch])
            assert desk.view().keys() == {"c|linear|t"}

        runner.run(story())


class TestClaim:
    """What an assignment does, in its order."""

    def test_the_producer_is_fenced_before_the_store(self, runner: asyncio.Runner) -> None:
        """A worker that dies after the first of both has fenced the old owner in Kafka only."""

        async def story() -> None:
            old = Desk()
            await old.claim()
            token = old.store.memory.data[prefix("memory", 0) + OWNER]
            new = old.again()
            new.crash_at = "claim_producer"
            with pytest.raises(Crash):
                await new.claim()
            assert old.store.memory.data[prefix("memory", 0) + OWNER] == token
            assert old.kafka.epoch == 2
            await old.step([old.touch("t")], [old.conversion("c")])
            with pytest.raises(Superseded):
                await old.settle()
            assert old.kafka.credits == []

        runner.run(story())

    def test_an_old_owner_is_stopped_by_the_store(self, runner: asyncio.Runner) -> None:
        """A zombie that only reads and saves finds another's token and decides nothing."""

        async def story() -> None:
            old = Desk()
            await old.claim()
            await old.again().claim()
            with pytest.raises(Fenced):
                await old.step([old.touch("t")])
            assert old.applied == (0, 0, 0)

        runner.run(story())

    def test_an_emptied_store_is_replayed_up_to_committed_and_no_further(self, runner: asyncio.Runner) -> None:
        """Nothing at or beyond either committed offset is decided before both are reached; then all of it is."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            await desk.step([desk.touch("t")], [desk.conversion("c")])
            await desk.settle()
            assert desk.committed == (1, 1, 0)
            revision = desk.view()["c|linear|t"]["revision"]
            desk.store.memory.data.clear()
            desk.effects()

            after = desk.again()
            touches = [*desk.kafka.logs[TOUCHES].records, after.touch("late", START_MS), after.bad(TOUCHES)]
            conversions = [*desk.kafka.logs[CONVERSIONS].records, after.conversion("d")]
            await after.claim()
            assert after.task.replaying
            await after.step(touches, [])
            assert (after.task.replaying, after.applied) == (True, (1, 0, 0))
            await after.step([], conversions)
            assert (after.task.replaying, after.applied) == (False, (1, 1, 0))
            assert len(after.kafka.credits) == 1
            assert "published" not in after.effects()
            assert sum(r.replayed for r in after.reports) == 2
            await after.settle()
            await after.settle()
            assert after.applied == (3, 2, 0)
            assert [d.offset for d in after.kafka.dead] == [2]
            assert after.view().keys() == {"c|linear|t", "c|linear|late", "d|linear|t", "d|linear|late"}
            assert after.view()["c|linear|t"]["revision"] > revision

        runner.run(story())

    def test_too_much_beyond_committed_is_held_back(self, runner: asyncio.Runner) -> None:
        """What a replay sets aside is bounded: the topic that is ahead waits for the other."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            await desk.step([desk.touch("t")], [desk.conversion("c")])
            await desk.settle()
            desk.store.memory.data.clear()
            after = Desk(desk.kafka, desk.store, step_records=2)
            await after.claim()
            ahead = [after.touch(f"u{i}") for i in range(5)]
            await after.step([*desk.kafka.logs[TOUCHES].records[:1], *ahead])
            assert after.consumer.held_back == {TOUCHES}
            await after.step([], desk.kafka.logs[CONVERSIONS].records)
            assert after.consumer.held_back == set()

        runner.run(story())

    def test_a_replay_ends_behind_markers(self, runner: asyncio.Runner) -> None:
        """Committed offsets may lie beyond the last record, where markers took offsets."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            await desk.step([desk.touch("t")], [desk.conversion("c")])
            await desk.settle()
            for tp in (TOUCHES, CONVERSIONS):
                desk.kafka.logs[tp].gap(2)
                desk.kafka.committed[tp.topic] += 2
            desk.store.memory.data.clear()
            after = desk.again()
            await after.claim()
            await after.step(desk.kafka.logs[TOUCHES].records, desk.kafka.logs[CONVERSIONS].records)
            await after.step()
            assert not after.task.replaying

        runner.run(story())

    def test_lost_offsets_are_committed_from_the_store(self, runner: asyncio.Runner) -> None:
        """Group offsets expire after idle days; then applied is what was published."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            await desk.step([desk.touch("t")], [desk.conversion("c")])
            await desk.settle()
            desk.kafka.committed.clear()
            after = desk.again()
            await after.claim()
            assert (after.committed, after.task.replaying) == ((1, 1, 0), False)

        runner.run(story())

    def test_a_store_ahead_of_kafka_does_not_start(self, runner: asyncio.Runner) -> None:
        """Conversions applied beyond committed mean that topics and store do not belong together."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            await desk.step([], [desk.conversion("c")])
            await desk.settle()
            desk.kafka.committed[CONVERSIONS.topic] = 0
            with pytest.raises(StartError):
                await desk.again().claim()

        runner.run(story())

    def test_a_store_older_than_the_log_starts_over(self, runner: asyncio.Runner) -> None:
        """Where the topics do not reach back to applied, the keys are dropped and built from the log's start."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            old = dict(desk.store.memory.data)
            await desk.step([desk.touch("t"), desk.touch("u")], [desk.conversion("c")])
            await desk.settle()
            desk.store.memory.data = old
            desk.kafka.logs[TOUCHES].start = 1
            after = desk.again()
            await after.claim()
            assert (after.applied, after.task.replaying) == ((1, 0, 0), True)
            await after.step(desk.kafka.logs[TOUCHES].records[1:], desk.kafka.logs[CONVERSIONS].records)
            assert (after.applied, after.task.replaying, len(after.kafka.credits)) == ((2, 1, 0), False, 2)
            await after.step([], [after.conversion("c", action="retract")])
            await after.settle()
            assert len(after.kafka.credits) == 2, "its first touch is gone, so it stays as it was published"
            assert [letter.reason for letter in after.kafka.dead] == [Reason.CORRECTION_TOO_LATE]

        runner.run(story())

    def test_records_deleted_unread_are_told_and_left_behind(
        self, runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Where retention took records that nobody had read, the work goes on where the log begins, and says so."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            await desk.step([desk.touch("t")], [desk.conversion("c")])
            await desk.settle()
            for name in "uvw":
                desk.touch(name)
            desk.kafka.logs[TOUCHES].start = 3
            after = desk.again()
            await after.claim()
            assert (after.applied, after.task.replaying) == ((3, 1, 0), False)

        runner.run(story())
        assert f"{TOUCHES.topic}/{TOUCHES.partition}: offsets 1 to 2 were deleted before they were read" in caplog.text

    def test_touches_stored_before_a_claim_count_though_younger_than_all_read_since(
        self, runner: asyncio.Runner
    ) -> None:
        """The first conversion after a claim finds late touches of the next bucket of record time too."""

        async def story() -> None:
            desk = Desk()
            desk.now_ms = BUCKET_MS * 700 - 60_000
            await desk.claim()
            conversion = desk.conversion("c", desk.now_ms)
            desk.now_ms += 5 * HOUR_MS
            await desk.step([desk.touch("t", conversion.timestamp - 60_000 - HOUR_MS)])
            after = desk.again()
            await after.claim()
            await after.step([], [conversion])
            await after.settle()
            assert after.view().keys() == {"c|linear|t"}

        runner.run(story())


class TestBelonging:
    """A store and a log that do not belong together are refused, and nothing is changed but the owner."""

    HERE = Origin("here", {"touches": Topic("t", 1), "conversions": Topic("c", 1)})

    async def made(self, origin: Origin | None) -> Desk:
        desk = Desk(origin=origin)
        await desk.claim()
        await desk.step([desk.touch("t")], [desk.conversion("c")])
        await desk.settle()
        return desk

    @pytest.mark.parametrize(
        ("now", "told"),
        [
            (Origin("there", HERE.topics), "the cluster is there, not here"),
            (Origin("here", {**HERE.topics, "touches": Topic("u", 1)}), "touches was deleted and made again"),
            (Origin("here", {**HERE.topics, "conversions": Topic("c", 8)}), "8 partitions, not 1"),
        ],
    )
    def test_another_log_is_refused(self, runner: asyncio.Runner, now: Origin, told: str) -> None:
        """Another cluster, a topic of the same name, another partition count: the worker says which, and stops."""

        async def story() -> None:
            desk = await self.made(self.HERE)
            before = dict(desk.store.memory.data)
            desk.effects()
            with pytest.raises(StartError, match=told):
                await desk.again(origin=now).claim()
            owner = prefix("memory", 0) + OWNER
            after = {**desk.store.memory.data, owner: before[owner]}
            assert (after, desk.effects()) == (before, [])

        runner.run(story())

    def test_the_log_it_was_made_from_is_taken(self, runner: asyncio.Runner) -> None:
        """The same log again, and one whose brokers do not tell ids, are no reason to stop."""

        async def story() -> None:
            desk = await self.made(self.HERE)
            await desk.again(origin=self.HERE).claim()
            await desk.again(origin=Origin("here", {"touches": Topic("", 1), "conversions": Topic("", 1)})).claim()

        runner.run(story())

    def test_a_store_of_before_is_taken_and_marked(self, runner: asyncio.Runner) -> None:
        """Where nothing was remembered yet it is from now on; an emptied store remembers again."""

        async def story() -> None:
            desk = await self.made(None)
            mark = prefix("memory", 0) + ORIGIN
            assert mark not in desk.store.memory.data
            await desk.again(origin=self.HERE).claim()
            assert Origin.parse(desk.store.memory.data[mark]) == self.HERE
            desk.store.memory.data.clear()
            await desk.again(origin=self.HERE).claim()
            assert Origin.parse(desk.store.memory.data[mark]) == self.HERE

        runner.run(story())

    @pytest.mark.parametrize("emptied", [False, True])
    def test_a_log_shorter_than_what_was_processed_is_refused(self, runner: asyncio.Runner, emptied: bool) -> None:
        """The store, or the group's offsets alone, are beyond the end of the log: the records are gone."""

        async def story() -> None:
            desk = await self.made(None)
            desk.kafka.logs[TOUCHES].end = 0
            if emptied:
                desk.store.memory.data.clear()
            with pytest.raises(StartError, match="touches ends at 0, but 1 was processed"):
                await desk.again().claim()

        runner.run(story())

    def test_an_end_that_is_told_too_low_for_a_moment_is_waited_for(self, runner: asyncio.Runner) -> None:
        """Right after a fail-over a broker may not know the end yet."""

        async def story() -> None:
            desk = await self.made(None)
            desk.kafka.logs[TOUCHES].end = 0
            claiming = asyncio.ensure_future(desk.again().claim())
            await asyncio.sleep(2.5)
            desk.kafka.logs[TOUCHES].end = 1
            await claiming

        runner.run(story())

    def test_credits_without_store_and_offsets_are_not_published_again(self, runner: asyncio.Runner) -> None:
        """Both gone would mean every credit again, so a person has to ask for it; then it is done."""

        async def story() -> None:
            desk = await self.made(None)
            desk.store.memory.data.clear()
            desk.kafka.committed.clear()
            with pytest.raises(StartError, match="publish every credit again") as refused:
                await desk.again().claim()
            assert "--republish" in refused.value.fix
            assert desk.store.memory.data.keys() == {prefix("memory", 0) + OWNER}
            after = desk.again(republish=True)
            await after.claim()
            assert (after.applied, after.task.replaying) == ((0, 0, 0), False)

        runner.run(story())


class TestTripWire:
    """A partition of mostly dead letters stops before it publishes more, until a person accepts it."""

    KEY = prefix("memory", 0) + TRIP

    async def flood(self, **limits: Any) -> Desk:
        """A worker at work, whose next batch is mostly dead."""
        desk = Desk(**limits)
        await desk.claim()
        await desk.step([desk.touch("t")], [desk.conversion("c")])
        await desk.settle()
        desk.effects()
        for _ in range(WINDOW // 2 + 1):
            desk.bad(TOUCHES)
        return desk

    def accept(self, desk: Desk) -> None:
        data = desk.store.memory.data
        data[self.KEY] = ACCEPTED + data[self.KEY].removeprefix(TRIPPED)

    async def read_all(self, desk: Desk) -> None:
        """Hand out everything once it may be fetched again."""
        await eventually(lambda: not desk.task.tripped)
        await asyncio.sleep(1.0)  # the position is put back after the claim
        desk.consumer.fetch(TOUCHES, 10_000)
        assert desk.task.take(desk.consumer.batch(10_000, 0))

    def unread(self, desk: Desk) -> list[LogRecord]:
        return list(desk.kafka.logs[TOUCHES].since(desk.applied[0]))

    def test_nothing_of_the_step_is_published(self, runner: asyncio.Runner) -> None:
        """The step is withheld as a whole, good records among it included, and the store says why."""

        async def story() -> None:
            desk = await self.flood()
            with pytest.raises(Tripped):
                await desk.step(self.unread(desk), [desk.conversion("d")])
            assert (desk.effects(), desk.kafka.dead, desk.applied) == (["saved"], [], (1, 1, 0))
            assert desk.store.memory.data[self.KEY].startswith(TRIPPED + b"more than half of 1000 records")

        runner.run(story())

    def test_it_stands_still_until_accepted_and_then_publishes_all(self, runner: asyncio.Runner) -> None:
        """Over a new claim too; once accepted, every record of the flood ends in the dead letters, once."""

        async def story() -> None:
            first = await self.flood()
            with pytest.raises(Tripped):
                await first.step(self.unread(first))
            desk = first.again()
            await desk.claim()
            desk.task.start()
            await asyncio.sleep(600)
            assert "dead letters" in desk.task.tripped
            assert (desk.kafka.dead, desk.consumer.held_back) == ([], set(desk.kafka.logs))
            assert not desk.task.waits()
            self.accept(desk)
            await self.read_all(desk)
            await eventually(lambda: desk.applied == desk.kafka.end())
            assert len({letter.offset for letter in desk.kafka.dead}) == len(desk.kafka.dead) == WINDOW // 2 + 1
            await desk.task.stop()

        runner.run(story())

    def test_a_running_worker_drops_what_is_under_way_and_begins_anew(self, runner: asyncio.Runner) -> None:
        """The batch is acked, so that a rebalance need not wait, and read again from where nothing was published."""

        async def story() -> None:
            desk = await self.flood()
            desk.task.start()
            desk.consumer.fetch(TOUCHES, 10_000)
            assert desk.task.take(desk.consumer.batch(10_000, 0))
            await eventually(lambda: bool(desk.task.tripped))
            assert all(message.acked for message in desk.consumer.handed)
            self.accept(desk)
            await self.read_all(desk)
            await eventually(lambda: desk.applied == desk.kafka.end())
            assert desk.task.reclaims == 0
            await desk.task.stop()

        runner.run(story())

    def test_it_is_tight_again_when_good_records_have_come(self, runner: asyncio.Runner) -> None:
        """The acceptance is for one flood: it goes from the store with the step in which the flood is over."""

        async def story() -> None:
            first = await self.flood()
            with pytest.raises(Tripped):
                await first.step(self.unread(first))
            self.accept(first)
            desk = first.again()
            await desk.claim()
            await desk.step(self.unread(desk))
            assert desk.store.memory.data[self.KEY].startswith(ACCEPTED)
            await desk.step([desk.touch(f"good {n}") for n in range(WINDOW)])
            assert self.KEY not in desk.store.memory.data
            for _ in range(WINDOW // 2 + 1):
                desk.bad(TOUCHES)
            with pytest.raises(Tripped):
                await desk.step(self.unread(desk))

        runner.run(story())

    def test_a_replay_of_a_flood_does_not_trip(self, runner: asyncio.Runner) -> None:
        """What was published is taken in again whatever it is; the store was emptied, not the topic filled."""

        async def story() -> None:
            desk = await self.flood(trip_wire=False)
            await desk.step(self.unread(desk))
            desk.store.memory.data.clear()
            after = desk.again()
            await after.claim()
            assert after.task.replaying
            await after.step(list(desk.kafka.logs[TOUCHES].records), list(desk.kafka.logs[CONVERSIONS].records))
            assert after.applied == desk.kafka.end()

        runner.run(story())

    def test_without_the_wire_everything_goes_on(self, runner: asyncio.Runner) -> None:
        """`trip_wire = false`, as in a replay of files: a flood becomes dead letters, and nothing stops."""

        async def story() -> None:
            desk = await self.flood(trip_wire=False)
            await desk.step(self.unread(desk))
            assert len(desk.kafka.dead) == WINDOW // 2 + 1

        runner.run(story())


class TestWaiting:
    """What the watchdog asks: is there something to do?"""

    def test_it_waits_only_where_something_is_to_do(self, runner: asyncio.Runner) -> None:
        """Idle with nothing unread: no. Unread records: yes. A step that hangs: yes, and nothing moves."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            assert not desk.task.waits()
            desk.task.start()
            await asyncio.sleep(2.0)
            assert not desk.task.waits()
            desk.touch("t")
            assert desk.task.waits()
            before = desk.task.progress
            hung, never = asyncio.Event(), asyncio.Event()

            async def hang(*_: Any) -> None:
                hung.set()
                await never.wait()

            with mock.patch.object(desk.store, "save", hang):
                desk.consumer.fetch(TOUCHES, 1)
                assert desk.task.take(desk.consumer.batch(1, 0))
                await hung.wait()
                taken = desk.task.progress
                assert taken != before
                await asyncio.sleep(600)
                assert desk.task.waits()
                assert desk.task.progress == taken
                desk.task._task.cancel()

        runner.run(story())


class TestClaimAgain:
    """What a running task does when the store or the broker fail."""

    @pytest.mark.parametrize("fault", [Lost("gone"), Unreachable("no answer"), ("after", Unreachable("no reply"))])
    def test_it_drops_the_batch_claims_again_and_goes_on(self, runner: asyncio.Runner, fault: Any) -> None:
        """The batch is acked and read again from the new start, and each credit is published once."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            desk.touch("t")
            desk.conversion("c")
            desk.store.faults.append(fault)
            pump = asyncio.ensure_future(self._hand_out(desk))
            desk.task.start()
            await eventually(lambda: desk.applied == (1, 1, 0))
            assert desk.task.reclaims == 1
            assert [credit.key for credit in desk.kafka.credits] == [b"c|linear|t"]
            pump.cancel()
            await desk.task.stop()
            assert all(message.acked for message in desk.consumer.handed)

        runner.run(story())

    def test_what_is_handed_out_while_claiming_is_acked(self, runner: asyncio.Runner) -> None:
        """The transport does not stop meanwhile; an unacked batch would hold up the next rebalance."""

        async def story() -> None:
            desk = Desk(step_records=1)
            await desk.claim()
            for number in range(40):
                desk.touch(f"t{number}")
            desk.store.faults += [Unreachable("no answer")] * 4
            pump = asyncio.ensure_future(self._hand_out(desk, count=1))
            desk.task.start()
            await eventually(lambda: desk.applied[0] == 40)
            assert desk.task.reclaims >= 2
            pump.cancel()
            await desk.task.stop()
            assert all(message.acked for message in desk.consumer.handed)

        runner.run(story())

    @pytest.mark.parametrize("fails", [True, False])
    def test_what_waits_is_acked_too(self, runner: asyncio.Runner, fails: bool) -> None:
        """Batches behind the one that failed, or that a stop overtook, are acked without being looked at."""

        async def story() -> None:
            desk = Desk(step_records=1)
            await desk.claim()
            for number in range(4):
                desk.touch(f"t{number}")
            desk.consumer.fetch(TOUCHES, 9)
            desk.task.start()
            if fails:
                desk.store.faults.append(Unreachable("no answer"))
            for _ in range(4):
                assert desk.task.take(desk.consumer.batch(1, 0))
            if fails:
                await eventually(lambda: desk.task.reclaims == 1)
            await desk.task.stop()
            assert [message.acked for message in desk.consumer.handed] == [True] * 4

        runner.run(story())

    def test_batches_of_an_earlier_claim_are_ignored(self, runner: asyncio.Runner) -> None:
        """A batch with an old incarnation is acked and not looked at."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            desk.touch("t")
            desk.consumer.fetch(TOUCHES, 9)
            event = desk.consumer.batch(9, 9)
            assert event is not None
            desk.consumer.invalidate(0)
            desk.task.start()
            assert desk.task.take(event)
            await eventually(lambda: event.message.acked)
            await desk.task.stop()
            assert desk.applied == (0, 0, 0)

        runner.run(story())

    @pytest.mark.parametrize("error", [Fenced("another's"), Superseded("fenced"), Uncertain("no answer")])
    def test_it_leaves_where_another_may_own_the_partition(self, runner: asyncio.Runner, error: Exception) -> None:
        """Fenced, superseded or unsure whether a commit went through: the process ends, at once."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            with mock.patch.object(processor, "leave", mock.Mock(side_effect=Left)) as leave:
                with mock.patch.object(desk.task, "step", mock.AsyncMock(side_effect=error)):
                    desk.task.start()
                    with pytest.raises(Left):
                        await desk.task._task
                assert leave.call_count == 1
            assert desk.task.reclaims == 0

        runner.run(story())

    def test_it_leaves_after_the_deadline(self, runner: asyncio.Runner) -> None:
        """A store that stays away for `retry_s` ends the process, so that another one takes over."""

        async def story() -> None:
            desk = Desk(retry_s=3.0)
            await desk.claim()
            started_s = asyncio.get_running_loop().time()
            desk.store.faults += [Unreachable("no answer")] * 1_000
            desk.touch("t")
            desk.consumer.fetch(TOUCHES, 9)
            with mock.patch.object(processor, "leave", mock.Mock(side_effect=Left)):
                desk.task.start()
                assert desk.task.take(desk.consumer.batch(9, 9))
                with pytest.raises(Left):
                    await desk.task._task
            assert 3.0 <= asyncio.get_running_loop().time() - started_s <= 6.0

        runner.run(story())

    async def _hand_out(self, desk: Desk, count: int = 9) -> None:
        while True:
            for tp in (TOUCHES, CONVERSIONS):
                desk.consumer.fetch(tp, count)
            event = desk.consumer.batch(count, count)
            if event is not None and not desk.task.take(event):
                desk.consumer.ack(event.message)
            await asyncio.sleep(0.01)


class TestRestatement:
    """Late facts reach the journeys that they change."""

    def test_a_late_touch_restates(self, runner: asyncio.Runner) -> None:
        """A touch older than the journey's last conversion is decided at once, with a higher revision."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            await desk.step([desk.touch("t")], [desk.conversion("c")])
            await desk.settle()
            first = desk.view()["c|linear|t"]
            await desk.step([desk.touch("late", START_MS)])
            second = desk.view()
            assert second.keys() == {"c|linear|t", "c|linear|late"}
            assert second["c|linear|t"]["revision"] > first["revision"]
            assert desk.applied == desk.committed == (2, 1, 0)

        runner.run(story())

    def test_a_late_touch_restates_after_a_claim_too(self, runner: asyncio.Runner) -> None:
        """What converted lately is forgotten with the process; the latest conversion is not."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            await desk.step([desk.touch("t")], [desk.conversion("c")])
            await desk.settle()
            after = desk.again()
            await after.claim()
            await after.step([after.touch("late", START_MS)])
            assert after.view().keys() == {"c|linear|t", "c|linear|late"}

        runner.run(story())

    def test_stored_duplicates_are_removed_when_the_journey_is_read(self, runner: asyncio.Runner) -> None:
        """A duplicate costs nothing when it comes; it is counted and dropped at the next read, once."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            await desk.step([desk.touch("t", START_MS), desk.touch("t", START_MS + 1), desk.touch("u", START_MS + 2)])
            assert desk.stored_touches() == 3
            await desk.step([], [desk.conversion("c")])
            await desk.settle()
            await desk.step([], [desk.conversion("d")])
            await desk.settle()
            assert sum(r.touches_duplicate for r in desk.reports) == 1
            assert desk.stored_touches() == 2
            assert {row["touched_at"] for row in desk.view().values()} == {START_MS, START_MS + 2}

        runner.run(story())

    def test_a_journey_that_grew_is_read_and_compacted(self, runner: asyncio.Runner) -> None:
        """Where appends alone make a journey long, the next step looks at it, and its duplicates go."""

        async def story() -> None:
            kafka = fakes.Kafka()
            desk = Desk(kafka, fakes.Store(MemoryStore(grown_bytes=500), kafka.ledger))
            await desk.claim()
            await desk.step([desk.touch("t", START_MS) for _ in range(50)])
            await desk.step([desk.touch("u", START_MS)])
            assert sum(r.touches_duplicate for r in desk.reports) == 49
            assert desk.stored_touches() == 2

        runner.run(story())
