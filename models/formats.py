"""The formats of what is stored: which this program reads, which it writes, and what it says of others.

All that is kept of journeys and ids is of one format, a number that rises when bytes written from then on could not be
read, or would be written back with a loss, by a program that knows the one before only. A program reads its own format
`FORMAT` and the one before it, and writes the earlier one until `state.format` says otherwise. So a fleet can be
upgraded worker by worker, and taken back, as long as nobody has said so; what is stored turns into the new format as it
is written again.

Of this format are: touches, conversions and ids as bytes (`journey.py`, `linking.py`, `whereabouts.py`), the records of
`moves` and `links`, as workers send them to one another (`moving.py`, `linking.py`), and the names of keys. Whoever
makes format 2 leaves the functions of format 1 as they are, adds those of the new one to each `Codec`, and raises
`FORMAT`.
`tests/models/test_formats.py` has the bytes of format 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import msgspec

# The latest format that this program writes, and the earliest that it reads.
FORMAT = 1
OLDEST = max(1, FORMAT - 1)

T = TypeVar("T")


class CodecError(ValueError):
    """Stored bytes that cannot be read."""


class UnknownFormat(CodecError):
    """Stored bytes of a format that this program does not read."""


class Form(NamedTuple):
    """How a value is read from bytes of one format, and written."""

    read: Callable[[bytes], object]
    write: Callable[..., bytes]


@dataclass(frozen=True)
class Codec(Generic[T]):
    """One kind of stored value in all formats that are read.

    `what` it is, in words; `format_of` finds the format of bytes, None where they are torn. The latest format is read
    without this: its bytes say what they are, and only others come here.
    """

    what: str
    forms: Mapping[int, Form]
    format_of: Callable[[bytes], int | None]

    def read_other(self, blob: bytes) -> T:
        """The value of bytes that the latest format's reader did not take. Raises CodecError."""
        found = self.format_of(blob)
        if found is None:
            raise CodecError(f"{self.what} of {len(blob)} bytes cannot be read: they name no format")
        if found not in self.forms:
            raise UnknownFormat(f"{self.what} are of format {found}, {told(self.forms)}")
        try:
            value: T = self.forms[found].read(blob)  # type: ignore[assignment]
        except msgspec.MsgspecError as exc:
            raise CodecError(f"{self.what} of {len(blob)} bytes cannot be read: {exc}") from exc
        return value

    def writer(self, number: int) -> Callable[[T], bytes]:
        """What writes this format. Raises UnknownFormat."""
        if number not in self.forms:
            raise UnknownFormat(f"{self.what} cannot be written in format {number}, {told(self.forms)}")
        return self.forms[number].write


def told(numbers: Mapping[int, object] | range) -> str:
    """What this program reads, as the end of a sentence."""
    return f"this program reads {' and '.join(map(str, sorted(numbers)))}"


def first_element(blob: bytes) -> int | None:
    """The format of a msgpack array whose first element says so, a number below 128."""
    is_array = len(blob) > 1 and 0x90 <= blob[0] <= 0x9F
    return blob[1] if is_array and blob[1] < 0x80 else None
