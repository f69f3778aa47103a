"""From a journey to the path of one conversion: which touches may get credit.

`_steps` names the steps in their order. Each is a function of plain values that returns the touches it keeps,
in order; `build` runs them for the credits, `explain` runs the same ones to say why a touch is out.
Duplicates are gone and the order is made before: by `models.journey`, where a journey is read.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from enum import StrEnum
from operator import attrgetter

import msgspec

from models.attribution.direct import fold, is_direct
from models.facts import JourneyTouch
from models.policy import Policy, Repeats, RepeatsBy

Touches = Sequence[JourneyTouch]

_occurred = attrgetter("occurred_ms")


class Path(msgspec.Struct, frozen=True, gc=False):
    """The touches that lead to a conversion, by (time, event_id); `truncated` where `max_touches` cut it."""

    touches: Touches
    truncated: bool


class Dropped(StrEnum):
    """Why a touch of the journey is not in the path."""

    AFTER_CONVERSION = "after_conversion"
    BEFORE_LOOKBACK = "before_lookback"
    RESET = "reset"
    EXCLUDED_CHANNEL = "excluded_channel"
    DIRECT_IGNORED = "direct_ignored"
    REPEAT = "repeat"
    OVER_CAP = "over_cap"


def build(
    touches: Touches, conversion_ms: int, conversion_type: str, policy: Policy, after_ms: int | None = None
) -> Path:
    """The path of a conversion at `conversion_ms` (event time, epoch milliseconds) of type `conversion_type`.

    `touches` are those of the journey, without duplicates and sorted by (occurred_ms, event_id). `after_ms`
    is the time of the previous conversion where that one resets the journey: touches at or before it are out.
    The input is never changed, and is handed back as it is where nothing is dropped.
    """
    kept, truncated = touches, False
    for reason, left in _steps(touches, conversion_ms, conversion_type, policy, after_ms):
        truncated = reason is Dropped.OVER_CAP and len(left) < len(kept)
        kept = left
    return Path(kept, truncated)


def explain(
    touches: Touches, conversion_ms: int, conversion_type: str, policy: Policy, after_ms: int | None = None
) -> list[tuple[JourneyTouch, Dropped | None]]:
    """Every touch of the journey with the reason why it is not in the path, or None where it is."""
    reasons: list[Dropped | None] = [None] * len(touches)
    places = list(range(len(touches)))
    for reason, left in _steps(touches, conversion_ms, conversion_type, policy, after_ms):
        kept_places = []
        survivors = iter(left)
        survivor = next(survivors, None)
        for place in places:
            if touches[place] is survivor:
                kept_places.append(place)
                survivor = next(survivors, None)
            else:
                reasons[place] = reason
        places = kept_places
    return list(zip(touches, reasons, strict=True))


def _steps(
    touches: Touches, conversion_ms: int, conversion_type: str, policy: Policy, after_ms: int | None
) -> Iterator[tuple[Dropped, Touches]]:
    """(reason for which this step drops, touches that are left after it), step by step."""
    kept = up_to(touches, conversion_ms)
    yield Dropped.AFTER_CONVERSION, kept
    kept = since(kept, conversion_ms - policy.lookback_max_ms(conversion_type))
    if policy.lookback_by_touch_type:
        kept = [t for t in kept if conversion_ms - t.occurred_ms <= policy.lookback_ms(conversion_type, t.type)]
    yield Dropped.BEFORE_LOOKBACK, kept
    if after_ms is not None:
        kept = later_than(kept, after_ms)
        yield Dropped.RESET, kept
    if policy.exclude_channels:
        kept = without_channels(kept, policy.exclude_channels)
        yield Dropped.EXCLUDED_CHANNEL, kept
    if policy.direct == "ignore_unless_alone":
        kept = without_direct(kept)
        yield Dropped.DIRECT_IGNORED, kept
    if policy.repeats != "keep":
        kept = without_repeats(kept, policy.repeats, policy.repeats_by)
        yield Dropped.REPEAT, kept
    if len(kept) > policy.max_touches:
        yield Dropped.OVER_CAP, most_recent(kept, policy.max_touches)


def up_to(touches: Touches, last_ms: int) -> Touches:
    """Touches at or before `last_ms`."""
    if not touches or touches[-1].occurred_ms <= last_ms:
        return touches
    return touches[: bisect_right(touches, last_ms, key=_occurred)]


def since(touches: Touches, first_ms: int) -> Touches:
    """Touches at or after `first_ms`."""
    if not touches or touches[0].occurred_ms >= first_ms:
        return touches
    return touches[bisect_left(touches, first_ms, key=_occurred) :]


def later_than(touches: Touches, after_ms: int) -> Touches:
    """Touches strictly after `after_ms`."""
    return since(touches, after_ms + 1)


def without_channels(touches: Touches, excluded: frozenset[str]) -> Touches:
    """Touches of no channel in `excluded`, which holds folded names."""
    return [t for t in touches if fold(t.channel) not in excluded]


def without_direct(touches: Touches) -> Touches:
    """Touches that are not direct; all of them where all are direct."""
    return [t for t in touches if not is_direct(t)] or touches


def without_repeats(touches: Touches, repeats: Repeats, repeats_by: RepeatsBy) -> Touches:
    """The first of each run of equals (`collapse_adjacent`), or the first or last of all equals."""
    origins = [_origin(t, repeats_by) for t in touches]
    count = len(touches)
    if repeats == "collapse_adjacent":
        places = [i for i in range(count) if i == 0 or origins[i] != origins[i - 1]]
    elif repeats == "first_of_channel":
        places = sorted({origins[i]: i for i in reversed(range(count))}.values())
    elif repeats == "last_of_channel":
        places = sorted({origins[i]: i for i in range(count)}.values())
    else:
        return touches
    return [touches[i] for i in places]


def _origin(touch: JourneyTouch, repeats_by: RepeatsBy) -> tuple[str, str]:
    """What makes two touches repeats of each other; those without a campaign are told apart by channel."""
    if repeats_by == "campaign" and touch.campaign is not None:
        return "campaign", touch.campaign
    return "channel", fold(touch.channel)


def most_recent(touches: Touches, touches_max: int) -> Touches:
    """The last `touches_max` of them."""
    return touches[-touches_max:]
