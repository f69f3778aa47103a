"""Which policy counts from when: what is announced, what may be, and what is in force."""

import json
from typing import Any

import pytest

from models.policy import AttributionTable, Policy
from models.rules import Rules, UnknownPolicy
from models.schedule import (
    ANNOUNCED_MAX,
    LEAD_MS,
    Announced,
    ScheduleError,
    in_force,
    is_outdated,
    read_announced,
    start_of,
    write_announced,
)
from models.times import format_time, parse_time

NOW_MS = parse_time("2026-11-22T12:00:00Z")


def policy(lookback: str = "30d", effective_from: str | None = None, **attribution: Any) -> Policy:
    tables = {"models": ["linear"], "lookback": lookback, **attribution}
    if effective_from is not None:
        tables["effective_from"] = effective_from
    return Policy.from_effective({"attribution": tables})


def known(*starts: int) -> list[Announced]:
    return [Announced(p.version, at, p) for at, p in ((at, policy(f"{i + 1}d")) for i, at in enumerate(starts))]


class TestTime:
    """The key `effective_from`."""

    @pytest.mark.parametrize(
        "text", ["2026-12-01T00:00:00Z", "2026-12-01T01:00:00+01:00", "2026-11-30t19:00:00.000-05:00"]
    )
    def test_one_instant_has_one_spelling(self, text: str) -> None:
        """However a time is written, the version is the same, and so is what is stored."""
        made = policy(effective_from=text)
        assert made.version == policy(effective_from="2026-12-01T00:00:00Z").version
        assert made.effective()["attribution"]["effective_from"] == "2026-12-01T00:00:00Z"
        assert made.effective_from_ms == parse_time("2026-12-01T00:00:00Z")
        assert Policy.from_effective(made.effective()).version == made.version

    def test_toml_s_own_times_are_taken(self) -> None:
        """A time without quotes is the time that it says; milliseconds stay."""
        import tomllib  # noqa: PLC0415

        tables = tomllib.loads("effective_from = 2026-12-01T00:00:00.25+01:00")
        assert AttributionTable.model_validate(tables).effective_from == "2026-11-30T23:00:00.250Z"

    @pytest.mark.parametrize("value", ["2026-12-01", "2026-12-01T00:00:00", "soon", 1_700_000_000_000, True, ""])
    def test_a_time_without_an_offset_is_refused(self, value: object) -> None:
        """A local time would be another one on each machine."""
        with pytest.raises(ValueError, match="not a time with an offset"):
            AttributionTable.model_validate({"effective_from": value})

    def test_versions_of_before_stay(self) -> None:
        """Without a time a policy's text has no word of it: its version stands in journeys and credits."""
        assert "effective_from" not in policy().canonical
        assert Policy.default().version == "eb75840e"
        assert policy().version != policy(effective_from="2026-12-01T00:00:00Z").version


class TestAnnouncing:
    """From when a policy may count."""

    def test_the_first_policy_counts_from_the_beginning(self) -> None:
        """Or from the time it names, and in fact for everything before that, too."""
        assert start_of(policy(), [], NOW_MS) == 0
        named = policy(effective_from=format_time(NOW_MS - 5_000))
        assert start_of(named, [], NOW_MS) == NOW_MS - 5_000

    def test_another_one_counts_half_a_minute_from_now(self) -> None:
        """Long enough for every worker to hear of it; and no two at once."""
        there = known(0)
        assert start_of(policy(), there, NOW_MS) == NOW_MS + LEAD_MS
        assert start_of(policy(), [*there, *known(NOW_MS + LEAD_MS)], NOW_MS) == NOW_MS + LEAD_MS + 1

    def test_a_known_one_is_not_announced_again(self) -> None:
        """However often workers start with it, and however long ago its time is."""
        there = known(0, NOW_MS - 1)
        for each in there:
            assert each.policy is not None
            assert start_of(each.policy, there, NOW_MS) is None

    def test_a_time_to_come_is_taken_as_it_is(self) -> None:
        """Half a minute ahead at least."""
        for ahead_ms in (LEAD_MS, 3_600_000):
            named = policy(effective_from=format_time(NOW_MS + ahead_ms))
            assert start_of(named, known(0), NOW_MS) == NOW_MS + ahead_ms

    @pytest.mark.parametrize("ahead_ms", [LEAD_MS - 1, 0, -3_600_000])
    def test_the_past_keeps_its_policies(self, ahead_ms: int) -> None:
        """A time that may have conversions already is refused, with one that would do."""
        named = policy(effective_from=format_time(NOW_MS + ahead_ms))
        with pytest.raises(ScheduleError, match="is not 30 seconds ahead") as error:
            start_of(named, known(0), NOW_MS)
        assert 'effective_from = "2026-11-22T12:03:00Z"' in error.value.fix

    def test_other_content_under_the_same_time_is_refused(self) -> None:
        """A file that was changed without a new time would be two policies for one moment."""
        at_ms = NOW_MS + 3_600_000
        before = policy("7d", format_time(at_ms))
        there = [*known(0), Announced(before.version, at_ms, before)]
        assert start_of(before, there, NOW_MS) is None
        with pytest.raises(ScheduleError, match="other content") as error:
            start_of(policy("8d", format_time(at_ms)), there, NOW_MS)
        assert before.version in str(error.value)

    def test_whose_journeys_they_are_cannot_change(self) -> None:
        """Records are keyed by persons or by accounts, and stay where they are."""
        with pytest.raises(ScheduleError, match="keyed"):
            start_of(policy(journey="account"), known(0), NOW_MS)

    def test_there_is_a_bound(self) -> None:
        """A thousand policies are a mistake of whoever starts the workers."""
        there = [Announced(f"v{n}", n, policy()) for n in range(ANNOUNCED_MAX)]
        with pytest.raises(ScheduleError, match="1000 policies"):
            start_of(policy("3d"), there, NOW_MS)


class TestInForce:
    """What counts at a record time."""

    def test_from_its_time_on(self) -> None:
        """A policy counts at its own millisecond, the one before it until then, and the first since ever."""
        there = known(1_000, 2_000)
        assert in_force([], 5) is None
        assert [in_force(there, at) for at in (0, 1_999, 2_000, 9_999)] == [there[0], there[0], there[1], there[1]]

    def test_rules_say_the_same(self) -> None:
        """The core finds the same policy, in whatever order the schedule comes."""
        there = known(1_000, 2_000, 3_000)
        rules = Rules(policy(), 0, schedule=[each.scheduled() for each in reversed(there)])
        for at in (0, 999, 1_000, 1_999, 2_000, 2_001, 3_000, 9_000):
            found = in_force(there, at)
            assert found is not None
            assert rules.at(at) is found.policy

    def test_without_a_schedule_all_conversions_get_the_one(self) -> None:
        """As `explain` has it, which gives none to new ones."""
        only = policy()
        assert Rules(only, 0, [policy("90d")]).at(NOW_MS) is only

    def test_who_is_outdated(self) -> None:
        """Who gave way to another by now; not who is new, in force, or still to come."""
        there = known(0, NOW_MS, NOW_MS + 1_000)
        assert [is_outdated(each.policy, there, NOW_MS) for each in there if each.policy] == [True, False, False]
        assert not is_outdated(policy("99d"), there, NOW_MS)

    def test_one_that_cannot_be_followed_is_not_guessed(self) -> None:
        """Conversions of its time are nobody's to credit with this program; those before and after are."""
        first, last = known(0, 2_000)
        rules = Rules(policy(), 0, schedule=[x.scheduled() for x in (first, Announced("of later", 1_000, None), last)])
        assert rules.at(999) is first.policy
        assert rules.at(2_000) is last.policy
        with pytest.raises(UnknownPolicy, match="of later"):
            rules.at(1_500)


class TestTopic:
    """Announcements as records."""

    def test_they_read_back(self) -> None:
        """Version, time and policy, in the order of their times."""
        there = known(3_000, 1_000)
        records = [(*write_announced(each.policy, each.from_ms), 77) for each in there if each.policy]
        assert read_announced(records) == [there[1], there[0]]
        assert [each.policy and each.policy.canonical for each in read_announced(records)] == [
            each.policy and each.policy.canonical for each in (there[1], there[0])
        ]

    def test_those_of_programs_before_this_one_count_from_their_records(self) -> None:
        """They name no time: the first counts from the beginning, the others from when they were first started with."""
        old = [policy("1d"), policy("2d")]
        records = [
            (p.version.encode(), json.dumps({"policy_version": p.version, "policy": p.effective()}).encode(), at)
            for p, at in zip(old, (500, 900), strict=True)
        ]
        assert [(each.version, each.from_ms) for each in read_announced(records)] == [
            (old[0].version, 0),
            (old[1].version, 900),
        ]

    def test_one_of_a_later_program_is_known_by_its_time(self) -> None:
        """What it says cannot be followed, but from when."""
        value = b'{"effective_from":5,"policy":{"attribution":{"models":["telepathy"]}}}'
        assert read_announced([(b"later", value, 1)]) == [Announced("later", 5, None)]

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            (None, b"{}"),
            (b"v", None),
            (b"v", b"{"),
            (b"v", b"[]"),
            (b"v", b"7"),
            (b"\xff", b'{"policy":{}}'),
            (b"v", b'{"policy":{},"effective_from":"now"}'),
        ],
    )
    def test_what_nobody_of_ours_wrote_is_left_out(self, key: bytes | None, value: bytes | None) -> None:
        """It is no policy of any time."""
        assert read_announced([(key, value, 1)]) == []
