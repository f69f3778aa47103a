"""A journey: the touches and conversions of one person (or account), and how both are kept as bytes.

Touches are kept as msgpack frames that can be appended without reading what is there; a conversion is kept with its
corrections folded in. Everything that was published can be computed again from these facts, so that no credit is kept.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter

import msgspec

from models.facts import Conversion, JourneyTouch, Touch
from models.formats import Codec, CodecError, Form, UnknownFormat, first_element, told

# One key of touches covers this much record time. It is fixed for the life of a prefix, as it is part of the keys.
# Longer: fewer keys a load; shorter: less is kept beyond what is needed, as a whole key expires at once.
BUCKET_MS = 64 * 86_400_000

CODEC_VERSION = 1

# A frame is a msgpack array of 11 or 12 whose first element is nil, so counting these two bytes gives the number of
# frames without a parser in Python. The bytes may occur elsewhere too (a text that ends in 0x9b before a nil), so the
# count can be too high, never too low; with a wrong one the decoder fails, it never gives other touches.
_MARK = b"\x9b\xc0"
_MARK_PERSON = b"\x9c\xc0"

_encode = msgspec.msgpack.Encoder().encode
_decode_frames = msgspec.msgpack.Decoder(list[JourneyTouch]).decode

by_time = attrgetter("occurred_ms", "event_id")


class JourneyConversion(msgspec.Struct, gc=False, array_like=True):
    """A conversion as its journey keeps it, corrections folded in.

    `restated_*` hold the winning correction's (occurred_ms, offset) and content; value and currency win independently,
    as a restate may name only one of them. `seen` are the explicit event_ids of create and corrections.
    `rebuilt` is true where the conversion was read again from the log, so that what was published of it is not known.
    `sealed` is true where touches that it was credited with are gone from the log: it is never restated.
    One that came from another journey has a `floor`, above which its revisions lie, and `homes`: the partitions of the
    credits topic in which it was first published, which stay its own for life.
    """

    conversion_id: str
    person_id: str
    type: str
    occurred_ms: int
    record_ms: int
    offset: int
    value_micros: int
    currency: str
    account_id: str | None
    policy_version: str
    retracted: bool = False
    value_from: tuple[int, int] | None = None
    currency_from: tuple[int, int] | None = None
    seen: list[str] = []
    rebuilt: bool = False
    sealed: bool = False
    floor: int = 0
    homes: list[int] = []


class PendingCorrection(msgspec.Struct, gc=False, array_like=True):
    """A correction that waits for its create, with the record's own bytes in case it ends as a dead letter.

    `partition`: where the record lies, None for that of the journey.
    """

    correction: Conversion
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes | None]]
    partition: int | None = None


class JourneyState(msgspec.Struct, gc=False, array_like=True):
    """What is kept beside the touches. `dropped_ms`: event time of the youngest touch that the cap dropped, or -1."""

    version: int = CODEC_VERSION
    conversions: list[JourneyConversion] = []
    pending: list[PendingCorrection] = []
    dropped_ms: int = -1


_decode_state = msgspec.msgpack.Decoder(JourneyState).decode
STATES: Codec[JourneyState] = Codec("a journey's conversions", {1: Form(_decode_state, _encode)}, first_element)
EMPTY_STATE = JourneyState()


def frame(touch: Touch) -> bytes:
    """One touch as the bytes that are appended to its journey."""
    t = touch
    return _encode(
        (
            None,
            t.event_id,
            t.occurred_ms,
            t.record_ms - t.occurred_ms,
            t.type,
            t.channel,
            t.source,
            t.medium,
            t.campaign,
            t.content,
            t.term,
        )
    )


def frame_with_person(touch: Touch) -> bytes:
    """As `frame`, with the person in it: under account journeys a credit says whose touch it was."""
    return _MARK_PERSON[:1] + frame(touch)[1:] + _encode(touch.person_id)


def frame_again(touch: JourneyTouch) -> bytes:
    """A touch that was read, as the bytes it was read from."""
    kept = _encode(touch)
    # Without a person the twelfth element is left out, as `frame` does.
    return kept if touch.person_id is not None else _MARK[:1] + kept[1:-1]


def touches_key(bucket: int, key: bytes) -> bytes:
    """Where the touches of one journey and one bucket of record time lie."""
    return b"t:%d:%s" % (bucket, key)


def state_key(key: bytes) -> bytes:
    """Where the rest of a journey lies."""
    return b"c:%s" % key


def forward_key(key: bytes) -> bytes:
    """Where it stands that a person is another one."""
    return b"f:%s" % key


def key_of(subkey: bytes) -> bytes:
    """The journey's key of a touches key."""
    return subkey.split(b":", 2)[2]


def buckets(first_ms: int, last_ms: int) -> range:
    """The buckets that hold record times from first_ms to last_ms, both included."""
    return range(max(first_ms, 0) // BUCKET_MS, max(last_ms, 0) // BUCKET_MS + 1)


def read_frames(blob: bytes) -> list[JourneyTouch]:
    """All touches of one key, in the order in which they were accepted."""
    low, high = 0, blob.count(_MARK) + blob.count(_MARK_PERSON)
    count = high  # mostly right; else the range is halved, as too many end in a truncated input, too few in a rest
    while low < high:
        try:
            return _decode_frames(b"\xdd" + count.to_bytes(4, "big") + blob)
        except msgspec.MsgspecError as exc:
            low, high = (count, high) if "trailing" in str(exc) else (low, count - 1)
            count = (low + high + 1) // 2
    found = first_element(blob)
    if found is not None and found > CODEC_VERSION:  # where this format has nil, a later one says what it is
        raise UnknownFormat(f"a journey's touches are of format {found}, {told(range(1, CODEC_VERSION + 1))}")
    raise CodecError(f"a journey's touches of {len(blob)} bytes cannot be read")


def unique(touches: Sequence[JourneyTouch]) -> list[JourneyTouch]:
    """The first of each event_id by record time; of one record time, the first accepted."""
    first: dict[str, JourneyTouch] = {}
    for touch in touches:
        first.setdefault(touch.event_id, touch)
    if len(first) < len(touches):
        # Touches of another journey are appended with the record times that they had there.
        for touch in touches:
            if touch.record_ms < first[touch.event_id].record_ms:
                first[touch.event_id] = touch
    return list(first.values())


def in_order(touches: Sequence[JourneyTouch]) -> list[JourneyTouch]:
    """By event time, then event_id."""
    return sorted(touches, key=by_time)


def read_state(blob: bytes | None) -> JourneyState:
    """The journey's conversions; a journey without any has no blob."""
    if blob is None:
        return JourneyState(conversions=[], pending=[])
    try:
        state = _decode_state(blob)
    except msgspec.MsgspecError:
        return STATES.read_other(blob)
    return state if state.version == CODEC_VERSION else STATES.read_other(blob)


def write_state(state: JourneyState) -> bytes:
    """The bytes of a journey's conversions."""
    return _encode(state)


def state_writer(number: int) -> Callable[[JourneyState], bytes]:
    """What writes a journey's conversions in that format."""
    return STATES.writer(number)
