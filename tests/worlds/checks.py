"""Whether what readers see is what the oracle computes, looked at wherever something may have changed."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from tests.support import oracle_people
from tests.support.oracle_people import Credit, Facts, Merge
from tests.worlds.readers import Appends, Read, Upserts, compacted, interleaved

Shown = tuple[Any, ...]
FIELDS = Credit._fields
SHARE = FIELDS.index("share")
PERSON = FIELDS.index("person_id")
FORGOTTEN = "(forgotten)"


def shown(row: dict[str, Any]) -> Shown:
    """What a reader has, in the order of the oracle's fields."""
    return tuple(row.get(name) for name in FIELDS)


def expected(credit: Credit) -> Shown:
    """What the oracle says: its fraction as the double that is published."""
    return (*credit[:SHARE], float(credit.share), *credit[SHARE + 1 :])


def nameless(credit: Shown) -> Shown:
    """The credit of a person who was forgotten: the same, but for the name."""
    return (*credit[:PERSON], FORGOTTEN, *credit[PERSON + 1 :])


class Known:
    """All facts so far, kept apart by the people whom merges connect; an oracle is asked about those that changed.

    Nothing is known of a person from when it was forgotten on. It has one id, so that nobody else goes with it.
    """

    def __init__(self, policy: dict[str, Any]) -> None:
        self._policy = policy
        self._family: dict[str, Facts] = {}
        # By the identity of a family's facts: who they are.
        self._members: dict[int, list[str]] = {}
        self._merged: set[str] = set()
        # By the identity of a family's facts: those of whom something is new, and what the oracle said of the others.
        self._dirty: dict[int, Facts] = {}
        self._credits: dict[int, dict[str, list[Shown]]] = {}
        # Where a conversion is spoken of: corrections may lie with somebody who is not merged with its person yet.
        self._families_of: defaultdict[str, set[int]] = defaultdict(set)
        self._forgotten: set[str] = set()
        # Conversions whose person was forgotten while they were kept; older ones keep the name.
        self._nameless: set[str] = set()

    def forget(self, person_id: str, record_ms: int) -> None:
        if person_id in self._forgotten:
            return
        self._forgotten.add(person_id)
        kept_from_ms = record_ms - oracle_people.kept_ms(self._policy)
        creates = [c for c in self._at(person_id).conversions if "action" not in c]
        seen: set[str] = set()
        for create in creates:
            name = create["conversion_id"]
            if name not in seen and create["_record_ms"] >= kept_from_ms:
                self._nameless.add(name)
            seen.add(name)

    def told(self, credit: Credit) -> Shown:
        """What the oracle says, without the name of those who were forgotten."""
        return nameless(expected(credit)) if credit.conversion_id in self._nameless else expected(credit)

    def touch(self, record: dict[str, Any]) -> None:
        if record["person_id"] not in self._forgotten:
            self._at(record["person_id"]).touches.append(record)

    def conversion(self, record: dict[str, Any]) -> None:
        if record["person_id"] in self._forgotten:
            return
        family = self._at(record["person_id"])
        family.conversions.append(record)
        self._families_of[record["conversion_id"]].add(id(family))

    def merge(self, merge: Merge) -> None:
        if merge.lower in self._merged:
            return
        self._merged.add(merge.lower)
        one, other = self._at(merge.lower), self._at(merge.higher)
        one.merges.append(merge)
        if one is not other:
            self._unite(one, other)

    def changed(self) -> set[str]:
        """Ask the oracle about everybody of whom something is new; their conversions."""
        found: set[str] = set()
        for family in self._dirty.values():
            credits: defaultdict[str, list[Shown]] = defaultdict(list)
            for credit in oracle_people.family_view(family, self._policy):
                credits[credit.conversion_id].append(self.told(credit))
            self._credits[id(family)] = credits
            found.update(conversion["conversion_id"] for conversion in family.conversions)
        self._dirty.clear()
        return found

    def credits(self, conversion_id: str) -> list[Shown]:
        """What the oracle said of a conversion."""
        families = self._families_of[conversion_id]
        return sorted(credit for family in families for credit in self._credits[family].get(conversion_id, ()))

    def conversions(self) -> set[str]:
        """Those that have credits."""
        return {conversion_id for credits in self._credits.values() for conversion_id in credits}

    def _unite(self, one: Facts, other: Facts) -> None:
        for conversion in other.conversions:
            self._families_of[conversion["conversion_id"]] -= {id(other)}
            self._families_of[conversion["conversion_id"]] |= {id(one)}
        one.touches.extend(other.touches)
        one.conversions.extend(other.conversions)
        one.merges.extend(other.merges)
        moved = self._members.pop(id(other))
        self._family.update(dict.fromkeys(moved, one))
        self._members[id(one)] += moved
        self._dirty.pop(id(other), None)
        self._credits.pop(id(other), None)

    def all(self) -> Facts:
        """Everything, for an oracle that begins anew."""
        families = {id(family): family for family in self._family.values()}.values()
        touches = [touch for family in families for touch in family.touches]
        conversions = [conversion for family in families for conversion in family.conversions]
        return Facts(touches, conversions, [merge for family in families for merge in family.merges])

    def family(self, conversion_id: str) -> Facts | None:
        """The facts about those who have this conversion."""
        known = [f for f in self._family.values() if any(c["conversion_id"] == conversion_id for c in f.conversions)]
        return max(known, key=lambda f: len(f.touches) + len(f.conversions), default=None)

    def _at(self, person_id: str) -> Facts:
        family = self._family.get(person_id)
        if family is None:
            family = self._family[person_id] = Facts([], [], [])
            self._members[id(family)] = [person_id]
        self._dirty[id(family)] = family
        return family


class Checker:
    """Takes credits in as readers do, and compares at each quiet point. Half of the readers of keys begin late."""

    def __init__(self, known: Known, rng: random.Random, quiet_points: int) -> None:
        self.known = known
        self.seen: Counter[str] = Counter()
        self._rng = rng
        self._upserts: Upserts | None = Upserts()
        self._appends = Appends()
        self._records: list[Read] = []
        # The quiet point at which the reader of keys begins, with a compacted log of what was before.
        self._begins = rng.randrange(quiet_points) if rng.random() < 0.5 else -1
        if self._begins >= 0:
            self._upserts = None

    def quiet(self, number: int, fresh: Sequence[Read]) -> None:
        """At a quiet point: both readers agree with the oracle about everything that is or should be new."""
        looked_at = self.known.changed() | self._appends.take(interleaved(self._rng, fresh))
        if self._upserts is not None:
            looked_at |= self._upserts.take(interleaved(self._rng, fresh))
        elif number < self._begins:
            self._records += fresh
        else:
            self._upserts = Upserts()
            looked_at |= self._upserts.take(interleaved(self._rng, compacted([*self._records, *fresh])))
            self.seen["readers of a compacted log"] += 1
        self._compare(looked_at)
        self.seen["quiet points"] += 1
        self.seen["conversions looked at"] += len(looked_at)

    def end(self, policy: dict[str, Any]) -> None:
        """An oracle that begins anew says the same of all facts together, and no reader has anything else."""
        assert self._upserts is not None
        view = sorted(self.known.told(credit) for credit in oracle_people.final_view(self.known.all(), policy))
        conversions = self.known.conversions()
        assert view == sorted(c for name in conversions for c in self.known.credits(name)), "the oracle disagrees"
        assert self._upserts.conversions() == conversions, "credits of conversions that have none"
        self._compare(conversions)
        self.seen["credits"] += len(view)

    def view(self) -> list[Shown]:
        """Everything that the reader of keys has."""
        upserts = self._upserts or Upserts()
        return sorted(shown(row) for name in upserts.conversions() for row in upserts.of(name))

    def _compare(self, conversions: Iterable[str]) -> None:
        readers: list[Upserts | Appends] = [self._appends]
        if self._upserts is not None:
            readers.append(self._upserts)
        for conversion_id in sorted(conversions):
            wanted = self.known.credits(conversion_id)
            for reader in readers:
                found = sorted(map(shown, reader.of(conversion_id)))
                if found != wanted:
                    raise AssertionError(self._difference(conversion_id, type(reader).__name__, wanted, found))

    def _difference(self, conversion_id: str, reader: str, wanted: list[Shown], found: list[Shown]) -> str:
        lines = [f"{conversion_id}: {reader} has other credits than the oracle", "  " + "  ".join(FIELDS)]
        lines += [f"- oracle {credit}" for credit in wanted if credit not in found]
        lines += [f"+ reader {credit}" for credit in found if credit not in wanted]
        family = self.known.family(conversion_id)
        if family is not None:
            lines += _story(family)
        return "\n".join(lines)


def _story(family: Facts) -> list[str]:
    """The facts in the order of their record times."""
    told = [(t["_record_ms"], f"touch {_told(t)}") for t in family.touches]
    told += [(c["_record_ms"], f"conversion {_told(c)}") for c in family.conversions]
    told += [(m.record_ms, f"merge {m.lower} into {m.higher}") for m in family.merges]
    return [f"  {record_ms} {text}" for record_ms, text in sorted(told)]


def _told(record: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in record.items() if not name.startswith("_"))
