"""From a record's bytes to a validated record, or `Rejected`: the slow way, whose verdict counts.

JSON is read with the standard library because it alone hands over the digits of a number.
"""

import json
import re
from typing import Any, Never, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from models.outcome import Reason, Rejected, shorten
from models.records.fields import Number

RECORD_BYTES_MAX = 1024 * 1024
# Parsers recurse, so a bound of our own makes the verdict independent of how deep the caller's stack is.
NESTING_MAX = 256

_REASONS = {reason.value: reason for reason in Reason}
# The possessive string part keeps this linear on any input, and swallows an unterminated string whole.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_EXPECTED = {
    "missing": (Reason.MISSING_FIELD, "expected a value"),
    "string_type": (Reason.WRONG_TYPE, "expected text"),
    "dict_type": (Reason.WRONG_TYPE, "expected an object"),
}

RecordT = TypeVar("RecordT", bound=BaseModel)


def read_record(record_type: type[RecordT], value: bytes | None, record_ms: int) -> RecordT:
    """The validated record of that type in a Kafka value; Rejected where it breaks the contract.

    record_ms: the record time in epoch milliseconds, which bounds how far ahead an event time may lie.
    """
    fields = _object(_text(value))
    try:
        return record_type.model_validate(fields, context={"record_ms": record_ms})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise _rejected(first) from None


def _text(value: bytes | None) -> str:
    if value is None:
        raise Rejected(Reason.NULL_VALUE, "expected a record, found no value")
    if len(value) > RECORD_BYTES_MAX:
        raise Rejected(Reason.TOO_LARGE, f"expected at most {RECORD_BYTES_MAX} bytes, found {len(value)}")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        found = f"byte 0x{value[error.start]:02x} at {error.start}"
        raise Rejected(Reason.BAD_UTF8, f"expected UTF-8, found {found}") from None


def _object(text: str) -> dict[str, Any]:
    if _nests_too_deep(text):
        raise Rejected(Reason.INVALID_JSON, f"expected at most {NESTING_MAX} levels of nesting, found more")
    try:
        parsed = json.loads(text, parse_int=Number, parse_float=Number, parse_constant=_no_json)
    except ValueError as error:
        # The message of a JSONDecodeError names line and column; none holds text of the record.
        raise Rejected(Reason.INVALID_JSON, f"expected JSON, found {shorten(str(error))}") from None
    if not isinstance(parsed, dict):
        raise Rejected(Reason.WRONG_TYPE, f"expected an object, found {describe(parsed)}")
    return {name: given for name, given in parsed.items() if given is not None}


def _nests_too_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= NESTING_MAX:
        return False
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        token = match.group()
        if token in "[{":
            depth += 1
            if depth > NESTING_MAX:
                return True
        elif token in "]}":
            depth -= 1
    return False


def _no_json(constant: str) -> Never:
    raise ValueError(f"{constant}, which is not JSON")


def _rejected(error: ErrorDetails) -> Rejected:
    kind = error["type"]
    if kind in _REASONS:
        reason, expected = _REASONS[kind], error["msg"]
    else:
        reason, expected = _EXPECTED.get(kind, (Reason.WRONG_TYPE, error["msg"]))
    found = "nothing" if kind == "missing" else describe(error["input"])
    field = ".".join(_printable(part) for part in error["loc"]) or None
    return Rejected(reason, f"{expected}, found {found}", field)


def describe(given: object) -> str:
    """A value as a message shows it: JSON text cut to 80 characters, containers by name only."""
    if isinstance(given, Number):
        return shorten(given.text)
    if isinstance(given, str):
        return shorten(json.dumps(given[:200], ensure_ascii=not _is_unicode(given)))
    if isinstance(given, dict):
        return "an object"
    return "an array" if isinstance(given, list) else shorten(json.dumps(given, default=repr))


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text[:200])


def _printable(part: object) -> str:
    return shorten(str(part)).encode(errors="backslashreplace").decode()
