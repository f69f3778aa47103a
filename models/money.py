"""Exact money: a whole number of micros split over weights without losing or inventing one."""

from collections.abc import Sequence


def split(total_micros: int, weights: Sequence[int]) -> list[int]:
    """Split `total_micros` (millionths of the currency unit, >= 0) in proportion to whole-number `weights`.

    Largest remainder (Hamilton): everyone gets the floor of the exact part, and the micros left over go one
    each to the largest remainders, ties to the earlier. Integers only, so the parts always add up to it
    and the result depends on nothing but the arguments. Only the proportions of the weights count.

    Raises ValueError where the weights are empty, negative or all zero, or the total is negative: a caller's
    mistake.
    """
    whole = sum(weights)
    if whole <= 0 or total_micros < 0 or min(weights) < 0:
        raise ValueError(f"cannot split {total_micros} micros over weights that add up to {whole}")
    count = len(weights)
    if weights[0] * count == whole and weights.count(weights[0]) == count:
        return split_evenly(total_micros, count)
    exact = [total_micros * weight for weight in weights]
    parts = [product // whole for product in exact]
    left = total_micros - sum(parts)
    if left:
        remainders = [product % whole for product in exact]
        # A reversed sort keeps equal items in their order, which is what gives ties to the earlier.
        for index in sorted(range(count), key=remainders.__getitem__, reverse=True)[:left]:
            parts[index] += 1
    return parts


def split_evenly(total_micros: int, count: int) -> list[int]:
    """`split` over `count` > 0 equal weights: equal remainders, so the earliest get what is left over."""
    part, left = divmod(total_micros, count)
    return [part + 1] * left + [part] * (count - left)
