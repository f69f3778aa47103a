"""A tenth of `make faults`, and that its table says what happened."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import run
from tests.faults.rounds import Result, Scenario, Servers
from tests.faults.verdict import Findings
from tests.support.servers import MissingServer

CLEAN = Result(Findings(1_000, 5_000, 0, 0, 0, []), 1.25, [9.0])
ODD = Result(Findings(1_000, 5_000, 1, 2, 3, ["credit missing: c|linear|t"]), 0.5, [12.0])


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Servers that the faults may stop, empty and cut off."""
    try:
        with run.servers() as running:
            yield running
    except MissingServer as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", run.SCENARIOS, ids=[one.name for one in run.SCENARIOS])
def test_a_tenth_of_the_rounds(servers: Servers, scenario: Scenario, seed: int, tmp_path: Path) -> None:
    """Whatever this fault does under load, nothing is lost, doubled or wrong in the end."""
    row = run.played(scenario, servers, run.rounds_of(scenario, full=False), seed, tmp_path)
    assert row.is_clean, [*row.failures, *(note for result in row.results for note in result.found.notes)]


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
