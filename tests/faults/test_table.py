"""The table of `make faults` says what happened."""

import pytest

from tests.faults import large_worlds, run
from tests.faults.rounds import Result
from tests.faults.verdict import Findings
from tests.worlds.run import Result as Worlds

CLEAN = Result(Findings(1_000, 200, 5_000, 0, 0, 0, []), 1.25, [9.0])
ODD = Result(Findings(1_000, 200, 5_000, 1, 2, 3, ["credit missing: c|linear|t"]), 0.5, [12.0])


def test_the_table_sums_rounds() -> None:
    """Numbers of all rounds are added up, the stall is the longest, the recovery median and worst."""
    row = run.Row("a fault", [CLEAN, ODD])
    assert row.cells() == ["a fault", "2", "2,000", "1", "2", "3", "1.2 s"]
    assert row.recovery() == "a fault: recovery median 10.5 s, worst 12.0 s of 2"


@pytest.mark.parametrize(
    ("row", "clean"),
    [
        (run.Row("a", [CLEAN]), True),
        (run.Row("a", [CLEAN, ODD]), False),
        (run.Row("a", [CLEAN], ["it did not end"]), False),
        (run.Row("a", [], []), False),
    ],
    ids=["clean", "a fault found", "a round that failed", "nothing ran"],
)
def test_what_counts_as_clean(row: run.Row, clean: bool) -> None:
    """A table is clean only where rounds ran, all of them ended, and each found nothing."""
    assert row.is_clean is clean


def test_worlds_stand_below_the_table() -> None:
    """The report says how many worlds ran and failed, and what failed; worlds are clean only where some ran."""
    good = large_worlds.Played(Worlds(2, 5_000), 9.0, [])
    bad = large_worlds.Played(Worlds(2, 5_000, failures=[(1, "")]), 9.0, ["seed 1 failed"])
    assert [one.is_clean for one in (good, bad, large_worlds.Played(Worlds(), 0.0, []))] == [True, False, False]
    text = run.report([], 0, 1.0, [bad])
    assert "worlds of 5,000 people: 2, 1 failed" in text
    assert "seed 1 failed" in text
