"""The verifier's own reading of input records and its own arithmetic, in fractions; shared with nothing.

Covered are policies whose paths have all touches of the lookback, journeys of persons, the built-in attribution models.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from math import floor
from typing import Any

DAY_MS = 86_400_000
EARLIEST_MS = 946_684_800_000  # 2000-01-01
EPOCH = datetime.fromisoformat("1970-01-01T00:00+00:00")
ORIGIN = ("channel", "source", "medium", "campaign", "content", "term")
TEXTS = (*ORIGIN, "event_id", "conversion_id", "person_id", "account_id", "type", "currency", "action")
MONEY = re.compile(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,6})?", re.ASCII)
ENDS = {"position_based": ("2/5", "2/5"), "j_shaped": ("1/5", "3/5"), "inverse_j": ("3/5", "1/5")}

Fields = dict[str, Any]
Parts = dict[str, tuple[int, float, int]]  # by touch_id: position, share, micros


@dataclass(frozen=True)
class Rules:
    """The policy that the credits were made under; times in milliseconds, attribution models joined by commas."""

    models: str = "first_touch,last_touch,last_non_direct,linear,position_based,time_decay"
    lookback_ms: int = 30 * DAY_MS
    allowed_lateness_ms: int = 7 * DAY_MS
    settle_ms: int = 250
    corrections_ms: int = 90 * DAY_MS
    half_life_ms: int = 7 * DAY_MS
    max_touches: int = 500
    journey_touches_max: int = 10_000
    currency: str = "USD"
    short_path: str = "normalise_ends"


def parse(value: bytes | None, key: bytes | None, record_ms: int, own_id: str) -> Fields:
    """The fields of an input record, absent texts empty; ValueError for one that the contract refuses.

    `own_id` names the id that this kind of record must have beside the person's.
    """
    read = json.loads((value or b"").decode(), parse_int=Fraction, parse_float=str)
    if not isinstance(read, dict) or not all(isinstance(read.get(n) or "", str) for n in TEXTS):
        raise ValueError("no object of texts")
    given: Fields = {name: (read.get(name) or "").strip() for name in TEXTS}
    if not given[own_id] or not given["person_id"] or key != given["person_id"].encode():
        raise ValueError("an id is missing, or the key is another")
    money, at = read.get("value"), read.get("occurred_at")
    if money is not None and not MONEY.fullmatch(str(money)):
        raise ValueError("no money")
    at_ms = int(at) if isinstance(at, Fraction) else _rfc3339_ms(str(at))
    if not EARLIEST_MS <= at_ms <= record_ms + 2 * DAY_MS:
        raise ValueError("a time that is not believed")
    micros = None if money is None else int(Fraction(money) * 1_000_000)
    return {**given, "micros": micros, "at": at_ms, "record_ms": record_ms}


def _rfc3339_ms(text: str) -> int:
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError("a time without an offset")
    return (when - EPOCH) // timedelta(milliseconds=1)


def path_of(conversion: Fields, touches: Sequence[Fields], times: Sequence[int], rules: Rules) -> list[Fields]:
    """The touches that count, at most one more than a path may have; `touches` in order, `times` their event times."""
    oldest_ms = conversion["record_ms"] - rules.lookback_ms - rules.allowed_lateness_ms
    latest_ms = conversion["record_ms"] + max(rules.allowed_lateness_ms, rules.settle_ms)
    path: list[Fields] = []
    for place in range(bisect_right(times, conversion["at"]) - 1, -1, -1):
        touch = touches[place]
        if touch["at"] < conversion["at"] - rules.lookback_ms or len(path) > rules.max_touches:
            break
        if oldest_ms <= touch["record_ms"] <= latest_ms:
            path.append(touch)
    return path[::-1]


def parts_of(attribution_model: str, path: Sequence[Fields], micros: int, rules: Rules) -> Parts | None:
    """What each touch of a path gets, those with nothing left out; None where that cannot be computed here."""
    weights = _weights(attribution_model, path, rules)
    if weights is None:
        return None
    total = sum(weights)
    shares = [weight / total for weight in weights]
    if attribution_model == "participation":
        shares, amounts = [Fraction(1)] * len(path), [micros] * len(path)
    else:
        amounts = split(micros, shares)
    counted = zip(path, shares, amounts, strict=True)
    return {t["event_id"]: (n, float(s), amount) for n, (t, s, amount) in enumerate(counted, 1) if float(s)}


def split(micros: int, shares: Sequence[Fraction]) -> list[int]:
    """Largest remainder, ties to the earlier."""
    exact = [micros * share for share in shares]
    amounts = [floor(part) for part in exact]
    for place in sorted(range(len(exact)), key=lambda i: (amounts[i] - exact[i], i))[: micros - sum(amounts)]:
        amounts[place] += 1
    return amounts


def _weights(attribution_model: str, path: Sequence[Fields], rules: Rules) -> list[Fraction] | None:
    count = len(path)
    if attribution_model in ("first_touch", "last_touch", "last_non_direct"):
        return _all_to_one(attribution_model, path)
    if attribution_model in ("linear", "participation") or (attribution_model in ENDS and count == 1):
        return [Fraction(1)] * count
    if attribution_model in ENDS:
        first, end = map(Fraction, ENDS[attribution_model])
        rest = 1 - first - end
        if count == 2:
            return [w + rest / 2 if rules.short_path == "split_middle" else w for w in (first, end)]
        return [first, *[rest / (count - 2)] * (count - 2), end]
    if attribution_model == "time_decay":
        # By the contract's formula, relative to the youngest; the double that comes out is taken as it is.
        return [Fraction(2.0 ** ((touch["at"] - path[-1]["at"]) / rules.half_life_ms)) for touch in path]
    return None


def _all_to_one(attribution_model: str, path: Sequence[Fields]) -> list[Fraction] | None:
    chosen = 0 if attribution_model == "first_touch" else len(path) - 1
    if attribution_model == "last_non_direct":
        if not all(touch["channel"] for touch in path):
            return None  # what the channel rules make of them is not for here
        direct = [touch["channel"].casefold() in ("direct", "(direct)") for touch in path]
        chosen = max((i for i in range(len(path)) if not direct[i]), default=chosen)
    return [Fraction(i == chosen) for i in range(len(path))]
