"""Raw records: what is read of them, what comes out for the crediting stage, and which are refused."""

import json
from typing import Any

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from models import raw
from models.events import decode_conversion, decode_identify, decode_touch
from models.identity import Names, people_of
from models.outcome import Reason, Rejected
from models.raw import HOPS, PERSON, Kind, decode_people, decode_raw, own_headers, renamed
from models.records.reading import RECORD_BYTES_MAX

SEED = 20_261_122
RECORD_MS = 1_760_000_000_000
KEY = b"secret"
TOUCH: dict[str, Any] = {"event_id": "t1", "occurred_at": RECORD_MS, "channel": "Email"}
CONVERSION: dict[str, Any] = {"conversion_id": "c1", "occurred_at": RECORD_MS, "value": "19.90"}


def read(kind: Kind, record: Any, headers: Any = (), key: bytes = KEY) -> raw.RawEvent:
    value = record if isinstance(record, bytes) else json.dumps(record).encode()
    return decode_raw(kind, value, headers, RECORD_MS, key)


def reason_of(kind: Kind, record: Any, key: bytes = KEY) -> Reason:
    with pytest.raises(Rejected) as caught:
        read(kind, record, key=key)
    return caught.value.reason


def test_a_touch_is_rekeyed_to_its_highest_id() -> None:
    """The ids are replaced by one person_id; the other fields of the contract stay as they came."""
    event = read(
        "touches",
        b'{"event_id":"t1","anonymous_id":" a1 ","user_id":"u1","occurred_at":1760000000000, "cost":1.10, "x":[1]}',
    )
    assert event.ids == ("u1", "anonymous:a1")
    assert event.person == "u1"
    assert event.rekeyed == b'{"event_id":"t1","occurred_at":1760000000000,"cost":1.10,"person_id":"u1"}'


def test_a_conversion_keeps_its_action_and_money() -> None:
    """A conversion comes out with the digits that its producer wrote."""
    event = read(
        "conversions",
        b'{"conversion_id":"c1","email":"bo@ex.com","occurred_at":"2025-10-09T08:53:20Z","value":1.500000}',
    )
    assert (event.conversion_id, event.action) == ("c1", "create")
    assert b'"value":1.500000' in event.rekeyed
    assert b"bo@ex.com" not in event.rekeyed
    assert decode_conversion(event.rekeyed, RECORD_MS).person_id == event.ids[0]


@pytest.mark.parametrize("action", ["restate", "retract"])
def test_a_correction_may_name_nobody(action: str) -> None:
    """A restate or retract without ids is found by its conversion_id; so there is no person yet."""
    event = read("conversions", {**CONVERSION, "action": action})
    assert (event.ids, event.person, event.conversion_id) == ((), None, "c1")


def test_headers_say_who_it_was_sent_to() -> None:
    """The owner of a lower id sends on with a header; it counts, and the record's own ids stay what they are."""
    headers = [("traceparent", b"00"), (HOPS, b"3"), (PERSON, b"u0")]
    event = read("touches", {**TOUCH, "anonymous_id": "a1"}, headers)
    assert (event.person, event.ids, event.hops) == ("u0", ("anonymous:a1",), 3)
    assert decode_touch(event.rekeyed, RECORD_MS).person_id == "u0"
    assert own_headers(headers) == [("traceparent", b"00")]


@pytest.mark.parametrize(
    ("kind", "record", "reason"),
    [
        ("touches", TOUCH, Reason.MISSING_FIELD),
        ("touches", {**TOUCH, "user_id": " ", "email": None}, Reason.MISSING_FIELD),
        ("touches", {**TOUCH, "user_id": 5}, Reason.WRONG_TYPE),
        ("touches", {**TOUCH, "user_id": "u1", "person_id": "u2"}, Reason.BAD_ID),
        ("touches", {**TOUCH, "user_id": "u" * 257}, Reason.BAD_ID),
        ("touches", {**TOUCH, "anonymous_id": "a" * 250}, Reason.BAD_ID),
        ("touches", {**TOUCH, "email": "nobody"}, Reason.BAD_ID),
        ("touches", {**TOUCH, "user_id": "u1", "event_id": ""}, Reason.BAD_ID),
        ("touches", {**TOUCH, "user_id": "u1", "occurred_at": 5}, Reason.BAD_TIME),
        ("touches", b'{"user_id":"u1"', Reason.INVALID_JSON),
        ("touches", b'{"user_id":"u1","event_id":"\xff"}', Reason.BAD_UTF8),
        ("conversions", CONVERSION, Reason.MISSING_FIELD),
        ("conversions", {**CONVERSION, "user_id": "u1", "value": "1e3"}, Reason.BAD_MONEY),
        ("conversions", {**CONVERSION, "user_id": "u1", "currency": "XXQ"}, Reason.UNKNOWN_CURRENCY),
        ("conversions", {**CONVERSION, "action": "refund"}, Reason.BAD_ACTION),
    ],
)
def test_what_breaks_the_contract_is_rejected(kind: Kind, record: Any, reason: Reason) -> None:
    """Raw records are judged as strictly as those of the crediting stage, before anything is made of them."""
    assert reason_of(kind, record) is reason


def test_an_email_without_a_key_is_rejected() -> None:
    """Without the secret no address may be hashed: the hashes could be guessed."""
    assert reason_of("touches", {**TOUCH, "user_id": "u1", "email": "bo@ex.com"}, b"") is Reason.NO_EMAIL_KEY


def test_no_value_is_rejected() -> None:
    """A tombstone on a raw topic is a dead letter, as on the others."""
    with pytest.raises(Rejected) as caught:
        decode_raw("touches", None, (), RECORD_MS, KEY)
    assert caught.value.reason is Reason.NULL_VALUE


def test_a_record_that_grows_too_large_is_rejected() -> None:
    """Under a longer id than its own a record may come out larger than the crediting stage takes: better told here."""
    filler = RECORD_BYTES_MAX - len(json.dumps({**TOUCH, "user_id": "u", "url": ""}))
    record = {**TOUCH, "user_id": "u", "url": "x" * filler}
    assert len(read("touches", record).rekeyed) <= RECORD_BYTES_MAX
    with pytest.raises(Rejected) as caught:
        read("touches", record, [(PERSON, b"v" * 200)])
    assert caught.value.reason is Reason.TOO_LARGE


def test_a_header_that_is_no_id_is_rejected() -> None:
    """A record that claims to have been sent to nobody is no record of ours."""
    with pytest.raises(Rejected) as caught:
        read("touches", {**TOUCH, "user_id": "u1"}, [(PERSON, b"\xff")])
    assert caught.value.reason is Reason.BAD_ID


def test_an_identify_gives_its_ids() -> None:
    """The ids of an Identify come as those of an event do."""
    value = json.dumps({"anonymous_id": "a1", "user_id": "u1", "occurred_at": RECORD_MS}).encode()
    assert decode_people(value, RECORD_MS, KEY) == ("u1", "anonymous:a1")


IDS = st.sampled_from(["a1", "u1", " a1", "anonymous:a1", "bo@ex.com", "ü", "", None, 7, "x" * 257])
ODD = st.sampled_from([None, "", " ", "x", "1.10", "ü", "\ud800", 5, 1.5, 10**30, True, [], {"k": "v"}, {"k": 1}])


@st.composite
def records(draw: st.DrawFn) -> tuple[Kind, bytes]:
    """A record with any ids, and up to two fields that may be odd."""
    kind = draw(st.sampled_from(["touches", "conversions"]))
    record = dict(TOUCH if kind == "touches" else CONVERSION)
    record |= draw(st.dictionaries(st.sampled_from(["anonymous_id", "user_id", "email", "person_id"]), IDS))
    names = ["event_id", "type", "url", "cost", "value", "currency", "properties", "action", "occurred_at", "other"]
    record |= draw(st.dictionaries(st.sampled_from(names), ODD, max_size=2))
    return kind, json.dumps(record, ensure_ascii=draw(st.booleans()) or "\ud800" in repr(record)).encode(
        errors="replace"
    )


@seed(SEED)
@settings(max_examples=800)
@given(records())
def test_the_quick_way_and_the_contract_agree(drawn: tuple[Kind, bytes]) -> None:
    """Whatever the quick way takes, the contract takes too, and the crediting stage reads the same of both."""
    kind, value = drawn
    try:
        quick = raw._quick(kind, value, raw.Route(), RECORD_MS, KEY)
    except (*raw.REFUSALS, Rejected):
        quick = None
    try:
        judged = raw._by_contract(kind, value, raw.Route(), RECORD_MS, KEY)
    except Rejected:
        assert quick is None
        with pytest.raises(Rejected):
            decode_raw(kind, value, (), RECORD_MS, KEY)
        return
    taken = decode_raw(kind, value, (), RECORD_MS, KEY)
    decode = decode_touch if kind == "touches" else decode_conversion
    for one in (taken, quick or taken):
        assert (one.ids, one.person, one.conversion_id, one.action) == (
            judged.ids,
            judged.person,
            judged.conversion_id,
            judged.action,
        )
        assert decode(one.rekeyed, RECORD_MS) == decode(judged.rekeyed, RECORD_MS)


@seed(SEED)
@settings(max_examples=500)
@given(
    st.dictionaries(st.sampled_from(["anonymous_id", "user_id", "email", "account_id"]), IDS),
    st.dictionaries(st.sampled_from(["occurred_at", "other"]), ODD, max_size=1),
)
def test_both_ways_of_an_identify_agree(names: dict[str, Any], odd: dict[str, Any]) -> None:
    """An Identify gives the ids that the contract reads of it, or is refused by both."""
    value = json.dumps({"occurred_at": RECORD_MS, **names, **odd}).encode()
    quick: tuple[str, ...] | None
    try:
        quick = raw._quick_people(value, RECORD_MS, KEY)
    except (*raw.REFUSALS, Rejected):
        quick = None
    try:
        judged = decode_identify(value, RECORD_MS)
        wanted = people_of(Names(judged.anonymous_id, judged.user_id, judged.email), KEY)
    except Rejected:
        assert quick is None
        return
    assert decode_people(value, RECORD_MS, KEY) == wanted
    assert quick in (None, wanted)


@pytest.mark.parametrize(
    ("extra", "is_simple"),
    [
        ({}, True),
        ({"campaign": '"person_id":"anonymous:a1"'}, True),
        ({"properties": {"person_id": "anonymous:a1"}}, False),
        ({"properties": {'a"person_id': "x"}}, False),
    ],
)
def test_an_event_of_another_person_differs_in_that_alone(extra: dict[str, Any], is_simple: bool) -> None:
    """Only its own person_id is another one; where that name stands elsewhere too, it is left to be read again."""
    value = json.dumps({"event_id": "t1", "anonymous_id": "a1", "occurred_at": RECORD_MS, **extra}).encode()
    rekeyed = decode_raw("touches", value, (), RECORD_MS, KEY).rekeyed
    other = renamed("anonymous:a1", 'u"1')(rekeyed)
    assert (other is not None) == is_simple
    if other is not None:
        assert json.loads(other) == {**json.loads(rekeyed), "person_id": 'u"1'}
    assert renamed("anonymous:a2", "u1")(rekeyed) is None
