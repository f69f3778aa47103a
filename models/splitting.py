"""The id that another one goes on as after it was split from a person: `ana`, `ana~2`, `ana~3`."""

import re

from models.ids import clean_id

# Every split costs each later event of the id a hop, and these are bounded.
INCARNATIONS_MAX = 20

_INCARNATION = re.compile(r"(.+)~([1-9][0-9]?)", re.DOTALL)


def next_incarnation(person_id: str) -> str:
    """What comes after this id; ValueError where it was split too often, or would be too long."""
    found = _INCARNATION.fullmatch(person_id)
    first, number = (found[1], int(found[2])) if found else (person_id, 1)
    if number >= INCARNATIONS_MAX:
        raise ValueError(f"an id can be split {INCARNATIONS_MAX - 1} times")
    return clean_id(f"{first}~{number + 1}")
