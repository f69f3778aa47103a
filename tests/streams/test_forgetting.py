"""One partition task over fakes: a person is forgotten, and stays so, whatever dies on the way."""

import asyncio
import json
from collections.abc import Iterator

import pytest

from models.durations import DAY_MS
from models.forgetting import FORGOTTEN, SECRET
from models.moving import Forget, Merge, Move, write_move
from state.keys import prefix
from streams.publish import Refused
from streams.step import Applied, StartError
from tests.streams.test_processor import Crash, Desk
from tests.support.fakes import CONVERSIONS, MOVES, TOUCHES, LogRecord, virtual_time

POINTS = ("decided", "sent", "published", "saved")


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with virtual_time() as running:
        yield running


def say(desk: Desk, move: Forget | Merge | Move) -> LogRecord:
    """A record of `moves`, a minute later."""
    desk.now_ms += 60_000
    key, value = write_move(move)
    return desk.kafka.logs[MOVES].append(key, value, desk.now_ms)


def forget(desk: Desk, person: str = "ada") -> LogRecord:
    return say(desk, Forget(person, "r1"))


async def credited(desk: Desk) -> None:
    """Ada has two touches and a conversion of 1 USD, credited."""
    await desk.claim()
    touches = [desk.touch("t"), desk.touch("u")]
    await desk.step(touches, [desk.conversion("c", account_id="acme")])
    await desk.settle()
    assert {credit["person_id"] for credit in desk.view().values()} == {"ada"}


def money(desk: Desk) -> dict[str, tuple[float, int]]:
    return {key: (credit["share"], credit["value_micros"]) for key, credit in desk.view().items()}


def persons(desk: Desk) -> set[str]:
    return {credit["person_id"] for credit in desk.view().values()}


def holds(desk: Desk, text: bytes) -> list[bytes]:
    """The keys in the store that hold the text, in their name or value; not marks and tokens, which are random."""
    drawn = (b"}:x", b"}:owner")
    kept = {key: value for key, value in desk.store.memory.data.items() if not any(each in key for each in drawn)}
    return [key for key, value in kept.items() if text in key or text in value]


def marks(desk: Desk) -> list[bytes]:
    """The keys of the marks in the store."""
    return [key for key in desk.store.memory.data if b"}:x:" in key]


class TestForgetting:
    """The money stays, the person goes."""

    def test_credits_keep_their_money_and_lose_the_person(self, runner: asyncio.Runner) -> None:
        """The same keys, shares and values at a higher revision, without person and account; the store has a mark."""

        async def story() -> None:
            desk = Desk()
            await credited(desk)
            before, revisions = money(desk), [credit["revision"] for credit in desk.view().values()]
            await desk.step(moves=[forget(desk)])
            after = desk.view()
            assert money(desk) == before
            assert persons(desk) == {FORGOTTEN}
            assert not any("account_id" in credit for credit in after.values())
            assert min(credit["revision"] for credit in after.values()) > max(revisions)
            assert not holds(desk, b"ada")
            assert len(marks(desk)) == 1
            assert desk.reports[-1].forgotten == desk.reports[-1].restated == 1

        runner.run(story())

    def test_what_comes_later_is_counted_and_dropped(self, runner: asyncio.Runner) -> None:
        """Touches, conversions, corrections and merges of the person are kept nowhere, and are no dead letters."""

        async def story() -> None:
            desk = Desk()
            await credited(desk)
            await desk.step(moves=[forget(desk)])
            credits = len(desk.kafka.credits)
            late = [desk.conversion("d"), desk.conversion("c", action="restate", value="9")]
            await desk.step([desk.touch("v")], late)
            await desk.settle()
            await desk.step(moves=[say(desk, Merge("ada", "Ada"))])
            assert sum(report.touches_forgotten for report in desk.reports) == 1
            assert sum(report.conversions_forgotten for report in desk.reports) == 2
            assert len(desk.kafka.credits) == credits
            assert not desk.kafka.dead
            assert not holds(desk, b"ada")
            assert Applied.parse(desk.store.memory.data[prefix("memory", 0) + b"applied"]).merged == 0

        runner.run(story())

    def test_others_are_untouched(self, runner: asyncio.Runner) -> None:
        """Another person's journey in the same partition goes on as before."""

        async def story() -> None:
            desk = Desk()
            await credited(desk)
            await desk.step(moves=[forget(desk, "bob")])
            assert persons(desk) == {"ada"}
            await desk.step((), [desk.conversion("d")])
            await desk.settle()
            assert {credit["conversion_id"] for credit in desk.view().values()} == {"c", "d"}

        runner.run(story())

    def test_old_touches_go_too(self, runner: asyncio.Runner) -> None:
        """Touches that nothing looks at any more, as they are too old to count, are deleted with the others."""

        async def story() -> None:
            desk = Desk()
            await desk.claim()
            await desk.step([desk.touch("old")])
            desk.now_ms += 190 * DAY_MS
            await desk.step([desk.touch("new")])
            assert len(holds(desk, b"ada")) == 2
            await desk.step(moves=[forget(desk)])
            assert not holds(desk, b"ada")

        runner.run(story())

    @pytest.mark.parametrize("days", [199, 201], ids=["still kept", "too old"])
    def test_an_old_conversion_is_published_whole_or_not_at_all(self, runner: asyncio.Runner, days: int) -> None:
        """As long as a touch may be old it is published without the person, with the touches that old; then it stays
        as it is, as its touches may be gone."""

        async def story() -> None:
            desk = Desk(attribution={"lookback": "200d", "allowed_lateness": "0s", "corrections": "1d"})
            await desk.claim()
            await desk.step([desk.touch("old")])
            desk.now_ms += 199 * DAY_MS
            await desk.step([desk.touch("new")], [desk.conversion("c")])
            await desk.settle()
            before, count = money(desk), len(desk.kafka.credits)
            assert len(before) == 2
            desk.now_ms += days * DAY_MS
            await desk.step(moves=[forget(desk)])
            assert money(desk) == before
            assert persons(desk) == ({FORGOTTEN} if days < 200 else {"ada"})
            assert len(desk.kafka.credits) == (2 * count if days < 200 else count)
            assert not holds(desk, b"ada")

        runner.run(story())

    def test_twice_is_once(self, runner: asyncio.Runner) -> None:
        """A second forget changes nothing."""

        async def story() -> None:
            desk = Desk()
            await credited(desk)
            await desk.step(moves=[forget(desk), forget(desk)])
            await desk.step()
            credits = len(desk.kafka.credits)
            await desk.step(moves=[forget(desk)])
            assert len(desk.kafka.credits) == credits
            assert sum(report.forgotten for report in desk.reports) == 1

        runner.run(story())


class TestMerged:
    """Somebody who is somebody else."""

    def test_the_forget_follows_the_journey(self, runner: asyncio.Runner) -> None:
        """The pointer of a merged person is deleted, and the person it led to is forgotten too."""

        async def story() -> None:
            desk = Desk()
            await credited(desk)
            await desk.step(moves=[say(desk, Merge("ada", "Ada"))])
            await desk.step(moves=desk.kafka.logs[MOVES].since(desk.consumer._next[MOVES]))
            assert persons(desk) == {"Ada"}
            before = money(desk)
            await desk.step(moves=[forget(desk)])
            passed_on = desk.kafka.logs[MOVES].since(desk.consumer._next[MOVES])
            assert [json.loads(record.value or b"") for record in passed_on] == [
                {"do": "forget", "person_id": "Ada", "request": "r1"}
            ]
            await desk.step(moves=passed_on)
            assert persons(desk) == {FORGOTTEN}
            assert money(desk) == before
            assert not holds(desk, b"ada")
            assert not holds(desk, b"Ada")

        runner.run(story())

    def test_a_journey_that_arrives_and_is_forgotten_at_once(self, runner: asyncio.Runner) -> None:
        """Moved facts and a forget behind them in one fetch: the shares stay, as they are taken one after the other."""

        async def story() -> None:
            desk = Desk()
            await credited(desk)
            before = money(desk)
            await desk.step(moves=[say(desk, Merge("ada", "Ada"))])
            moved = desk.kafka.logs[MOVES].since(desk.consumer._next[MOVES])
            await desk.step(moves=[*moved, forget(desk, "Ada")])
            await desk.step()
            assert persons(desk) == {FORGOTTEN}
            assert money(desk) == before

        runner.run(story())

    def test_a_journey_that_arrives_too_late(self, runner: asyncio.Runner) -> None:
        """A conversion on its way to somebody who was forgotten meanwhile keeps its value, and names no touch."""

        async def story() -> None:
            desk = Desk()
            await credited(desk)
            await desk.step(moves=[say(desk, Merge("ada", "Ada"))])
            moved = desk.kafka.logs[MOVES].since(desk.consumer._next[MOVES])
            desk.kafka.logs[MOVES].records = []
            first = forget(desk, "Ada")
            late = [desk.kafka.logs[MOVES].append(r.key, r.value, desk.now_ms) for r in moved]
            await desk.step(moves=[first])
            await desk.step(moves=late)
            assert persons(desk) == {FORGOTTEN}
            assert money(desk) == {"c|linear|": (1.0, 1_000_000)}
            await desk.step(moves=[forget(desk)])
            assert not holds(desk, b"ada")
            assert not holds(desk, b"Ada")

        runner.run(story())

    def test_what_is_sent_on_to_nobody(self, runner: asyncio.Runner) -> None:
        """Facts of a merged person that are sent on to one who was forgotten are dropped there, and counted."""

        async def story() -> None:
            desk = Desk()
            await credited(desk)
            await desk.step(moves=[say(desk, Merge("ada", "Ada"))])
            await desk.step(moves=desk.kafka.logs[MOVES].since(desk.consumer._next[MOVES]))
            await desk.step(moves=[forget(desk, "Ada")])
            credits = len(desk.kafka.credits)
            await desk.step([desk.touch("v")], [desk.conversion("d")])
            await desk.settle()
            await desk.step(moves=desk.kafka.logs[MOVES].since(desk.consumer._next[MOVES]))
            assert sum(report.conversions_forgotten for report in desk.reports) == 1
            assert len(desk.kafka.credits) == credits
            assert persons(desk) == {FORGOTTEN}

        runner.run(story())


class TestCrashes:
    """A forget is whole or not there, and never done twice."""

    @pytest.mark.parametrize("point", POINTS)
    def test_a_crash_anywhere(self, runner: asyncio.Runner, point: str) -> None:
        """Whatever point a worker dies at, the next one leaves the same credits, each published once, and a mark."""

        async def story() -> None:
            desk = Desk()
            await credited(desk)
            before, count = money(desk), len(desk.kafka.credits)
            record = forget(desk)
            desk.crash_at = point
            with pytest.raises(Crash):
                await desk.step(moves=[record])
            heir = desk.again()
            await heir.claim()
            await heir.step(moves=heir.kafka.logs[MOVES].since(heir.consumer._next[MOVES]))
            await heir.step()
            assert len(heir.kafka.credits) == 2 * count
            assert persons(heir) == {FORGOTTEN}
            assert money(heir) == before
            assert not holds(heir, b"ada")
            assert await is_forgotten(heir)

        runner.run(story())

    def test_a_crash_between_mark_and_save(self, runner: asyncio.Runner) -> None:
        """The marks are saved on their own: a worker that dies right after them is no worse off."""

        async def story() -> None:
            desk = Desk()
            await credited(desk)
            record = forget(desk)
            saves = iter([None, Crash("between")])

            def strike(name: str) -> None:
                if name == "save" and (cause := next(saves)) is not None:
                    raise cause

            desk.store.before = strike
            with pytest.raises(Crash):
                await desk.step(moves=[record])
            desk.store.before = lambda _: None
            assert holds(desk, b"ada")
            heir = desk.again()
            await heir.claim()
            credits = len(heir.kafka.credits)
            await heir.step(moves=heir.kafka.logs[MOVES].since(heir.consumer._next[MOVES]))
            assert len(heir.kafka.credits) == credits
            assert not holds(heir, b"ada")
            assert await is_forgotten(heir)

        runner.run(story())

    def test_a_refused_transaction_leaves_everything(self, runner: asyncio.Runner) -> None:
        """Where nothing was published, nothing was deleted or marked."""

        async def story() -> None:
            desk = Desk()
            await credited(desk)
            stored = dict(desk.store.memory.data)
            desk.publisher.faults.append("refused")
            with pytest.raises(Refused):
                await desk.step(moves=[forget(desk)])
            assert desk.store.memory.data == stored

        runner.run(story())

    def test_an_emptied_store(self, runner: asyncio.Runner) -> None:
        """Rebuilt from the log the person is still forgotten, and nothing is published again."""

        async def story() -> None:
            desk = Desk()
            await credited(desk)
            await desk.step(moves=[forget(desk)])
            await desk.step([desk.touch("v")], [desk.conversion("d")])
            await desk.settle()
            view, credits = desk.view(), len(desk.kafka.credits)
            desk.store.memory.data.clear()
            heir = desk.again()
            await heir.claim()
            logs = heir.kafka.logs
            await heir.step(logs[TOUCHES].since(0), logs[CONVERSIONS].since(0), logs[MOVES].since(0))
            await heir.settle()
            assert not heir.task.replaying
            assert (heir.view(), len(heir.kafka.credits)) == (view, credits)
            assert not holds(heir, b"ada")
            assert await is_forgotten(heir)

        runner.run(story())


async def is_forgotten(desk: Desk) -> bool:
    """Whether a new conversion of Ada's is dropped."""
    credits = len(desk.kafka.credits)
    await desk.step((), [desk.conversion("new")])
    await desk.settle()
    return desk.reports[-1].conversions_forgotten == 1 and len(desk.kafka.credits) == credits


class TestSecret:
    """What marks are made with."""

    def test_marks_do_not_expire_with_journeys(self, runner: asyncio.Runner) -> None:
        """A mark outlives every journey by decades."""

        async def story() -> None:
            desk = Desk()
            await credited(desk)
            await desk.step(moves=[forget(desk)])
            (mark,) = marks(desk)
            lives_ms = desk.store.memory.expires_ms[mark] - desk.store.memory._now_ms()
            assert lives_ms > 50 * 365 * DAY_MS

        runner.run(story())

    def test_without_a_secret_one_is_drawn(self, runner: asyncio.Runner) -> None:
        """Two partitions without a key in the settings have different marks of the same person."""

        async def story() -> None:
            found = set()
            for _ in range(2):
                desk = Desk()
                await credited(desk)
                await desk.step(moves=[forget(desk)])
                found.update(marks(desk))
            assert len(found) == 2

        runner.run(story())

    def test_another_secret_is_refused(self, runner: asyncio.Runner) -> None:
        """A worker with another key does not begin: it would take up again who was forgotten."""

        async def story() -> None:
            desk = Desk()
            desk.task._secret = b"one"
            await credited(desk)
            await desk.step(moves=[forget(desk)])
            for secret in (b"two", b""):
                heir = desk.again()
                heir.task._secret = secret
                with pytest.raises(StartError, match=r"another identity\.email_key"):
                    await heir.claim()
            heir = desk.again()
            heir.task._secret = b"one"
            await heir.claim()
            assert await is_forgotten(heir)

        runner.run(story())

    def test_a_secret_may_come_later(self, runner: asyncio.Runner) -> None:
        """Marks of a drawn secret hold when the settings get one."""

        async def story() -> None:
            desk = Desk()
            await credited(desk)
            await desk.step(moves=[forget(desk)])
            heir = desk.again()
            heir.task._secret = b"new"
            await heir.claim()
            assert await is_forgotten(heir)

        runner.run(story())

    def test_a_lost_secret_is_noticed(self, runner: asyncio.Runner) -> None:
        """Where the marks are there and their secret is not, nothing is decided."""

        async def story() -> None:
            desk = Desk()
            await credited(desk)
            await desk.step(moves=[forget(desk)])
            del desk.store.memory.data[prefix("memory", 0) + SECRET]
            heir = desk.again()
            with pytest.raises(StartError):
                await heir.claim()

        runner.run(story())
