"""Which conversions count under `count = "first"`: of each type in a journey the first one, by event time.

A conversion gives way to an earlier one of its type that was not taken back and whose record time lies within the
same reach of its own. So whether it counts is a function of facts, whatever order they came in, and it reaches as far
in record time as its corrections are honoured, or late touches where these are honoured longer.

How long that can change, with the reach L: what comes before conversion c has its record at most L after c's, and is
itself taken back at most L later, so c changes until 2 L after its record. A conversion that c gives way to is up to
L older than c, and so has to be remembered for 3 L.
"""

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from typing import Final

from models.credit import CreditSet, Encoder
from models.journey import JourneyConversion
from models.rules import Rules, place_of

NOT_FIRST: Final = "not_first"
NONE: frozenset[str] = frozenset()
REMEMBERED_REACHES = 3

_END_RETRACTED = b'"retracted"}'
_END_NOT_FIRST = f'"{NOT_FIRST}"}}'.encode()


def counts_first(c: JourneyConversion, rules: Rules) -> bool:
    """Whether only the first conversion of this one's type counts, under the policy that it keeps."""
    return c.type in rules.of(c.policy_version)[0].first_types


def reach_ms(c: JourneyConversion, rules: Rules) -> int:
    """How far apart in record time two conversions may be of which one gives way to the other."""
    policy, _ = rules.of(c.policy_version)
    return max(policy.corrections_ms, rules.lateness_of(policy))


def remembered_ms(c: JourneyConversion, rules: Rules) -> int:
    """How long after its record a conversion must be known because of others of its type; 0 where it need not be."""
    if c.type not in rules.first_types:
        return 0
    return REMEMBERED_REACHES * reach_ms(c, rules)


def can_change(c: JourneyConversion, other: JourneyConversion, rules: Rules) -> bool:
    """Whether `c` may begin or cease to count because `other` came or was taken back."""
    return (
        c.type == other.type
        and not c.sealed
        and place_of(other) <= place_of(c)
        and abs(other.record_ms - c.record_ms) <= reach_ms(c, rules)
    )


def uncounted(conversions: Collection[JourneyConversion], rules: Rules) -> frozenset[str]:
    """The ids of the conversions that give way to an earlier one. What was taken back is not among them."""
    if len(conversions) < 2:
        return NONE
    types = {c.type for c in conversions if counts_first(c, rules)}
    if not types:
        return NONE
    found: set[str] = set()
    for each in types:
        _add_uncounted(sorted((c for c in conversions if c.type == each), key=place_of), rules, found)
    return frozenset(found)


def _add_uncounted(of_one_type: list[JourneyConversion], rules: Rules, found: set[str]) -> None:
    """Add the ids of those with an earlier one in reach; `of_one_type` are in order."""
    records_ms: list[int] = []  # of the earlier ones, in order
    for c in of_one_type:
        policy, _ = rules.of(c.policy_version)
        if c.retracted or not policy.credited(c.type):
            continue
        if c.type in policy.first_types:
            reach = reach_ms(c, rules)
            nearest = bisect_left(records_ms, c.record_ms - reach)
            if nearest < len(records_ms) and records_ms[nearest] <= c.record_ms + reach:
                found.add(c.conversion_id)
        insort(records_ms, c.record_ms)


def not_first(encoder: Encoder, c: JourneyConversion, revision: int) -> Iterator[CreditSet]:
    """One record per attribution model that carries nothing: as of a conversion taken back, with its own reason.

    It is a record and not silence, as a reader that only appends sees no tombstones: where a conversion was credited
    before an earlier one came, the money would stay counted twice.
    """
    for name, records, mismatched in encoder.retracted(c, revision):
        told = [(key, value.removesuffix(_END_RETRACTED) + _END_NOT_FIRST) for key, value in records]
        yield CreditSet(name, told, mismatched)
