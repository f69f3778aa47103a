"""Money as records write it, read from its digits: a binary float would already have lost the last ones."""

import re

MICROS = 1_000_000
MONEY_PATTERN = r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,6})?"

_MONEY = re.compile(r"(0|[1-9][0-9]{0,11})(?:\.([0-9]{1,6}))?")


def parse_money(text: str) -> int:
    """Millionths of the currency unit, 0 … 999,999,999,999,999,999; ValueError where the text is not money.

    Takes the bare number: no sign, no exponent, no leading zeros, no white space.
    """
    match = _MONEY.fullmatch(text)
    if match is None:
        raise ValueError("not money")
    units, fraction = match.groups()
    if fraction is None:
        return int(units) * MICROS
    return int(units) * MICROS + int(fraction.ljust(6, "0"))
