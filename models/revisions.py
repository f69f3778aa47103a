"""The history of a conversion's credits, put together from the records of the credits topic.

A restatement publishes the whole set of an attribution model at a higher revision, and tombstones for the keys that are
no longer in it; all records of one revision lie in one partition, the tombstones behind the set.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from models.ids import split_credit_id

Row = Mapping[str, Any]


class Place(NamedTuple):
    """Where an input record lies: what the header `touchstream-source` of a credit says of its cause."""

    topic: str
    partition: int
    offset: int


class PublishedCredit(NamedTuple):
    """A record of the credits topic: `row` is the credit, None for a tombstone. `record_ms` is its cause's time."""

    key: str
    row: Row | None
    record_ms: int
    source: Place | None


class RevisedSet(NamedTuple):
    """One attribution model at one revision: its credits by position, and the touches whose credits it took away."""

    attribution_model: str
    rows: tuple[Row, ...]
    removed: tuple[str, ...]


class Revision(NamedTuple):
    """What one cause brought about."""

    revision: int
    record_ms: int
    source: Place | None
    sets: tuple[RevisedSet, ...]


def parse_place(text: bytes | None) -> Place | None:
    """`topic/partition/offset` taken apart; None where it is not that."""
    parts = (text or b"").decode(errors="replace").rsplit("/", 2)
    if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
        return None
    return Place(parts[0], int(parts[1]), int(parts[2]))


def revisions(published: Iterable[PublishedCredit]) -> list[Revision]:
    """The revisions in rising order, from one conversion's records in the order in which they lie in their partition.

    Compaction takes earlier revisions away key by key, so the earliest ones may be incomplete or missing.
    """
    heads: dict[int, PublishedCredit] = {}
    rows: dict[int, dict[str, list[Row]]] = {}
    removed: dict[int, dict[str, list[str]]] = {}
    newest: dict[str, int] = {}
    for record in published:
        _, name, touch_id = split_credit_id(record.key)
        if record.row is None:
            if name in newest:  # else its set was compacted away: nothing is left to say
                removed[newest[name]].setdefault(name, []).append(touch_id)
            continue
        number = int(record.row["revision"])
        heads.setdefault(number, record)
        rows.setdefault(number, {}).setdefault(name, []).append(record.row)
        removed.setdefault(number, {})
        newest[name] = max(number, newest.get(name, -1))
    return [
        Revision(
            number,
            heads[number].record_ms,
            heads[number].source,
            tuple(
                RevisedSet(name, tuple(sorted(found, key=_position)), tuple(removed[number].get(name, ())))
                for name, found in rows[number].items()
            ),
        )
        for number in sorted(heads)
    ]


def final_view(found: Iterable[Revision]) -> dict[str, tuple[Row, ...]]:
    """The credits that count, by attribution model: those of its highest revision."""
    return {each.attribution_model: each.rows for revision in found for each in revision.sets}


def _position(row: Row) -> int:
    return int(row["position"])
