"""Durations as people write them in settings (`90d`, `12h`, `500ms`); whole milliseconds inside."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema
from pydantic.config import JsonDict

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
# A century: longer is a slip of the keyboard, and sums of a few of these stay far inside 64 bits.
DURATION_MAX_MS = 36_525 * DAY_MS

_UNIT_MS = {"d": DAY_MS, "h": HOUR_MS, "m": MINUTE_MS, "s": SECOND_MS, "ms": 1}
_PATTERN = r"(0|[1-9][0-9]{0,12})(ms|s|m|h|d)"
_DURATION = re.compile(_PATTERN, re.ASCII)


def parse_duration(text: object) -> int:
    """Milliseconds of `90d`, `12h`, `30m`, `45s`, `500ms` or `0s`: one whole number, one unit, nothing else.

    Raises ValueError, whose text says what is allowed.
    """
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(
            f"{text!r} is not a duration; write a whole number and one unit of d, h, m, s, ms, "
            'in quotes: "90d", "12h", "30m", "45s", "500ms", "0s"'
        )
    length_ms = int(found[1]) * _UNIT_MS[found[2]]
    if length_ms > DURATION_MAX_MS:
        raise ValueError(f"{text!r} is too long; the longest duration is {format_duration(DURATION_MAX_MS)}")
    return length_ms


def format_duration(length_ms: int) -> str:
    """The shortest text that `parse_duration` reads back as `length_ms`: the largest unit that divides it."""
    if length_ms == 0:
        return "0s"
    unit = next(unit for unit, unit_ms in _UNIT_MS.items() if length_ms % unit_ms == 0)
    return f"{length_ms // _UNIT_MS[unit]}{unit}"


def _show_default(schema: JsonDict) -> None:
    """JSON Schema shows the default as people would write it."""
    default = schema.get("default")
    if isinstance(default, int):
        schema["default"] = format_duration(default)


# A field of a settings table: text outside, milliseconds inside.
Duration = Annotated[
    int,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^{_PATTERN}$", "examples": ["90d", "12h", "30m", "500ms"]}),
    Field(json_schema_extra=_show_default),
]
