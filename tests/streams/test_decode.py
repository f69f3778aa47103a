"""From fetched records to facts: each on its own, in its place, and a bad one with its bytes untouched."""

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from models.filters import Filters, FilterTables
from models.journey import read_frames
from models.outcome import Reason
from streams.decode import Decoder, HeldFiltered, Taken
from streams.publish import DeadLetter
from tests.support.drawn import NOW_MS
from tests.support.fakes import LogRecord

HEADERS = [("traceparent", b"00-ab"), ("empty", None)]


def touch_json(**fields: Any) -> bytes:
    whole = {"event_id": "t1", "person_id": "ada", "occurred_at": NOW_MS, "channel": "Email"}
    return json.dumps({**whole, **fields}).encode()


def conversion_json(**fields: Any) -> bytes:
    return json.dumps({"conversion_id": "c1", "person_id": "ada", "occurred_at": NOW_MS, **fields}).encode()


def record(offset: int, key: bytes | None, value: bytes | None) -> LogRecord:
    return LogRecord(offset, NOW_MS + offset, key, value, HEADERS)


def touches(*records: LogRecord, by_account: bool = False) -> Taken:
    taken = Taken()
    Decoder("touches", "conversions", "moves", by_account).touches(records, 3, taken)
    return taken


def conversions(*records: LogRecord, by_account: bool = False) -> Taken:
    taken = Taken()
    Decoder("touches", "conversions", "moves", by_account).conversions(records, 3, taken)
    return taken


BAD: list[tuple[bytes | None, bytes | None, Reason]] = [
    (b"ada", None, Reason.NULL_VALUE),
    (b"ada", b"", Reason.INVALID_JSON),
    (b"ada", b"{", Reason.INVALID_JSON),
    (b"ada", b'{"person_id": "\xff"}', Reason.BAD_UTF8),
    (b"ada", b'{"person_id": "ada", "x": NaN}', Reason.INVALID_JSON),
    (b"ada", b"[]", Reason.WRONG_TYPE),
    (b"ada", b'{"person_id": "ada"}', Reason.MISSING_FIELD),
    (None, b"GOOD", Reason.NULL_KEY),
    (b"bob", b"GOOD", Reason.KEY_MISMATCH),
    (b"", b"GOOD", Reason.KEY_MISMATCH),
    (b"ada ", b"GOOD", Reason.KEY_MISMATCH),
    (b"\xff", b"GOOD", Reason.KEY_MISMATCH),
    (b"ada", b'{"person_id": "' + b"x" * (1 << 20) + b'"}', Reason.TOO_LARGE),
    (
        b"ada",
        b'{"person_id": "\\ud800", "event_id": "e", "conversion_id": "c", "occurred_at": 1714564800000}',
        Reason.BAD_ID,
    ),
]
every_kind = pytest.mark.parametrize(("key", "value", "reason"), BAD, ids=[f"{i}-{r}" for i, (*_, r) in enumerate(BAD)])


@every_kind
def test_a_bad_touch_is_a_dead_letter_among_good_ones(key: bytes | None, value: bytes | None, reason: Reason) -> None:
    """The bad record keeps bytes, key, headers and place; the good ones around it are taken."""
    value = touch_json() if value == b"GOOD" else value
    taken = touches(
        record(0, b"ada", touch_json()), record(5, key, value), record(6, b"ada", touch_json(event_id="t2"))
    )
    assert [offset for offset, *_ in taken.touches] == [0, 6]
    (letter,) = taken.dead
    check_untouched(letter, "touches", key, value, reason)


@every_kind
def test_a_bad_conversion_keeps_its_place_among_good_ones(
    key: bytes | None, value: bytes | None, reason: Reason
) -> None:
    """It is held as the others are, as its offset may not be committed before theirs."""
    value = conversion_json() if value == b"GOOD" else value
    taken = conversions(
        record(0, b"ada", conversion_json()), record(5, key, value), record(6, b"ada", conversion_json())
    )
    assert [held.offset for held in taken.conversions] == [0, 5, 6]
    assert [held.event is None for held in taken.conversions] == [False, True, False]
    assert taken.dead == []
    letter = taken.conversions[1].dead
    assert letter is not None
    check_untouched(letter, "conversions", key, value, reason)


def check_untouched(letter: DeadLetter, topic: str, key: bytes | None, value: bytes | None, reason: Reason) -> None:
    assert (letter.topic, letter.partition, letter.offset) == (topic, 3, 5)
    assert (letter.key, letter.value, letter.reason) == (key, value, reason)
    headers = letter.all_headers()
    assert headers[: len(HEADERS)] == HEADERS
    added = dict(headers[len(HEADERS) :])
    assert added["touchstream-reason"] == reason.value.encode()
    assert added["__connect.errors.topic"] == topic.encode()
    assert (added["__connect.errors.partition"], added["__connect.errors.offset"]) == (b"3", b"5")
    assert added["__connect.errors.stage"] == b"DECODE"


def test_torn_records_do_not_make_a_whole_one() -> None:
    """Two halves that are valid JSON when joined are two dead letters."""
    whole = touch_json()
    taken = touches(record(0, b"ada", whole[:20]), record(1, b"ada", whole[20:]))
    assert taken.touches == []
    assert [letter.offset for letter in taken.dead] == [0, 1]


def test_a_touch_comes_with_its_place_and_frame() -> None:
    """Offset, record time, key, event time, and the frame that goes into the journey."""
    taken = touches(record(7, b"ada", touch_json(occurred_at=NOW_MS - 5, campaign="spring")))
    ((offset, record_ms, key, occurred_ms, written),) = taken.touches
    assert (offset, record_ms, key, occurred_ms) == (7, NOW_MS + 7, b"ada", NOW_MS - 5)
    (read,) = read_frames(written)
    assert (read.event_id, read.record_ms, read.campaign, read.person_id) == ("t1", NOW_MS + 7, "spring", None)


def test_a_conversion_comes_with_its_envelope() -> None:
    """Record time and offset are the record's, and the record's own bytes are kept in case it ends as a dead letter."""
    value = conversion_json(record_ms=1, offset=2, value="9.99")
    (held,) = conversions(record(7, b"ada", value)).conversions
    assert held.event is not None
    e = held.event.conversion
    assert (e.record_ms, e.offset, e.value_micros) == (NOW_MS + 7, 7, 9_990_000)
    assert (held.offset, held.record_ms, held.end) == (7, NOW_MS + 7, None)
    assert (held.event.key, held.event.value, held.event.headers) == (b"ada", value, HEADERS)


def test_account_journeys_are_keyed_by_account() -> None:
    """Then account_id is the key, the frame keeps the person, and a record without account is a dead letter."""
    good, bare = touch_json(account_id="acme"), touch_json()
    taken = touches(record(0, b"acme", good), record(1, b"ada", good), record(2, b"ada", bare), by_account=True)
    assert [read_frames(t[4])[0].person_id for t in taken.touches] == ["ada"]
    assert [letter.reason for letter in taken.dead] == [Reason.KEY_MISMATCH, Reason.MISSING_FIELD]
    held = conversions(
        record(0, b"acme", conversion_json(account_id="acme")), record(1, b"ada", conversion_json()), by_account=True
    ).conversions
    assert [h.event is None for h in held] == [False, True]


@pytest.mark.parametrize("person", ["läufer", "l\u0061\u0308ufer", " ada "])
def test_keys_are_compared_with_the_cleaned_id(person: str) -> None:
    """The key is the id as UTF-8, trimmed and composed, however the payload writes it."""
    key = {" ada ": "ada"}.get(person, "läufer").encode()
    assert len(touches(record(0, key, touch_json(person_id=person))).touches) == 1


def test_nothing_taken_is_false() -> None:
    """A step sees at once whether there is anything to do; a dead letter alone is something."""
    assert not touches()
    assert touches(record(0, b"ada", touch_json()))
    assert touches(record(0, b"ada", b"{"))
    assert conversions(record(0, b"ada", b"{"))


def filtering(*tables: dict[str, Any]) -> Decoder:
    filters = Filters.of(TypeAdapter(FilterTables).validate_python(list(tables)))
    return Decoder("touches", "conversions", "moves", False, filters)


NO_CONSENT = {
    "name": "no consent",
    "reason": "consent",
    "drop": "touch",
    "when": [{"field": "properties.consent", "equals": "granted", "negate": True}],
}
TEST_ORDERS = {
    "name": "test orders",
    "reason": "test",
    "drop": "conversion",
    "when": [{"field": "properties.email", "ends_with": "@example.com"}],
}


def test_a_filtered_touch_is_counted_and_goes_nowhere() -> None:
    """It is neither taken nor dead; its offset and the filter that dropped it are known."""
    taken = Taken()
    granted, denied = ({"consent": said} for said in ("granted", "denied"))
    values = [touch_json(properties=granted), touch_json(properties=denied), touch_json(), touch_json(event_id=None)]
    filtering(NO_CONSENT, TEST_ORDERS).touches([record(n, b"ada", v) for n, v in enumerate(values)], 3, taken)
    assert [offset for offset, *_ in taken.touches] == [0]
    assert taken.filtered == [(1, ("no consent", "consent")), (2, ("no consent", "consent"))]
    assert [letter.reason for letter in taken.dead] == [Reason.MISSING_FIELD]
    assert Taken(filtered=taken.filtered)


def test_a_filtered_conversion_keeps_its_place_in_the_gate() -> None:
    """Nothing comes of it, but what lies behind it may not be committed before what lies in front."""
    taken = Taken()
    values = [conversion_json(), conversion_json(properties={"email": "qa@Example.com"}), conversion_json()]
    filtering(NO_CONSENT, TEST_ORDERS).conversions([record(n, b"ada", v) for n, v in enumerate(values)], 3, taken)
    assert [(held.offset, held.event is None, held.dead) for held in taken.conversions] == [
        (0, False, None),
        (1, True, None),
        (2, False, None),
    ]
    held = taken.conversions[1]
    assert isinstance(held, HeldFiltered)
    assert held.filtered == ("test orders", "test")


@pytest.mark.parametrize(("key", "value"), [(None, b"GOOD"), (b"bob", b"GOOD"), (b"ada", b"{")])
def test_a_dead_letter_wins_over_a_filter(key: bytes | None, value: bytes) -> None:
    """What a filter would drop has to be valid first: it cannot hide what is wrong with a producer."""
    everything = {"name": "all", "drop": "both", "when": [{"field": "type", "present": True}]}
    taken = Taken()
    decoder = filtering(everything)
    for make, decode in ((touch_json, decoder.touches), (conversion_json, decoder.conversions)):
        decode([record(0, key, make() if value == b"GOOD" else value)], 3, taken)
    assert len(taken.dead) == 1
    assert [held.dead is not None for held in taken.conversions] == [True]
    assert taken.filtered == []
