"""Time is drawn in tests: `email@-3d > paid_search@-1d > conversion`.

One item per event, `>` between them. A touch is `channel/campaign:type@time`, a conversion is
`conversion:type=value@time`; everything after the name may be left out. Time counts from `NOW_MS` (`-3d`, `+90m`,
`-1d12h`), and no time is `NOW_MS` itself. Ids follow the drawing: t1, t2 … and c1, c2 …; record time is event time.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from models.durations import parse_duration
from models.facts import Conversion, JourneyTouch, Touch

NOW_MS = 1_714_564_800_000  # 2024-05-01T12:00:00Z
PERSON = "p1"

_ITEM = re.compile(
    r"(?P<name>[^@:=/>]+?)(?:/(?P<campaign>[^@:=>]+))?(?::(?P<type>[^@=>]+))?(?:=(?P<value>\d+(?:\.\d{1,6})?))?"
    r"(?:@(?P<sign>[+-]?)(?P<time>[0-9a-z]+))?"
)
_PART = re.compile(r"[0-9]+(?:ms|[dhms])")


@dataclass
class Drawing:
    """The events of one person as drawn, and the touches as a journey has them: by (time, event_id)."""

    facts: list[Touch | Conversion] = field(default_factory=list)

    @property
    def touches(self) -> list[JourneyTouch]:
        kept = [in_journey(fact) for fact in self.facts if isinstance(fact, Touch)]
        return sorted(kept, key=lambda touch: (touch.occurred_ms, touch.event_id))

    @property
    def conversions(self) -> list[Conversion]:
        return [fact for fact in self.facts if isinstance(fact, Conversion)]

    @property
    def conversion(self) -> Conversion:
        """The last conversion drawn."""
        return self.conversions[-1]


def draw(text: str) -> Drawing:
    """The events of a drawing; ValueError where it cannot be read."""
    drawing = Drawing()
    for item in filter(None, (part.strip() for part in text.split(">"))):
        found = _ITEM.fullmatch(item)
        if found is None:
            raise ValueError(f"cannot read {item!r} in {text!r}")
        read = _conversion if found["name"] == "conversion" else _touch
        drawing.facts.append(read(found, drawing.facts))
    return drawing


def in_journey(touch: Touch) -> JourneyTouch:
    """A touch as a journey of persons keeps it."""
    t = touch
    lag_ms = t.record_ms - t.occurred_ms
    origin = (t.channel, t.source, t.medium, t.campaign, t.content, t.term)
    return JourneyTouch(None, t.event_id, t.occurred_ms, lag_ms, t.type, *origin)


def _touch(found: re.Match[str], before: Sequence[Touch | Conversion]) -> Touch:
    number = 1 + sum(isinstance(fact, Touch) for fact in before)
    at_ms = _time_ms(found)
    if found["value"] is not None:
        raise ValueError(f"a touch has no value: {found[0]!r}")
    return Touch(
        event_id=f"t{number}",
        person_id=PERSON,
        occurred_ms=at_ms,
        type=found["type"] or "visit",
        channel=found["name"],
        campaign=found["campaign"],
        record_ms=at_ms,
    )


def _conversion(found: re.Match[str], before: Sequence[Touch | Conversion]) -> Conversion:
    number = 1 + sum(isinstance(fact, Conversion) for fact in before)
    at_ms = _time_ms(found)
    whole, _, decimals = (found["value"] or "0").partition(".")
    return Conversion(
        conversion_id=f"c{number}",
        person_id=PERSON,
        occurred_ms=at_ms,
        type=found["type"] or "conversion",
        value_micros=int(whole) * 1_000_000 + int(decimals.ljust(6, "0")),
        record_ms=at_ms,
    )


def _time_ms(found: re.Match[str]) -> int:
    if found["time"] is None:
        return NOW_MS
    parts = _PART.findall(found["time"])
    if "".join(parts) != found["time"]:
        raise ValueError(f"cannot read the time of {found[0]!r}")
    away_ms = sum(map(parse_duration, parts))
    return NOW_MS - away_ms if found["sign"] == "-" else NOW_MS + away_ms
