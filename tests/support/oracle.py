"""An independent, slow and obvious computation of the final view of credits, in fractions.

It reads whole lists of records and knows no stream, no state and no revision. It shares no code with the
product, so that a difference between the two means that one of them misread `contract.md` or
`attribution-semantics.md`.

A record is the plain dict of contract section 2, with two optional keys of our own: `_record_ms` (the record
time, 0 where absent, so that nothing is late) and `_order` (its place in the log, the place in the list where
absent). A policy is what `tomllib` reads from a `touchstream.toml`. Touches must name their channel: the
channel rules have tests of their own, and computing them twice would hide which of the two failed.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import floor
from typing import Any

Record = dict[str, Any]
Policy = dict[str, Any]
Row = dict[str, Any]
Weights = tuple[list[Fraction], list[str]]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_MS = 86_400_000
UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}
DIRECT = {"direct", "(direct)"}
TEXTS = ("source", "medium", "campaign", "content", "term")
NOT_THE_ORACLES = frozenset({"revision", "policy_version"})

DEFAULTS: Policy = {
    "models": ["first_touch", "last_touch", "last_non_direct", "linear", "position_based", "time_decay"],
    "lookback": "30d",
    "allowed_lateness": "7d",
    "corrections": "90d",
    "journey": "person",
    "touch_reuse": "reuse",
    "direct": "count",
    "exclude_channels": [],
    "repeats_by": "channel",
    "repeats": "keep",
    "short_path": "normalise_ends",
    "max_touches": 500,
    "currency": "USD",
    "lookback_by_touch_type": {},
}
BUILT_IN: dict[str, Policy] = {
    "first_touch": {"kind": "single", "pick": "first"},
    "last_touch": {"kind": "single", "pick": "last"},
    "last_non_direct": {"kind": "single", "pick": "last_non_direct"},
    "linear": {"kind": "linear"},
    "position_based": {"kind": "position_based", "first": "0.4", "last": "0.4"},
    "j_shaped": {"kind": "position_based", "first": "0.2", "last": "0.6"},
    "inverse_j": {"kind": "position_based", "first": "0.6", "last": "0.2"},
    "time_decay": {"kind": "time_decay", "half_life": "7d"},
    "participation": {"kind": "participation"},
}


# The final view


def final_view(
    touches: Iterable[Record], conversions: Iterable[Record], policy: Policy, *, pruned: bool = False
) -> list[Row]:
    """Every credit that a reader keeps in the end, without `revision` and `policy_version`.

    With `pruned`, touches whose record is older than the conversion's by more than a touch can matter (the
    longest lookback plus allowed_lateness) do not count: they may have left the topic and the journey by then.
    Rows are sorted by conversion_id, attribution_model and position. Raises ValueError for a record or a
    policy that the oracle does not cover.
    """
    settings = {**DEFAULTS, **policy.get("attribution", {})}
    touches_of = _by_journey(touches, settings)
    retention_ms = _retention_ms(policy, settings)
    rows: list[Row] = []
    for journey, records in _by_journey(conversions, settings).items():
        own_touches = first_of_each_event_id(touches_of.get(journey, []))
        accepted = accepted_conversions(records, policy)
        for conversion in accepted:
            oldest_ms = conversion["_record_ms"] - retention_ms
            kept = [t for t in own_touches if t["_record_ms"] >= oldest_ms or not pruned]
            rows += _credits(conversion, accepted, kept, policy)
    return sorted(rows, key=lambda row: (row["conversion_id"], row["attribution_model"], row["position"]))


def comparable(rows: Iterable[Row], *, without: Iterable[str] = NOT_THE_ORACLES) -> list[Row]:
    """Rows without the fields in `without` and without nulls (null and absent say the same)."""
    left_out = set(without)
    return [{k: v for k, v in row.items() if k not in left_out and v is not None} for row in rows]


def _by_journey(records: Iterable[Record], settings: Policy) -> dict[str, list[Record]]:
    """Records of each person (or account) in log order."""
    field = "account_id" if settings["journey"] == "account" else "person_id"
    journeys: dict[str, list[Record]] = defaultdict(list)
    numbered = [(r.get("_record_ms", 0), r.get("_order", place), r) for place, r in enumerate(records)]
    for record_ms, order, record in sorted(numbered, key=lambda item: item[:2]):
        placed = {**record, "_record_ms": record_ms, "_order": order, "_at": epoch_ms(record["occurred_at"])}
        journeys[record[field]].append(placed)
    return journeys


# Who counts


def first_of_each_event_id(touches: Sequence[Record]) -> list[Record]:
    """The first record of an event_id stays, whatever a later one says."""
    first: dict[str, Record] = {}
    for touch in touches:
        first.setdefault(touch["event_id"], touch)
    return list(first.values())


def accepted_conversions(records: Sequence[Record], policy: Policy) -> list[Record]:
    """First `create` of each conversion_id, corrected: `_value` (micros), `_currency`, `_retracted`."""
    seen_event_ids: set[str] = set()
    creates: dict[str, Record] = {}
    corrections: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        event_id = record.get("event_id")
        if event_id is not None and event_id in seen_event_ids:
            continue
        if event_id is not None:
            seen_event_ids.add(event_id)
        if record.get("action", "create") == "create":
            creates.setdefault(record["conversion_id"], record)
        else:
            corrections[record["conversion_id"]].append(record)
    return [_corrected(create, corrections[name], policy) for name, create in creates.items()]


def _corrected(create: Record, corrections: Sequence[Record], policy: Policy) -> Record:
    settings = {**DEFAULTS, **policy.get("attribution", {})}
    rules = policy.get("conversions", {}).get(_type_of(create), {})
    honoured_ms = duration_ms(settings["corrections"])
    heard = [c for c in corrections if abs(c["_record_ms"] - create["_record_ms"]) <= honoured_ms]
    value, currency = create.get("value"), create.get("currency")
    for correction in sorted(heard, key=lambda c: (c["_at"], c["_order"])):
        if correction["action"] == "restate":
            value = correction["value"] if correction.get("value") is not None else value
            currency = correction["currency"] if correction.get("currency") is not None else currency
    value = rules.get("value", value)
    return {
        **create,
        "_value": micros(value if value is not None else 0),
        "_currency": currency if currency is not None else settings["currency"],
        "_retracted": any(c["action"] == "retract" for c in heard),
        "_credited": rules.get("credited", True),
        "_lookback": duration_ms(rules.get("lookback", settings["lookback"])),
    }


def gives_way(conversion: Record, accepted: Sequence[Record], policy: Policy) -> bool:
    """Under `count = "first"`: an earlier one of its type was not taken back, and its record is near enough."""
    name = _type_of(conversion)
    if policy.get("conversions", {}).get(name, {}).get("count", "every") == "every":
        return False
    corrections = policy.get("attribution", {}).get("corrections", DEFAULTS["corrections"])
    reach_ms = max(duration_ms(corrections), _waited_ms(policy))
    return any(
        _type_of(other) == name
        and not other["_retracted"]
        and (other["_at"], other["conversion_id"]) < (conversion["_at"], conversion["conversion_id"])
        and abs(other["_record_ms"] - conversion["_record_ms"]) <= reach_ms
        for other in accepted
    )


def _type_of(conversion: Record) -> str:
    return text(conversion.get("type")) or "conversion"


# From journey to path


def path_of(
    conversion: Record, accepted: Sequence[Record], touches: Sequence[Record], policy: Policy
) -> tuple[list[Record], bool]:
    """The touches that may share a conversion, in order, and whether `max_touches` cut them."""
    settings = {**DEFAULTS, **policy.get("attribution", {})}
    path = [t for t in touches if _in_window(t, conversion, settings) and _in_time(t, conversion, policy)]
    if settings["touch_reuse"] == "reset_after_conversion":
        counted = [c for c in accepted if not gives_way(c, accepted, policy)]
        before = _previous_conversion_ms(conversion, counted, policy, settings)
        path = [t for t in path if before is None or t["_at"] > before]
    excluded = {name.casefold() for name in settings["exclude_channels"]}
    path = [t for t in path if _channel(t).casefold() not in excluded]
    if settings["direct"] == "ignore_unless_alone" and not all(_is_direct(t) for t in path):
        path = [t for t in path if not _is_direct(t)]
    path.sort(key=lambda t: (t["_at"], t["event_id"]))
    path = _without_repeats(path, settings)
    kept = path[-settings["max_touches"] :]
    return kept, len(kept) < len(path)


def _in_window(touch: Record, conversion: Record, settings: Policy) -> bool:
    own = settings["lookback_by_touch_type"].get(text(touch.get("type")) or "visit")
    lookback_ms: int = conversion["_lookback"] if own is None else duration_ms(own)
    at: int = touch["_at"]
    return bool(conversion["_at"] - lookback_ms <= at <= conversion["_at"])


def _longest_lookback_ms(policy: Policy) -> int:
    settings = {**DEFAULTS, **policy.get("attribution", {})}
    by_conversion = [rules["lookback"] for rules in policy.get("conversions", {}).values() if "lookback" in rules]
    named = [settings["lookback"], *settings["lookback_by_touch_type"].values(), *by_conversion]
    return max(duration_ms(lookback) for lookback in named)


def _in_time(touch: Record, conversion: Record, policy: Policy) -> bool:
    """Record times: a touch is late once it lies further behind the conversion than both waits."""
    return bool(touch["_record_ms"] <= conversion["_record_ms"] + _waited_ms(policy))


def _waited_ms(policy: Policy) -> int:
    lateness = policy.get("attribution", {}).get("allowed_lateness", DEFAULTS["allowed_lateness"])
    settle = policy.get("processing", {}).get("settle", "250ms")
    return max(duration_ms(lateness), duration_ms(settle))


def _previous_conversion_ms(
    conversion: Record, accepted: Sequence[Record], policy: Policy, settings: Policy
) -> int | None:
    place = (conversion["_at"], conversion["conversion_id"])
    first_ms = conversion["_record_ms"] - _retention_ms(policy, settings)
    last_ms = conversion["_record_ms"] + duration_ms(settings["corrections"])
    earlier = [
        (c["_at"], c["conversion_id"])
        for c in accepted
        if c["_credited"] and not c["_retracted"] and first_ms <= c["_record_ms"] <= last_ms
    ]
    below = [other for other in earlier if other < place]
    return max(below)[0] if below else None


def _retention_ms(policy: Policy, settings: Policy) -> int:
    return _longest_lookback_ms(policy) + duration_ms(settings["allowed_lateness"])


def _without_repeats(path: list[Record], settings: Policy) -> list[Record]:
    rule = settings["repeats"]
    if rule == "keep":
        return path
    keys = [_repeat_key(t, settings["repeats_by"]) for t in path]
    if rule == "collapse_adjacent":
        return [t for i, t in enumerate(path) if i == 0 or keys[i] != keys[i - 1]]
    if rule == "first_of_channel":
        return [t for i, t in enumerate(path) if keys[i] not in keys[:i]]
    if rule == "last_of_channel":
        return [t for i, t in enumerate(path) if keys[i] not in keys[i + 1 :]]
    raise ValueError(f"repeats = {rule!r}")


def _repeat_key(touch: Record, by: str) -> str:
    """Channels compare case-insensitively, campaigns as written; where there is none the channel counts."""
    campaign = text(touch.get("campaign"))
    if by == "campaign" and campaign:
        return f"campaign {campaign}"
    return f"channel {_channel(touch).casefold()}"


def _channel(touch: Record) -> str:
    channel = text(touch.get("channel"))
    if not channel:
        raise ValueError(f"touch {touch['event_id']} names no channel: the oracle has no channel rules")
    return channel


def _is_direct(touch: Record) -> bool:
    return _channel(touch).casefold() in DIRECT


# Attribution models


def shares_of(spec: Policy, path: Sequence[Record], conversion: Record, settings: Policy) -> Weights:
    """Share of each touch of a non-empty path as fractions, with the reason of each."""
    kinds: dict[str, Callable[[], Weights]] = {
        "single": lambda: _single(spec, path),
        "linear": lambda: ([Fraction(1)] * len(path), ["equal"] * len(path)),
        "position_based": lambda: _position_based(spec, len(path), settings["short_path"]),
        "custom": lambda: _custom(spec, len(path)),
        "time_decay": lambda: _time_decay(spec, path, conversion),
        "participation": lambda: ([Fraction(1)] * len(path), ["equal"] * len(path)),
    }
    if spec["kind"] not in kinds:
        raise ValueError(f"the oracle has no kind {spec['kind']!r}")
    weights, reasons = kinds[spec["kind"]]()
    if len(path) == 1:
        return [Fraction(1)], ["only"]
    if spec["kind"] == "participation":
        return weights, reasons
    total = sum(weights, Fraction(0))
    if total == 0:
        return [Fraction(1, len(path))] * len(path), ["equal"] * len(path)
    return [w / total for w in weights], reasons


def _single(spec: Policy, path: Sequence[Record]) -> Weights:
    last = len(path) - 1
    place = 0 if spec["pick"] == "first" else last
    if spec["pick"] == "last_non_direct":
        place = max((i for i, t in enumerate(path) if not _is_direct(t)), default=last)
    weights = [Fraction(int(i == place)) for i in range(len(path))]
    return weights, ["first" if spec["pick"] == "first" else "last"] * len(path)


def _position_based(spec: Policy, n: int, short_path: str) -> Weights:
    first, last = decimal(spec.get("first", "0.4")), decimal(spec.get("last", "0.4"))
    rest = 1 - first - last
    if n < 3:
        half = rest / 2 if short_path == "split_middle" else Fraction(0)
        return [first + half, last + half][:n], ["first", "last"][:n]
    middle = n - 2
    return [first, *[rest / middle] * middle, last], ["first", *["middle"] * middle, "last"]


def _custom(spec: Policy, n: int) -> Weights:
    """Weights from the front and from the back (`back[0]` is the last touch's); the middle has the rest."""
    front = [decimal(w) for w in spec.get("front", [])]
    back = [decimal(w) for w in spec.get("back", [])]
    middle = n - len(front) - len(back)
    left = max(Fraction(0), 1 - sum(front, Fraction(0)) - sum(back, Fraction(0)))
    rest = left / middle if middle > 0 else Fraction(0)
    weights: list[Fraction] = []
    reasons: list[str] = []
    for i in range(n):
        from_end = n - 1 - i
        weight = (front[i] if i < len(front) else 0) + (back[from_end] if from_end < len(back) else 0)
        inside = i >= len(front) and from_end >= len(back)
        weights.append(rest if inside else Fraction(weight))
        reasons.append("middle" if inside else "first" if i < len(front) else "last")
    return weights, reasons


def _time_decay(spec: Policy, path: Sequence[Record], conversion: Record) -> Weights:
    """2^(-age / half_life), relative to the youngest touch; the double that comes out is taken as it is."""
    half_life_ms = duration_ms(spec.get("half_life", "7d"))
    ages = [conversion["_at"] - t["_at"] for t in path]
    if spec.get("age_unit", "exact") == "1d":
        ages = [age // DAY_MS * DAY_MS for age in ages]
    youngest = min(ages)
    weights = [Fraction(2.0 ** (-(age - youngest) / half_life_ms)) for age in ages]
    return weights, ["decay"] * len(path)


def split(total: int, shares: Sequence[Fraction]) -> list[int]:
    """Largest remainder: whole parts, then one each to the largest remainders, ties to the earlier touch."""
    parts = [floor(total * share) for share in shares]
    remainders = [total * share - part for share, part in zip(shares, parts, strict=True)]
    by_remainder = sorted(range(len(shares)), key=lambda i: (-remainders[i], i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


# Rows


def _credits(conversion: Record, accepted: Sequence[Record], touches: Sequence[Record], policy: Policy) -> list[Row]:
    if not conversion["_credited"]:
        return []
    settings = {**DEFAULTS, **policy.get("attribution", {})}
    path, truncated = path_of(conversion, accepted, touches, policy)
    rows: list[Row] = []
    for name in settings["models"]:
        spec = spec_of(name, policy)
        if conversion["_retracted"]:
            rows.append(_row_without_touch(conversion, spec, "retracted"))
        elif gives_way(conversion, accepted, policy):
            rows.append({**_row_without_touch(conversion, spec, "retracted"), "reason": "not_first"})
        elif not path:
            rows.append(_row_without_touch(conversion, spec, "unattributed"))
        else:
            rows += _set_of_rows(conversion, spec, path, truncated, settings)
    return rows


def spec_of(name: str, policy: Policy) -> Policy:
    """An attribution model's settings: the built-in ones, overridden by the policy's."""
    given = policy.get("models", {}).get(name, {})
    built_in = BUILT_IN.get(name, {})
    if given.get("kind", built_in.get("kind")) != built_in.get("kind"):
        built_in = {}
    return {**built_in, **given, "name": name}


def _set_of_rows(conversion: Record, spec: Policy, path: list[Record], truncated: bool, settings: Policy) -> list[Row]:
    shares, reasons = shares_of(spec, path, conversion, settings)
    additive = spec["kind"] != "participation"
    total = conversion["_value"]
    parts = split(total, shares) if additive else [total] * len(path)
    size = sum(share > 0 for share in shares)
    rows = []
    for place, (touch, share, part, reason) in enumerate(zip(path, shares, parts, reasons, strict=True), 1):
        if share == 0:
            continue
        row = _row(conversion, spec, "credited", touch["event_id"])
        row |= {f: text(touch.get(f)) for f in TEXTS if text(touch.get(f))}
        row |= {"touch_type": text(touch.get("type")) or "visit", "channel": _channel(touch)}
        row |= {"touched_at": touch["_at"], "position": place, "path_length": len(path)}
        row |= {"share": float(share), "value_micros": part, "conversion_value_micros": total}
        row |= {"set_size": size, "path_truncated": truncated, "reason": reason}
        if settings["journey"] == "account":
            row["touch_person_id"] = touch["person_id"]
        rows.append(row)
    return rows


def _row_without_touch(conversion: Record, spec: Policy, status: str) -> Row:
    row = _row(conversion, spec, status, "")
    value = 0 if status == "retracted" else conversion["_value"]
    row |= {"position": 0, "path_length": 0, "share": float(status == "unattributed")}
    row |= {"value_micros": value, "conversion_value_micros": value, "set_size": 1}
    row |= {"path_truncated": False, "reason": status}
    if status == "unattributed":
        row["channel"] = "(unattributed)"
    return row


def _row(conversion: Record, spec: Policy, status: str, touch_id: str) -> Row:
    """What every record of a set says of its conversion."""
    row: Row = {
        "credit_id": "|".join(escaped(part) for part in (conversion["conversion_id"], spec["name"], touch_id)),
        "conversion_id": conversion["conversion_id"],
        "conversion_type": _type_of(conversion),
        "person_id": conversion["person_id"],
        "attribution_model": spec["name"],
        "status": status,
        "touch_id": touch_id,
        "converted_at": conversion["_at"],
        "currency": conversion["_currency"],
        "additive": spec["kind"] != "participation",
    }
    if conversion.get("account_id"):
        row["account_id"] = conversion["account_id"]
    return row


def escaped(part: str) -> str:
    r"""`|` and `\` inside an id get a `\` before them."""
    return part.replace("\\", "\\\\").replace("|", "\\|")


# Plain values


def epoch_ms(occurred_at: str | int) -> int:
    """RFC 3339 with an offset, or epoch milliseconds; what lies below a millisecond is cut off."""
    if isinstance(occurred_at, int):
        return occurred_at
    return (datetime.fromisoformat(occurred_at) - EPOCH) // timedelta(milliseconds=1)


def duration_ms(written: str) -> int:
    """`90d`, `12h`, `30m`, `45s`, `500ms` in milliseconds."""
    unit = written.lstrip("0123456789")
    return int(written[: len(written) - len(unit)]) * UNITS_MS[unit]


def micros(value: object) -> int:
    """Money as written, in millionths; raises ValueError where it has more than six decimals."""
    exact = decimal(value) * 1_000_000
    if exact.denominator != 1:
        raise ValueError(f"{value!r} has more than six decimals")
    return exact.numerator


def decimal(value: object) -> Fraction:
    """The decimal number that was written: 0.4 is two fifths, not the double nearest to it."""
    return Fraction(str(value))


def text(value: str | None) -> str:
    """Trimmed and in NFC; empty where there is none."""
    return unicodedata.normalize("NFC", value.strip()) if value else ""
