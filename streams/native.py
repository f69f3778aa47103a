"""The compiled part, where it is installed: the package of `native/`, which does the plain cases of the hot path in C.

It is optional. Python is the reference and does everything else; with and without it the same bytes are published.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NewType, Protocol, cast

from models.raw import PlainTouch
from state.connection import Part

# What `native/c/fast.c` calls INTERFACE: another number is of another version of this program.
INTERFACE = 4
MODULE = "touchstream_native.fast"

# As in `streams.decode`.
TakenTouch = tuple[int, int, bytes, int, bytes]
Batches = NewType("Batches", object)
# Records of one batch, compressed; their size before; their number; record time of the first; latest record time.
Written = tuple[bytes, int, int, int, int]


class Window(NamedTuple):
    """Which touches count for a conversion, in epoch ms, all ends included. `latest_ms` is the event time of the latest
    conversion that the journey has: a new touch at or before it may change what was published.
    """

    latest_ms: int
    first_record_ms: int
    last_record_ms: int
    first_ms: int
    occurred_ms: int


class Native(Protocol):
    """What the compiled part does. Not all of its arguments are checked: `streams` alone calls it."""

    INTERFACE: int

    def touches(self, records: list[Any], start: int, by_account: bool, out: list[TakenTouch], /) -> int:
        """Add what the records from `start` on come to, up to the first in doubt; gives its place, or the end.

        What `unpack` made of a record may stand in its place.
        """

    def unpack(self, records: Iterator[Any], by_account: bool, /) -> list[Any]:
        """Plain touches as what they come to (named tuples, which have a record's `offset`, `timestamp` and `key`),
        and the records in doubt as they are.
        """

    def unpack_raw(self, records: Iterator[Any], /) -> list[Any]:
        """As `unpack`, for raw touches."""

    def raw_touches(self, records: list[Any], start: int, out: list[Any], /) -> int:
        """As `touches`, for raw ones: a `PlainTouch` each."""

    def owner_of(self, text: str | bytes, partitions: int, /) -> int:
        """As `streams.batches.owner_of`, and as `streams.murmur.partition_of`."""

    def deliver(self, batches: Batches, key: bytes, tail: bytes, touches: list[PlainTouch], /) -> None:
        """Write these under a key, each with the rest of its JSON and without headers."""

    def batches(self, limit_bytes: int, /) -> Batches:
        """Record batches to write into, each of at most so many bytes."""

    def append(self, batches: Batches, record_ms: int, key: bytes, value: bytes | None, headers: bytes, /) -> None:
        """Write a record; `headers` as Kafka has them."""

    def take(self, batches: Batches, compress: Callable[[memoryview], bytes], /) -> list[Written]:
        """Everything written, which is then forgotten. `compress` must not keep what it looks at."""

    def mark(self, batches: Batches, /) -> tuple[int, int, int, int]:
        """How far was written."""

    def undo(self, batches: Batches, mark: tuple[int, int, int, int], /) -> None:
        """Forget what was written since."""

    def pack(self, parts: Sequence[Part], /) -> bytes:
        """As `state.connection.pack`."""

    def credit(
        self,
        batches: Batches,
        record_ms: int,
        value_micros: int,
        window: Window,
        touches_max: int,
        headers: bytes,
        before_length: bytes,
        behind_length: bytes,
        conversion_id: bytes,
        blobs: list[bytes | None],
        arrivals: Sequence[TakenTouch],
        models: tuple[tuple[bytes, bool, bool, int], ...],
        rows: Mapping[int, tuple[bytes | None, ...]],
        /,
    ) -> tuple[int, int] | int | None:
        """Write the credits of a conversion: how many, and how many sets do not add up.

        None where this is Python's to decide, and a number where `rows` has nothing for so many touches; nothing was
        written then. `models`: name, whether additive, whether direct touches are passed over, half-life in ms or 0.
        """


def load(wanted: bool = True) -> Native | None:
    """The compiled part; None where it is not wanted, not installed, or of another version."""
    found = _find() if wanted else None
    return found if found is not None and found.INTERFACE == INTERFACE else None


def describe(wanted: bool) -> str:
    """Which way records go, for people."""
    if not wanted:
        return "Python only, as processing.native = false says"
    found = _find()
    if found is None:
        return "Python only: touchstream-native is not installed, which costs about half of the speed"
    if found.INTERFACE != INTERFACE:
        return "Python only: the touchstream-native that is installed is of another version"
    return "compiled (touchstream-native), Python where a case is not plain"


def _find() -> Native | None:
    try:
        return cast(Native, importlib.import_module(MODULE))
    except ImportError:
        return None
