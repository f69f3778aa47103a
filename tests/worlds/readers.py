"""The two readers of the contract, which take credits in as they come and always know their view.

`Upserts` keeps the last value of each key and forgets tombstones. `Appends` keeps the highest revision of each
(conversion, attribution model). Both note the conversions of which they heard something.
"""

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]


class Read(NamedTuple):
    """A record of the credits topic."""

    partition: int
    key: bytes
    row: Row | None

    @property
    def conversion_id(self) -> str:
        """The ids of worlds have no `|` in them."""
        return self.key.split(b"|", 1)[0].decode()


def read(partition: int, key: bytes, value: bytes | None) -> Read:
    """ValueError for a record whose key is not its credit_id."""
    row = None if value is None else json.loads(value)
    if row is not None and row["credit_id"].encode() != key:
        raise ValueError(f"key {key!r} on credit {row['credit_id']!r}")
    return Read(partition, key, row)


def interleaved(rng: random.Random, records: Sequence[Read]) -> list[Read]:
    """The records as a consumer may get them: those of one partition in order, partitions in any."""
    partitions = sorted({record.partition for record in records})
    rng.shuffle(partitions)
    return [record for partition in partitions for record in records if record.partition == partition]


def compacted(records: Sequence[Read]) -> list[Read]:
    """What compaction leaves: the last record of each key of a partition, tombstones included."""
    last = {(record.partition, record.key): place for place, record in enumerate(records)}
    return [records[place] for place in sorted(last.values())]


class Upserts:
    """A table by credit_id."""

    def __init__(self) -> None:
        self._rows: defaultdict[str, dict[bytes, Row]] = defaultdict(dict)

    def take(self, records: Iterable[Read]) -> set[str]:
        """Apply them; the conversions that they are about."""
        heard = set()
        for record in records:
            heard.add(record.conversion_id)
            if record.row is None:
                self._rows[record.conversion_id].pop(record.key, None)
            else:
                self._rows[record.conversion_id][record.key] = record.row
        return heard

    def of(self, conversion_id: str) -> list[Row]:
        """The credits of a conversion."""
        return list(self._rows[conversion_id].values())

    def conversions(self) -> set[str]:
        """Those that have credits."""
        return {conversion_id for conversion_id, rows in self._rows.items() if rows}


class Appends:
    """A list to which everything is added, of which the highest revision of each set is looked at."""

    def __init__(self) -> None:
        self._sets: defaultdict[str, dict[str, tuple[int, dict[bytes, Row]]]] = defaultdict(dict)

    def take(self, records: Iterable[Read]) -> set[str]:
        """Add them; the conversions that they are about.

        AssertionError where one revision of a credit comes with two contents, or twice in one partition.
        """
        heard, again = set(), set()
        for partition, key, row in records:
            if row is None:
                continue
            conversion_id, name, revision = row["conversion_id"], row["attribution_model"], row["revision"]
            assert (partition, key, revision) not in again, f"{key!r} revision {revision} was published twice"
            again.add((partition, key, revision))
            heard.add(conversion_id)
            newest, rows = self._sets[conversion_id].get(name, (-1, {}))
            if revision > newest:
                self._sets[conversion_id][name] = (revision, {key: row})
            elif revision == newest:
                # A conversion with two homes is published in both.
                assert rows.get(key, row) == row, f"{key!r} revision {revision} has two contents"
                rows[key] = row
        return heard

    def of(self, conversion_id: str) -> list[Row]:
        """The credits of a conversion. AssertionError where a set is not whole."""
        found: list[Row] = []
        for name, (revision, rows) in self._sets[conversion_id].items():
            sizes = {row["set_size"] for row in rows.values()}
            assert sizes == {len(rows)}, f"{conversion_id} {name} revision {revision}: {len(rows)} records of {sizes}"
            found += rows.values()
        return found
