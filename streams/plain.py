"""Plain conversions, whose credits the compiled part writes: which they are, and what it has to know.

A conversion is plain where it is new, waits for nothing and changes nothing that was published, and where its policy
has no rules for paths but lookback and lateness. That is nearly every conversion under the default policy. Of the rest
nothing is decided here: `models.crediting` does, which is also what the tests hold this against.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from models.attribution.base import AttributionModel
from models.attribution.custom import Custom
from models.attribution.linear import Linear
from models.attribution.participation import Participation
from models.attribution.position_based import PositionBased
from models.attribution.single import Single
from models.attribution.time_decay import TimeDecay
from models.crediting import OPEN_CONVERSIONS_MAX, Event, kept_ms, new_conversion
from models.facts import Conversion, JourneyTouch
from models.journey import JourneyConversion, JourneyState
from models.policy import Policy
from models.rules import Rules
from streams.compiled import CompiledOutput
from streams.decode import TakenTouch
from streams.native import Window

# The same bounds stand in native/c: journeys.h (touches, times) and numbers.h (weights).
TOUCHES_MAX = 500
WEIGHTS_MAX = 1 << 63
HALF_LIFE_MAX_MS = 1 << 52
# Rows are kept by the number of touches; a thousand numbers of twenty touches and five attribution models fit.
ROWS_BYTES_MAX = 16 << 20

Rows = tuple[bytes | None, ...]


class Credited(NamedTuple):
    """The conversions that the journey has now, the number of credits, and how many sets of them do not add up."""

    conversions: list[JourneyConversion]
    credits: int
    mismatched: int


class _Under:
    """What conversions of one policy need: its attribution models, and rows of them by the number of touches."""

    def __init__(self, policy: Policy, rules: Rules) -> None:
        self.policy = policy
        self.is_plain = _is_plain(policy, rules)
        self.lateness_ms = rules.lateness_of(policy)
        self.touches_max = min(TOUCHES_MAX, policy.max_touches, rules.touches_always)
        self.models = tuple(map(_told, policy.models))
        self.rows: dict[int, Rows] = {}
        self._rows_bytes = 0

    def make_rows(self, count: int) -> bool:
        """Keep the rows of `count` touches; False where the compiled part cannot reckon with these weights."""
        try:
            rows = tuple(rows_of(each, count) for each in self.policy.models)
        except OverflowError:
            return False
        size = sum(len(each) for each in rows if each is not None)
        if self._rows_bytes + size > ROWS_BYTES_MAX:
            self.rows.clear()
            self._rows_bytes = 0
        self.rows[count] = rows
        self._rows_bytes += size
        return True


class PlainCredits:
    """Writes the credits of plain conversions, each under the policy of its record time."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._under: dict[str, _Under] = {}

    def credit(
        self,
        output: CompiledOutput,
        state: JourneyState,
        blobs: Sequence[bytes | None],
        arrivals: Sequence[TakenTouch],
        events: Sequence[Event],
        revision: int,
    ) -> Credited | None:
        """Write the credits of all these conversions of one journey; None, and nothing written, where one is not plain.

        `blobs` and `arrivals` as in `Deciding.journey`; `state` is the first of the blobs, read.
        """
        if state.pending or state.dropped_ms >= 0:
            return None
        conversions, written, mismatched = list(state.conversions), 0, 0
        latest_ms = max((c.occurred_ms for c in conversions), default=-1)
        stored, new = list(blobs), list(arrivals)
        start = output.native.mark(output.batches)
        for event in events:
            e = event.conversion
            found = None
            under = self._of(e)
            if under.is_plain and self._takes(conversions, e, under.policy):
                c = new_conversion(e, under.policy)
                conversions.append(c)
                found = self._write(output, under, c, latest_ms, stored, new, revision)
            if found is None:
                if written:
                    output.native.undo(output.batches, start)
                return None
            written += found[0]
            mismatched += found[1]
        output.wrote(written)
        return Credited(conversions, written, mismatched)

    def _of(self, e: Conversion) -> _Under:
        policy = self._rules.at(e.record_ms)
        found = self._under.get(policy.version)
        if found is None:
            found = self._under[policy.version] = _Under(policy, self._rules)
        return found

    def _takes(self, conversions: Sequence[JourneyConversion], e: Conversion, policy: Policy) -> bool:
        """Whether this record is a new conversion of a plain type that changes nothing else of the journey."""
        if e.action != "create" or not policy.credited(e.type) or e.type in self._rules.first_types:
            return False
        if not conversions:
            return True
        first = conversions[0]
        if first.record_ms + kept_ms(self._rules, first) < e.record_ms or len(conversions) >= OPEN_CONVERSIONS_MAX:
            return False  # the first may have to be let go of, or this one refused
        return all(c.conversion_id != e.conversion_id for c in conversions) and (
            e.event_id is None or all(e.event_id not in c.seen for c in conversions)
        )

    def _write(
        self,
        output: CompiledOutput,
        under: _Under,
        c: JourneyConversion,
        latest_ms: int,
        blobs: list[bytes | None],
        arrivals: list[TakenTouch],
        revision: int,
    ) -> tuple[int, int] | None:
        policy, encoder = self._rules.of(c.policy_version)
        window = Window(
            latest_ms,
            c.record_ms - policy.retention_ms,
            c.record_ms + under.lateness_ms,
            c.occurred_ms - policy.lookback_max_ms(c.type),
            c.occurred_ms,
        )
        headers = output.packed_headers("conversions", c.offset)
        before, behind = encoder.around_length(c, revision)
        while True:
            found = output.native.credit(
                output.batches,
                c.record_ms,
                c.value_micros,
                window,
                under.touches_max,
                headers,
                before,
                behind,
                c.conversion_id.encode(),
                blobs,
                arrivals,
                under.models,
                under.rows,
            )
            if not isinstance(found, int):
                return found
            if not under.make_rows(found):
                return None


def rows_of(attribution_model: AttributionModel, count: int) -> bytes | None:
    """What depends on the number of touches only, as native/c/credits.h reads it; OverflowError where it cannot.

    int64 number of rows, uint64 total, uint64 weight of each touch; then of each touch with a weight uint32 place,
    uint32 size and uint32 size of two texts, and these: what stands before the micros, and behind them. None for a time
    decay of more than one touch.
    """
    if isinstance(attribution_model, TimeDecay) and count > 1:
        return None
    weighing = attribution_model.weigh([_SOME_TOUCH] * count, 0)
    if weighing.total >= WEIGHTS_MAX:
        raise OverflowError(f"weights that add up to {weighing.total}")
    rows = []
    for place, (weight, share, reason) in enumerate(
        zip(weighing.weights, weighing.shares, weighing.reasons, strict=True)
    ):
        if weight:
            before, behind = f'"share":{share!r},"value_micros":'.encode(), f',"reason":"{reason}"}}'.encode()
            rows += [struct.pack("=III", place, len(before), len(behind)), before, behind]
    return struct.pack(f"=qQ{count}Q", len(rows) // 3, weighing.total, *weighing.weights) + b"".join(rows)


_SOME_TOUCH = JourneyTouch(None, "t", 0, 0, "visit", "email", None, None, None, None, None)


def _is_plain(policy: Policy, rules: Rules) -> bool:
    # Where any policy resets, a new conversion can move where others begin.
    has_own_rules = rules.resets_ms or policy.lookback_by_touch_type or policy.exclude_channels
    keeps_all = policy.direct == "count" and policy.repeats == "keep"
    return keeps_all and not has_own_rules and all(map(_is_known, policy.models))


def _is_known(attribution_model: AttributionModel) -> bool:
    if isinstance(attribution_model, TimeDecay):
        return not attribution_model.whole_days and attribution_model.half_life_ms < HALF_LIFE_MAX_MS
    return isinstance(attribution_model, Single | Linear | PositionBased | Custom | Participation)


def _told(attribution_model: AttributionModel) -> tuple[bytes, bool, bool, int]:
    """Name, whether additive, whether direct touches are passed over, half-life in ms or 0."""
    skips_direct = isinstance(attribution_model, Single) and attribution_model.pick == "last_non_direct"
    half_life_ms = attribution_model.half_life_ms if isinstance(attribution_model, TimeDecay) else 0
    return attribution_model.name.encode(), attribution_model.additive, skips_direct, half_life_ms
