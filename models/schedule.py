"""Which policy counts from when: announcements, what may be announced, and what is in force at a record time.

Every policy is announced once, under its version, with the record time from which it counts for new conversions. The
time lies some way ahead, so that every worker has heard of it when the first conversion of that time comes. What was
announced is never changed: the past keeps its policies, and a rebuild gives conversions those that they had.
"""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from models.policy import Policy
from models.rules import Scheduled
from models.times import MINUTE_MS, SECOND_MS, format_time

# A policy is announced so long before it counts. Workers look at the announcements whenever records are `SURE_MS` past
# the last look (streams/following.py); the rest is for the announcement's transaction and for brokers' clocks.
LEAD_MS = 30 * SECOND_MS
SURE_MS = 10 * SECOND_MS
# Each is kept in memory and widens what is loaded; a fleet that has more announces at each start, which is a mistake.
ANNOUNCED_MAX = 1_000


class ScheduleError(ValueError):
    """A policy that may not be announced; `fix` says what a person can do."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.fix = fix


class Announced(NamedTuple):
    """A policy that was announced; `policy` is None where it is of a later program and this one cannot follow it."""

    version: str
    from_ms: int
    policy: Policy | None

    def scheduled(self) -> Scheduled:
        """What the core needs of it."""
        return Scheduled(self.from_ms, self.policy, self.version)


def read_announced(records: Iterable[tuple[bytes | None, bytes | None, int]]) -> list[Announced]:
    """Announcements by the time from which they count, of (key, value, record time) in their order.

    Programs before this one named no time: their first policy counts from the beginning, the others from their records.
    What none of ours can have written is left out.
    """
    found: dict[str, Announced] = {}
    for key, value, record_ms in records:
        if key is None or value is None:
            continue
        try:
            stored = json.loads(value)
            tables, from_ms = stored["policy"], stored.get("effective_from", record_ms if found else 0)
            version = key.decode()
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if not isinstance(from_ms, int):
            continue
        try:
            policy = Policy.from_effective(tables)
        except ValueError:
            policy = None
        found[version] = Announced(version, from_ms, policy)
    return sorted(found.values(), key=lambda each: each.from_ms)


def write_announced(policy: Policy, from_ms: int) -> tuple[bytes, bytes]:
    """Key and value of the record that announces a policy."""
    value = {"policy_version": policy.version, "effective_from": from_ms, "policy": policy.effective()}
    return policy.version.encode(), json.dumps(value, sort_keys=True).encode()


def in_force(known: Sequence[Announced], record_ms: int) -> Announced | None:
    """What counts at a record time; `known` in order. The first counts for everything before it too."""
    begun = [each for each in known if each.from_ms <= record_ms]
    return begun[-1] if begun else next(iter(known), None)


def is_outdated(policy: Policy, known: Sequence[Announced], now_ms: int) -> bool:
    """Whether another policy has taken this one's place; one that was never announced is new."""
    now = in_force(known, now_ms)
    mine = next((each for each in known if each.version == policy.version), None)
    return now is not None and mine is not None and mine.from_ms < now.from_ms


def start_of(policy: Policy, known: Sequence[Announced], now_ms: int) -> int | None:
    """The record time (epoch ms) from which to announce a policy; None where it was announced already.

    The first policy of all counts from the beginning. Raises ScheduleError.
    """
    if any(each.version == policy.version for each in known):
        return None
    if not known:
        return policy.effective_from_ms or 0
    if len(known) >= ANNOUNCED_MAX:
        raise ScheduleError(f"{ANNOUNCED_MAX} policies were announced already", "use a new kafka.prefix")
    _keep_journeys(policy, known)
    taken = {each.from_ms: each.version for each in known}
    from_ms = policy.effective_from_ms
    if from_ms is None:
        from_ms = now_ms + LEAD_MS
        while from_ms in taken:
            from_ms += 1
        return from_ms
    if from_ms in taken:
        raise ScheduleError(
            f"another policy counts from {format_time(from_ms)} on ({taken[from_ms]}); this file has other content "
            f"({policy.version}) under the same time",
            later(now_ms),
        )
    check_lead(from_ms, now_ms)
    return from_ms


def check_lead(from_ms: int, now_ms: int) -> None:
    """Raises ScheduleError where workers could hear of a policy too late."""
    if from_ms < now_ms + LEAD_MS:
        raise ScheduleError(
            f"{format_time(from_ms)} is not {LEAD_MS // SECOND_MS} seconds ahead (it is {format_time(now_ms)}): "
            "conversions of that time may be credited already, and they keep their policy",
            later(now_ms),
        )


def later(now_ms: int) -> str:
    """What to write instead."""
    soon_ms = now_ms - now_ms % MINUTE_MS + 3 * MINUTE_MS
    return (
        f'name a time to come (effective_from = "{format_time(soon_ms)}"), or leave it out: then the policy counts '
        "half a minute after its first start. What is credited already changes by a new kafka.prefix and a replay only"
    )


def _keep_journeys(policy: Policy, known: Sequence[Announced]) -> None:
    """Keys are persons or accounts, and those of the records that are there do not change."""
    for each in known:
        if each.policy is not None and each.policy.journey != policy.journey:
            raise ScheduleError(
                f'the topics are keyed for journey = "{each.policy.journey}", as earlier policies say, and this one '
                f'says "{policy.journey}"',
                "use a new kafka.prefix, and replay into it",
            )
