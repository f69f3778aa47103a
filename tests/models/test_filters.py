"""Filters: what drops a record, what does not, and which tables are refused."""

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from models.events import decode_conversion, decode_touch
from models.filters import (
    CONDITIONS_MAX,
    FILTERS_MAX,
    NO_FILTERS,
    OF_CONVERSION,
    OF_TOUCH,
    TEXT_BYTES_MAX,
    TEXTS_MAX,
    Filtered,
    Filters,
    FilterTables,
)
from models.rest import Rest
from tests.support.drawn import NOW_MS

Table = dict[str, Any]
TABLES: TypeAdapter[Any] = TypeAdapter(FilterTables)


def filters(*tables: Table) -> Filters:
    return Filters.of(TABLES.validate_python(list(tables)))


def table(drop: str = "touch", *when: Table, **fields: Any) -> Table:
    return {"name": "one", "drop": drop, "when": list(when), **fields}


def touch(**fields: Any) -> bytes:
    whole = {"event_id": "t1", "person_id": "ada", "occurred_at": NOW_MS, "channel": "Email"}
    return json.dumps({**whole, **fields}, ensure_ascii=False).encode()


def conversion(**fields: Any) -> bytes:
    whole = {"conversion_id": "c1", "person_id": "ada", "occurred_at": NOW_MS}
    return json.dumps({**whole, **fields}, ensure_ascii=False).encode()


def drops_touch(value: bytes, *tables: Table) -> bool:
    return filters(*tables).touch(decode_touch(value, NOW_MS), value) is not None


def drops_conversion(value: bytes, *tables: Table) -> bool:
    return filters(*tables).conversion(decode_conversion(value, NOW_MS), value) is not None


HOLD = [
    ({"equals": "Spring Sale"}, "spring sale", True),
    ({"equals": "spring"}, "spring sale", False),
    ({"equals": "straße"}, "STRASSE", True),
    ({"equals": "\u00e9"}, "e\u0301", True),
    ({"one_of": ["a", "B "]}, "b", True),
    ({"one_of": ["a", "b"]}, "ab", False),
    ({"starts_with": "10."}, "10.0.0.1", True),
    ({"starts_with": "10."}, "110.0.0.1", False),
    ({"ends_with": "@Example.com"}, "ada@example.COM", True),
    ({"ends_with": "@example.com"}, "ada@example.com.evil", False),
    ({"contains": "test"}, "my TEST order", True),
    ({"contains": "test"}, "order", False),
    ({"present": True}, "anything", True),
    ({"present": False}, "anything", False),
]


@pytest.mark.parametrize(("test", "text", "holds"), HOLD)
def test_a_condition_holds_or_not_and_negate_turns_it_round(test: Table, text: str, holds: bool) -> None:
    """The same answer for a field of the record and for a property; case and composition do not count."""
    for negate in (False, True):
        for field, value in (("campaign", touch(campaign=text)), ("properties.x", touch(properties={"x": text}))):
            dropped = drops_touch(value, table("touch", {"field": field, **test, "negate": negate}))
            assert dropped is (holds is not negate), field


@pytest.mark.parametrize("value", [touch(), touch(campaign=" ", properties={}), touch(properties={"y": "1", "x": " "})])
@pytest.mark.parametrize("field", ["campaign", "properties.x"])
def test_what_is_absent_or_blank_holds_no_test_but_absence(field: str, value: bytes) -> None:
    """And with `negate` every one: "not granted" is also what nobody was asked."""
    tests: list[Table] = [
        {"equals": "x"},
        {"one_of": ["x"]},
        {"starts_with": "x"},
        {"ends_with": "x"},
        {"contains": "x"},
        {"present": True},
    ]
    for test in tests:
        assert not drops_touch(value, table("touch", {"field": field, **test}))
        assert drops_touch(value, table("touch", {"field": field, **test, "negate": True}))
    assert drops_touch(value, table("touch", {"field": field, "present": False}))


def test_all_conditions_of_a_filter_have_to_hold_and_the_first_filter_counts() -> None:
    """Conditions are joined by and, filters by or; the name counted is that of the first in the file."""
    found = filters(
        table("touch", {"field": "channel", "equals": "email"}, {"field": "type", "equals": "click"}, name="both"),
        table("touch", {"field": "channel", "equals": "email"}, name="one", reason="internal"),
        table("touch", {"field": "person_id", "equals": "ada"}, name="late"),
    )
    for value, name in (
        (touch(type="click"), Filtered("both", "other")),
        (touch(), Filtered("one", "internal")),
        (touch(channel="x"), Filtered("late", "other")),
        (touch(channel="x", person_id="bob"), None),
    ):
        assert found.touch(decode_touch(value, NOW_MS), value) == name


def test_every_field_can_be_asked_for() -> None:
    """Each field that a table may name is read from the record; nothing else is."""
    whole = {
        "account_id": "x", "type": "x", "currency": "EUR", "source": "x", "medium": "x", "campaign": "x",
        "content": "x", "term": "x", "url": "x", "referrer": "x", "event_id": "x", "person_id": "x", "channel": "x",
    }  # fmt: skip
    for field in OF_TOUCH:
        assert drops_touch(touch(**whole), table("touch", {"field": field, "one_of": ["x", "eur"]})), field
        assert not drops_touch(touch(**whole), table("touch", {"field": field, "equals": "y"})), field
    sale = {name: whole[name] for name in OF_CONVERSION if name in whole} | {"conversion_id": "x", "action": "restate"}
    for field in OF_CONVERSION:
        asked = {"field": field, "one_of": ["x", "eur", "restate"]}
        assert drops_conversion(conversion(**sale), table("conversion", asked)), field
        assert not drops_conversion(conversion(**sale), table("conversion", {"field": field, "equals": "y"})), field


def test_a_filter_sees_what_decoding_derived() -> None:
    """The channel that follows from a click id, a source from the url, and the defaults of type and action."""
    value = touch(channel=None, url="https://shop.example/?utm_source=Intern&utm_medium=cpc")
    for test in (
        {"field": "source", "equals": "intern"},
        {"field": "channel", "contains": "paid"},
        {"field": "type", "equals": "visit"},
        {"field": "url", "starts_with": "https://shop.example/"},
    ):
        assert drops_touch(value, table("touch", test)), test
    for test in ({"field": "type", "equals": "conversion"}, {"field": "action", "equals": "create"}):
        assert drops_conversion(conversion(), table("conversion", test)), test


def test_a_filter_acts_on_the_records_it_names() -> None:
    """`drop` says on which; one of both is asked for both."""
    when = {"field": "person_id", "equals": "ada"}
    for drop, of_touch, of_conversion in (
        ("touch", True, False),
        ("conversion", False, True),
        ("both", True, True),
    ):
        assert drops_touch(touch(), table(drop, when)) is of_touch
        assert drops_conversion(conversion(), table(drop, when)) is of_conversion
    assert (NO_FILTERS.touches, NO_FILTERS.conversions) == ((), ())


ODD: list[tuple[Any, str]] = [
    ("text", "text"),
    (True, "true"),
    (False, "false"),
    (12, "12"),
    (1.5, ""),
    (None, ""),
    ([], ""),
    ({"a": "b"}, ""),
]


@pytest.mark.parametrize(("given", "read"), ODD)
def test_properties_of_conversions_may_be_anything(given: Any, read: str) -> None:
    """The contract does not read them: whole numbers and truth values are texts, the rest is absent."""
    assert Rest(conversion(properties={"x": given})).property("x") == read


@pytest.mark.parametrize("properties", ["text", 1, ["x"], None, True])
def test_properties_that_are_no_object_hold_nothing(properties: Any) -> None:
    """Then every property is absent."""
    assert Rest(conversion(properties=properties)).property("x") == ""


def test_what_only_the_contract_can_read_is_filtered_too() -> None:
    """A record that msgspec refuses and the contract accepts has its properties all the same."""
    half = b'{"conversion_id":"c","person_id":"p","occurred_at":1714564800000,"note":"\\ud800","properties":'
    value = half + b'{"x":"yes","n":1' + b"0" * 30 + b',"f":1e400,"odd":"\\ud800"}}'
    decode_conversion(value, NOW_MS)
    rest = Rest(value)
    assert [rest.property(name) for name in "xnf"] == ["yes", "", ""]
    assert drops_conversion(value, table("conversion", {"field": "properties.x", "equals": "YES"}))
    assert not drops_conversion(value, table("conversion", {"field": "properties.odd", "equals": "YES"}))


REFUSED: list[tuple[Table, str]] = [
    (table(), "at least one is needed"),
    (table("tuch", {"field": "type", "equals": "x"}), "'touch', 'conversion' or 'both'"),
    (table("touch", {"field": "type", "equals": "x"}, reason="spam"), "'consent'"),
    (table("touch", {"field": "type", "equals": "x"}, name="a\nb"), "pattern"),
    (table("touch", {"field": "type", "equals": "x"}, drops="both"), "did you mean 'drop'?"),
    (table("touch", {"field": "campain", "equals": "x"}), "did you mean 'campaign'?"),
    (table("both", {"field": "url", "equals": "x"}), "touches and conversions share no field 'url'"),
    (table("conversion", {"field": "channel", "equals": "x"}), "conversions have no field 'channel'"),
    (table("touch", {"field": "properties.", "equals": "x"}), "names no property"),
    (table("touch", {"field": "property.x", "equals": "x"}), "did you mean 'properties.x'?"),
    (table("touch", {"field": "type"}), "it has none"),
    (table("touch", {"field": "type", "equals": "x", "present": True}), "it has equals and present"),
    (table("touch", {"field": "type", "start_with": "x"}), "did you mean 'starts_with'?"),
    (table("touch", {"field": "type", "equals": " "}), "cannot be blank"),
    (table("touch", {"field": "type", "one_of": []}), "at least one is needed"),
    (table("touch", {"field": "type", "one_of": ["x"] * (TEXTS_MAX + 1)}), f"at most {TEXTS_MAX}"),
    (table("touch", {"field": "type", "equals": "é" * (TEXT_BYTES_MAX // 2 + 1)}), f"at most {TEXT_BYTES_MAX} bytes"),
    (table("touch", {"field": "type", "equals": 1}), "valid string"),
    (table("touch", *[{"field": "type", "equals": "x"}] * (CONDITIONS_MAX + 1)), f"at most {CONDITIONS_MAX}"),
]


@pytest.mark.parametrize(("refused", "told"), REFUSED, ids=[told for _, told in REFUSED])
def test_a_table_that_cannot_be_is_refused_with_words(refused: Table, told: str) -> None:
    """What is wrong is said, with the nearest name where there is one."""
    with pytest.raises(ValidationError) as caught:
        filters(refused)
    assert told in str(caught.value)


def test_the_bounds_themselves_are_accepted() -> None:
    """Fifty filters of twenty conditions with texts of 256 bytes; one filter more is refused, as is a name twice."""
    when = [{"field": "type", "equals": "é" * (TEXT_BYTES_MAX // 2)}] * CONDITIONS_MAX
    most = [table("both", *when, name=f"f{n}") for n in range(FILTERS_MAX)]
    assert len(filters(*most).touches) == FILTERS_MAX
    with pytest.raises(ValidationError, match=f"at most {FILTERS_MAX}"):
        filters(*most, table("both", *when))
    with pytest.raises(ValidationError, match="these have the same: f0"):
        filters(most[0], most[0])
