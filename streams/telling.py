"""The text of `touchstream explain` and `touchstream journey`: tables for people, made from the JSON documents."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

Document = Mapping[str, Any]
NONE = "-"
CELL_CHARS_MAX = 40
GAP = "  "
MICROS = 1_000_000


def moment(time_ms: int | None) -> str:
    """ISO 8601 in UTC, to the second; milliseconds only where there are some."""
    if time_ms is None:
        return NONE
    at = datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    rest = time_ms % 1000
    return f"{at}.{rest:03}Z" if rest else f"{at}Z"


def money(micros: int, currency: str) -> str:
    """Exact: two decimals at least, six where they are needed."""
    whole, rest = divmod(micros, MICROS)
    decimals = f"{rest:06}".rstrip("0").ljust(2, "0")
    return f"{whole:,}.{decimals} {currency}"


def percent(share: float) -> str:
    """Two decimals: what counts to the last digit is the value beside it."""
    return f"{share * 100:.2f} %"


def short(text: str) -> str:
    """Cut to the width of a column: names of campaigns can be as long as records allow."""
    return text if len(text) <= CELL_CHARS_MAX else f"{text[: CELL_CHARS_MAX - 1]}…"


def shown(text: str) -> str:
    """Without control characters: ids and names come from outside, and must not steer a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def table(rows: Sequence[Sequence[str]], right: Iterable[int] = (), indent: str = "") -> list[str]:
    """Aligned columns, those in `right` to the right; the first row is the heading."""
    to_right = set(right)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        (
            indent
            + GAP.join(
                cell.rjust(width) if i in to_right else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        ).rstrip()
        for row in rows
    ]


def explained(found: Document) -> list[str]:
    """The lines of `touchstream explain`."""
    return [shown(line) for line in _explained(found)]


def _explained(found: Document) -> list[str]:
    c, lines = found["conversion"], _head(found)
    for one in found["attribution_models"]:
        lines += ["", one["attribution_model"], *_set(one, c["currency"])]
    if found["left_out"]:
        lines += ["", "no credit", *_left_out(found["left_out"])]
    if found["revisions"]:
        lines += ["", "history", *_history(found["revisions"], c["conversion_id"])]
    if found["notes"]:
        lines += ["", *(f"note: {each['text']}" for each in found["notes"])]
    return lines


def _head(found: Document) -> list[str]:
    c, journey, path = found["conversion"], found["journey"], found["path"]
    who = [(name, c[field]) for name, field in (("person", "person_id"), ("account", "account_id")) if field in c]
    value = money(c["value_micros"], c["currency"])
    if c["status"] in ("retracted", "not_first") and "stated_value_micros" in c:
        before = "before it was" if c["status"] == "retracted" else "stated is"
        value = f"{value}, {before} {money(c['stated_value_micros'], c['currency'])}"
    rows = [("conversion", f"{c['conversion_id']} ({c['conversion_type']})"), ("at", moment(c["converted_at"])), *who]
    rows += [("value", value), ("status", c["status"]), ("policy", c["policy_version"])]
    if journey is not None:
        again = f", {journey['duplicates']} sent again" if journey["duplicates"] else ""
        cut = ", cut" if path["truncated"] else ""
        rows.append(("touches", f"{journey['touches']} in the journey{again}, {path['length']} in the path{cut}"))
    return table(rows)


def _set(one: Document, currency: str) -> list[str]:
    people = any("touch_person_id" in part for part in one["parts"])
    rows = [_heading(people, ("#",), ("SHARE", "VALUE", "WHY"))]
    for part in one["parts"]:
        figures = (percent(part["share"]), money(part["value_micros"], currency), part["why"])
        rows.append([str(part["position"] or NONE), *_touch(part, people), *figures])
    if one["additive"]:
        total = (percent(sum(part["share"] for part in one["parts"])), money(one["value_micros"], currency), "")
        rows.append(["", "sum", *[""] * (len(rows[0]) - 5), *total])
    columns = len(rows[0])
    after = [] if one["additive"] else [f"{GAP}(not to be added up)"]
    return [*table(rows, right=(0, columns - 3, columns - 2), indent=GAP), *after]


def _heading(people: bool, before: Sequence[str], after: Sequence[str]) -> list[str]:
    return [*before, "TOUCHED AT", "CHANNEL", "SOURCE / MEDIUM", "CAMPAIGN", "ID", *["PERSON"] * people, *after]


def _touch(touch: Document, people: bool) -> list[str]:
    origin = [touch.get("source"), touch.get("medium")]
    return [
        moment(touch.get("touched_at")),
        short(touch.get("channel") or NONE),
        short(" / ".join(each or NONE for each in origin)) if any(origin) else NONE,
        short(touch.get("campaign") or NONE),
        touch["touch_id"] or NONE,
        *[touch.get("touch_person_id") or NONE] * people,
    ]


def _left_out(left_out: Sequence[Document]) -> list[str]:
    people = any("touch_person_id" in touch for touch in left_out)
    rows = [_heading(people, (), ("WHY",)), *([*_touch(each, people), each["why"]] for each in left_out)]
    return table(rows, indent=GAP)


def _history(revisions: Sequence[Document], conversion_id: str) -> list[str]:
    rows = [["REVISION", "RECORDED AT", "CREDITS", "CAUSE"]]
    rows += [
        [str(each["revision"]), moment(each["recorded_at"]), _change(each), _cause(each, conversion_id)]
        for each in revisions
        if each["sets"]  # else it is of attribution models that were not asked for
    ]
    return table(rows, right=(0,), indent=GAP)


def _change(revision: Document) -> str:
    """`linear, first_touch 120.00 EUR`: attribution models with the same status and value together."""
    groups: dict[str, list[str]] = {}
    for one in revision["sets"]:
        value = money(one["value_micros"], one["currency"])
        groups.setdefault(value if one["status"] == "credited" else f"{value} {one['status']}", []).append(
            one["attribution_model"]
        )
    return "; ".join(f"{value}: {', '.join(names)}" for value, names in groups.items())


def _cause(revision: Document, conversion_id: str) -> str:
    cause, source = revision["cause"], revision["source"]
    at = "" if source is None else f"{source['topic']}/{source['partition']}/{source['offset']}"
    if cause["kind"] == "unknown":
        return f"{at}, which is not there any more" if at else "not stated"
    if cause["kind"] == "move":
        return (
            f"{cause['of']} turned out to be the same: {cause['touches']} touches, {cause['conversions']} conversions"
        )
    if cause["kind"] == "touch":
        return f"touch {cause['touch_id']} ({cause['channel']}, {moment(cause['touched_at'])}) came in"
    whose = "" if cause["conversion_id"] == conversion_id else f"conversion {cause['conversion_id']} of this journey: "
    texts = {
        "create": "came in" if whose else "the conversion came in",
        "restate": f"restated{_restated(cause)}",
        "retract": "taken back",
    }
    return f"{whose}{texts[cause['kind']]}"


def _restated(cause: Document) -> str:
    value, currency = cause.get("value_micros"), cause.get("currency")
    if value is None:
        return f" in {currency}" if currency else ""
    return f" to {money(value, currency or '')}".rstrip()


def journey(found: Document) -> list[str]:
    """The lines of `touchstream journey`: one time line of touches and conversions."""
    return [shown(line) for line in _journey(found)]


def _journey(found: Document) -> list[str]:
    head = found["journey"]
    again = f", {head['duplicates']} sent again" if head["duplicates"] else ""
    count = f"{head['touches']} touches{again}, {len(found['conversions'])} conversions"
    lines = [f"journey of {head['kind']} {head['key']} · {count} · partition {head['partition']}"]
    people = any("touch_person_id" in touch for touch in found["touches"])
    rows = [["AT", *_heading(people, (), ("WHAT",))[1:]]]
    events = [(touch["touched_at"], 0, [*_touch(touch, people), _what(touch)]) for touch in found["touches"]]
    for c in found["conversions"]:
        whose = [c["person_id"]] * people
        row = [moment(c["converted_at"]), *[NONE] * 3, c["conversion_id"], *whose, _outcome(c)]
        events.append((c["converted_at"], 1, row))
    rows += [row for *_, row in sorted(events, key=lambda event: event[:2])]
    lines += ["", *table(rows)] if events else []
    lines += [_waiting(each) for each in found["waiting_corrections"]]
    if head["dropped_until"] is not None:
        lines += ["", f"note: touches up to {moment(head['dropped_until'])} were dropped: the journey had too many"]
    return lines


def _what(touch: Document) -> str:
    return f"{touch['touch_type']}, sent again: not counted" if touch["duplicate"] else str(touch["touch_type"])


def _outcome(c: Document) -> str:
    value = money(c["value_micros"], c["currency"])
    path = f", {c['path_length']} touches in its path" if c["status"] == "credited" else ""
    return f"CONVERSION ({c['conversion_type']}) {value}, {c['status']}{path}"


def _waiting(each: Document) -> str:
    return f"waiting for its create: {each['action']} of {each['conversion_id']}, made {moment(each['occurred_at'])}"


def identity(found: Document) -> list[str]:
    """The lines of `touchstream identity show`."""
    ids = found["ids"]
    rows = [["id", "same as", "since"]]
    rows += [[short(shown(each["id"])), short(shown(each["up"] or "")) or NONE, moment(each["since"])] for each in ids]
    lines = [f"person {shown(found['person_id'])}, {len(ids)} ids", "", *table(rows)]
    if not found["complete"]:
        lines.append("and more, which are not shown")
    for each in ids:
        if each["account_id"]:
            lines.append(f"{shown(each['id'])} belongs to the account {shown(each['account_id'])}")
        if each["apart"]:
            others = ", ".join(short(shown(one)) for one in each["apart"])
            lines.append(f"{shown(each['id'])} was split, and is not to be linked with: {others}")
        if each["refused"]:
            last = ", ".join(short(shown(one["id"])) for one in each["refused_last"])
            why = "identity.ids_max, or a split"
            lines.append(f"{shown(each['id'])} refused {each['refused']} ids ({why}), the last: {last}")
    return lines
