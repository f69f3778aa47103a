"""The exact split of money."""

import random
from fractions import Fraction
from itertools import permutations

import pytest

from models.money import split, split_evenly


def slow_split(total: int, weights: list[int]) -> list[int]:
    """Largest remainder by its definition, in fractions: again and again one micro to whoever lacks most."""
    exact = [Fraction(total * weight, sum(weights)) for weight in weights]
    parts = [int(part) for part in exact]
    for _ in range(total - sum(parts)):
        lacking = [part - given for part, given in zip(exact, parts, strict=True)]
        parts[lacking.index(max(lacking))] += 1
    return parts


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (100, [1], [100]),
        (100, [7], [100]),
        (100, [1, 1, 1], [34, 33, 33]),
        (2, [1, 1, 1], [1, 1, 0]),
        (0, [3, 1], [0, 0]),
        (10, [0, 5, 0], [0, 10, 0]),
        (10, [1, 2], [3, 7]),
        (1, [1, 2, 2], [0, 1, 0]),
        (5, [1, 1, 2], [1, 1, 3]),
        (3, [1, 1, 4], [1, 0, 2]),
        (7, [0, 1, 1], [0, 4, 3]),
        (10**18, [2**60, 2**60 - 1], [5 * 10**17, 5 * 10**17]),
    ],
)
def test_examples(total: int, weights: list[int], parts: list[int]) -> None:
    """What is left over goes to the largest remainders, ties to the earlier."""
    assert split(total, weights) == parts


@pytest.mark.parametrize("seed", range(40))
def test_is_largest_remainder(seed: int) -> None:
    """The split is the largest-remainder split by definition, for small, huge, zero and repeated weights."""
    rng = random.Random(seed)
    for _ in range(25):
        largest = rng.choice([1, 3, 1_000, 2**53, 2**200])
        weights = [rng.randint(0, largest) for _ in range(rng.randint(1, 12))]
        weights[rng.randrange(len(weights))] += 1
        total = rng.choice([0, 1, 7, rng.randrange(10**6), rng.randrange(10**18)])
        before = list(weights)
        assert split(total, weights) == slow_split(total, weights), f"seed {seed}: {total} over {weights}"
        assert weights == before


@pytest.mark.parametrize("factor", [2, 10, 3**50])
def test_scale_does_not_count(factor: int) -> None:
    """Only the proportions of the weights matter."""
    weights = [5, 1, 3, 3]
    assert split(99_999, [weight * factor for weight in weights]) == split(99_999, weights)


def test_no_micro_is_two_away() -> None:
    """Whatever the order of the weights, each part is within one micro of the exact one."""
    for weights in permutations([1, 2, 3, 5]):
        for part, weight in zip(split(1_000, weights), weights, strict=True):
            assert abs(part - Fraction(1_000 * weight, 11)) < 1


def test_even_split_is_the_split_of_equal_weights() -> None:
    """The short way for equal weights gives what the definition gives."""
    for total in (0, 1, 99, 100, 101):
        for count in range(1, 8):
            assert split_evenly(total, count) == slow_split(total, [1] * count)


@pytest.mark.parametrize(("total", "weights"), [(5, []), (5, [0, 0]), (5, [2, -1]), (5, [-2, 1]), (-1, [1, 2])])
def test_refuses_what_has_no_split(total: int, weights: list[int]) -> None:
    """No weights, zero or negative weights and negative totals are the caller's mistake."""
    with pytest.raises(ValueError, match="cannot split"):
        split(total, weights)
