"""Credits without their person: the same in everything else, whatever the policy; and marks that tell nobody."""

import json
import random
from typing import Any

import pytest

from models.credit import Record
from models.crediting import Source, leave, stored
from models.events import decode_conversion, decode_touch
from models.facts import Conversion, Touch
from models.forgetting import CHECK_BYTES, FORGOTTEN, Forgotten, Hashing, forget, forget_moved
from models.moving import Forget, Move, MovedConversion, read_move, write_move
from models.outcome import Reason, Rejected
from tests.support import worlds
from tests.support.told import Row, Told, tell

WORLDS = 40
ALL = ["first_touch", "last_touch", "last_non_direct", "linear", "position_based", "time_decay", "participation"]
POLICIES: list[Row] = [
    {"attribution": {"models": ALL}},
    {"attribution": {"models": ["linear"], "touch_reuse": "reset_after_conversion", "allowed_lateness": "60d"}},
    {"attribution": {"models": ["linear"], "journey": "account", "lookback": "45d"}},
    {"attribution": {"models": ["linear"]}, "conversions": {"order": {"credited": False, "milestone": "lead"}}},
]
PERSONAL = ("person_id", "account_id", "touch_person_id", "revision")
SOURCE = Source("moves", 7, 1_717_243_200_000)


def journeys(world: worlds.World, field: str) -> list[list[Touch | Conversion]]:
    """The world's records by journey, in the order of their record times."""
    found: dict[str, list[Touch | Conversion]] = {}
    records = [(r["_record_ms"], 0, r) for r in world.touches] + [(r["_record_ms"], 1, r) for r in world.conversions]
    for record_ms, kind, record in sorted(records, key=lambda each: each[:2]):
        text = worlds.line(record).encode()
        fact: Touch | Conversion = decode_conversion(text, record_ms) if kind else decode_touch(text, record_ms)
        fact.record_ms = record_ms
        found.setdefault(record[field], []).append(fact)
    return list(found.values())


def forgotten(told: Told, **changes: Any) -> Forgotten:
    for c in told.state.conversions:
        for name, value in changes.items():
            setattr(c, name, value)
    return forget(stored([list(told.accepted)], told.state), told.rules, told.offset + 1, SOURCE)


def records(done: Forgotten) -> dict[str, Row | None]:
    found: list[Record] = [record for publication in done.publications for record in publication.records]
    assert len({key for key, _ in found}) == len(found)
    return {key.decode(): None if value is None else json.loads(value) for key, value in found}


def impersonal(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in PERSONAL}


@pytest.mark.parametrize("number", range(len(POLICIES)))
def test_the_same_credits_without_the_person(number: int, seed: int) -> None:
    """In drawn worlds every credit is published again, equal in all but person and revision, which is higher."""
    tables, seen = POLICIES[number], 0
    field = "account_id" if tables["attribution"].get("journey") == "account" else "person_id"
    for world_seed in range(seed, seed + WORLDS):
        print(f"policy {number}, world {world_seed}")
        rng = random.Random(world_seed)
        for facts in journeys(worlds.draw(world_seed, late=True, accounts=True), field):
            told, taken = Told(tables), 0
            while taken < len(facts):
                cut = taken + rng.randrange(1, 5)
                told.take(*facts[taken:cut])
                taken = cut
            done = forgotten(told)
            after = records(done)
            assert done.mismatched == 0
            assert after.keys() == told.credits.keys()
            for key, row in after.items():
                assert row is not None
                assert impersonal(row) == impersonal(told.credits[key])
                assert row["person_id"] == FORGOTTEN
                assert not {"account_id", "touch_person_id"} & row.keys()
                assert row["revision"] > told.credits[key]["revision"]
            seen += len(after)
    assert seen > (0 if number == 3 else WORLDS)


def test_a_rebuilt_conversion_takes_its_other_keys_away() -> None:
    """Where it is not known what was published, all other keys that it can have had get tombstones."""
    told = tell("email@-3d > direct@-2d > conversion", models=["last_touch"])
    after = records(forgotten(told, rebuilt=True))
    assert sum(row is not None for row in after.values()) == 1
    assert sum(row is None for row in after.values()) == 2  # the other touch, and the unattributed one
    assert all(row is not None for row in records(forgotten(told, rebuilt=False)).values())


def test_a_conversion_goes_home() -> None:
    """What came from another journey is published above its floor, where it was first published."""
    told = tell("email@-3d > conversion")
    done = forgotten(told, floor=1_000, homes=[3])
    assert [publication.homes for publication in done.publications] == [[3]]
    assert all(row is not None and row["revision"] > 1_000 for row in records(done).values())


def test_what_arrives_for_nobody_is_unattributed() -> None:
    """A conversion on its way to somebody who was forgotten keeps its value; its touches' keys are taken away."""
    told = tell("email@-3d > direct@-2d > conversion")
    moves = leave(stored([list(told.accepted)], told.state), "ada", "Ada", told.rules, told.offset, SOURCE.record_ms, 2)
    arrived: list[tuple[MovedConversion, Source]] = []
    for move in moves:
        key, value = write_move(move)
        read = read_move(key, value)
        assert isinstance(read, Move)
        arrived += [(moved, SOURCE) for moved in read.conversions]
    done = forget_moved(arrived, told.rules, 1)
    view = {**told.credits, **records(done)}
    (row,) = [row for row in view.values() if row is not None]
    (before, *_) = told.credits.values()
    assert (row["status"], row["person_id"], row["touch_id"]) == ("unattributed", FORGOTTEN, "")
    assert row["value_micros"] == row["conversion_value_micros"] == before["conversion_value_micros"]
    assert row["revision"] > before["revision"]
    assert done.publications[0].homes == [2]


def test_a_forget_is_read_as_it_was_written() -> None:
    """Key and value survive; a key that is another's is refused."""
    forget_ada = Forget("ada", "r1")
    key, value = write_move(forget_ada)
    assert (key, read_move(key, value)) == (b"ada", forget_ada)
    with pytest.raises(Rejected) as refused:
        read_move(b"bob", value)
    assert refused.value.reason is Reason.KEY_MISMATCH


class TestHashing:
    """A mark can be looked up, and not be read back."""

    def test_marks_depend_on_secret_and_key(self) -> None:
        """Each of the two gives another mark, the same two the same; neither is in it."""
        hashings = [Hashing(b"p"), Hashing(b"q"), Hashing(b"p", b"d"), Hashing(b"", b"e")]
        marks = [hashing.mark(key) for hashing in hashings for key in (b"ada", b"bob")]
        assert len(set(marks)) == len(marks)
        assert Hashing(b"p").mark(b"ada") == marks[0]
        assert b"ada" not in marks[0]

    def test_without_a_secret_there_is_none(self) -> None:
        """A plain hash of an address can be guessed, so there is no such mark."""
        with pytest.raises(ValueError, match="secret"):
            Hashing(b"")

    def test_another_secret_of_the_settings_is_noticed(self) -> None:
        """The kept text tells, without having the secret in it."""
        text = Hashing(b"a secret").text()
        again = Hashing.read(text, b"a secret")
        assert again is not None
        assert again.mark(b"ada") == Hashing(b"a secret").mark(b"ada")
        assert Hashing.read(text, b"another") is None
        assert Hashing.read(text, b"") is None
        assert len(text) == CHECK_BYTES

    @pytest.mark.parametrize("secret", [b"", b"came later"])
    def test_a_drawn_secret_is_kept(self, secret: bytes) -> None:
        """Whatever the settings say later, the marks are the same."""
        drawn = Hashing(b"", b"drawn")
        again = Hashing.read(drawn.text(), secret)
        assert again is not None
        assert again.mark(b"ada") == drawn.mark(b"ada")
