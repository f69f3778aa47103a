"""The journeys of July 2018 as input records: every row is a touch, a conversion row is a conversion as well.

The data set lies outside the repository because its licence is not stated. Money goes through as the text
that the file has, so that no binary float comes between.
"""

import csv
import functools
import gzip
import json
import os
import random
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

FILE = Path("data") / "journeys_2018.csv.gz"
CONVERSIONS = 1_838
TOTAL_MICROS = 11_423_500_000


class RealData(NamedTuple):
    """Both input files as lines without their newline."""

    touches: list[str]
    conversions: list[str]


def find() -> Path | None:
    """The data file below $TOUCHSTREAM_SHARED, or below `shared` beside the repository; None where absent."""
    beside = Path(__file__).resolve().parents[3] / "shared"
    path = Path(os.environ.get("TOUCHSTREAM_SHARED") or beside) / FILE
    return path if path.is_file() else None


@functools.cache
def required() -> RealData:
    """The real data; a test without it is skipped, and fails where `CI` is set."""
    path = find()
    if path is not None:
        return read(path)
    why = f"{FILE} is neither below $TOUCHSTREAM_SHARED nor below ../shared"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def read(path: Path) -> RealData:
    """Records in the order of the file, which is not that of time."""
    touches, conversions = [], []
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 1):
            touches.append(_touch_line(row, number))
            if row["conversion"] == "1":
                conversions.append(_conversion_line(row, number))
    return RealData(touches, conversions)


def _touch_line(row: dict[str, str], number: int) -> str:
    touch = {
        "event_id": f"{row['customer_id']}-{number}",
        "person_id": row["customer_id"],
        "occurred_at": row["time"],
        "type": row["interaction"],
        "channel": row["channel"],
    }
    return json.dumps(touch, separators=(",", ":"))


def _conversion_line(row: dict[str, str], number: int) -> str:
    conversion = {
        "conversion_id": f"order-{row['customer_id']}-{number}",
        "person_id": row["customer_id"],
        "occurred_at": row["time"],
    }
    money = row["conversion_value"]
    return json.dumps(conversion, separators=(",", ":"))[:-1] + f',"value":{money}}}'


def records(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Lines as plain dicts, decimal numbers as they are written."""
    return (json.loads(line, parse_float=Decimal) for line in lines)


def shuffled(lines: Iterable[str], seed: int) -> list[str]:
    """The same lines in an order that only the seed decides."""
    mixed = list(lines)
    random.Random(seed).shuffle(mixed)
    return mixed


def write(path: Path, lines: Iterable[str]) -> Path:
    """One line a record; a name that ends in `.gz` is compressed."""
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path
