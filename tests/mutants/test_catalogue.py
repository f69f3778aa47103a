"""The mutants still fit the product; `make mutants` runs them."""

from pathlib import Path

import pytest

from tests.mutants import run
from tests.mutants.catalogue import MUTANTS, Mutant


def test_names_are_distinct() -> None:
    """`--only` means one mutant."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_product(mutant: Mutant, tmp_path: Path) -> None:
    """Its text is found exactly once, what comes out is Python, and the files of its tests are there."""
    path = run.place(run.ROOT, mutant)
    compile(path.read_text().replace(mutant.old, mutant.new), path.name, "exec")
    assert mutant.new != mutant.old
    assert [test for test in mutant.tests if not (run.ROOT / test.partition("::")[0]).is_file()] == []


def test_a_text_that_is_not_there_exactly_once_is_told(tmp_path: Path) -> None:
    """A rule that was reworded or copied stops the run: nothing could be shown of it."""
    for name in run.PRODUCT:
        (tmp_path / name).mkdir()
    mutant = Mutant("m", "one\n", "two\n", ())
    with pytest.raises(run.Misfit, match="nowhere"):
        run.apply(tmp_path, mutant)
    (tmp_path / "state" / "a.py").write_text("one\n")
    (tmp_path / "streams" / "b.py").write_text("one\none\n")
    with pytest.raises(run.Misfit, match=r"state/a\.py \(1\), streams/b\.py \(2\)"):
        run.apply(tmp_path, mutant)


@pytest.mark.parametrize(
    ("code", "failed"),
    [
        (1, []),
        (2, []),
        (5, []),
        (75, []),
        (1, [("t", "NameError: name 'x' is not defined")]),
    ],
)
def test_only_a_failing_test_catches(code: int, failed: list[tuple[str, str]]) -> None:
    """An error while tests are collected or set up, and a mutant that is no program, show nothing."""
    with pytest.raises(run.Misfit):
        run.noticed(run.Ran(code, 0, failed, ""), ["t"])


def test_every_named_test_must_notice() -> None:
    """Those that did not fail are told, though another one did."""
    failed = [("a.py::t[1]", "AssertionError: no"), ("a.py::t[2]", "AssertionError: no")]
    assert run.noticed(run.Ran(1, 7, failed, ""), ["a.py::t", "a.py::u"]) == (["a.py::t[1]"], ["a.py::u"])
    assert run.noticed(run.Ran(0, 9, [], ""), ["a.py::t"]) == ([], ["a.py::t"])
