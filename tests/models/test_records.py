"""The public contract of records: what is accepted, with which values, and why the rest is refused."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from models.currencies import CURRENCIES
from models.events import decode_conversion, decode_cost, decode_identify, decode_touch, read_touch
from models.facts import Conversion, Touch
from models.ids import credit_id, escape_id, split_credit_id
from models.outcome import FOUND_CHARS_MAX, Reason, Rejected
from models.records import Conversion as ConversionRecord
from models.records import Credit, schema_files, schemas
from models.records import Touch as TouchRecord
from models.text import same_text

R = 1_760_000_000_000
TOUCH: dict[str, Any] = {"event_id": "t1", "person_id": "p1", "occurred_at": R, "channel": "email"}
CONVERSION: dict[str, Any] = {"conversion_id": "c1", "person_id": "p1", "occurred_at": R}
IDENTIFY: dict[str, Any] = {"user_id": "u1", "occurred_at": R}
COST: dict[str, Any] = {"campaign": "spring", "date": "2025-03-31", "amount": "120.50"}
CREDIT: dict[str, Any] = {
    "credit_id": "c1|linear|t1",
    "conversion_id": "c1",
    "conversion_type": "order",
    "person_id": "p1",
    "attribution_model": "linear",
    "revision": 7,
    "status": "credited",
    "touch_id": "t1",
    "touch_type": "click",
    "channel": "email",
    "touched_at": R - 5,
    "converted_at": R,
    "position": 1,
    "path_length": 1,
    "share": 1.0,
    "value_micros": 19_990_000,
    "currency": "USD",
    "path_truncated": False,
    "conversion_value_micros": 19_990_000,
    "set_size": 1,
    "additive": True,
    "reason": "only",
    "policy_version": "0123abcd",
}
DECODERS: dict[str, tuple[Callable[[bytes | None, int], Any], dict[str, Any]]] = {
    "touch": (decode_touch, TOUCH),
    "conversion": (decode_conversion, CONVERSION),
    "identify": (decode_identify, IDENTIFY),
    "cost": (decode_cost, COST),
}
SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


def touch(**fields: Any) -> Touch:
    return decode_touch(json.dumps({**TOUCH, **fields}).encode(), R)


def conversion(**fields: Any) -> Conversion:
    return decode_conversion(json.dumps({**CONVERSION, **fields}).encode(), R)


def refusal(kind: str, fields: dict[str, Any] | bytes) -> Rejected:
    decode, valid = DECODERS[kind]
    value = fields if isinstance(fields, bytes) else json.dumps({**valid, **fields}).encode()
    with pytest.raises(Rejected) as refused:
        decode(value, R)
    return refused.value


def test_touch_with_defaults() -> None:
    """A touch of the required fields alone gets type visit, and its envelope's record time."""
    assert touch() == Touch("t1", "p1", R, type="visit", channel="email", record_ms=R)


def test_conversion_with_defaults() -> None:
    """A conversion that names no value, currency or event_id leaves them to the core."""
    assert conversion() == Conversion("c1", "p1", R, type="conversion", action="create", record_ms=R)


def test_full_conversion() -> None:
    """Every field of a conversion arrives, money as micros."""
    fields = {
        "type": "order",
        "value": "0.1",
        "currency": "EUR",
        "account_id": "a",
        "action": "restate",
        "event_id": "e",
    }
    expected = Conversion("c1", "p1", R, "order", 100_000, "EUR", "a", "restate", "e", R)
    assert conversion(**fields) == expected


@pytest.mark.parametrize(("value", "micros"), [("19.99", 19_990_000), (19.99, 19_990_000), (5, 5_000_000), ("0", 0)])
def test_money_as_text_or_number(value: object, micros: int) -> None:
    """Money may be JSON text or a JSON number."""
    assert conversion(value=value).value_micros == micros


def test_money_never_passes_through_a_binary_float() -> None:
    """Eighteen digits of a JSON number arrive exactly."""
    value = json.dumps(CONVERSION)[:-1] + ', "value": 999999999999.999999}'
    assert decode_conversion(value.encode(), R).value_micros == 999_999_999_999_999_999


def test_names_of_the_core_mean_nothing_in_a_payload() -> None:
    """A payload cannot set what comes from the record's envelope."""
    fields = {"record_ms": 1, "offset": 9, "lag_ms": 3, "occurred_ms": 5, "value_micros": 7}
    assert touch(**fields) == touch()
    assert conversion(**fields) == conversion()


def test_text_is_trimmed_and_composed() -> None:
    """Text and ids are trimmed, NFC, and otherwise as given; blank optional text is absent."""
    found = touch(event_id=" t|1\\ ", source="\u00a0Cafe\u0301 ", medium=" \t", type="", account_id=" ")
    assert found == Touch("t|1\\", "p1", R, channel="email", source="Café", record_ms=R)


def test_source_compares_without_case() -> None:
    """Source, medium and channel are the same whatever their case, outer spaces and composition."""
    assert same_text("Cafe\u0301 ", "CAFÉ")
    assert same_text("STRASSE", "straße")
    assert not same_text("google", "bing")


def test_channel_is_derived_and_text_filled_in_from_the_url() -> None:
    """Without a channel it is derived; with one, the url still gives the utm fields that are absent."""
    url = "https://shop.example/?utm_source=google&utm_medium=cpc&utm_campaign=Spring+Sale"
    derived = touch(channel=None, url=url)
    assert (derived.channel, derived.source, derived.campaign) == ("Paid Search", "google", "Spring Sale")
    given = touch(source="newsletter", url=url)
    assert (given.channel, given.source, given.medium, given.campaign) == ("email", "newsletter", "cpc", "Spring Sale")


def test_time_bounds() -> None:
    """An event time is believed from 2000-01-01 to 48 h after the record time, both inclusive."""
    for ahead in (-1, 48 * 3_600_000):
        assert touch(occurred_at=R + ahead).occurred_ms == R + ahead
    assert touch(occurred_at="2000-01-01T00:00:00Z").occurred_ms == 946_684_800_000
    for bad in (
        R + 48 * 3_600_000 + 1,
        946_684_799_999,
        1_760_000_000,
        0,
        "1970-01-01T00:00:00Z",
        "9999-01-01T00:00:00Z",
    ):
        assert refusal("touch", {"occurred_at": bad}).reason is Reason.BAD_TIME


@pytest.mark.parametrize("size", [1, 64, 65, 256])
def test_ids_up_to_256_bytes(size: int) -> None:
    """An id may have 256 bytes, in any script."""
    assert touch(event_id="x" * size).event_id == "x" * size
    assert touch(event_id="é" * (size // 2) + "x" * (size % 2)).person_id == "p1"


@pytest.mark.parametrize(
    ("kind", "fields", "reason", "field"),
    [
        ("touch", {"event_id": None}, Reason.MISSING_FIELD, "event_id"),
        ("touch", {"event_id": 5}, Reason.WRONG_TYPE, "event_id"),
        ("touch", {"event_id": ""}, Reason.BAD_ID, "event_id"),
        ("touch", {"person_id": " \t"}, Reason.BAD_ID, "person_id"),
        ("touch", {"person_id": "x" * 257}, Reason.BAD_ID, "person_id"),
        ("touch", {"person_id": "é" * 129}, Reason.BAD_ID, "person_id"),
        ("touch", {"person_id": " " + "x" * 256}, Reason.BAD_ID, "person_id"),
        ("touch", {"person_id": "\u0958" * 43}, Reason.BAD_ID, "person_id"),
        ("touch", {"account_id": "x" * 257}, Reason.BAD_ID, "account_id"),
        ("touch", {"source": ["google"]}, Reason.WRONG_TYPE, "source"),
        ("touch", {"properties": {"k": 1}}, Reason.WRONG_TYPE, "properties.k"),
        ("touch", {"properties": [1]}, Reason.WRONG_TYPE, "properties"),
        ("touch", {"term": "\ud800"}, Reason.BAD_UTF8, "term"),
        ("touch", {"cost": "-1"}, Reason.BAD_MONEY, "cost"),
        ("touch", {"cost": ""}, Reason.BAD_MONEY, "cost"),
        ("touch", {"cost": True}, Reason.WRONG_TYPE, "cost"),
        ("touch", {"currency": "usd"}, Reason.UNKNOWN_CURRENCY, "currency"),
        ("touch", {"currency": "XXX"}, Reason.UNKNOWN_CURRENCY, "currency"),
        ("touch", {"occurred_at": "yesterday"}, Reason.BAD_TIME, "occurred_at"),
        ("touch", {"occurred_at": str(R)}, Reason.BAD_TIME, "occurred_at"),
        ("touch", {"occurred_at": float(R)}, Reason.BAD_TIME, "occurred_at"),
        ("touch", {"occurred_at": True}, Reason.WRONG_TYPE, "occurred_at"),
        ("touch", {"occurred_at": {}}, Reason.WRONG_TYPE, "occurred_at"),
        ("conversion", {"conversion_id": None}, Reason.MISSING_FIELD, "conversion_id"),
        ("conversion", {"value": 1e308}, Reason.BAD_MONEY, "value"),
        ("conversion", {"value": "1e2"}, Reason.BAD_MONEY, "value"),
        ("conversion", {"value": {}}, Reason.WRONG_TYPE, "value"),
        ("conversion", {"currency": "ZZZ"}, Reason.UNKNOWN_CURRENCY, "currency"),
        ("conversion", {"action": "delete"}, Reason.BAD_ACTION, "action"),
        ("conversion", {"action": 1}, Reason.WRONG_TYPE, "action"),
        ("conversion", {"event_id": "é" * 129}, Reason.BAD_ID, "event_id"),
        ("identify", {"user_id": None}, Reason.MISSING_FIELD, None),
        ("identify", {"user_id": " "}, Reason.MISSING_FIELD, None),
        ("identify", {"occurred_at": None}, Reason.MISSING_FIELD, "occurred_at"),
        ("cost", {"campaign": " "}, Reason.MISSING_FIELD, "campaign"),
        ("cost", {"amount": None}, Reason.MISSING_FIELD, "amount"),
        ("cost", {"amount": "1,50"}, Reason.BAD_MONEY, "amount"),
        ("cost", {"date": "2025-02-29"}, Reason.BAD_TIME, "date"),
        ("cost", {"date": "1999-12-31"}, Reason.BAD_TIME, "date"),
        ("cost", {"date": "2025-3-31"}, Reason.BAD_TIME, "date"),
        ("cost", {"date": "2099-01-01"}, Reason.BAD_TIME, "date"),
        ("cost", {"date": 20250331}, Reason.WRONG_TYPE, "date"),
        ("touch", b"{", Reason.INVALID_JSON, None),
        ("touch", b'{"a":NaN}', Reason.INVALID_JSON, None),
        ("touch", b"[" * 10_000, Reason.INVALID_JSON, None),
        ("touch", b"[]", Reason.WRONG_TYPE, None),
        ("touch", b"\xef\xbb\xbf{}", Reason.INVALID_JSON, None),
        ("touch", b'{"a":"\xff"}', Reason.BAD_UTF8, None),
        ("touch", b" " * 1_048_577, Reason.TOO_LARGE, None),
    ],
    ids=lambda part: None if isinstance(part, bytes | dict) else str(part),
)
def test_refusals(kind: str, fields: dict[str, Any] | bytes, reason: Reason, field: str | None) -> None:
    """Each breach of the contract has its reason, names its field, and says what was expected and found."""
    rejected = refusal(kind, fields)
    assert (rejected.reason, rejected.field) == (reason, field)
    assert "expected" in rejected.message
    assert "found" in rejected.message


@pytest.mark.parametrize("kind", DECODERS)
def test_null_value(kind: str) -> None:
    """A record without a value is refused as such."""
    with pytest.raises(Rejected) as refused:
        DECODERS[kind][0](None, R)
    assert refused.value.reason is Reason.NULL_VALUE


def test_messages_stay_short_and_encodable() -> None:
    """A message shows at most 80 characters of what was found, and always fits into a Kafka header."""
    for found in ("x" * 900_000, "\ud800" * 500, "é" * 500):
        rejected = refusal("touch", {"occurred_at": found})
        assert len(rejected.message.partition("found ")[2]) <= FOUND_CHARS_MAX
        assert str(rejected).encode()
    assert str(refusal("touch", {"properties": {"\ud800" * 200: "x"}})).encode()


def test_identify_and_cost() -> None:
    """The two side inputs arrive validated: times in epoch milliseconds, money exact, text clean."""
    identify = decode_identify(json.dumps({**IDENTIFY, "email": " a@b.example "}).encode(), R)
    assert (identify.user_id, identify.email, identify.occurred_at) == ("u1", "a@b.example", R)
    cost = decode_cost(json.dumps({**COST, "amount": 0.1, "currency": "EUR"}).encode(), R)
    assert (cost.amount, cost.date.isoformat(), cost.currency) == (Decimal("0.1"), "2025-03-31", "EUR")


def test_a_validated_record_dumps_as_a_record() -> None:
    """A producer may build records with the public contract and write what it dumps."""
    full = {
        **TOUCH,
        "cost": "0.000001",
        "currency": "EUR",
        "properties": {"k": "v"},
        "occurred_at": "2025-01-01T00:00:00Z",
    }
    record = TouchRecord.model_validate(full)
    dumped = record.model_dump_json(exclude_none=True).encode()
    assert TouchRecord.model_validate_json(dumped) == record
    assert read_touch(dumped, R) == touch(**full)
    order = ConversionRecord.model_validate({**CONVERSION, "value": Decimal("12.50")})
    assert decode_conversion(order.model_dump_json().encode(), R).value_micros == 12_500_000


def test_the_contract_takes_no_binary_float() -> None:
    """A float handed to the public contract is refused: its digits are not those that were written."""
    with pytest.raises(ValueError, match="expected money"):
        ConversionRecord.model_validate({**CONVERSION, "value": 0.1})


def test_credit() -> None:
    """A credit of the contract's fields is valid, and consumers survive fields that come later."""
    credit = Credit.model_validate_json(json.dumps({**CREDIT, "later": 1}))
    assert json.loads(credit.model_dump_json(exclude_none=True)) == CREDIT
    none = {"touch_id": "", "credit_id": "c1|linear|", "position": 0, "path_length": 0, "status": "unattributed"}
    assert Credit.model_validate({**CREDIT, **none}).touch_id == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"credit_id": "c1|linear|t2"},
        {"share": 1.1},
        {"share": -0.1},
        {"status": "done"},
        {"status": "retracted"},
        {"position": 2},
        {"position": 0},
        {"value_micros": -1},
        {"value_micros": 1.5},
        {"set_size": 0},
        {"currency": "usd"},
        {"policy_version": None},
    ],
    ids=str,
)
def test_credits_that_contradict_themselves(fields: dict[str, Any]) -> None:
    """A credit whose parts do not agree is not one."""
    with pytest.raises(ValueError, match="validation error"):
        Credit.model_validate({**CREDIT, **fields})


def test_schema_files_are_current() -> None:
    """`docs/schemas/` holds exactly what the records say now (`touchstream schema export` writes it)."""
    assert {path.name: path.read_text(encoding="utf-8") for path in SCHEMAS.iterdir()} == schema_files()


@pytest.mark.parametrize("name", ["touch", "conversion", "identify", "cost", "credit"])
def test_every_field_is_described(name: str) -> None:
    """Each field of each record has a description, and required fields are marked."""
    schema = schemas()[name]
    assert all(len(field["description"]) > 10 for field in schema["properties"].values())
    valid = CREDIT if name == "credit" else DECODERS[name][1]
    assert set(schema["required"]) <= set(valid)
    assert schema["description"]


def test_reasons_explain_themselves() -> None:
    """Every reason is a lower-case code with at least a sentence on what happened and one on the fix."""
    for reason in Reason:
        assert reason.value == reason.value.lower().replace("_", "-").replace(" ", "-")
        assert reason.explanation.count(". ") >= 1
        assert reason.explanation.endswith(".")
    assert Reason("bad-money") is Reason.BAD_MONEY
    assert f"{Reason.BAD_MONEY}" == "bad-money"


def test_currencies() -> None:
    """Codes are three capital letters; those that name no money are not among them."""
    assert all(len(code) == 3 and code.isascii() and code.isupper() for code in CURRENCIES)
    assert {"USD", "EUR", "JPY", "XCG", "ZWG"} <= CURRENCIES
    assert not {"XXX", "XTS", "HRK", "ZZZ"} & CURRENCIES


@pytest.mark.parametrize(
    "parts", [("c", "m", "t"), ("c|", "|m", ""), ("\\", "\\|", "|\\|"), ("", "", ""), ("é\n", "m", "t")]
)
def test_credit_ids_split_again(parts: tuple[str, str, str]) -> None:
    """Joining escapes what it must, so that a credit_id names exactly one credit."""
    assert split_credit_id(credit_id(*parts)) == parts
    assert escape_id("a|b\\c") == "a\\|b\\\\c"


@pytest.mark.parametrize("text", ["", "a", "a|b", "a|b|c|d", "a|b|c\\", "a|b|\\c"])
def test_what_is_no_credit_id(text: str) -> None:
    """A text that is not three parts joined is refused."""
    with pytest.raises(ValueError, match="not a credit_id"):
        split_credit_id(text)
