"""Why each touch of a journey has its part of a conversion, and why the others have none.

A pure function of the facts that the journey keeps, like the credits themselves, and made of the same functions: the
steps of `models.path` and the attribution models of the policy that the conversion was credited with. A test holds it
against what `models.crediting` publishes.
"""

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Literal, NamedTuple

from models import path as paths
from models.attribution.base import AttributionModel
from models.counting import NOT_FIRST, uncounted
from models.crediting import stored
from models.facts import JourneyTouch
from models.journey import JourneyConversion, JourneyState
from models.policy import Policy
from models.rules import Rules

Status = Literal["credited", "unattributed", "retracted", "not_first", "milestone"]

# A touch of the path that an attribution model gives nothing: it has no credit record.
WEIGHT_ZERO = "weight_zero"


class NotCounted(StrEnum):
    """Why a touch never came as far as the steps of `models.path`; those have reasons of their own (`Dropped`)."""

    DUPLICATE = "duplicate"
    ARRIVED_TOO_LATE = "arrived_too_late"
    RECORDED_TOO_EARLY = "recorded_too_early"


class Part(NamedTuple):
    """What one touch of the path gets; `touch` is None in the one part that is unattributed or retracted."""

    touch: JourneyTouch | None
    position: int
    share: float
    value_micros: int
    reason: str


class ExplainedSet(NamedTuple):
    """One attribution model: a part for each touch of the path, in its order, those with nothing included."""

    attribution_model: str
    additive: bool
    parts: tuple[Part, ...]

    @property
    def credited(self) -> list[Part]:
        """The parts that have a credit record."""
        return [part for part in self.parts if part.reason != WEIGHT_ZERO]


class LeftOut(NamedTuple):
    """A touch of the journey outside the path, and why: of `NotCounted`, of `Dropped`, or the conversion's status."""

    touch: JourneyTouch
    reason: str


class Explanation(NamedTuple):
    """Everything about one conversion. `value_micros` is what its credits add up to, 0 where it has none.

    `policy` is the one that counts for it; `policy_known` is false where the one it was credited with is not there
    any more and today's took its place.
    """

    conversion: JourneyConversion
    policy: Policy
    policy_known: bool
    status: Status
    value_micros: int
    path_length: int
    path_truncated: bool
    sets: tuple[ExplainedSet, ...]
    left_out: tuple[LeftOut, ...]


def explain(
    accepted: Sequence[JourneyTouch], state: JourneyState, conversion_id: str, rules: Rules
) -> Explanation | None:
    """Explain a conversion; None where the journey does not hold it.

    `accepted` are the journey's touches in the order in which they were accepted, duplicates included.
    """
    c = next((c for c in state.conversions if c.conversion_id == conversion_id), None)
    if c is None:
        return None
    policy, _ = rules.of(c.policy_version)
    touches = stored([list(accepted)], state).touches
    out = _duplicates(accepted, touches)
    no_credit = uncounted(state.conversions, rules)
    path, dropped = _path(c, touches, state, no_credit, rules)
    out += dropped
    status = NOT_FIRST if conversion_id in no_credit else _status(c, policy, path)
    if status in ("retracted", "not_first", "milestone"):
        out += [LeftOut(touch, status) for touch in path]
        path = []
    value_micros = 0 if status in ("retracted", "not_first") else c.value_micros
    sets = () if status == "milestone" else tuple(_set(m, c, path, status, value_micros) for m in policy.models)
    cut = any(each.reason == paths.Dropped.OVER_CAP for each in out)
    capped = state.dropped_ms >= c.occurred_ms - policy.lookback_max_ms(c.type)
    return Explanation(
        c,
        policy,
        policy.version == c.policy_version,
        status,
        value_micros,
        len(path),
        bool(path) and (cut or capped),
        sets,
        tuple(sorted(out, key=lambda each: (each.touch.occurred_ms, each.touch.event_id))),
    )


def _duplicates(accepted: Sequence[JourneyTouch], kept: Sequence[JourneyTouch]) -> list[LeftOut]:
    first = set(map(id, kept))
    return [LeftOut(touch, NotCounted.DUPLICATE) for touch in accepted if id(touch) not in first]


def _path(
    c: JourneyConversion,
    touches: Sequence[JourneyTouch],
    state: JourneyState,
    no_credit: Collection[str],
    rules: Rules,
) -> tuple[list[JourneyTouch], list[LeftOut]]:
    """The conversion's path, and the touches that are not in it."""
    policy, _ = rules.of(c.policy_version)
    first_ms, last_ms = rules.window(c)
    counting = [touch for touch in touches if first_ms <= touch.record_ms <= last_ms]
    credited = [o for o in state.conversions if o.conversion_id not in no_credit]
    after_ms = rules.previous_ms(c, credited) if policy.resets else None
    explained = paths.explain(counting, c.occurred_ms, c.type, policy, after_ms)
    path = [touch for touch, reason in explained if reason is None]
    out = [LeftOut(touch, reason) for touch, reason in explained if reason is not None]
    out += [
        LeftOut(touch, _not_counted(touch, c, policy, last_ms))
        for touch in touches
        if not first_ms <= touch.record_ms <= last_ms
    ]
    return path, out


def _not_counted(touch: JourneyTouch, c: JourneyConversion, policy: Policy, last_ms: int) -> str:
    """Why a touch does not count whose record came too late or too early: by its event time where that says it too."""
    if touch.occurred_ms > c.occurred_ms:
        return paths.Dropped.AFTER_CONVERSION
    if c.occurred_ms - touch.occurred_ms > policy.lookback_ms(c.type, touch.type):
        return paths.Dropped.BEFORE_LOOKBACK
    return NotCounted.ARRIVED_TOO_LATE if touch.record_ms > last_ms else NotCounted.RECORDED_TOO_EARLY


def _status(c: JourneyConversion, policy: Policy, path: Sequence[JourneyTouch]) -> Status:
    if not policy.credited(c.type):
        return "milestone"
    if c.retracted:
        return "retracted"
    return "credited" if path else "unattributed"


def _set(
    attribution_model: AttributionModel,
    c: JourneyConversion,
    path: Sequence[JourneyTouch],
    status: Status,
    value_micros: int,
) -> ExplainedSet:
    name, additive = attribution_model.name, attribution_model.additive
    if not path:
        return ExplainedSet(name, additive, (Part(None, 0, float(status == "unattributed"), value_micros, status),))
    weighing = attribution_model.weigh(path, c.occurred_ms)
    micros = attribution_model.micros(value_micros, weighing)
    columns = zip(path, weighing.weights, weighing.shares, micros, weighing.reasons, strict=True)
    return ExplainedSet(
        name,
        additive,
        tuple(
            Part(touch, position, share, part, reason) if weight else Part(touch, position, 0.0, 0, WEIGHT_ZERO)
            for position, (touch, weight, share, part, reason) in enumerate(columns, 1)
        ),
    )
