"""Durations in settings."""

import pytest

from models.durations import DURATION_MAX_MS, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "length_ms"),
    [
        ("90d", 7_776_000_000),
        ("12h", 43_200_000),
        ("30m", 1_800_000),
        ("45s", 45_000),
        ("500ms", 500),
        ("0s", 0),
        ("0d", 0),
    ],
)
def test_reads_each_unit(text: str, length_ms: int) -> None:
    """A whole number and one unit give milliseconds."""
    assert parse_duration(text) == length_ms


@pytest.mark.parametrize(
    "text",
    ["", "90", "d", "1.5d", "-1d", "+1d", " 1d", "1d ", "1 d", "1d12h", "1D", "1w", "01d", "٣d", 90, 1.5, None, True],
)
def test_refuses_the_rest_and_says_what_is_allowed(text: object) -> None:
    """Anything else is an error that shows examples."""
    with pytest.raises(ValueError, match='"90d", "12h"'):
        parse_duration(text)


def test_refuses_more_than_a_century() -> None:
    """The longest duration is bounded, and the error names the bound."""
    assert parse_duration("36525d") == DURATION_MAX_MS
    with pytest.raises(ValueError, match="36525d"):
        parse_duration("36526d")


@pytest.mark.parametrize("text", ["90d", "36h", "90m", "45s", "1500ms", "0s", "7d"])
def test_formatting_reads_back(text: str) -> None:
    """Formatting gives the text in its largest whole unit, which reads back as the same length."""
    assert format_duration(parse_duration(text)) == text
