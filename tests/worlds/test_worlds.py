"""Many seeded worlds of people who have several ids: at each quiet point readers have what the oracle computes.

A failure prints its seed and the command that runs that world alone. `python -m tests.worlds.run --seeds 2000 --jobs 2`
is the full run.
"""

from collections import Counter
from unittest import mock

import pytest

from tests.support.oracle_people import Credit
from tests.worlds import checks, drawing, run
from tests.worlds.course import final_view

QUICK = 48
MANY = 2_000


def test_in_some_worlds_readers_have_the_credits_of_the_oracle() -> None:
    """After each of 200 quiet points, both readers have what a batch computation over all facts so far gives."""
    _run(QUICK, jobs=1)


@pytest.mark.slow
def test_in_two_thousand_worlds_readers_have_the_credits_of_the_oracle() -> None:
    """The same of many more worlds."""
    _run(MANY, jobs=2)


def _run(worlds: int, jobs: int) -> None:
    result = run.many(range(worlds), jobs)
    wrong = run.verdict(result)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_arrival_does_not_matter(seed: int) -> None:
    """Whatever order a finite input arrives in, the final view is one and the same, as long as nothing is late."""
    original = drawing.draw(seed, identities=seed % 2 == 0, byte_equal=True)
    views = [final_view(drawing.shuffled(original, number)) for number in range(3)]
    assert views[0]
    assert views[1] == views[0]
    assert views[2] == views[0]


def test_a_world_follows_from_its_seed() -> None:
    """The same seed gives the same records, quiet points and policy; another one gives others."""
    first, again, other = (drawing.draw(seed, identities=True) for seed in (5, 5, 6))
    assert list(first.direct()) == list(again.direct())
    assert first.policy == again.policy
    assert list(first.direct()) != list(other.direct())


def test_worlds_are_as_large_as_they_are_said_to_be() -> None:
    """50 to 200 people, and at least 200 quiet points, the last one at the end."""
    for seed in range(20):
        drawn = drawing.draw(seed, identities=True)
        assert 50 <= len(drawn.people) <= 200
        assert len(drawn.cuts) >= 200
        assert drawn.cuts[-1] == len(drawn.items)
        assert sum(map(len, drawn.raw())) == len(drawn.items)
    assert len(drawing.draw(1, identities=True, people=5_000).people) == 5_000


def test_a_failing_world_of_many_people_is_named_with_its_size() -> None:
    """The command that runs it again makes as many people."""
    failed = run.Result(1, 5_000, failures=[(3, "")])
    assert run.verdict(failed) == ["seed 3 failed; again with: python -m tests.worlds.run --seed 3 --people 5000"]


def test_a_wrong_credit_is_found_and_named() -> None:
    """Where the oracle would have another value, the world fails, and says which credits differ and from what facts."""

    def off_by_a_millionth(credit: Credit) -> checks.Shown:
        return tuple(credit._replace(share=float(credit.share), value_micros=credit.value_micros + 1))  # type: ignore[arg-type]

    with mock.patch.object(checks, "expected", off_by_a_millionth), pytest.raises(AssertionError) as failed:
        run.one(0)
    text = str(failed.value)
    assert "- oracle" in text
    assert "+ reader" in text
    assert "conversion person_id=" in text


def test_a_failing_world_is_named_and_the_others_run_on() -> None:
    """The verdict gives the seed and the command that runs it alone."""

    def fails_at_three(seed: int, people: int) -> Counter[str]:
        assert seed != 3
        return Counter()

    with mock.patch.object(run, "one", fails_at_three):
        result = run.many(range(6))
    assert result.worlds == 6
    assert [line.rpartition("\n")[2] for line in run.verdict(result)] == [
        "seed 3 failed; again with: python -m tests.worlds.run --seed 3"
    ]


def test_what_does_not_come_up_fails_a_run() -> None:
    """What is required is scaled with the number of worlds, and never below one."""
    enough = Counter(run.ENOUGH)
    assert run.verdict(run.Result(2_000, seen=enough)) == []
    del enough["merged"]
    assert run.verdict(run.Result(20, seen=enough)) == ["too few: merged: 0 of 500"]
