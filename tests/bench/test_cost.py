"""What the benchmark's report says of the identity stage."""

from bench.cost import HEAD, Cost, ratios, table, verdict
from bench.generate import DataSet
from bench.report import Results, _parts

COSTS = [
    Cost("persons", 1, 1_000, 2.0, 0.010),
    Cost("users", 1, 1_000, 4.0, 0.016),
    Cost("users", 2, 1_000, 4.0, 0.030),
    Cost("persons", 2, 1_000, 1.0, 0.020),
    Cost("visitors", 2, 1_000, 5.0, 0.044),
]


def test_ratios_are_taken_within_a_round() -> None:
    """A round in which the machine was slow is slow for both sides; one that lacks a side gives no ratio."""
    assert ratios(COSTS, "users") == [1.6, 1.5]
    assert ratios(COSTS, "visitors") == [2.2]
    assert ratios(COSTS[1:2], "users") == []


def test_each_case_has_a_row() -> None:
    """Medians and ranges of rate, CPU an event and ratio; a dash where nothing can be compared."""
    assert table(COSTS) == HEAD + (
        "| `persons` | 2 | 750 (500–1,000) | 15.0 (10.0–20.0) | 1.00 (1.00–1.00) |\n"
        "| `users` | 2 | 250 (250–250) | 23.0 (16.0–30.0) | 1.55 (1.50–1.60) |\n"
        "| `visitors` | 1 | 200 | 44.0 | 2.20 |\n"
    )
    assert table(COSTS[1:2]).endswith("| `users` | 1 | 250 | 16.0 | – |\n")


def test_the_dearest_case_decides_on_the_goal() -> None:
    """The report says whether the goal is met, and says nothing where there is no run without the stage."""
    assert "is met: `visitors` takes 2.20 times" in verdict(COSTS)
    over = [*COSTS, Cost("visitors", 1, 1_000, 5.0, 0.030)]
    assert "is **not met**: `visitors` takes 2.60 times" in verdict(over)
    assert verdict(COSTS[1:2]) == ""


def test_the_report_has_a_section_of_it() -> None:
    """`make bench` writes it beside the other figures, and leaves it out where it was not measured."""
    data = DataSet(1, 1, 5, 5)
    text = "\n".join(_parts({}, Results(data, [], [], [], None, [], COSTS)))
    assert "## Identity stage\n" in text
    assert table(COSTS) in text
    assert verdict(COSTS) in text
    assert "Identity stage" not in "\n".join(_parts({}, Results(data, [], [], [], None, [])))
