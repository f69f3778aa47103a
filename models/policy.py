"""The policy: every switch that decides credits, read from settings tables, checked, frozen and versioned.

The tables are what a person writes in `touchstream.toml`; a `Policy` is what the core reads. A policy can be
stored as JSON (`effective`) and built again under the same version (`from_effective`), as a conversion keeps
the one it was first credited with.
"""

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from models.attribution.base import AttributionModel
from models.attribution.direct import fold
from models.attribution.registry import BUILT_IN, LATER_NAMES, ModelTables, built_in, not_yet
from models.attribution.table import AttributionModelTable, ShortPath, Table, nearest
from models.durations import DAY_MS, Duration
from models.times import format_time, parse_time

Journey = Literal["person", "account"]
TouchReuse = Literal["reuse", "reset_after_conversion"]
Direct = Literal["count", "ignore_unless_alone"]
RepeatsBy = Literal["channel", "campaign"]
Repeats = Literal["keep", "collapse_adjacent", "first_of_channel", "last_of_channel"]
Count = Literal["every", "first"]

ATTRIBUTION_MODELS_MAX = 32
TYPES_MAX = 1_000
CHANNELS_MAX = 1_000
PATH_TOUCHES_MAX = 10_000
JOURNEY_TOUCHES_MAX = 1_000_000
# What one conversion may give at most: its credits go out in one transaction, which is never split.
CREDITS_MAX = 50_000

_MONEY = re.compile(r"(0|[1-9][0-9]{0,11})(?:\.([0-9]{1,6}))?", re.ASCII)


class PolicyError(ValueError):
    """A policy that this version cannot follow: the text says which name is wrong and what would be right."""


def _money(value: object) -> object:
    """Decimal text of an amount; only a whole number may come without quotes, as fractions are binary."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _MONEY.fullmatch(text):
        raise ValueError(f'{value!r} is not an amount; write it in quotes, as in "10.00", six decimals at most')
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals.rstrip('0')}".rstrip(".")


def _instant(value: object) -> object:
    """A time with its offset, in one spelling; TOML has times of its own, which come as they are."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.isoformat()
    try:
        return format_time(parse_time(value if isinstance(value, str) else ""))
    except ValueError:
        raise ValueError(f"{value!r} is not a time with an offset, as in 2026-12-01T00:00:00Z") from None


def _channels(names: tuple[str, ...]) -> tuple[str, ...]:
    """Channel names as they are compared, each once: how they were written makes no other policy."""
    return tuple(sorted({fold(unicodedata.normalize("NFC", name).strip()) for name in names}))


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"named twice: {', '.join(twice)}")
    return names


TypeName = Annotated[str, Field(min_length=1, max_length=256)]
Instant = Annotated[
    str, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"}, mode="validation")
]
Money = Annotated[str, BeforeValidator(_money), WithJsonSchema({"type": "string", "pattern": f"^{_MONEY.pattern}$"})]


class AttributionTable(Table):
    """`[attribution]`: what holds for all conversions. Durations are milliseconds once read."""

    models: Annotated[
        tuple[str, ...],
        Field(min_length=1, max_length=ATTRIBUTION_MODELS_MAX),
        AfterValidator(_distinct),
    ] = ("first_touch", "last_touch", "last_non_direct", "linear", "position_based", "time_decay")
    lookback: Duration = 30 * DAY_MS
    allowed_lateness: Duration = 7 * DAY_MS
    corrections: Duration = 90 * DAY_MS
    journey: Journey = "person"
    touch_reuse: TouchReuse = "reuse"
    direct: Direct = "count"
    exclude_channels: Annotated[tuple[str, ...], Field(max_length=CHANNELS_MAX), AfterValidator(_channels)] = ()
    repeats_by: RepeatsBy = "channel"
    repeats: Repeats = "keep"
    short_path: ShortPath = "normalise_ends"
    max_touches: Annotated[int, Field(ge=1, le=PATH_TOUCHES_MAX)] = 500
    journey_touches_max: Annotated[int, Field(ge=1, le=JOURNEY_TOUCHES_MAX)] = 10_000
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    # Record time from which the policy counts for new conversions; None: from its announcement (streams/policies.py).
    effective_from: Instant | None = None
    lookback_by_touch_type: dict[TypeName, Duration] = Field(max_length=TYPES_MAX, default_factory=dict)


class ConversionTable(Table):
    """`[conversions.<type>]`: what differs for one conversion type."""

    credited: bool = True
    milestone: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    value: Money | None = None
    lookback: Duration | None = None
    count: Count = "every"

    @model_validator(mode="after")
    def _count_what_is_credited(self) -> Self:
        if self.count == "first" and not self.credited:
            raise ValueError('count = "first" says which conversions are credited, and credited = false that none are')
        return self

    @property
    def value_micros(self) -> int | None:
        """The fixed value in micros, or None where the event's own value counts."""
        if self.value is None:
            return None
        whole, _, decimals = self.value.partition(".")
        return int(whole) * 1_000_000 + int(decimals.ljust(6, "0"))


ConversionTables = Annotated[dict[TypeName, ConversionTable], Field(max_length=TYPES_MAX)]


class PolicyTables(Table):
    """The tables of one policy together: the stored form."""

    attribution: AttributionTable = AttributionTable()
    conversions: ConversionTables = Field(default_factory=dict)
    models: ModelTables = Field(default_factory=dict)


_NO_RULES = ConversionTable()


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """What the core follows: built by `compile_policy`, never changed. Times are milliseconds.

    `version` is a hash of everything that can change a credit, so that equal policies have equal versions; a time from
    which it is to count is part of it, so that an earlier policy can be brought back. `effective_from_ms` is None where
    none is named.
    `first_types` are the conversion types of which only the first in a journey is credited (`models/counting.py`).
    `retention_ms` is how long a touch can matter: the longest lookback plus the allowed lateness.
    """

    version: str
    models: tuple[AttributionModel, ...]
    journey: Journey
    reuse: TouchReuse
    direct: Direct
    exclude_channels: frozenset[str]
    repeats: Repeats
    repeats_by: RepeatsBy
    max_touches: int
    journey_touches_max: int
    currency: str
    allowed_lateness_ms: int
    corrections_ms: int
    retention_ms: int
    lookback_default_ms: int
    lookback_by_touch_type: Mapping[str, int]
    conversions: Mapping[str, ConversionTable]
    first_types: frozenset[str]
    canonical: str
    effective_from_ms: int | None = None

    @classmethod
    def default(cls) -> "Policy":
        """The policy of an empty settings file."""
        return compile_policy(AttributionTable(), {}, {})

    @classmethod
    def from_effective(cls, effective: Mapping[str, Any]) -> "Policy":
        """The policy that `effective()` described, under the same version."""
        tables = PolicyTables.model_validate(effective)
        return compile_policy(tables.attribution, tables.conversions, tables.models)

    def effective(self) -> dict[str, Any]:
        """The policy as JSON, with the defaults it used; a new dictionary at each call."""
        stored: dict[str, Any] = json.loads(self.canonical)
        return stored

    @property
    def resets(self) -> bool:
        """True where a credited conversion ends the use of the touches before it."""
        return self.reuse == "reset_after_conversion"

    def lookback_ms(self, conversion_type: str, touch_type: str) -> int:
        """How far back a touch counts: by its own type, else by the conversion's, else the default."""
        by_touch = self.lookback_by_touch_type.get(touch_type)
        return self.lookback_by_conversion_ms(conversion_type) if by_touch is None else by_touch

    def lookback_by_conversion_ms(self, conversion_type: str) -> int:
        """How far back touches count whose own type has no lookback."""
        lookback_ms = self._rules(conversion_type).lookback
        return self.lookback_default_ms if lookback_ms is None else lookback_ms

    def lookback_max_ms(self, conversion_type: str) -> int:
        """How far back any touch can count for this conversion type."""
        longest_ms = self.lookback_by_conversion_ms(conversion_type)
        return max(longest_ms, *self.lookback_by_touch_type.values()) if self.lookback_by_touch_type else longest_ms

    def credited(self, conversion_type: str) -> bool:
        """False for a type that only marks a milestone."""
        return self._rules(conversion_type).credited

    def milestone(self, conversion_type: str) -> str | None:
        """The milestone that conversions of this type mark, if any."""
        return self._rules(conversion_type).milestone

    def fixed_value_micros(self, conversion_type: str) -> int | None:
        """The value that counts in place of the event's own, if any."""
        return self._rules(conversion_type).value_micros

    def _rules(self, conversion_type: str) -> ConversionTable:
        return self.conversions.get(conversion_type, _NO_RULES)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policy) and self.version == other.version

    def __hash__(self) -> int:
        return hash(self.version)


def compile_policy(
    attribution: AttributionTable,
    conversions: Mapping[str, ConversionTable],
    models: Mapping[str, AttributionModelTable],
) -> Policy:
    """The policy of these tables. `models` need not hold built-in names that keep their defaults.

    Raises PolicyError for an attribution model that is not known or that this version does not have yet.
    """
    used = {name: _table(name, models) for name in attribution.models}
    if len(used) * attribution.max_touches > CREDITS_MAX:
        raise PolicyError(
            f"[attribution] max_touches = {attribution.max_touches} with {len(used)} attribution models could give "
            f"more than {CREDITS_MAX} credits for one conversion; at most {CREDITS_MAX // len(used)} with so many"
        )
    rules = {name: table for name, table in sorted(conversions.items()) if table != _NO_RULES}
    canonical = _canonical(attribution, rules, used)
    lookbacks = [attribution.lookback, *attribution.lookback_by_touch_type.values()]
    lookbacks += [table.lookback for table in rules.values() if table.lookback is not None]
    return Policy(
        version=blake2b(canonical.encode(), digest_size=4).hexdigest(),
        models=tuple(table.build(name, attribution.short_path) for name, table in used.items()),
        journey=attribution.journey,
        reuse=attribution.touch_reuse,
        direct=attribution.direct,
        exclude_channels=frozenset(attribution.exclude_channels),
        repeats=attribution.repeats,
        repeats_by=attribution.repeats_by,
        max_touches=attribution.max_touches,
        journey_touches_max=attribution.journey_touches_max,
        currency=attribution.currency,
        allowed_lateness_ms=attribution.allowed_lateness,
        corrections_ms=attribution.corrections,
        retention_ms=max(lookbacks) + attribution.allowed_lateness,
        lookback_default_ms=attribution.lookback,
        lookback_by_touch_type=MappingProxyType(dict(attribution.lookback_by_touch_type)),
        conversions=MappingProxyType(rules),
        first_types=frozenset(name for name, table in rules.items() if table.count == "first"),
        canonical=canonical,
        effective_from_ms=None if attribution.effective_from is None else parse_time(attribution.effective_from),
    )


def _table(name: str, models: Mapping[str, AttributionModelTable]) -> AttributionModelTable:
    if name in models:
        return models[name]
    if name in BUILT_IN:
        return built_in(name)
    if name in LATER_NAMES:
        raise PolicyError(not_yet("[attribution] models", name))
    hint = nearest(name, {*models, *BUILT_IN})
    raise PolicyError(f"[attribution] models names {name!r}, which is not defined; {hint}")


def _canonical(
    attribution: AttributionTable,
    conversions: Mapping[str, ConversionTable],
    models: Mapping[str, AttributionModelTable],
) -> str:
    """One text for one policy: all defaults spelled out, names in order, nothing that is not used."""
    # Without a time the text is what it was before there was one: versions stand in journeys and credits.
    unused = {"effective_from"} if attribution.effective_from is None else set()
    stored = {
        "attribution": attribution.model_dump(mode="json", exclude=unused),
        "conversions": {n: t.model_dump(mode="json", exclude_defaults=True) for n, t in conversions.items()},
        "models": {n: t.model_dump(mode="json") for n, t in models.items()},
    }
    return json.dumps(stored, sort_keys=True, separators=(",", ":"))
