"""The compiled part does what Python does, to the byte, or leaves it to Python: for plain, odd and hostile input."""

import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from models.durations import DAY_MS
from models.linking import Arrived, Deliveries, whole
from models.policy import Policy
from models.raw import tail_of
from models.rules import Rules
from models.times import format_time, parse_time
from state.connection import pack
from streams import native as streams_native
from streams.decode import Decoder, Taken
from streams.identity_decode import RAW_TOUCHES, Each, Item, RawDecoder, TakenRaw
from streams.murmur import partition_of
from streams.native import Native, load
from streams.plain import rows_of
from tests.support import plain_cases

pytestmark = pytest.mark.native

RECORDS, CASES = 4_000, 600
SLOW_TIMES = 100


@pytest.fixture(scope="module")
def native() -> Native:
    """The compiled part; everything here is about it."""
    found = load()
    if found is None:
        pytest.skip(streams_native.describe(True))
    return found


def taken(records: list[Any], by_account: bool, native: Native | None) -> Taken:
    out = Taken()
    Decoder("touches", "conversions", "moves", by_account, native=native).touches(records, 3, out)
    return out


def check_touches(native: Native, seed: int, count: int) -> None:
    rng = random.Random(seed)
    records = plain_cases.touch_records(rng, count)
    for by_account in (False, True):
        assert taken(records, by_account, native) == taken(records, by_account, None), f"seed {seed}"
    alone: list[Any] = []
    for record in records:
        native.touches([record], 0, False, alone)
    valid = len(taken(records, False, None).touches)
    print(f"seed {seed}: {count} records, {valid} valid, {len(alone)} of them read by the compiled part")
    assert valid > 0.2 * count
    assert len(alone) > 0.4 * valid, "the compiled part hardly takes part"


RAW_TOPICS = ("links", "identities", "raw-touches", "raw-conversions")


def taken_raw(records: list[Any], native: Native | None) -> TakenRaw:
    out = TakenRaw()
    RawDecoder(RAW_TOPICS, b"key", native=native).add(((), (), records, ()), 3, out)
    return out


def whole_again(parts: Iterable[Sequence[Each]]) -> list[list[Item | Arrived]]:
    """Plain touches as what Python makes of them."""
    return [[each if isinstance(each, Item | Arrived) else whole(each) for each in part] for part in parts]


def check_raw_touches(native: Native, seed: int, count: int) -> None:
    records = plain_cases.raw_touch_records(random.Random(seed), count)
    expected = taken_raw(records, None).parts
    found = taken_raw(records, native).parts
    plain = [each for each in found[RAW_TOUCHES] if not isinstance(each, Item | Arrived)]
    assert all(each.person == whole(each).event.person for each in plain), f"seed {seed}"
    for part, others in zip(whole_again(found), expected, strict=True):
        for each, other in zip(part, others, strict=True):
            if isinstance(each, Arrived):
                each.headers = list(each.headers)
            assert each == other, f"seed {seed}"
    valid = sum(isinstance(each, Arrived) for each in expected[RAW_TOUCHES])
    print(f"seed {seed}: {count} raw touches, {valid} valid, {len(plain)} of them read by the compiled part")
    assert valid > 0.2 * count
    assert len(plain) > 0.3 * valid, "the compiled part hardly takes part"


def outcome(case: plain_cases.Case, native: Native | None) -> object:
    """What comes of it, or how it fails."""
    try:
        return plain_cases.decide(case, native)
    except ValueError as error:  # a journey that cannot be read
        return str(error)


def check_credits(native: Native, seed: int, count: int) -> None:
    rng = random.Random(seed)
    seen = Seen(native)
    credited = 0
    for n in range(count):
        case = plain_cases.case(rng)
        expected = outcome(case, None)
        assert outcome(case, seen) == expected, f"seed {seed}, case {n}"  # type: ignore[arg-type]
        credited += isinstance(expected, plain_cases.Decision) and expected.report.credited
    print(f"seed {seed}: {count} journeys, {credited} credited, {seen.written} of them by the compiled part")
    assert credited > 0.5 * count
    assert seen.written > 0.15 * credited, "the compiled part hardly takes part"


class Seen:
    """The compiled part, counting how often it did not leave a conversion to Python."""

    def __init__(self, native: Native) -> None:
        self._native = native
        self.written = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def credit(self, *given: Any) -> Any:
        found = self._native.credit(*given)
        self.written += isinstance(found, tuple)
        return found


def test_touches(native: Native, seed: int) -> None:
    """Touches, dead letters and their order are those of Python, for persons and accounts."""
    check_touches(native, seed, RECORDS)


def test_times(native: Native, seed: int) -> None:
    """Each day of the calendar from 2000 on is the one that Python reads, with any time of the day and any fraction."""
    rng = random.Random(seed)
    times_ms = [day * DAY_MS + rng.randrange(DAY_MS) for day in range(10_958, 110_000, 3)]
    texts = [format_time(time_ms) for time_ms in times_ms]
    # A record of the far future, so that every time is believed.
    records = [plain_cases.touch_record(number, text, 2**53) for number, text in enumerate(texts)]
    found: list[Any] = []
    assert native.touches(records, 0, False, found) == len(records)
    assert [time_ms for *_, time_ms, _ in found] == times_ms == [parse_time(text) for text in texts]


def test_credits(native: Native, seed: int) -> None:
    """Record batches, writes, dead letters and counts of a conversion are those of Python, or both fail alike."""
    check_credits(native, seed, CASES)


def test_raw_touches(native: Native, seed: int) -> None:
    """Raw touches, dead letters and their order are those of Python, and so is the JSON for the crediting stage."""
    check_raw_touches(native, seed, RECORDS)


def test_owners(native: Native, seed: int) -> None:
    """An id of any size and language has the owner that Python gives it, among any number of partitions."""
    rng = random.Random(seed)
    for _ in range(2_000):
        text = "".join(rng.choices("abc019-_:äé\u2028😀", k=rng.randrange(300)))
        partitions = rng.choice((1, 2, 3, 12, 1_000, 2**31 - 1))
        expected = partition_of(text.encode(), partitions)
        assert native.owner_of(text, partitions) == expected, f"seed {seed}: {text!r}"
        assert native.owner_of(text.encode(), partitions) == expected
    for wrong in ((), ("a",), (5, 4), (b"a", 0), ("a", 0), ("a", 2**31), ("\ud800", 4)):
        with pytest.raises((TypeError, ValueError)):
            native.owner_of(*wrong)  # type: ignore[arg-type]


def test_delivered_touches_are_the_records_that_python_writes(native: Native, seed: int) -> None:
    """Batches of plain touches under a person are those of the same records one by one, whatever their size."""
    records = plain_cases.raw_touch_records(random.Random(seed), 500)
    touches = [each for each in taken_raw(records, native).parts[RAW_TOUCHES] if not isinstance(each, Item | Arrived)]
    for person, limit in (("u1", 900 << 10), ('odd "é"', 2_000)):
        deliveries = Deliveries(person.encode(), tail_of(person), touches)
        at_once, singly = native.batches(limit), native.batches(limit)
        native.deliver(at_once, deliveries.key, deliveries.tail, touches)
        for send in deliveries.sends():
            assert json.loads(send.value)["person_id"] == person
            native.append(singly, send.record_ms, send.key, send.value, b"\x00")
        found = native.take(at_once, bytes)
        assert sum(count for _, _, count, *_ in found) == len(touches) > 50
        assert found == native.take(singly, bytes), f"seed {seed}"


@pytest.mark.slow
def test_many(native: Native, seed: int) -> None:
    """The same for a hundred times as many."""
    for more in range(SLOW_TIMES):
        check_touches(native, seed + more, RECORDS)
        check_raw_touches(native, seed + more, RECORDS)
        check_credits(native, seed + more, CASES)


def test_shares_are_those_of_python(native: Native, seed: int) -> None:
    """Time decay over random spans gives each share as Python's division does, in its shortest text."""
    rng = random.Random(seed)
    # What credits are compared by in bulk, with many touches of odd ages: every one has a weight of its own.
    for n in range(200):
        case = plain_cases.case(rng)
        case.rules = Rules(
            Policy.from_effective({"attribution": {"models": ["time_decay"], "lookback": "90d"}}), rng.choice((0, 250))
        )
        assert outcome(case, native) == outcome(case, None), f"seed {seed}, case {n}"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (1, 2, 3, 4),
        ([], 0, False),
        (None, 0, False, []),
        ([], "0", False, []),
        ([], 0, False, None),
        ([1], -5, 0, []),
    ],
)
def test_wrong_arguments_are_errors(native: Any, arguments: tuple[Any, ...]) -> None:
    """A caller's mistake raises, it does not crash; nothing to do is no mistake."""
    if arguments == ([], 0, False, None):
        assert native.touches(*arguments) == 0
        return
    with pytest.raises((TypeError, ValueError, IndexError, SystemError)):
        native.touches(*arguments)


def test_wrong_credits_are_errors(native: Any) -> None:
    """Too few arguments, strange objects and rows that are not whole raise."""
    batches = native.batches(1_000)
    for wrong in ((), (batches,), (object(),) * 13, (batches, 1, 1, (1,), 1, *(b"",) * 4, [], [], (), {})):
        with pytest.raises((TypeError, ValueError, IndexError, SystemError)):
            native.credit(*wrong)
    with pytest.raises(ValueError, match="limit"):
        native.batches(-1)
    with pytest.raises((TypeError, ValueError)):
        native.take(object(), bytes)
    with pytest.raises(TypeError):
        native.unpack(5, False)


def test_unpacked_while_fetched(native: Native, seed: int) -> None:
    """Touches that were read as they were fetched come to the same as those read later, and are told like records."""
    rng = random.Random(seed)
    records = plain_cases.touch_records(rng, RECORDS)
    for by_account in (False, True):
        decoder = Decoder("touches", "conversions", "moves", by_account, native=native)
        unpacked = decoder.unpack("touches", iter(records))
        assert decoder.unpack("conversions", iter(records)) == records
        names = ("offset", "timestamp", "key")
        assert [[getattr(r, n) for n in names] for r in unpacked] == [[getattr(r, n) for n in names] for r in records]
        early, late = Taken(), Taken()
        decoder.touches(unpacked, 0, early)
        Decoder("touches", "conversions", "moves", by_account).touches(records, 0, late)
        assert early == late, f"seed {seed}"
        plain = sum(hasattr(r, "frame") for r in unpacked)
        assert (0 if by_account else 0.1 * RECORDS) < plain < RECORDS, plain


def test_raw_touches_unpacked_while_fetched(native: Native, seed: int) -> None:
    """Raw touches that were read as they were fetched come to the same as those read later, and have their places."""
    records = plain_cases.raw_touch_records(random.Random(seed), RECORDS)
    decoder = RawDecoder(RAW_TOPICS, b"key", native=native)
    unpacked = decoder.unpack("raw-touches", iter(records))
    assert decoder.unpack("raw-conversions", iter(records)) == records
    assert [(r.offset, r.timestamp) for r in unpacked] == [(r.offset, r.timestamp) for r in records]
    assert 0.1 * RECORDS < sum(hasattr(r, "person") for r in unpacked) < RECORDS
    early, late = (whole_again(taken_raw(each, native).parts) for each in (unpacked, records))
    assert early == late, f"seed {seed}"
    for wrong in ((), (5,)):
        with pytest.raises(TypeError):
            native.unpack_raw(*wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_commands(native: Native, seed: int, count: int) -> None:
    """Commands of Redis are put together as by Python, empty words and mappings included; anything else raises."""
    rng = random.Random(seed)
    some = {rng.randbytes(rng.randrange(300)): rng.randbytes(rng.choice((0, 9, 10, 70_000))) for _ in range(count)}
    parts = [b"MGET", b"", (b"p:", some), (b"", some), (None, some), rng.randbytes(100), (None, {})]
    assert native.pack(parts) == pack(parts)
    for wrong in ([1], [(1, {})], [(b"", [])], [(None, {b"a": 1})], [(b"", {1: b""})], (), [()], None):
        with pytest.raises((TypeError, IndexError, SystemError)):
            native.pack(wrong)  # type: ignore[arg-type]


def test_a_failed_compression_loses_nothing(native: Native) -> None:
    """What could not be compressed can be taken again, and a view of it that was kept is of no use any more."""
    batches = native.batches(100)
    for n in range(3):
        native.append(batches, n, b"key", b"value" * 20, b"\0")
    with pytest.raises(ZeroDivisionError):
        native.take(batches, lambda view: bytes(1 // (len(view) - len(view))))
    kept: list[memoryview] = []
    taken = native.take(batches, lambda view: kept.append(view) or bytes(view))  # type: ignore[func-returns-value]
    with pytest.raises(ValueError, match="released"):
        bytes(kept[0])
    assert [len(records) for records, *_ in taken] == [size for _, size, *_ in taken]
    assert sum(count for _, _, count, *_ in taken) == 3
    assert native.take(batches, bytes) == []


def test_wrong_raw_touches_are_errors(native: Any) -> None:
    """A caller's mistake raises here too; what is no record at all is left to Python."""
    batches = native.batches(1_000)
    for arguments in ((), (None, 0, []), ([], "0", []), ([1], -5, [])):
        with pytest.raises((TypeError, ValueError, IndexError, SystemError)):
            native.raw_touches(*arguments)
    assert native.raw_touches([object()], 0, []) == 0
    for touches in (None, [5], [(1,)], [(1, "2", "p", b"{", None)], [(1, 2, "p", "{", None)]):
        with pytest.raises((TypeError, ValueError, IndexError, SystemError)):
            native.deliver(batches, b"k", b"}", touches)
    with pytest.raises((TypeError, ValueError)):
        native.deliver(object(), b"k", b"}", [])


def test_rows_that_are_not_whole_raise(native: Any) -> None:
    """Whatever `rows` holds, only what lies inside of it is read."""
    touch = plain_cases.frame(plain_cases.Touch("t1", "p", 1_000, "visit", "email", record_ms=1_000))
    linear = Policy.from_effective({"attribution": {"models": ["linear"]}}).models[0]
    whole = rows_of(linear, 1) or b""
    for rows in (whole[:cut] for cut in range(len(whole))):
        given = (
            (-1, 0, 10_000, 0, 10_000),
            10,
            b"\0",
            b"{",
            b"",
            b"c",
            [None, touch],
            [],
            ((b"linear", True, False, 0),),
        )
        with pytest.raises(ValueError, match="rows"):
            native.credit(native.batches(1_000), 1_000, 7, *given, {1: (rows,)})


def test_no_character_beyond_ascii_is_folded_into_direct() -> None:
    """The compiled part compares channels with `direct` byte by byte, in ASCII."""
    letters = set("()direct")
    assert not [c for c in map(chr, range(128, 0x110000)) if set(c.casefold()) <= letters]


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unwanted, missing or of another version, it is not used, and said so."""
    assert load(False) is None
    assert "processing.native" in streams_native.describe(False)
    monkeypatch.setattr(streams_native, "MODULE", "touchstream_native.absent")
    assert load() is None
    assert "not installed" in streams_native.describe(True)


def test_another_version_is_not_used(native: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was built from other sources may take other arguments."""
    monkeypatch.setattr(streams_native, "INTERFACE", native.INTERFACE + 1)
    assert load() is None
    assert "another version" in streams_native.describe(True)
