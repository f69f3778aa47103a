"""The settings tables of attribution models: what they share."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from decimal import Decimal
from difflib import get_close_matches
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from models.attribution.base import AttributionModel

ShortPath = Literal["normalise_ends", "split_middle"]

# Weights are exact, so their digits are bounded: the whole numbers they are scaled to stay small.
WEIGHT_DIGITS_MAX = 12
_SCALE = 10**WEIGHT_DIGITS_MAX
_WEIGHT = re.compile(r"[01](\.[0-9]{1,12})?", re.ASCII)


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint for a name that is not known: the nearest one that is, or all of them."""
    options = sorted(known)
    close = get_close_matches(name, options, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(options)}"


class Table(BaseModel):
    """A settings table: frozen, and a key that it does not know is an error with a hint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, table: object) -> object:
        if isinstance(table, Mapping):
            for key in table:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {key!r}; {nearest(str(key), cls.model_fields)}")
        return table


class AttributionModelTable(Table, ABC):
    """A `[models.<name>]` table; each kind has its own."""

    @abstractmethod
    def build(self, name: str, short_path: ShortPath) -> AttributionModel:
        """The attribution model that this table describes, under the name that the policy gives it."""


def parse_weight(value: object) -> Fraction:
    """The exact fraction of a weight between 0 and 1: `0.4` is 2/5, not the binary number nearest to it.

    Takes a number as TOML reads it (its shortest text counts) or decimal text; at most 12 digits after the
    point.
    Raises ValueError, whose text says what is allowed.
    """
    if isinstance(value, float):
        text = format(Decimal(repr(value)), "f")
    elif isinstance(value, int | str) and not isinstance(value, bool):
        text = str(value)
    else:
        text = ""
    if not _WEIGHT.fullmatch(text) or Fraction(text) > 1:
        raise ValueError(
            f"{value!r} is not a weight; write a decimal number from 0 to 1 "
            f"with at most {WEIGHT_DIGITS_MAX} digits after the point"
        )
    return Fraction(text)


def format_weight(weight: Fraction) -> str:
    """The shortest decimal text of a weight, the same for `0.4`, `"0.40"` and 2/5."""
    ones, rest = divmod(int(weight * _SCALE), _SCALE)
    return f"{ones}.{rest:0{WEIGHT_DIGITS_MAX}d}".rstrip("0").rstrip(".")


Weight = Annotated[
    Fraction,
    PlainValidator(parse_weight),
    PlainSerializer(format_weight, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 1},
                {"type": "string", "pattern": _WEIGHT.pattern},
            ]
        }
    ),
]
