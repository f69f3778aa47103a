"""Files of records, one JSON object a line, and the final view of credits."""

import base64
import gzip
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, cast

import msgspec

from streams.errors import UsageError
from streams.options import STREAM

# Quotes inside a JSON text are escaped, so this matches the field itself and nothing else.
_REVISION = re.compile(rb'"revision":\d+,')


class CreditPlace(msgspec.Struct):
    """What decides the place of a credit in the final view."""

    conversion_id: str
    attribution_model: str
    position: int
    revision: int


_place = msgspec.json.Decoder(CreditPlace).decode


@contextmanager
def reading(path: str) -> Iterator[IO[bytes]]:
    """A file, a gzip file, or standard input for `-`. Raises UsageError where it cannot be read."""
    try:
        if path == STREAM:
            yield sys.stdin.buffer
        elif path.endswith(".gz"):
            with gzip.open(path) as file:
                yield cast(IO[bytes], file)
        else:
            with open(path, "rb") as file:
                yield file
    except OSError as exc:
        raise UsageError("T113", "a file cannot be read", path, exc.strerror or str(exc), "check the path") from exc


def lines(path: str) -> Iterator[bytes]:
    """The lines of a file that are not blank, without their end."""
    with reading(path) as file:
        for line in file:
            record = line.strip(b"\r\n")
            if record.strip():
                yield record


def write(path: str, records: Iterable[bytes]) -> None:
    """Write records as lines. Raises UsageError where the file cannot be written."""
    try:
        if path == STREAM:
            sys.stdout.buffer.writelines(record + b"\n" for record in records)
            sys.stdout.buffer.flush()
        else:
            with gzip.open(path, "wb") if path.endswith(".gz") else open(path, "wb") as file:
                file.writelines(record + b"\n" for record in records)
    except OSError as exc:
        raise UsageError("T114", "a file cannot be written", path, exc.strerror or str(exc), "check the path") from exc


def final_view(values: Iterable[bytes]) -> Iterator[bytes]:
    """The credits of the highest revision of each (conversion, attribution model), sorted, without the revision."""
    newest: dict[tuple[str, str], tuple[int, list[tuple[int, bytes]]]] = {}
    for value in values:
        credit = _place(value)
        key = (credit.conversion_id, credit.attribution_model)
        known = newest.get(key)
        if known is None or credit.revision > known[0]:
            newest[key] = known = (credit.revision, [])
        if credit.revision == known[0]:
            known[1].append((credit.position, value))
    for key in sorted(newest):
        for _, value in sorted(newest[key][1]):
            yield _REVISION.sub(b"", value, count=1)


def dead_line(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    """A dead letter as one JSON object; bytes that are no UTF-8 are given as base64."""
    named = {name: None if text is None else _readable(text)[1] for name, text in headers}
    out: dict[str, object] = {"reason": named.get("touchstream-reason")}
    for name, content in (("key", key), ("value", value)):
        if content is None:
            out[name] = None
        else:
            encoding, text = _readable(content)
            out[name if encoding == "utf-8" else f"{name}_base64"] = text
    out["headers"] = named
    return msgspec.json.encode(out)


def _readable(content: bytes) -> tuple[str, str]:
    try:
        return "utf-8", content.decode()
    except UnicodeDecodeError:
        return "base64", base64.b64encode(content).decode()
