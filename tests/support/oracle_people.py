"""The final view of the credits of people who have several ids: an independent, slow and obvious batch computation.

Facts are lists of records with the record times at which they lie in the log: touches and conversions as in
`tests/support/oracle.py` (whose paths, shares and money it takes), each under whichever id its producer knew, and
merges of one person into another. It shares no code with the product.

What a merge means: from then on both are one journey, for every conversion whose `corrections` period is not over at
the merge's record time. A conversion whose period is over keeps what it had before the first such merge, for good.
"""

import hashlib
import hmac
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from tests.support import oracle
from tests.support.oracle import Policy, Record

NEVER_MS = 1 << 60


class Merge(NamedTuple):
    """From `record_ms` on, `lower` is part of `higher`. The first merge of a `lower` counts, later ones do not."""

    record_ms: int
    lower: str
    higher: str


class Facts(NamedTuple):
    """Everything that is known; records have `person_id`, `_record_ms` and, for ties, `_order`."""

    touches: list[Record]
    conversions: list[Record]
    merges: list[Merge]


class Credit(NamedTuple):
    """One credit of the final view; `touch_id` is empty where no touch has a part."""

    conversion_id: str
    attribution_model: str
    position: int
    touch_id: str
    person_id: str
    status: str
    share: Fraction
    value_micros: int
    conversion_value_micros: int
    currency: str
    path_length: int
    path_truncated: bool
    converted_at: int
    touched_at: int | None
    channel: str | None
    reason: str


# Who is who


def person_of(record: Record, key: bytes) -> list[str]:
    """The person id texts that a raw record names, highest first."""
    given = record.get("user_id") or record.get("person_id")
    named = [given] if given else []
    if record.get("email"):
        named.append(email_id(record["email"], key))
    if record.get("anonymous_id"):
        named.append(f"anonymous:{record['anonymous_id']}")
    return sorted(named, key=precedence)


def email_id(address: str, key: bytes) -> str:
    """`email:` and half of the keyed hash of the address, which is trimmed, in NFC and in small letters."""
    normal = unicodedata.normalize("NFC", address.strip()).lower()
    return "email:" + hmac.new(key, normal.encode(), hashlib.sha256).hexdigest()[:32]


def precedence(person_id: str) -> tuple[int, bytes]:
    """Sorts the higher of two first: users, then e-mails, then anonymous ids, then the smaller text."""
    kind = 2 if person_id.startswith("anonymous:") else 1 if person_id.startswith("email:") else 0
    return kind, person_id.encode()


def canonical(links: Iterable[Sequence[str]]) -> dict[str, str]:
    """The highest id of everybody's set of ids, where the ids of each link are one person."""
    sets: dict[str, set[str]] = {}
    for link in links:
        united = set(link).union(*(sets.get(person_id, ()) for person_id in link))
        for person_id in united:
            sets[person_id] = united
    return {person_id: min(united, key=precedence) for person_id, united in sets.items()}


def joined(person_id: str, merges: Iterable[Merge], until_ms: int = NEVER_MS) -> set[str]:
    """Everybody who is one person with this one by the merges up to `until_ms`, this one included."""
    honoured = [merge for merge in _valid(merges) if merge.record_ms <= until_ms]
    found, grown = {person_id}, True
    while grown:
        more = {end for merge in honoured if found & {merge.lower, merge.higher} for end in merge[1:]}
        grown = not more <= found
        found |= more
    return found


def _valid(merges: Iterable[Merge]) -> list[Merge]:
    """The first of each lower id, without those that lead to a lower one."""
    first: dict[str, Merge] = {}
    for merge in merges:
        if precedence(merge.higher) < precedence(merge.lower):
            first.setdefault(merge.lower, merge)
    return list(first.values())


# The final view


def final_view(facts: Facts, policy: Policy) -> list[Credit]:
    """Every credit that a reader keeps in the end, sorted."""
    return sorted(credit for family in families(facts) for credit in family_view(family, policy))


def families(facts: Facts) -> list[Facts]:
    """The facts of each set of people that merges connect."""
    top = canonical([merge[1:] for merge in _valid(facts.merges)])
    split: dict[str, Facts] = defaultdict(lambda: Facts([], [], []))

    def of(record: Record) -> Facts:
        person_id: str = record["person_id"]
        return split[top.get(person_id, person_id)]

    for touch in facts.touches:
        of(touch).touches.append(touch)
    for conversion in facts.conversions:
        of(conversion).conversions.append(conversion)
    for merge in _valid(facts.merges):
        split[top[merge.lower]].merges.append(merge)
    return list(split.values())


def family_view(facts: Facts, policy: Policy) -> list[Credit]:
    """The credits of people whom merges connect, from all their facts."""
    rules = Rules(policy)
    touches = sorted((rules.placed(t) for t in facts.touches), key=_in_the_log)
    conversions = sorted((rules.placed(c) for c in facts.conversions), key=_in_the_log)
    known = Facts(touches, conversions, _valid(facts.merges))
    creates: dict[str, Record] = {}
    for record in conversions:
        if record["_create"]:
            creates.setdefault(record["conversion_id"], record)
    credits: list[Credit] = []
    for create in creates.values():
        # What comes after the end of its time is not known to it.
        end_ms = rules.end_ms(create, known)
        credits += rules.credits(create, list(creates.values()), _before(known, end_ms))
    return credits


def _before(facts: Facts, end_ms: int) -> Facts:
    if end_ms == NEVER_MS:
        return facts
    touches = [t for t in facts.touches if t["_record_ms"] < end_ms]
    conversions = [c for c in facts.conversions if c["_record_ms"] < end_ms]
    return Facts(touches, conversions, [m for m in facts.merges if m.record_ms < end_ms])


def _in_the_log(record: Record) -> tuple[int, int]:
    return record["_record_ms"], record["_order"]


def kept_ms(policy: Policy) -> int:
    """How long after its record a conversion is published again without its person, where that is forgotten."""
    rules = Rules(policy)
    return max(rules.corrections_ms, rules.retention_ms)


class Rules:
    """What a policy says, with its durations in milliseconds."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._settings = {**oracle.DEFAULTS, **policy.get("attribution", {})}
        self._types = policy.get("conversions", {})
        self.corrections_ms = oracle.duration_ms(self._settings["corrections"])
        lateness_ms = oracle.duration_ms(self._settings["allowed_lateness"])
        lookbacks = [self._settings["lookback"], *self._settings["lookback_by_touch_type"].values()]
        lookbacks += [rules["lookback"] for rules in self._types.values() if "lookback" in rules]
        # A touch whose record is older than this, as of the conversion's, may have been dropped.
        self.retention_ms = max(map(oracle.duration_ms, lookbacks)) + lateness_ms

    def placed(self, record: Record) -> Record:
        """A record with what everything goes by."""
        at = oracle.epoch_ms(record["occurred_at"])
        create = record.get("action", "create") == "create"
        return {"_order": 0, **record, "_at": at, "_create": create}

    def end_ms(self, create: Record, facts: Facts) -> int:
        """From when on nothing can change what this conversion came to.

        That is its journey's first merge after its `corrections` period.
        """
        honoured_ms = create["_record_ms"] + self.corrections_ms
        own = joined(create["person_id"], facts.merges, honoured_ms)
        merged = [m.record_ms for m in facts.merges if m.record_ms > honoured_ms and own & {m.lower, m.higher}]
        return min(merged, default=NEVER_MS)

    def credits(self, create: Record, creates: Sequence[Record], facts: Facts) -> list[Credit]:
        """The credits of one conversion, from what is known to it."""
        until_ms = create["_record_ms"] + self.corrections_ms
        own = joined(create["person_id"], facts.merges, until_ms)
        others = [c for c in creates if c["person_id"] in own]
        accepted = {c["conversion_id"]: self._corrected(c, facts) for c in others}
        conversion = accepted[create["conversion_id"]]
        if not conversion["_credited"]:
            return []
        oldest_ms = create["_record_ms"] - self.retention_ms
        touches = oracle.first_of_each_event_id([t for t in facts.touches if t["person_id"] in own])
        touches = [t for t in touches if t["_record_ms"] >= oldest_ms]
        path, cut = oracle.path_of(conversion, list(accepted.values()), touches, self._policy)
        person_id = min(own, key=precedence)
        credits: list[Credit] = []
        for name in self._settings["models"]:
            spec = oracle.spec_of(name, self._policy)
            if conversion["_retracted"] or not path:
                credits.append(_without_touch(conversion, name, person_id))
            else:
                credits += _with_touches(conversion, spec, person_id, path, cut, self._settings)
        return credits

    def _corrected(self, create: Record, facts: Facts) -> Record:
        """The conversion as its corrections left it: value and currency win apart, by when they were made."""
        rules = self._types.get(create.get("type", "conversion"), {})
        value, currency, retracted = create.get("value", 0), create.get("currency"), False
        corrections = [c for c in facts.conversions if c["conversion_id"] == create["conversion_id"]]
        corrections = self._once([c for c in corrections if not c["_create"]], facts)
        heard = [c for c in corrections if self._is_heard(c, create, facts)]
        for correction in sorted(heard, key=lambda c: (c["_at"], *_in_the_log(c))):
            if correction["action"] == "restate":
                value = correction.get("value", value)
                currency = correction.get("currency", currency)
            retracted = retracted or correction["action"] == "retract"
        return {
            **create,
            "_value": oracle.micros(rules.get("value", value)),
            "_currency": currency or self._settings["currency"],
            "_retracted": retracted,
            "_credited": rules.get("credited", True),
            "_lookback": oracle.duration_ms(rules.get("lookback", self._settings["lookback"])),
        }

    def _once(self, corrections: Sequence[Record], facts: Facts) -> list[Record]:
        """Without repetitions of an explicit event_id, as long as the first is known or waits."""
        taken: list[Record] = []
        for c in corrections:
            first_ms = c["_record_ms"] - self.corrections_ms
            own = joined(c["person_id"], facts.merges, c["_record_ms"])
            known = [t for t in taken if t["_record_ms"] >= first_ms and t["person_id"] in own]
            if c.get("event_id") is None or all(t.get("event_id") != c["event_id"] for t in known):
                taken.append(c)
        return taken

    def _is_heard(self, correction: Record, create: Record, facts: Facts) -> bool:
        """In time for the conversion; and both in one journey before either gave up waiting for the other."""
        at_ms, made_ms = correction["_record_ms"], create["_record_ms"]
        last_ms = min(at_ms, made_ms) + self.corrections_ms
        return max(at_ms, made_ms) <= last_ms and correction["person_id"] in joined(
            create["person_id"], facts.merges, last_ms
        )


# Credits


def _without_touch(conversion: Record, name: str, person_id: str) -> Credit:
    retracted = conversion["_retracted"]
    value = 0 if retracted else conversion["_value"]
    return Credit(
        conversion["conversion_id"],
        name,
        0,
        "",
        person_id,
        "retracted" if retracted else "unattributed",
        Fraction(0 if retracted else 1),
        value,
        value,
        conversion["_currency"],
        0,
        False,
        conversion["_at"],
        None,
        None if retracted else "(unattributed)",
        "retracted" if retracted else "unattributed",
    )


def _with_touches(
    conversion: Record, spec: Policy, person_id: str, path: list[Record], cut: bool, settings: Policy
) -> list[Credit]:
    shares, reasons = oracle.shares_of(spec, path, conversion, settings)
    total = conversion["_value"]
    # Attribution models that do not add up give each touch the whole value.
    parts = [total] * len(path) if spec["kind"] == "participation" else oracle.split(total, shares)
    return [
        Credit(
            conversion["conversion_id"],
            spec["name"],
            place,
            touch["event_id"],
            person_id,
            "credited",
            share,
            part,
            total,
            conversion["_currency"],
            len(path),
            cut,
            conversion["_at"],
            touch["_at"],
            touch["channel"],
            reason,
        )
        for place, (touch, share, part, reason) in enumerate(zip(path, shares, parts, reasons, strict=True), 1)
        if share > 0
    ]
