"""The kinds of field that records are made of: id, text, time, money, currency.

Every validator raises `PydanticCustomError` whose type is a `Reason` and whose message says what was
expected; what was found is added where the error becomes a `Rejected`. Times need the record time, which
comes as `record_ms` in the validation context; without it only the lower bound is checked.
"""

import datetime
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

from models.currencies import CURRENCIES
from models.facts import Action
from models.ids import ID_BYTES_MAX, clean_id
from models.money_text import MONEY_PATTERN, parse_money
from models.outcome import Reason
from models.text import clean_text
from models.times import DAY_MS, EARLIEST_MS, is_believable, parse_time

EPOCH = datetime.date(1970, 1, 1)
# Longer integers are no time of this millennium, and int() itself refuses texts of thousands of digits.
TIME_DIGITS_MAX = 15


@dataclass(frozen=True, slots=True)
class Number:
    """A JSON number as its digits: not a `str`, so that `5` never passes for `"5"`."""

    text: str


def refusal(reason: Reason, expected: str) -> PydanticCustomError:
    """The error of a field validator."""
    # Braces would be read as places to fill in; no expectation has any.
    return PydanticCustomError(reason.value, "expected " + expected)


def _whole(text: str) -> str:
    # JSON can escape half of a surrogate pair, and Python keeps it: such text could never be written out
    # again.
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise refusal(Reason.BAD_UTF8, "text of whole Unicode characters") from None
    return text


def _required_id(text: str) -> str:
    try:
        return clean_id(_whole(text))
    except ValueError:
        raise refusal(Reason.BAD_ID, "an id of 1 to 256 bytes") from None


def _optional_id(text: str | None) -> str | None:
    return _required_id(text) if text is not None and clean_text(text) else None


def _required_text(text: str) -> str:
    cleaned = clean_text(_whole(text))
    if not cleaned:
        raise refusal(Reason.MISSING_FIELD, "text that is not blank")
    return cleaned


def _optional_text(text: str | None) -> str | None:
    return clean_text(_whole(text)) or None if text is not None else None


def _currency(text: str | None) -> str | None:
    code = _optional_text(text)
    if code is not None and code not in CURRENCIES:
        raise refusal(Reason.UNKNOWN_CURRENCY, "an active ISO 4217 code such as USD")
    return code


def _action(given: object) -> str | None:
    if given is not None and not isinstance(given, str):
        raise refusal(Reason.WRONG_TYPE, "text")
    action = _optional_text(given)
    if action not in (None, "create", "restate", "retract"):
        raise refusal(Reason.BAD_ACTION, "create, restate or retract")
    return action


def _time(given: object, info: ValidationInfo) -> int:
    expected = "RFC 3339 with an offset, or integer epoch milliseconds"
    if isinstance(given, bool) or not isinstance(given, str | int | Number):
        raise refusal(Reason.WRONG_TYPE, expected)
    try:
        time_ms = parse_time(given) if isinstance(given, str) else _integer(given)
    except ValueError:
        raise refusal(Reason.BAD_TIME, expected) from None
    return _believable(time_ms, info)


def _integer(given: int | Number) -> int:
    if isinstance(given, int):
        return given
    if len(given.text) > TIME_DIGITS_MAX:
        raise ValueError("too many digits")
    return int(given.text)  # JSON's grammar was checked: this refuses fractions and exponents only


def _believable(time_ms: int, info: ValidationInfo) -> int:
    record_ms = (info.context or {}).get("record_ms", time_ms)
    if not is_believable(time_ms, record_ms):
        raise refusal(Reason.BAD_TIME, "a time from 2000-01-01 to 48 h after the record time")
    return time_ms


def _date(given: object, info: ValidationInfo) -> datetime.date:
    if isinstance(given, datetime.date) and not isinstance(given, datetime.datetime):
        date = given
    elif isinstance(given, str):
        try:
            date = datetime.datetime.strptime(given, "%Y-%m-%d").date() if len(given) == 10 else EPOCH
        except ValueError:
            date = EPOCH
    else:
        raise refusal(Reason.WRONG_TYPE, "a date such as 2025-03-31")
    if date.toordinal() <= EPOCH.toordinal():
        raise refusal(Reason.BAD_TIME, "a date such as 2025-03-31")
    _believable((date - EPOCH).days * DAY_MS, info)
    return date


def _money(given: object) -> Decimal | None:
    expected = "money such as 19.99, as text or a number, not negative, at most 6 decimals"
    if given is None or (isinstance(given, Decimal) and given.is_finite()):
        text = None if given is None else format(given, "f")
    elif isinstance(given, str):
        text = given
    elif isinstance(given, Number):
        text = given.text
    elif isinstance(given, int) and not isinstance(given, bool):
        text = str(given) if abs(given) < 10**12 else "too large"
    else:
        # A float comes here too: its digits are not those that the producer wrote.
        raise refusal(Reason.WRONG_TYPE, expected)
    if text is None:
        return None
    try:
        parse_money(text)
    except ValueError:
        raise refusal(Reason.BAD_MONEY, expected) from None
    return Decimal(text)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}], "default": None}


_TIME_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": EARLIEST_MS}]
}
_MONEY_TEXT_SCHEMA: dict[str, Any] = {"type": "string", "pattern": f"^{MONEY_PATTERN}$"}
_MONEY_NUMBER_SCHEMA: dict[str, Any] = {"type": "number", "minimum": 0, "exclusiveMaximum": 1e12}
_MONEY_SCHEMA: dict[str, Any] = {"anyOf": [_MONEY_TEXT_SCHEMA, _MONEY_NUMBER_SCHEMA]}
_OPTIONAL_MONEY_SCHEMA: dict[str, Any] = {
    "anyOf": [_MONEY_TEXT_SCHEMA, _MONEY_NUMBER_SCHEMA, {"type": "null"}],
    "default": None,
}
# In a schema lengths are characters; the bound that counts is in bytes and is checked when the record is
# read.
_ID_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": ID_BYTES_MAX}

Id = Annotated[str, AfterValidator(_required_id), WithJsonSchema(_ID_SCHEMA)]
OptionalId = Annotated[str | None, AfterValidator(_optional_id)]
Text = Annotated[str, AfterValidator(_required_text), WithJsonSchema({"type": "string", "minLength": 1})]
WholeText = Annotated[str, AfterValidator(_whole)]
OptionalText = Annotated[str | None, AfterValidator(_optional_text)]
Time = Annotated[int, BeforeValidator(_time), WithJsonSchema(_TIME_SCHEMA)]
Date = Annotated[datetime.date, BeforeValidator(_date), WithJsonSchema({"type": "string", "format": "date"})]
Money = Annotated[Decimal, BeforeValidator(_money), WithJsonSchema(_MONEY_SCHEMA)]
OptionalMoney = Annotated[Decimal | None, BeforeValidator(_money), WithJsonSchema(_OPTIONAL_MONEY_SCHEMA)]
OptionalCurrency = Annotated[
    str | None,
    AfterValidator(_currency),
    WithJsonSchema(_or_null({"type": "string", "pattern": "^[A-Z]{3}$"})),
]
OptionalAction = Annotated[
    Action | None,
    BeforeValidator(_action),
    WithJsonSchema(_or_null({"enum": ["create", "restate", "retract"]})),
]
