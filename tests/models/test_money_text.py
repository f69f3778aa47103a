"""`models.money_text`: the digits of money to micros, exactly."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.money_text import MONEY_PATTERN, parse_money


@settings(derandomize=True, database=None, deadline=None, max_examples=500)
@given(st.from_regex(MONEY_PATTERN, fullmatch=True))
def test_is_exact(text: str) -> None:
    """Everything that the contract's pattern admits becomes exactly a million times its decimal value."""
    assert parse_money(text) == Decimal(text).scaleb(6)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("0", 0),
        ("0.000001", 1),
        ("19.99", 19_990_000),
        ("0.1", 100_000),
        ("999999999999.999999", 999_999_999_999_999_999),
        ("100000000000.000001", 100_000_000_000_000_001),
    ],
)
def test_values(text: str, micros: int) -> None:
    """Eighteen digits survive, where a binary float keeps fifteen."""
    assert parse_money(text) == micros


BAD = "-1 -0 +1 01 00 00.5 .5 1. 1.0000000 1000000000000 1e2 1E2 1e308 NaN Infinity 1,5 1_000 0x10 ١ 1.١ $5 5USD 1.5.5"


@pytest.mark.parametrize("text", [*BAD.split(), "", " 1", "1 ", "1\n", "\n1"])
def test_refuses_everything_else(text: str) -> None:
    """Signs, exponents, leading zeros, separators, spaces and too many digits are refused."""
    with pytest.raises(ValueError, match="not money"):
        parse_money(text)
