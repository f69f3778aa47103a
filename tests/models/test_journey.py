"""What is stored of a journey: bytes that can be appended to, read back as they were written."""

import random

import pytest

from models import journey
from models.facts import Conversion, JourneyTouch, Touch
from models.formats import CodecError
from models.journey import (
    BUCKET_MS,
    JourneyConversion,
    JourneyState,
    PendingCorrection,
    buckets,
    frame,
    frame_again,
    frame_with_person,
    in_order,
    key_of,
    read_frames,
    read_state,
    state_key,
    touches_key,
    unique,
    write_state,
)
from tests.support.drawn import NOW_MS

# Texts that look like the start of a frame when a nil follows: their last byte is that of an array of 11 or 12.
TRAPS = ("ě", "Л", "ś", "ü", "Ü", "", "\x9b", "a", "\U0001f6dc")


def touch(event_id: str = "t", **fields: object) -> Touch:
    made = Touch(event_id, "ada", NOW_MS, channel="Email", record_ms=NOW_MS + 7)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def random_touch(rng: random.Random) -> Touch:
    def text() -> str | None:
        return rng.choice([None, *TRAPS]) and "".join(rng.choices(TRAPS, k=rng.randrange(4)))

    return touch(
        "".join(rng.choices(TRAPS, k=3)) + str(rng.random()),
        occurred_ms=rng.choice([NOW_MS, 0, rng.randrange(1 << 43)]),
        record_ms=rng.choice([NOW_MS, rng.randrange(1 << 43), NOW_MS + 0x9BC0]),
        source=text(),
        medium=text(),
        campaign=text(),
        content=text(),
        term=text(),
    )


def as_kept(t: Touch, person: str | None = None) -> JourneyTouch:
    origin = (t.channel, t.source, t.medium, t.campaign, t.content, t.term)
    return JourneyTouch(None, t.event_id, t.occurred_ms, t.record_ms - t.occurred_ms, t.type, *origin, person)


class TestFrames:
    """Touches as appended bytes."""

    @pytest.mark.parametrize("person", [False, True])
    def test_any_number_of_frames_reads_back(self, person: bool, seed: int) -> None:
        """Frames appended one to another are the touches that were written, whatever their texts look like."""
        rng = random.Random(f"{seed} {person}")
        for count in (1, 2, 3, 15, 16, 17, 300):
            touches = [random_touch(rng) for _ in range(count)]
            blob = b"".join(map(frame_with_person if person else frame, touches))
            assert read_frames(blob) == [as_kept(t, "ada" if person else None) for t in touches], seed

    def test_a_frame_of_a_read_touch_is_the_frame_it_was_read_from(self, seed: int) -> None:
        """Rewriting a journey changes no byte of a touch, with a person and without."""
        rng = random.Random(seed)
        for t in [random_touch(rng) for _ in range(100)]:
            for written in (frame(t), frame_with_person(t)):
                assert frame_again(read_frames(written)[0]) == written, seed

    def test_texts_that_look_like_frames_cost_few_attempts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """1,000 campaigns that end in ě are counted twice at first, and read after a dozen attempts, not a thousand."""
        attempts = 0
        decode = journey._decode_frames

        def counted(blob: bytes) -> list[JourneyTouch]:
            nonlocal attempts
            attempts += 1
            return decode(blob)

        monkeypatch.setattr(journey, "_decode_frames", counted)
        touches = [touch(f"t{i}", campaign="věrně") for i in range(1_000)]
        assert len(read_frames(b"".join(map(frame, touches)))) == 1_000
        assert attempts <= 12

    def test_record_time_is_kept(self) -> None:
        """Record time comes back exactly, before event time too."""
        for record_ms in (NOW_MS - 5, NOW_MS, NOW_MS + 1_000_000_000_000):
            assert read_frames(frame(touch(record_ms=record_ms)))[0].record_ms == record_ms

    @pytest.mark.parametrize("cut", [slice(0, -1), slice(1, None), slice(0, 3), slice(0, 0)])
    def test_torn_bytes_are_an_error(self, cut: slice) -> None:
        """Half a frame is no touch, and neither is nothing."""
        with pytest.raises(CodecError):
            read_frames((frame(touch("a")) + frame(touch("b")))[cut])


class TestOrder:
    """The first of each event_id, in order of event time."""

    def test_the_first_accepted_stays(self) -> None:
        """Of touches with one event_id the one accepted first stays, though another is older."""
        first, second = as_kept(touch("a")), as_kept(touch("a", occurred_ms=1))
        assert unique([first, second]) == [first]

    def test_ties_are_ordered_by_event_id(self) -> None:
        """Touches are in order of event time, and at the same time in order of event_id."""
        touches = [as_kept(touch(i, occurred_ms=at)) for i, at in (("b", 2), ("a", 2), ("c", 1))]
        assert [t.event_id for t in in_order(touches)] == ["c", "a", "b"]


class TestState:
    """Conversions and corrections that wait."""

    def test_it_reads_back(self) -> None:
        """A state with everything in it is the same after writing and reading, twice."""
        conversion = JourneyConversion(
            *("c|1", "ada", "order", 1, 2, 3, 4, "EUR", "acme", "abc", True, (5, 6), (7, 8), ["e"], True)
        )
        pending = PendingCorrection(Conversion("c2", "ada", 9, action="restate"), b"ada", b"{}", [("h", None)])
        state = JourneyState(conversions=[conversion], pending=[pending], dropped_ms=11)
        assert read_state(write_state(state)) == state
        assert write_state(read_state(write_state(state))) == write_state(state)

    def test_nothing_stored_is_an_empty_state_of_its_own(self) -> None:
        """Two journeys without a blob do not share their lists."""
        one, other = read_state(None), read_state(None)
        assert one == JourneyState(conversions=[], pending=[], dropped_ms=-1)
        assert one.conversions is not other.conversions
        assert one.pending is not other.pending

    @pytest.mark.parametrize(
        "blob", [b"", b"\x00", write_state(JourneyState(version=2)), write_state(JourneyState())[:-1]]
    )
    def test_other_bytes_are_an_error(self, blob: bytes) -> None:
        """What this program cannot read stops it: to go on would lose the journey."""
        with pytest.raises(CodecError):
            read_state(blob)


class TestKeys:
    """Where things lie."""

    @pytest.mark.parametrize("key", [b"ada", b"a:b:c", b":", b"\xff\x00", "ě".encode()])
    def test_a_key_comes_back_from_its_touches_key(self, key: bytes) -> None:
        """Any bytes may be a journey's key, colons too."""
        assert key_of(touches_key(623, key)) == key
        assert state_key(key) != touches_key(0, key)

    def test_buckets_hold_both_ends(self) -> None:
        """Every record time of the range lies in one of its buckets, the last millisecond and the first too."""
        assert list(buckets(BUCKET_MS - 1, BUCKET_MS)) == [0, 1]
        assert list(buckets(BUCKET_MS, BUCKET_MS)) == [1]
        assert list(buckets(-5, 3)) == [0]
