"""The policies in force: which one counts for a conversion, and which facts count for it under that."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

from models.credit import Encoder
from models.durations import DAY_MS
from models.journey import BUCKET_MS, JourneyConversion
from models.policy import Policy

# Keys of journeys outlive their use by this much: clocks differ, and a worker may have to catch up.
MARGIN_MS = 14 * DAY_MS
# Topics keep records by this much longer than the retention of the policy, for clocks, lag and the roll of a segment;
# without it the last day may be cut.
TOPICS_MARGIN_MS = DAY_MS


class UnknownPolicy(ValueError):
    """A conversion of a time at which a policy counted that this program cannot follow."""


class Scheduled(NamedTuple):
    """A policy, and the record time (epoch ms) from which it counts for new conversions.

    The policy is None where it is of a later program and cannot be followed; `version` names it all the same.
    """

    from_ms: int
    policy: Policy | None
    version: str = ""


class Rules:
    """The policies that new conversions get, by their record times, and those that earlier ones keep."""

    def __init__(
        self, policy: Policy, settle_ms: int, earlier: Sequence[Policy] = (), schedule: Sequence[Scheduled] = ()
    ) -> None:
        """Without a `schedule` all new conversions get `policy`; else it only stands in for one not known any more.

        The first policy of a schedule counts for everything before it too. `earlier` are kept, and given to none.
        """
        self.policy = policy
        self._settle_ms = settle_ms
        self._scheduled = sorted(schedule, key=attrgetter("from_ms")) or [Scheduled(0, policy)]
        self._starts_ms = [each.from_ms for each in self._scheduled[1:]]
        followed = [each.policy for each in self._scheduled if each.policy is not None]
        self._known = {p.version: (p, Encoder(p.models, p.version)) for p in [*earlier, *followed, policy]}
        policies = [policy for policy, _ in self._known.values()]
        # A journey of so many touches is within the cap of each policy.
        self.touches_always = min(p.journey_touches_max for p in policies)
        self.first_types = frozenset[str]().union(*(p.first_types for p in policies))
        # The widest of all: a conversion keeps the policy that it was first credited with.
        self.retention_ms = max(p.retention_ms for p in policies)
        self.late_ms = max(map(self.lateness_of, policies))
        # How far before the record time of what is decided a touch can lie that matters to any open conversion.
        self.reach_ms = self.retention_ms + max(map(self._changes_ms, policies))
        # How long a conversion must be known for the sake of later ones that begin after it: as far as it is looked for
        # before them, and as long as they can change.
        self.resets_ms = max((p.retention_ms + self._changes_ms(p) for p in policies if p.resets), default=0)
        # The same where a whole journey is published again: its conversions are then as old as a touch may be.
        self.whole_ms = max(2 * self.retention_ms, self.reach_ms)
        # Whether anything but a merge can change a conversion when its `corrections` are over. Then a merge is told to
        # its journey even if nothing comes with it, as it ends that.
        self.merges_seal = any(self._changes_ms(p) > p.corrections_ms for p in policies)
        # How long a record can lie in a topic and still be read: as long as topics keep it.
        self.unread_ms = self.retention_ms + TOPICS_MARGIN_MS
        # How long a key of touches lives. Garbage collection only: what counts is decided by record times.
        self.kept_ms = BUCKET_MS + self.whole_ms + MARGIN_MS

    def at(self, record_ms: int) -> Policy:
        """The policy of conversions of this record time, whoever takes them in and when. Raises UnknownPolicy."""
        found = self._scheduled[bisect_right(self._starts_ms, record_ms)]
        if found.policy is None:
            raise UnknownPolicy(
                f"conversions of record time {record_ms} ms are credited under the policy {found.version}, which this "
                "program cannot follow"
            )
        return found.policy

    def lateness_of(self, policy: Policy) -> int:
        """How much younger in record time a touch may be than a conversion and still count for it."""
        return max(policy.allowed_lateness_ms, self._settle_ms)

    def _changes_ms(self, policy: Policy) -> int:
        """How long after its record a conversion can change: by late touches, and by corrections, also of others."""
        # One that came late may be taken back as late again; see models/counting.py.
        depends = policy.first_types or policy.resets
        changes_ms = max(policy.corrections_ms, self.lateness_of(policy))
        return 2 * changes_ms if depends else changes_ms

    def of(self, version: str) -> tuple[Policy, Encoder]:
        """The policy of that version; where it is not known any more, today's."""
        return self._known.get(version) or self._known[self.policy.version]

    def window(self, c: JourneyConversion) -> tuple[int, int]:
        """First and last record time (epoch ms, both included) at which a touch counts for the conversion."""
        policy, _ = self.of(c.policy_version)
        return c.record_ms - policy.retention_ms, c.record_ms + self.lateness_of(policy)

    def previous_ms(self, c: JourneyConversion, conversions: Iterable[JourneyConversion]) -> int | None:
        """When the conversion before this one was, among credited and not retracted ones; None for the first.

        Looked for as far back in record time as touches are, and as long after as corrections are honoured.
        """
        first_ms, last_ms = self._resetting(c)
        earlier = [
            place_of(o)
            for o in conversions
            if not o.retracted
            and place_of(o) < place_of(c)
            and first_ms <= o.record_ms <= last_ms
            and self.of(o.policy_version)[0].credited(o.type)
        ]
        return max(earlier)[0] if earlier else None

    def may_reset(self, o: JourneyConversion, c: JourneyConversion) -> bool:
        """Whether it can depend on `o`, coming or going, where `c` begins."""
        policy, _ = self.of(c.policy_version)
        if not policy.resets or not policy.credited(c.type) or place_of(o) >= place_of(c):
            return False
        first_ms, last_ms = self._resetting(c)
        return first_ms <= o.record_ms <= last_ms

    def _resetting(self, c: JourneyConversion) -> tuple[int, int]:
        """First and last record time of the conversions that `c` may begin after."""
        policy, _ = self.of(c.policy_version)
        return c.record_ms - policy.retention_ms, c.record_ms + policy.corrections_ms


def place_of(c: JourneyConversion) -> tuple[int, str]:
    """What conversions are ordered by: event time, then id."""
    return c.occurred_ms, c.conversion_id
