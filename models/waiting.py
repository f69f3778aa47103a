"""Raw events that wait for what is not known yet, as frames that are only appended: msgpack behind its length."""

from collections.abc import Iterator

import msgspec

from models.formats import CodecError, UnknownFormat, told
from models.linking import Arrived
from models.raw import RawEvent

FRAMES_VERSION = 1
_LENGTH_BYTES = 4


class Waits(msgspec.Struct, array_like=True, tag=f"{FRAMES_VERSION}w", gc=False):
    """An event that waits, with the record that it came in; see `Arrived`."""

    offset: int
    record_ms: int
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes | None]]
    event: RawEvent

    def arrived(self) -> Arrived:
        """The event as it came."""
        return Arrived(self.event, self.offset, self.record_ms, self.key, self.value, self.headers)


_pack = msgspec.msgpack.Encoder().encode


def waits(arrived: Arrived) -> Waits:
    """The frame of an event that is to wait."""
    a = arrived
    return Waits(a.offset, a.record_ms, a.key, a.value, list(a.headers), a.event)


def frame(content: msgspec.Struct) -> bytes:
    """The bytes of a frame."""
    packed = _pack(content)
    return len(packed).to_bytes(_LENGTH_BYTES, "big") + packed


def read_frames(blob: bytes | None, decode: "msgspec.msgpack.Decoder[msgspec.Struct]") -> Iterator[msgspec.Struct]:
    """The frames in what was appended. Raises CodecError."""
    at, end = 0, len(blob or b"")
    while blob and at < end:
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(blob[start - _LENGTH_BYTES : start], "big")
        try:
            yield decode.decode(blob[start:at])
        except msgspec.MsgspecError as exc:
            raise _unreadable(blob[start:at], exc) from exc


def _unreadable(frame: bytes, why: Exception) -> CodecError:
    """A frame begins with its format and kind, as in `1c`."""
    try:
        tag = msgspec.msgpack.decode(frame)[0]
    except (msgspec.MsgspecError, TypeError, LookupError, ValueError):
        tag = None
    if isinstance(tag, str) and tag[:-1].isdecimal() and int(tag[:-1]) != FRAMES_VERSION:
        return UnknownFormat(f"whereabouts are of format {tag[:-1]}, {told(range(FRAMES_VERSION, FRAMES_VERSION + 1))}")
    return CodecError(f"whereabouts of {len(frame)} bytes cannot be read: {why}")
