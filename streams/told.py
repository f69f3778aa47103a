"""The documents of `touchstream explain` and `journey`: what --json prints, and what the text is made from.

docs/explain.md describes them. Times are epoch milliseconds and money is in millionths, as in the records; `reason`
and `code` are fixed, the texts beside them may change.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from models.durations import format_duration
from models.explaining import ExplainedSet, Explanation, LeftOut, Part, explain
from models.facts import Conversion, JourneyTouch, Touch
from models.journey import in_order, unique
from models.moving import Move
from models.policy import Policy
from models.revisions import Place, Revision, final_view
from streams.explain import Explained, JourneyFound
from streams.published import Cause

Document = dict[str, Any]

OF_TOUCH = ("touch_id", "touch_type", "channel", "source", "medium", "campaign", "content", "term", "touched_at")
OF_PART = (*OF_TOUCH, "touch_person_id", "position", "share", "value_micros", "reason")
UNATTRIBUTED = "(unattributed)"

WHY_SHARE = {
    "only": "the only touch",
    "first": "place at the front",
    "last": "place at the back",
    "middle": "between the ends",
    "equal": "equal parts",
    "decay": "by age",
    "fitted": "by fitted weights",
    "weight_zero": "nothing by this rule",
    "unattributed": "no touch counts",
    "retracted": "taken back",
    "not_first": "not the first of its type",
}
NOTES = {
    "differs": "what is published differs: a restatement may be on its way (ask again), or facts have left the journey",
    "published_only": "the journey does not hold this conversion any more, so this is what was published last",
    "policy_unknown": "the policy of the first credit is not known any more, so the running one explains it",
    "earlier_revisions_gone": "the topic does not hold the first revision any more: it was compacted or has expired",
    "touches_dropped": "the journey had more touches than attribution.journey_touches_max, its oldest are gone",
}


def document(told: Explained, only: str | None = None) -> Document:
    """Everything known of a conversion; with `only`, one attribution model of all."""
    published = final_view(told.revisions)
    if told.explanation is not None:
        sets = [_explained(each) for each in told.explanation.sets]
    else:
        sets = [_published(name, rows) for name, rows in published.items()]
    return {
        "conversion": _conversion(told, published),
        "journey": _journey(told),
        "path": _path(told, published),
        "attribution_models": [each for each in sets if only in (None, each["attribution_model"])],
        "left_out": [] if told.explanation is None else _left_out(told.explanation),
        "revisions": [_revision(each, told, only) for each in told.revisions],
        "matches_published": told.matches,
        "notes": [{"code": code, "text": NOTES[code]} for code in _notes(told)],
    }


def journey_document(found: JourneyFound, kind: str) -> Document:
    """A journey as `touchstream journey --json` prints it, touches and conversions by event time."""
    touches, state = found.journey.touches, found.journey.state
    first = set(map(id, unique(touches)))
    told = [explain(touches, state, c.conversion_id, found.rules) for c in state.conversions]
    return {
        "journey": {
            "key": found.journey.key,
            "merged": list(found.journey.merged),
            "kind": kind,
            "partition": found.journey.partition,
            "touches": len(first),
            "duplicates": len(touches) - len(first),
            "dropped_until": state.dropped_ms if state.dropped_ms >= 0 else None,
        },
        "touches": [{**touch_fields(touch), "duplicate": id(touch) not in first} for touch in in_order(touches)],
        "conversions": sorted(
            ({**conversion_fields(each), "path_length": each.path_length} for each in told if each is not None),
            key=lambda each: (each["converted_at"], each["conversion_id"]),
        ),
        "waiting_corrections": [_waiting(each.correction) for each in state.pending],
    }


def touch_fields(touch: JourneyTouch) -> Document:
    """A touch under the names that its credit has, and its record time."""
    t = touch
    origin = (t.channel, t.source, t.medium, t.campaign, t.content, t.term)
    found = dict(zip(OF_TOUCH, (t.event_id, t.type, *origin, t.occurred_ms), strict=True))
    return _there({**found, "touch_person_id": t.person_id, "recorded_at": t.record_ms})


def why_left_out(reason: str, policy: Policy, conversion_type: str, touch_type: str) -> str:
    """The reason as a sentence's end, with the figure of the policy that decided."""
    repeat = "campaign" if policy.repeats_by == "campaign" else "channel"
    lookback = format_duration(policy.lookback_ms(conversion_type, touch_type))
    texts = {
        "before_lookback": f"older than the lookback of {lookback}",
        "after_conversion": "after the conversion",
        "duplicate": "sent again, the first one counts",
        "arrived_too_late": f"came in more than {format_duration(policy.allowed_lateness_ms)} after the conversion",
        "recorded_too_early": f"recorded over {format_duration(policy.retention_ms)} before the conversion came in",
        "reset": "before the previous conversion, which used it up",
        "excluded_channel": "the policy excludes its channel",
        "direct_ignored": "direct, and not alone",
        "repeat": f"repeats another touch of its {repeat}",
        "over_cap": f"not among the {policy.max_touches} most recent",
        "retracted": "the conversion was taken back",
        "not_first": "another conversion of its type came first, and only that counts",
        "milestone": "the conversion is a milestone and gives no credits",
    }
    return texts.get(reason, reason)


def _there(fields: Mapping[str, Any]) -> Document:
    return {name: value for name, value in fields.items() if value is not None}


def _conversion(told: Explained, published: Mapping[str, Any]) -> Document:
    if told.explanation is None:
        row = next(iter(published.values()))[0]
        names = ("conversion_id", "conversion_type", "person_id", "account_id", "converted_at", "currency", "status")
        value = {"value_micros": row["conversion_value_micros"], "policy_version": row["policy_version"]}
        return {**{name: row[name] for name in names if row.get(name) is not None}, **value}
    return conversion_fields(told.explanation)


def conversion_fields(told: Explanation) -> Document:
    """A conversion, its corrections folded in."""
    c = told.conversion
    return _there(
        {
            "conversion_id": c.conversion_id,
            "conversion_type": c.type,
            "person_id": c.person_id,
            "account_id": c.account_id,
            "converted_at": c.occurred_ms,
            "recorded_at": c.record_ms,
            "currency": c.currency,
            "status": told.status,
            "value_micros": told.value_micros,
            "stated_value_micros": c.value_micros,
            "policy_version": c.policy_version,
        }
    )


def _journey(told: Explained) -> Document | None:
    if told.journey is None:
        return None
    distinct = len({touch.event_id for touch in told.journey.touches})
    return {
        "key": told.journey.key,
        "merged": list(told.journey.merged),
        "partition": told.journey.partition,
        "touches": distinct,
        "duplicates": len(told.journey.touches) - distinct,
    }


def _path(told: Explained, published: Mapping[str, Any]) -> Document:
    if told.explanation is not None:
        return {"length": told.explanation.path_length, "truncated": told.explanation.path_truncated}
    row = next(iter(published.values()))[0]
    return {"length": row["path_length"], "truncated": row["path_truncated"]}


def _set(name: str, additive: bool, parts: list[Document]) -> Document:
    """Where an attribution model is not additive its parts have no sum."""
    total = sum(part["value_micros"] for part in parts) if additive else None
    return {"attribution_model": name, "additive": additive, "value_micros": total, "parts": parts}


def _explained(one: ExplainedSet) -> Document:
    return _set(one.attribution_model, one.additive, [_part(part, one.additive) for part in one.parts])


def _part(part: Part, additive: bool) -> Document:
    touch = {"touch_id": ""} if part.touch is None else touch_fields(part.touch)
    if part.reason == "unattributed":
        touch["channel"] = UNATTRIBUTED
    own = {"position": part.position, "share": part.share, "value_micros": part.value_micros, "reason": part.reason}
    return {**touch, **own, "why": why_share(part.reason, additive)}


def _published(name: str, rows: Iterable[Mapping[str, Any]]) -> Document:
    found = list(rows)
    additive = bool(found[0]["additive"])
    parts = [{f: row[f] for f in OF_PART if row.get(f) is not None} for row in found]
    return _set(name, additive, [{**part, "why": why_share(part["reason"], additive)} for part in parts])


def why_share(reason: str, additive: bool) -> str:
    """The reason of a share in words; `milestone:lead` names its milestone."""
    if reason == "equal" and not additive:
        return "the whole for each touch"
    kind, _, name = reason.partition(":")
    return f"holds the milestone {name}" if kind == "milestone" and name else WHY_SHARE.get(reason, reason)


def _left_out(told: Explanation) -> list[Document]:
    def one(each: LeftOut) -> Document:
        why = why_left_out(each.reason, told.policy, told.conversion.type, each.touch.type)
        return {**touch_fields(each.touch), "reason": str(each.reason), "why": why}

    return [one(each) for each in told.left_out]


def _revision(revision: Revision, told: Explained, only: str | None) -> Document:
    source = revision.source
    return {
        "revision": revision.revision,
        "recorded_at": revision.record_ms,
        "source": None if source is None else source._asdict(),
        "cause": _cause(source, told.causes, told.conversion_id),
        "sets": [
            {
                "attribution_model": each.attribution_model,
                "status": each.rows[0]["status"],
                "value_micros": each.rows[0]["conversion_value_micros"],
                "currency": each.rows[0]["currency"],
                "credits": len(each.rows),
                "complete": len(each.rows) == each.rows[0]["set_size"],
                "removed": list(each.removed),
            }
            for each in revision.sets
            if only in (None, each.attribution_model)
        ],
    }


def _cause(source: Place | None, causes: Mapping[Place, Cause], conversion_id: str) -> Document:
    """`kind`: touch, create, restate, retract or move; unknown where the record is not in its topic any more."""
    cause = None if source is None else causes.get(source)
    if cause is None:
        return {"kind": "unknown"}
    if isinstance(cause, Move):
        return {"kind": "move", "of": cause.of, "touches": len(cause.touches), "conversions": len(cause.conversions)}
    if isinstance(cause, Touch):
        at = {"touch_id": cause.event_id, "channel": cause.channel, "touched_at": cause.occurred_ms}
        return {"kind": "touch", **at}
    named = {"value_micros": cause.value_micros, "currency": cause.currency, "occurred_at": cause.occurred_ms}
    return {"kind": cause.action, "conversion_id": cause.conversion_id, **_there(named)}


def _notes(told: Explained) -> Iterable[str]:
    if told.explanation is None:
        yield "published_only"
    elif not told.explanation.policy_known:
        yield "policy_unknown"
    if told.matches is False:
        yield "differs"
    first = told.revisions[0].source if told.revisions else None
    cause = told.causes.get(first) if first is not None else None
    if cause is not None and not _creates(cause, told.conversion_id):
        yield "earlier_revisions_gone"
    if told.journey is not None and told.journey.state.dropped_ms >= 0:
        yield "touches_dropped"


def _creates(cause: Cause, conversion_id: str) -> bool:
    return isinstance(cause, Conversion) and cause.action == "create" and cause.conversion_id == conversion_id


def _waiting(c: Conversion) -> Document:
    named = {"value_micros": c.value_micros, "currency": c.currency, "recorded_at": c.record_ms}
    return _there({"conversion_id": c.conversion_id, "action": c.action, "occurred_at": c.occurred_ms, **named})
