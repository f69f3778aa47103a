"""What decoded facts do not hold of a record: its address, its referrer, its properties. Read only when asked for."""

import json
from typing import Any

import msgspec

from models.wire import REFUSALS

PROPERTY = "properties."
# Longer numbers are no ids or flags, and turning thousands of digits into a number is refused by Python itself.
WHOLE_DIGITS_MAX = 20


class _RestJson(msgspec.Struct, gc=False):
    url: Any = None
    referrer: Any = None
    currency: Any = None
    properties: Any = None


_decode = msgspec.json.Decoder(_RestJson).decode


class Rest:
    """The rest of one record, whose bytes the contract accepts."""

    __slots__ = ("_json", "_value")

    def __init__(self, value: bytes) -> None:
        self._value = value
        self._json: _RestJson | None = None

    def field(self, name: str) -> str:
        """The text of `url`, `referrer` or `currency`; empty where it is absent."""
        read = self._json
        if read is None:
            read = self._json = _read(self._value)
        return _text(getattr(read, name))

    def property(self, name: str) -> str:
        """The text of a property; empty where it is absent.

        Whole numbers, true and false are what JSON writes for them. Conversions may have anything under `properties`,
        as the contract does not read them; what is no text then is absent.
        """
        read = self._json
        if read is None:
            read = self._json = _read(self._value)
        properties = read.properties
        return _text(properties.get(name)) if isinstance(properties, dict) else ""


def _text(given: Any) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, bool):
        return "true" if given else "false"
    return str(given) if isinstance(given, int) else ""


def _read(value: bytes) -> _RestJson:
    try:
        return _decode(value)
    except REFUSALS:
        return _read_slowly(value)


def _read_slowly(value: bytes) -> _RestJson:
    """What msgspec refuses and the contract does not, such as half of a surrogate pair in a field nobody reads."""
    read = json.loads(value, parse_int=_whole, parse_float=lambda _: None)
    return _RestJson(*map(read.get, ("url", "referrer", "currency", "properties")))


def _whole(digits: str) -> int | None:
    return int(digits) if len(digits) <= WHOLE_DIGITS_MAX else None
