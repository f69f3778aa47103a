"""Filters: records that are left out by rule, as test orders, internal traffic or touches without consent.

`[[filters]]` in `touchstream.toml` is read here, checked and compiled. Whether a filter drops a record is a function of
that record alone: of its fields, as they are after decoding (the channel derived, texts trimmed and in NFC), and of its
`properties`, which are read from its bytes once more only where a condition asks for them. Texts compare without case.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from models.attribution.table import Table, nearest
from models.facts import Conversion, Touch
from models.ids import ID_BYTES_MAX
from models.rest import PROPERTY, Rest
from models.text import clean_text, fold_text

FILTERS_MAX = 50
CONDITIONS_MAX = 20
TEXTS_MAX = 100
TEXT_BYTES_MAX = 256

OF_BOTH = ("person_id", "account_id", "event_id", "type", "currency")
OF_TOUCH = (*OF_BOTH, "channel", "source", "medium", "campaign", "content", "term", "url", "referrer")
OF_CONVERSION = (*OF_BOTH, "conversion_id", "action")
# What the decoded facts do not hold.
_OF_THE_REST_OF_A_TOUCH = frozenset({"url", "referrer", "currency"})

TESTS = ("equals", "one_of", "starts_with", "ends_with", "contains", "present")

Drop = Literal["touch", "conversion", "both"]
Reason = Literal["test", "internal", "consent", "other"]
Fact = Touch | Conversion
Condition = Callable[[Fact, Rest], bool]


class Filtered(NamedTuple):
    """What left a record out: the name of its filter, and the reason that the filter gives."""

    name: str
    reason: str


Compiled = tuple[Filtered, tuple[Condition, ...]]


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("a text to compare with cannot be blank; use present = false for what is absent")
    if len(text.encode()) > TEXT_BYTES_MAX:
        raise ValueError(f"a text to compare with has at most {TEXT_BYTES_MAX} bytes, this one has more")
    return text


def _some(given: tuple[Any, ...]) -> tuple[Any, ...]:
    # A `min_length` would complain too where what is given has faults of its own.
    if not given:
        raise ValueError("at least one is needed, the list is empty")
    return given


def _distinct(filters: "tuple[FilterTable, ...]") -> "tuple[FilterTable, ...]":
    names = [each.name for each in filters]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"filters are counted by name, and these have the same: {', '.join(twice)}")
    return filters


Some = AfterValidator(_some)
Text = Annotated[str, AfterValidator(_text)]
# A label of metrics.
FilterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$")]


class ConditionTable(Table):
    """One condition: a field, one test, and `negate` to turn the answer round."""

    field: Annotated[str, Field(min_length=1, max_length=ID_BYTES_MAX)]
    equals: Text | None = None
    one_of: Annotated[tuple[Text, ...], Field(max_length=TEXTS_MAX), Some] | None = None
    starts_with: Text | None = None
    ends_with: Text | None = None
    contains: Text | None = None
    present: bool | None = None
    negate: bool = False

    @model_validator(mode="after")
    def _one_test(self) -> Self:
        given = [name for name in TESTS if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"it has {' and '.join(given)}" if given else "it has none"
            raise ValueError(f"a condition has exactly one of {', '.join(TESTS)}; {found}")
        return self

    def holds(self) -> Callable[[str], bool]:
        """The test as a function of the field's text in folded form, empty where it is absent. Without `negate`."""
        if self.present is not None:
            return bool if self.present else lambda text: not text
        if self.one_of is not None:
            texts = frozenset(map(fold_text, self.one_of))
            return lambda text: text in texts
        if self.starts_with is not None:
            start = fold_text(self.starts_with)
            return lambda text: text.startswith(start)
        if self.ends_with is not None:
            end = fold_text(self.ends_with)
            return lambda text: text.endswith(end)
        if self.contains is not None:
            part = fold_text(self.contains)
            return lambda text: part in text
        whole = fold_text(self.equals or "")
        return lambda text: text == whole


class FilterTable(Table):
    """`[[filters]]`: drops the records for which all of its conditions hold."""

    name: FilterName
    drop: Drop
    reason: Reason = "other"
    when: Annotated[tuple[ConditionTable, ...], Field(max_length=CONDITIONS_MAX), Some]

    @model_validator(mode="after")
    def _fields_are_there(self) -> Self:
        known = {"touch": OF_TOUCH, "conversion": OF_CONVERSION, "both": OF_BOTH}[self.drop]
        records = {"touch": "touches have", "conversion": "conversions have", "both": "touches and conversions share"}
        for each in self.when:
            named = each.field.removeprefix(PROPERTY)
            if named == each.field and named not in known:
                _, dot, name = named.partition(".")
                hint = nearest(named, (*known, f"{PROPERTY}{name}" if dot else f"{PROPERTY}<name>"))
                raise ValueError(f"{records[self.drop]} no field {named!r} that a filter can look at; {hint}")
            if not clean_text(named):
                raise ValueError(f"{each.field!r} names no property; write {PROPERTY}<name>")
        return self


FilterTables = Annotated[tuple[FilterTable, ...], Field(max_length=FILTERS_MAX), AfterValidator(_distinct)]


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of touches and those of conversions, in the order in which they are asked: the first one counts."""

    touches: tuple[Compiled, ...] = ()
    conversions: tuple[Compiled, ...] = ()

    @classmethod
    def of(cls, tables: Sequence[FilterTable]) -> "Filters":
        """What these tables say."""
        return cls(
            tuple(_compiled(table, _OF_THE_REST_OF_A_TOUCH) for table in tables if table.drop != "conversion"),
            tuple(_compiled(table, ()) for table in tables if table.drop != "touch"),
        )

    def touch(self, touch: Touch, value: bytes) -> Filtered | None:
        """What drops this touch; None where it stays. `value` are its record's bytes, which are valid."""
        return _first(self.touches, touch, value)

    def conversion(self, conversion: Conversion, value: bytes) -> Filtered | None:
        """What drops this conversion or correction; None where it stays."""
        return _first(self.conversions, conversion, value)


NO_FILTERS = Filters()


def _first(filters: Iterable[Compiled], fact: Fact, value: bytes) -> Filtered | None:
    rest = Rest(value)
    for filtered, conditions in filters:
        for condition in conditions:
            if not condition(fact, rest):
                break
        else:
            return filtered
    return None


def _compiled(table: FilterTable, of_the_rest: Collection[str]) -> Compiled:
    return Filtered(table.name, table.reason), tuple(_condition(each, of_the_rest) for each in table.when)


def _condition(table: ConditionTable, of_the_rest: Collection[str]) -> Condition:
    """One function a condition; where the text comes from is decided here, not a record."""
    field, holds, wanted = table.field, table.holds(), not table.negate
    if field.startswith(PROPERTY):
        name = field.removeprefix(PROPERTY)
        return lambda _, rest: holds(fold_text(rest.property(name))) is wanted
    if field in of_the_rest:
        return lambda _, rest: holds(fold_text(rest.field(field))) is wanted
    return lambda fact, _: holds(fold_text(getattr(fact, field) or "")) is wanted
