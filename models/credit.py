"""Credits as the bytes that are published: one flat JSON object per (conversion, attribution model, touch).

What many credits share is encoded once: a head per conversion and attribution model, a part per touch of the path, and
the text of a share where an attribution model's weights depend on the path's length only. Values are bytes from here
on; the pydantic `Credit` of `models.records` is the public description of what they hold.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from models.attribution.base import AttributionModel, ByCount, Weighing
from models.facts import JourneyTouch
from models.ids import escape_id
from models.journey import JourneyConversion
from models.path import Path

Record = tuple[bytes, bytes | None]

UNATTRIBUTED_CHANNEL = "(unattributed)"

# Texts that repeat (channels, campaigns, …) are quoted once. Beyond the bound the table starts anew, so that a flood
# of search terms costs time, not memory.
QUOTED_MAX = 65_536
SHAPES_MAX = 4_096

_to_json = msgspec.json.Encoder().encode
_quoted: dict[str, str] = {}


class CreditSet(NamedTuple):
    """All records of one conversion under one attribution model, and what their parts add up to in micros."""

    attribution_model: str
    records: list[tuple[bytes, bytes]]
    mismatched: bool


def quote(text: str) -> str:
    """The JSON text of a string."""
    known = _quoted.get(text)
    if known is None:
        if len(_quoted) >= QUOTED_MAX:
            _quoted.clear()
        known = _quoted[text] = _to_json(text).decode()
    return known


def _quote_once(text: str) -> str:
    return _to_json(text).decode()


class Encoder:
    """Writes credit sets under one policy version."""

    def __init__(self, attribution_models: Sequence[AttributionModel], policy_version: str) -> None:
        self._attribution_models = attribution_models
        self._version = quote(policy_version)
        self._shapes: dict[int, tuple[Weighing, list[tuple[int, bytes, bytes]]]] = {}

    def credited(self, conversion: JourneyConversion, path: Path, revision: int) -> Iterator[CreditSet]:
        """The credit sets of a conversion whose path has at least one touch."""
        touches = path.touches
        escaped = [escape_id(t.event_id) for t in touches]
        # Bytes from here on: joining them costs half of encoding a text of the same length.
        parts = [_touch_part(t, i, n).encode() for n, (t, i) in enumerate(zip(touches, escaped, strict=True), 1)]
        ids = [i.encode() for i in escaped]
        start = self._start(conversion, len(touches), path.truncated, revision, "credited")
        value = conversion.value_micros
        name_id = escape_id(conversion.conversion_id)
        quoted_id = _quote_once(name_id)[:-1]
        for attribution_model in self._attribution_models:
            weighing = attribution_model.weigh(touches, conversion.occurred_ms)
            micros = attribution_model.micros(value, weighing)
            shape = self._shape(attribution_model, weighing)
            name = attribution_model.name
            additive = "true" if attribution_model.additive else "false"
            head = f'{start}{name}","additive":{additive},"set_size":{len(shape)},"credit_id":{quoted_id}|{name}|'
            start_of_value, key = head.encode(), f"{name_id}|{name}|".encode()
            records = [
                (key + ids[i], b"".join((start_of_value, parts[i], share, b"%d" % micros[i], reason)))
                for i, share, reason in shape
            ]
            mismatched = attribution_model.additive and sum(micros) != value
            yield CreditSet(name, records, mismatched)

    def unattributed(self, conversion: JourneyConversion, revision: int) -> Iterator[CreditSet]:
        """One record per attribution model that carries the whole value and names no touch."""
        channel = quote(UNATTRIBUTED_CHANNEL)
        end = f'"touch_id":"","channel":{channel},"position":0,"share":1.0,"value_micros":'
        return self._single(
            conversion, revision, f'{end}{conversion.value_micros},"reason":"unattributed"}}', "unattributed"
        )

    def retracted(self, conversion: JourneyConversion, revision: int) -> Iterator[CreditSet]:
        """One record per attribution model that takes everything back."""
        end = '"touch_id":"","position":0,"share":0.0,"value_micros":0,"reason":"retracted"}'
        return self._single(conversion, revision, end, "retracted")

    def keys(self, conversion_id: str, touch_ids: Sequence[str]) -> Iterator[tuple[str, list[bytes]]]:
        """Every key that this conversion can have been published under, per attribution model."""
        name_id = escape_id(conversion_id)
        escaped = ["", *map(escape_id, touch_ids)]
        for attribution_model in self._attribution_models:
            name = attribution_model.name
            yield name, [f"{name_id}|{name}|{touch_id}".encode() for touch_id in escaped]

    def _single(self, conversion: JourneyConversion, revision: int, end: str, status: str) -> Iterator[CreditSet]:
        start = self._start(conversion, 0, False, revision, status)
        name_id = escape_id(conversion.conversion_id)
        quoted_id = _quote_once(name_id)[:-1]
        for attribution_model in self._attribution_models:
            name = attribution_model.name
            additive = "true" if attribution_model.additive else "false"
            head = f'{start}{name}","additive":{additive},"set_size":1,"credit_id":{quoted_id}|{name}|",'
            yield CreditSet(name, [(f"{name_id}|{name}|".encode(), f"{head}{end}".encode())], False)

    def around_length(self, c: JourneyConversion, revision: int) -> tuple[bytes, bytes]:
        """The start of a credit whose path is whole, before and behind its path_length, for who writes the rest."""
        return self._facts(c, c.value_micros).encode(), self._standing(False, revision, "credited").encode()

    def _start(self, c: JourneyConversion, length: int, truncated: bool, revision: int, status: str) -> str:
        # A retract takes the value back: readers check that the parts of a set add up to this.
        whole = 0 if status == "retracted" else c.value_micros
        return f"{self._facts(c, whole)}{length}{self._standing(truncated, revision, status)}"

    def _facts(self, c: JourneyConversion, whole: int) -> str:
        account = "" if c.account_id is None else f'"account_id":{quote(c.account_id)},'
        return (
            f'{{"conversion_id":{_quote_once(c.conversion_id)},"conversion_type":{quote(c.type)},'
            f'"person_id":{_quote_once(c.person_id)},{account}"converted_at":{c.occurred_ms},'
            f'"conversion_value_micros":{whole},"currency":{quote(c.currency)},"path_length":'
        )

    def _standing(self, truncated: bool, revision: int, status: str) -> str:
        return (
            f',"path_truncated":{"true" if truncated else "false"},"policy_version":{self._version},'
            f'"status":"{status}","revision":{revision},"attribution_model":"'
        )

    def _shape(self, attribution_model: AttributionModel, weighing: Weighing) -> list[tuple[int, bytes, bytes]]:
        """(place, what stands before the micros, and after them) of each touch with a share."""
        known = self._shapes.get(id(weighing))
        if known is not None and known[0] is weighing:
            return known[1]
        shape = [
            (i, f'"share":{share!r},"value_micros":'.encode(), f',"reason":"{reason}"}}'.encode())
            for i, (weight, share, reason) in enumerate(
                zip(weighing.weights, weighing.shares, weighing.reasons, strict=True)
            )
            if weight
        ]
        if isinstance(attribution_model, ByCount):
            if len(self._shapes) >= SHAPES_MAX:
                self._shapes.clear()
            self._shapes[id(weighing)] = (weighing, shape)
        return shape


def _touch_part(t: JourneyTouch, escaped_id: str, position: int) -> str:
    """The part of a credit that tells of its touch, from the end of the credit_id on."""
    quoted = _quote_once(t.event_id)
    end_of_id = quoted if escaped_id == t.event_id else _quote_once(escaped_id)
    optional = ""
    if t.source is not None:
        optional = f',"source":{quote(t.source)}'
    if t.medium is not None:
        optional += f',"medium":{quote(t.medium)}'
    if t.campaign is not None:
        optional += f',"campaign":{quote(t.campaign)}'
    if t.content is not None:
        optional += f',"content":{quote(t.content)}'
    if t.term is not None:
        optional += f',"term":{quote(t.term)}'
    if t.person_id is not None:
        optional += f',"touch_person_id":{quote(t.person_id)}'
    return (
        f'{end_of_id[1:]},"touch_id":{quoted},"touch_type":{quote(t.type)},"channel":{quote(t.channel)}{optional}'
        f',"touched_at":{t.occurred_ms},"position":{position},'
    )
