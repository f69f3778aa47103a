"""Journeys that a merge gives to another person, over one partition task with fakes."""

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from models.facts import Conversion, JourneyTouch
from models.journey import JourneyConversion, PendingCorrection, forward_key
from models.moving import Merge, Move, MovedConversion
from models.outcome import Reason
from state.keys import prefix
from streams import credit_task
from streams.moves import read_pointer
from tests.streams.test_processor import SETTLE_MS, Crash, Desk
from tests.support import oracle, readers
from tests.support.fakes import CONVERSIONS, MOVES, START_MS, TOUCHES, virtual_time

DAY_MS = 86_400_000
ROUNDS_MAX = 20
LINEAR = {"models": ["linear"]}
ANN, UMA, VIC = "anonymous:ann", "uma", "anonymous:vic"


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with virtual_time() as running:
        yield running


async def rest(desk: Desk) -> Desk:
    """Step over all that is there, and over what that sends, until nothing is left."""
    for _ in range(ROUNDS_MAX):
        unread = [list(log.since(desk.consumer._next[tp])) for tp, log in desk.kafka.logs.items()]
        await desk.step(*unread)
        await asyncio.sleep(SETTLE_MS / 1000)
        if desk.applied == desk.kafka.end():
            return desk
    raise AssertionError(f"no rest: applied {desk.applied}, end {desk.kafka.end()}")


async def claimed(desk: Desk | None = None) -> Desk:
    """A worker at work, the first or one that follows another."""
    made = Desk() if desk is None else desk.again()
    await made.claim()
    return made


def wire(desk: Desk) -> list[readers.Read]:
    """The credits topic as readers get it."""
    return [readers.Read(c.home, c.offset, c.timestamp, c.key, c.value) for c in desk.kafka.credits]


def merged_view(desk: Desk, into: dict[str, str], attribution: dict[str, Any]) -> list[dict[str, Any]]:
    """What the oracle credits where each person of `into` is another from the beginning."""
    facts = []
    for tp in (TOUCHES, CONVERSIONS):
        records = []
        for r in desk.kafka.logs[tp].records:
            record = json.loads(r.value or b"")
            person = into.get(record["person_id"], record["person_id"])
            records.append({**record, "person_id": person, "_record_ms": r.timestamp, "_order": r.offset})
        facts.append(records)
    policy = {"attribution": attribution, "processing": {"settle": f"{SETTLE_MS}ms"}}
    return oracle.comparable(oracle.final_view(*facts, policy, pruned=True))


def check(desk: Desk, into: dict[str, str], attribution: dict[str, Any] = LINEAR) -> None:
    """Both kinds of reader see what the oracle credits, and nothing was published twice."""
    found = wire(desk)
    # As long as two persons are two, what both report under one id is published for each.
    assert [key for key, _ in readers.repeated(found) if not key.startswith(b"shared|")] == []
    expected = merged_view(desk, into, attribution)
    assert oracle.comparable(readers.append_only_view(found)) == expected
    assert oracle.comparable(readers.upsert_view(found)) == expected
    assert desk.kafka.dead == []


def forward_of(desk: Desk, person: str) -> str | None:
    text = desk.store.memory.data.get(prefix("memory", 0) + forward_key(person.encode()))
    return None if text is None else read_pointer(text)[1]


def test_touches_of_an_anonymous_visitor_count_for_who_it_turns_out_to_be(runner: asyncio.Runner) -> None:
    """The conversion is restated with them at a higher revision, and nothing is left of the old journey."""

    async def story() -> None:
        desk = await claimed()
        desk.touch("ad", person_id=ANN)
        desk.conversion("c", person_id=UMA)
        await rest(desk)
        (alone,) = desk.view().values()
        assert (alone["status"], alone["touch_id"]) == ("unattributed", "")
        desk.move(Merge(ANN, UMA))
        await rest(desk)
        assert desk.view().keys() == {"c|linear|ad"}
        together = desk.view()["c|linear|ad"]
        assert together["revision"] > alone["revision"]
        assert (forward_of(desk, ANN), desk.stored_touches()) == (UMA, 1)
        assert sum(r.merged for r in desk.reports) == 1
        check(desk, {ANN: UMA})

    runner.run(story())


def test_a_moved_conversion_is_published_again_under_its_new_person(runner: asyncio.Runner) -> None:
    """The same keys at a higher revision and with the new person's touches too; those that are no more are deleted."""

    async def story() -> None:
        desk = await claimed()
        desk.touch("mail", person_id=UMA)
        desk.touch("ad", person_id=ANN)
        desk.conversion("c", person_id=ANN)
        desk.conversion("bare", desk.now_ms - 600_000, person_id=ANN)
        desk.touch("old", START_MS - DAY_MS, person_id=UMA)
        await rest(desk)
        before = desk.view()
        assert before.keys() == {"c|linear|ad", "bare|linear|"}
        desk.move(Merge(ANN, UMA))
        await rest(desk)
        after = desk.view()
        assert after.keys() == {"c|linear|mail", "c|linear|ad", "c|linear|old", "bare|linear|old"}
        assert {row["person_id"] for row in after.values()} == {UMA}
        assert after["c|linear|ad"]["revision"] > before["c|linear|ad"]["revision"]
        assert [c.value for c in desk.kafka.credits if c.key == b"bare|linear|"][-1] is None
        assert sum(r.moved for r in desk.reports) == 2
        check(desk, {ANN: UMA})

    runner.run(story())


def test_a_conversion_from_another_partition_is_published_there(runner: asyncio.Runner) -> None:
    """Whatever becomes of it: its keys lie where they lay first, above the revisions that they had there."""

    async def story() -> None:
        desk = await claimed()
        desk.touch("mail", person_id=UMA)
        at_ms = desk.now_ms + 1_000
        c = JourneyConversion("c", ANN, "conversion", at_ms, at_ms, 7, 1_000_000, "USD", None, "", floor=900, homes=[3])
        desk.move(Move(UMA, ANN, 3, conversions=[MovedConversion(c, ["gone"])]))
        await rest(desk)
        assert {(r.key, r.value is None, r.home) for r in desk.kafka.credits} == {
            (b"c|linear|mail", False, 3),
            (b"c|linear|gone", True, 3),
            (b"c|linear|", True, 3),
        }
        first = desk.view()["c|linear|mail"]
        assert first["revision"] > 900
        desk.conversion("c", person_id=UMA, action="retract")
        await rest(desk)
        assert [(r.key, r.home) for r in desk.kafka.credits[3:] if r.value] == [(b"c|linear|", 3)]
        assert desk.view()["c|linear|"]["revision"] > first["revision"]

    runner.run(story())


def test_what_comes_after_the_merge_is_sent_after_it(runner: asyncio.Runner) -> None:
    """Touches, conversions and corrections of a person who is another by now count there, with their own times."""

    async def story() -> None:
        desk = await claimed()
        desk.touch("ad", person_id=ANN)
        desk.conversion("early", person_id=ANN)
        await rest(desk)
        desk.move(Merge(ANN, UMA))
        await rest(desk)
        desk.touch("late", START_MS, person_id=ANN)
        desk.touch("more", person_id=ANN)
        desk.conversion("c", person_id=ANN)
        desk.conversion("early", person_id=ANN, action="restate", value="5")
        await rest(desk)
        view = desk.view()
        assert view.keys() == {
            *(f"early|linear|{touch}" for touch in ("late", "ad")),
            *(f"c|linear|{touch}" for touch in ("late", "ad", "more")),
        }
        assert {row["person_id"] for row in view.values()} == {UMA}
        assert {row["conversion_value_micros"] for row in view.values()} == {5_000_000, 1_000_000}
        check(desk, {ANN: UMA})

    runner.run(story())


def test_stragglers_are_sent_after_it_by_a_new_owner_too(runner: asyncio.Runner) -> None:
    """The pointer is in the store: who claims the partition later still knows it."""

    async def story() -> None:
        desk = await claimed()
        desk.conversion("c", START_MS + DAY_MS // 24, person_id=UMA)
        desk.move(Merge(ANN, UMA))
        await rest(desk)
        after = await claimed(desk)
        after.touch("late", START_MS, person_id=ANN)
        await rest(after)
        assert after.view().keys() == {"c|linear|late"}
        check(after, {ANN: UMA})

    runner.run(story())


def test_a_correction_that_waits_moves_too(runner: asyncio.Runner) -> None:
    """Its create may come to either person; it is corrected as if both had been one all along."""

    async def story() -> None:
        desk = await claimed()
        desk.touch("ad", person_id=ANN)
        for number in range(2):
            desk.conversion(f"c{number}", person_id=ANN, action="restate", value="7")
        await rest(desk)
        desk.move(Merge(ANN, UMA))
        await rest(desk)
        for number, person in enumerate((ANN, UMA)):
            desk.conversion(f"c{number}", person_id=person)
        await rest(desk)
        assert {row["conversion_value_micros"] for row in desk.view().values()} == {7_000_000}
        check(desk, {ANN: UMA})

    runner.run(story())


@pytest.mark.parametrize("together", [True, False])
def test_a_merge_read_twice_is_one(runner: asyncio.Runner, together: bool) -> None:
    """The second changes nothing, whoever it names: the first one stays, in the same step and in a later one."""

    async def story() -> None:
        desk = await claimed()
        desk.touch("ad", person_id=ANN)
        desk.conversion("c", person_id=UMA)
        await rest(desk)
        desk.move(Merge(ANN, UMA))
        if not together:
            await rest(desk)
        desk.move(Merge(ANN, UMA))
        desk.move(Merge(ANN, "other"))
        await rest(desk)
        assert sum(r.merged for r in desk.reports) == 1
        assert forward_of(desk, ANN) == UMA
        check(desk, {ANN: UMA})

    runner.run(story())


def test_a_merge_of_somebody_unknown_is_remembered(runner: asyncio.Runner) -> None:
    """Nothing is published, and there is nothing to send; what comes later is sent on."""

    async def story() -> None:
        desk = await claimed()
        desk.move(Merge(ANN, UMA))
        await rest(desk)
        assert (desk.kafka.credits, len(desk.kafka.logs[MOVES].records)) == ([], 1)
        desk.touch("ad", person_id=ANN)
        desk.conversion("c", person_id=UMA)
        await rest(desk)
        assert desk.view().keys() == {"c|linear|ad"}
        check(desk, {ANN: UMA})

    runner.run(story())


SHORT = {"models": ["linear"], "allowed_lateness": "7d"}


@pytest.mark.parametrize(
    ("attribution", "is_told"),
    [
        (SHORT | {"corrections": "8d"}, False),
        (SHORT | {"corrections": "7d"}, False),
        (SHORT | {"corrections": "6d"}, True),
        (SHORT | {"corrections": "8d", "touch_reuse": "reset_after_conversion"}, True),
    ],
    ids=["longer", "as long", "shorter", "depends on others"],
)
def test_a_merge_of_nobody_is_told_where_it_ends_what_can_change(
    runner: asyncio.Runner, attribution: dict[str, Any], is_told: bool
) -> None:
    """A merge ends what can change in old conversions; where nothing can by then, nobody needs to hear of it."""

    async def story() -> None:
        desk = Desk(attribution=attribution)
        await desk.claim()
        desk.conversion("c", person_id=UMA)
        await rest(desk)
        desk.now_ms += 6 * DAY_MS + DAY_MS // 2
        desk.move(Merge(ANN, UMA))
        await rest(desk)
        assert len(desk.kafka.logs[MOVES].records) == 1 + is_told
        desk.touch("late", desk.now_ms - 8 * DAY_MS, person_id=UMA)
        await rest(desk)
        sealed = attribution["corrections"] == "6d"
        assert desk.view().keys() == ({"c|linear|"} if sealed else {"c|linear|late"})

    runner.run(story())


@pytest.mark.parametrize("into", [ANN, "anonymous:zoe"])
def test_a_merge_downwards_is_a_dead_letter(runner: asyncio.Runner, into: str) -> None:
    """Into itself or a lower id it would lead round in circles: it is told, and what follows goes on."""

    async def story() -> None:
        desk = await claimed()
        desk.touch("ad", person_id=ANN)
        desk.move(Merge(ANN, into))
        desk.conversion("c", person_id=ANN)
        await rest(desk)
        assert [(d.topic, d.reason) for d in desk.kafka.dead] == [(MOVES.topic, Reason.BAD_MERGE)]
        assert desk.view().keys() == {"c|linear|ad"}

    runner.run(story())


def write_all(desk: Desk) -> None:
    """Facts of two persons and the merge between them, in one go."""
    desk.touch("mail", person_id=UMA)
    desk.touch("ad", person_id=ANN)
    desk.conversion("a", person_id=ANN)
    desk.conversion("u", person_id=UMA)
    desk.move(Merge(ANN, UMA))
    desk.touch("later", person_id=ANN)
    desk.conversion("b", person_id=ANN)
    desk.conversion("a", person_id=ANN, action="restate", value="3")


@pytest.mark.parametrize("emptied", [False, True], ids=["store kept", "store emptied"])
@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("point", ["decided", "sent", "published", "saved"])
def test_a_crash_anywhere_changes_nothing(runner: asyncio.Runner, point: str, step: int, emptied: bool) -> None:
    """Before, between and after the steps of a merge, with and without the store: readers end with the same."""

    async def story() -> None:
        desk = await claimed()
        desk.touch("first", person_id=ANN)
        desk.conversion("old", person_id=ANN)
        await rest(desk)
        write_all(desk)
        left = step

        def strike(at: str) -> None:
            nonlocal left
            left -= at == point
            if left < 0:
                raise Crash(at)

        desk.task._crash_point = desk.publisher._crash_point = strike
        try:
            await rest(desk)
        except Crash:
            pass
        else:
            pytest.fail(f"{point} was not passed {step + 1} times")
        if emptied:
            desk.store.memory.data.clear()
        after = await rest(await claimed(desk))
        after.touch("last", START_MS, person_id=ANN)
        await rest(after)
        check(after, {ANN: UMA})
        assert forward_of(after, ANN) == UMA

    runner.run(story())


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_chain_is_followed(runner: asyncio.Runner, order: tuple[int, int]) -> None:
    """A person who is another one who is a third: both merges in one step, in either order."""

    async def story() -> None:
        desk = await claimed()
        desk.touch("v", person_id=VIC)
        desk.conversion("cv", person_id=VIC)
        desk.touch("a", person_id=ANN)
        desk.conversion("ca", person_id=ANN)
        desk.touch("u", person_id=UMA)
        desk.conversion("cu", person_id=UMA)
        await rest(desk)
        merges = (Merge(VIC, ANN), Merge(ANN, UMA))
        for number in order:
            desk.move(merges[number])
        desk.touch("w", person_id=VIC)
        desk.conversion("cw", person_id=VIC)
        await rest(desk)
        assert {row["person_id"] for row in desk.view().values()} == {UMA}
        check(desk, {VIC: UMA, ANN: UMA})
        assert desk.stored_touches() == 4

    runner.run(story())


@pytest.mark.parametrize("first", [ANN, UMA])
def test_a_conversion_that_both_reported_is_one(runner: asyncio.Runner, first: str) -> None:
    """The first record stays, whoever had it, and what was said of the other is taken back."""

    async def story() -> None:
        desk = await claimed()
        second = UMA if first == ANN else ANN
        desk.touch("ad", person_id=ANN)
        desk.touch("mail", person_id=UMA)
        desk.conversion("c", person_id=first, value="2", event_id="e1")
        desk.touch("more", person_id=second)
        desk.conversion("c", person_id=second, value="3", event_id="e2")
        await rest(desk)
        desk.move(Merge(ANN, UMA))
        await rest(desk)
        assert desk.view().keys() == {"c|linear|ad", "c|linear|mail"}
        assert {row["conversion_value_micros"] for row in desk.view().values()} == {2_000_000}
        check(desk, {ANN: UMA})

    runner.run(story())


def test_a_merge_after_corrections_changes_no_old_conversion(runner: asyncio.Runner) -> None:
    """What was published long ago stays as it was, on either side; what comes from now on counts together."""

    async def story() -> None:
        desk = await claimed()
        desk.touch("ad", person_id=ANN)
        desk.conversion("a", person_id=ANN)
        desk.conversion("u", person_id=UMA)
        await rest(desk)
        before, count = desk.view(), len(desk.kafka.credits)
        desk.now_ms += 91 * DAY_MS
        desk.move(Merge(ANN, UMA))
        await rest(desk)
        assert (desk.view(), len(desk.kafka.credits)) == (before, count)
        desk.conversion("a", person_id=ANN, action="retract")
        await rest(desk)
        assert (desk.view(), len(desk.kafka.credits)) == (before, count)
        desk.touch("new", person_id=ANN)
        desk.conversion("b", person_id=UMA)
        await rest(desk)
        assert desk.view().keys() == {*before, "b|linear|new"}

    runner.run(story())


def test_a_conversion_beyond_corrections_still_ends_the_paths_before_it(runner: asyncio.Runner) -> None:
    """Under reset_after_conversion it comes along sealed: it stays as published, and later ones begin behind it."""

    async def story() -> None:
        rules = {"corrections": "1d", "lookback": "30d", "touch_reuse": "reset_after_conversion"}
        desk = Desk(attribution=rules)
        await desk.claim()
        desk.touch("mail", person_id=UMA)
        desk.touch("ad", person_id=ANN)
        desk.conversion("a", person_id=ANN)
        await rest(desk)
        before, count = desk.view(), len(desk.kafka.credits)
        desk.now_ms += 2 * DAY_MS
        desk.move(Merge(ANN, UMA))
        desk.conversion("a", person_id=ANN, action="retract")
        await rest(desk)
        assert [d.reason for d in desk.kafka.dead] == [Reason.CORRECTION_TOO_LATE]
        assert (desk.view(), len(desk.kafka.credits)) == (before, count)
        desk.touch("new", person_id=UMA)
        desk.conversion("b", person_id=UMA)
        await rest(desk)
        assert desk.view().keys() == {*before, "b|linear|new"}

    runner.run(story())


@pytest.mark.parametrize("first", [ANN, UMA], ids=["the conversion moves", "the correction moves"])
def test_a_correction_that_a_merge_brought_too_late_is_too_late_in_a_rebuild_too(
    runner: asyncio.Runner, first: str
) -> None:
    """A rebuild takes up no correction that was refused, as its person was another one until the conversion was old."""

    async def story() -> None:
        rules = {"corrections": "2d", "lookback": "30d", "touch_reuse": "reset_after_conversion"}
        desk = Desk(attribution=rules)
        await desk.claim()
        desk.touch("ad", person_id=first)
        desk.conversion("a", person_id=first)
        desk.now_ms += DAY_MS
        desk.conversion("a", person_id=ANN if first == UMA else UMA, action="retract")
        await rest(desk)
        desk.now_ms += DAY_MS + DAY_MS // 2
        desk.move(Merge(ANN, UMA))
        await rest(desk)
        assert [d.reason for d in desk.kafka.dead] == [Reason.CORRECTION_TOO_LATE]
        before = desk.view()
        desk.store.memory.data.clear()
        heir = await claimed(desk)
        await rest(heir)
        # It would get the touch if the conversion before it had been taken back.
        heir.conversion("b", person_id=UMA)
        await rest(heir)
        assert heir.view().keys() == {*before, "b|linear|"}

    runner.run(story())


def test_a_long_journey_travels_in_parts(runner: asyncio.Runner) -> None:
    """Touches beyond what one record may hold come in several, and all of them count."""

    async def story() -> None:
        desk = await claimed()
        for number in range(1_100):
            log = desk.kafka.logs[TOUCHES]
            record = {"event_id": f"t{number}", "person_id": ANN, "occurred_at": START_MS + number, "channel": "Email"}
            log.append(ANN.encode(), json.dumps(record).encode(), START_MS + number)
        desk.conversion("c", START_MS + DAY_MS // 24, person_id=UMA)
        await rest(desk)
        desk.move(Merge(ANN, UMA))
        await rest(desk)
        sent = [json.loads(r.value or b"") for r in desk.kafka.logs[MOVES].records[1:]]
        assert [len(move["touches"]) for move in sent] == [500, 500, 100]
        (size,) = {row["path_length"] for row in desk.view().values()}
        assert size == 500
        assert desk.stored_touches() == 1_100

    runner.run(story())


def test_more_moves_than_a_step_takes_wait(runner: asyncio.Runner) -> None:
    """No offset passes those that wait, and in the end every one of them is done."""

    async def story() -> None:
        desk = await claimed()
        for number in range(1_701):
            desk.move(Merge(f"anonymous:{number}", UMA))
        await desk.step((), (), desk.kafka.logs[MOVES].records)
        assert desk.applied == desk.committed == (0, 0, 500)
        assert desk.consumer.held_back == {MOVES}
        # They brought nothing, so twice as many may come.
        await desk.step()
        assert desk.applied == desk.committed == (0, 0, 1_500)
        await desk.step()
        assert desk.applied == desk.committed == (0, 0, 1_701)
        assert desk.consumer.held_back == set()
        assert sum(r.merged for r in desk.reports) == 1_701

    runner.run(story())


def test_fewer_large_journeys_move_at_once(runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many moves a step takes follows the bytes of the journeys that left in the last one."""
    monkeypatch.setattr(credit_task, "MOVED_BYTES", 2_000)

    async def story() -> None:
        desk = await claimed()
        for number in range(600):
            desk.touch(f"t{number}", START_MS + number, person_id=f"anonymous:{number}")
        await desk.step(desk.kafka.logs[TOUCHES].records)
        for number in range(600):
            desk.move(Merge(f"anonymous:{number}", UMA))
        await desk.step((), (), desk.kafka.logs[MOVES].records)
        assert desk.applied[2] == 500
        await desk.step()
        assert 510 < desk.applied[2] < 590, "a frame has some tens to hundreds of bytes"

    runner.run(story())


def test_touches_keep_their_record_time_on_the_way(runner: asyncio.Runner) -> None:
    """One that came too late for a conversion does not count for it because its person turned out to be another."""

    async def story() -> None:
        desk = await claimed()
        desk.conversion("c", person_id=UMA)
        await rest(desk)
        desk.now_ms += 8 * DAY_MS
        desk.touch("late", START_MS, person_id=ANN)
        desk.move(Merge(ANN, UMA))
        await rest(desk)
        assert desk.view().keys() == {"c|linear|"}
        check(desk, {ANN: UMA})

    runner.run(story())


def test_records_of_moves_that_nobody_can_read_are_dead_letters(runner: asyncio.Runner) -> None:
    """They are told with their place, and the offset moves past them."""

    async def story() -> None:
        desk = await claimed()
        log = desk.kafka.logs[MOVES]
        touch = JourneyTouch(None, "t", START_MS, 0, "visit", "Email", None, None, None, None, None)
        good = desk.move(Move(UMA, ANN, 0, touches=[touch]))
        log.append(b"x", b"{", desk.now_ms)
        log.append(None, good.value, desk.now_ms)
        log.append(b"someone else", good.value, desk.now_ms)
        log.append(UMA.encode(), None, desk.now_ms)
        await rest(desk)
        assert [(d.offset, d.reason) for d in desk.kafka.dead] == [
            (1, Reason.INVALID_JSON),
            (2, Reason.NULL_KEY),
            (3, Reason.KEY_MISMATCH),
            (4, Reason.NULL_VALUE),
        ]
        assert desk.stored_touches() == 1

    runner.run(story())


# -- drawn stories

PEOPLE = (UMA, ANN, VIC)
POINTS = ("decided", "sent", "published", "saved")


class Story:
    """Facts of three persons who are one, read in portions, by workers that die, over a store that may go."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"moves {seed}")
        resets = self.rng.random() < 0.3
        self.attribution = {"models": ["linear"], **({"touch_reuse": "reset_after_conversion"} if resets else {})}
        self.desk = Desk(attribution=self.attribution)
        self.merges = self.rng.choice([[(ANN, UMA), (VIC, UMA)], [(VIC, ANN), (ANN, UMA)], [(ANN, UMA)]])
        self.into = dict.fromkeys((lower for lower, _ in self.merges), UMA)
        self.rng.shuffle(self.merges)

    async def run(self) -> None:
        """Some facts, a portion read, and so on; then all that is left, and one late touch for each."""
        rng = self.rng
        await self.desk.claim()
        merge_at = {rng.randrange(30): merge for merge in self.merges}
        for number in range(40):
            if number in merge_at:
                self.desk.move(Merge(*merge_at[number]))
            self.fact(number)
            if rng.random() < 0.5:
                await self.turn()
        left = [merge for merge in self.merges if merge not in merge_at.values()]
        for merge in left:
            self.desk.move(Merge(*merge))
        await rest(self.desk)
        for person in PEOPLE:
            self.desk.touch(f"last {person}", START_MS, person_id=person)
        await rest(self.desk)

    def fact(self, number: int) -> None:
        rng, desk = self.rng, self.desk
        desk.now_ms += rng.choice((0, 0, 0, DAY_MS // 2, 2 * DAY_MS))
        person, at_ms = rng.choice(PEOPLE), desk.now_ms - rng.randrange(10 * DAY_MS)
        kind = rng.random()
        if kind < 0.6:
            desk.touch(f"t{number}", at_ms, person_id=person)
        elif kind < 0.85:
            desk.conversion(self.order_of(person), at_ms, person_id=person, value=str(number))
        else:
            action = rng.choice(("restate", "restate", "retract"))
            desk.conversion(self.order_of(person), at_ms, person_id=person, action=action, value=str(number))

    def order_of(self, person: str) -> str:
        """One of a person's own orders; now and then one that all of them report, where all are one in the end."""
        number = self.rng.randrange(4)
        return "shared" if number == 3 and len(self.into) == 2 else f"{person} {number}"

    async def turn(self) -> None:
        """Read a portion of each log; die at it now and then."""
        rng, desk = self.rng, self.desk
        if rng.random() < 0.3:
            desk.crash_at = rng.choice(POINTS)
        try:
            for _ in range(rng.randrange(1, 4)):
                logs = desk.kafka.logs.items()
                portions = [log.since(desk.consumer._next[tp], rng.choice((0, 1, 3, 99))) for tp, log in logs]
                await desk.step(*portions)
                await asyncio.sleep(rng.choice((0, SETTLE_MS / 1000)))
        except Crash:
            if rng.random() < 0.4:
                desk.store.memory.data.clear()
            self.desk = desk.again()
            await self.desk.claim()
        desk.crash_at = ""


@pytest.mark.parametrize("seed", range(100))
def test_whatever_order_they_come_in_the_credits_are_the_oracles(runner: asyncio.Runner, seed: int) -> None:
    """Three persons who turn out to be one are credited as if they had been one from the beginning."""
    story = Story(seed)
    runner.run(story.run())
    check(story.desk, story.into, story.attribution)


def test_a_dead_letter_of_a_record_that_was_sent_on_says_where_it_lies(runner: asyncio.Runner) -> None:
    """A correction from another partition that comes too late, or waits in vain, is named with that partition."""

    async def story() -> None:
        desk = await claimed()

        def sent_on(offset: int, record_ms: int) -> None:
            correction = Conversion("never", ANN, record_ms, action="retract", record_ms=record_ms, offset=offset)
            waiting = PendingCorrection(correction, ANN.encode(), b"{}", [])
            desk.move(Move(UMA, ANN, 5, events=[waiting], merged_ms=desk.now_ms))

        sent_on(11, desk.now_ms - 91 * DAY_MS)
        sent_on(12, desk.now_ms)
        await rest(desk)
        desk.now_ms += 91 * DAY_MS
        desk.conversion("other", person_id=UMA)
        await rest(desk)
        found = [(letter.reason, letter.topic, letter.partition, letter.offset) for letter in desk.kafka.dead]
        assert found == [(Reason.NO_CREATE, CONVERSIONS.topic, 5, offset) for offset in (11, 12)]

    runner.run(story())
