"""Results that are kept while a part of them is measured again."""

import json
from pathlib import Path

from bench.cost import Cost
from bench.generate import DataSet
from bench.measure import Measured
from bench.report import Results, rewrite, write

WHERE = {"processor": "one"}
RUN = Measured("touchstream-2", 1, 100, 5, 0, 2.0, 3.0, 1.0, 1.5, 0.5, 0.1, 10.0, 20.0)
BEFORE = Results(
    DataSet(90, 10, 10, 50), [RUN], [RUN], [], None, [{"settle": "250ms", "p50 ms": 1}], [Cost("persons", 1, 10, 1, 1)]
)


def test_a_part_that_is_measured_again_takes_the_place_of_what_was(tmp_path: Path) -> None:
    """All other figures, and what they were measured on, stay."""
    write(tmp_path, BEFORE, WHERE)
    before = (tmp_path / "RESULTS.md").read_text()
    rewrite(tmp_path)
    assert (tmp_path / "RESULTS.md").read_text() == before
    costs = [Cost("persons", 1, 10, 1.0, 1.0), Cost("users", 1, 10, 1.0, 1.5)]
    rewrite(tmp_path, identity=costs)
    rewrite(tmp_path, latency=[{"settle": "250ms", "identity stage": True, "p50 ms": 2}])
    rewrite(tmp_path, latency=[{"settle": "250ms", "identity stage": False, "p50 ms": 3}])
    found = json.loads((tmp_path / "results.json").read_text())
    assert [each["p50 ms"] for each in found["latency"]] == [3, 2]
    assert [each["case"] for each in found["identity"]] == ["persons", "users"]
    assert (found["machine"], found["rounds"][0]["client_cpu"]) == (WHERE, 1.0)
    assert "`users` takes 1.50 times" in (tmp_path / "RESULTS.md").read_text()
