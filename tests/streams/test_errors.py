"""Errors are one block each, for people, with the exit codes that the contract fixes."""

import pytest

from streams.errors import (
    ConnectError,
    RunFailed,
    SettingsError,
    TouchstreamError,
    UnexpectedError,
    UsageError,
    render,
)


def test_a_block_has_code_what_where_why_and_fix_in_this_order() -> None:
    """All five parts stand in one block, each on its line."""
    text = render(UsageError("T111", "too many", "here:3", "because", "use fewer"), colour=False)
    assert text.splitlines() == [
        "error[T111] too many",
        "  where: here:3",
        "    why: because",
        "    fix: use fewer",
    ]


def test_empty_parts_are_left_out_and_long_ones_are_indented() -> None:
    """A block has no empty lines, and what has several lines stays inside it."""
    assert render(RunFailed("T2", "bad", why="one\ntwo"), colour=False) == ("error[T2] bad\n    why: one\n         two")


@pytest.mark.parametrize(("error", "code"), [(TouchstreamError, 1), (RunFailed, 1), (UsageError, 2), (ConnectError, 3)])
def test_each_kind_has_the_exit_code_of_the_contract(error: type[TouchstreamError], code: int) -> None:
    """1 is a finding, 2 usage or configuration, 3 cannot connect."""
    assert error("T1", "x").exit_code == code


def test_one_error_may_have_its_own_exit_code() -> None:
    """An exit code given by hand wins over that of the kind."""
    assert TouchstreamError("T1", "x", exit_code=75).exit_code == 75


def test_settings_errors_are_told_all_at_once() -> None:
    """Several wrong settings give several blocks, with exit code 2."""
    error = SettingsError.of([SettingsError("T1", "a"), SettingsError("T2", "b")])
    assert render(error, colour=False) == "error[T1] a\n\nerror[T2] b"
    assert error.exit_code == 2


def test_colour_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR turns colour off on a terminal too; without a terminal there is none anyway."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033[" in render(RunFailed("T2", "bad"))
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033[" not in render(RunFailed("T2", "bad"))


def test_an_unexpected_exception_becomes_one_block_without_its_trace() -> None:
    """The block names the exception and the line of code, and no more."""
    try:
        _ = dict[str, int]()["missing"]
    except KeyError as error:
        text = render(UnexpectedError.wrap(error), colour=False)
    assert "error[T900]" in text
    assert "KeyError: 'missing'" in text
    assert "test_errors.py:" in text
    assert "Traceback" not in text
