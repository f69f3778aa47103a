"""From the records of the identity stage to what they say: each on its own, and a bad one is an outcome."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from models.events import decode_identify
from models.linking import Arrived, Message, Split, decode_message
from models.outcome import Rejected
from models.raw import PlainTouch, decode_people, decode_raw, own_headers
from streams.native import Native
from streams.publish import DeadLetter

# The inputs in their order.
LINKS, IDENTITIES, RAW_TOUCHES, RAW_CONVERSIONS = range(4)

People = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OfAccount:
    """The ids of an Identify, highest first, and the account that it names."""

    ids: People
    account_id: str


What = Message | People | OfAccount | DeadLetter


class Item(Struct, gc=False):
    """A record that is no event and what it says: a message, the ids of an Identify (highest first), a dead letter."""

    offset: int
    record_ms: int
    what: What


Each = Item | Arrived | PlainTouch


def _lists() -> tuple[list[Each], ...]:
    return [], [], [], []


@dataclass(slots=True)
class TakenRaw:
    """What fetched records came to, for each input in the order of their offsets."""

    parts: tuple[list[Each], ...] = field(default_factory=_lists)

    def __bool__(self) -> bool:
        return any(self.parts)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many records there are of each input."""
        return tuple(map(len, self.parts))

    def split(self, ends: tuple[int, ...], later: "TakenRaw") -> "TakenRaw":
        """Those below the offsets `ends`; the others are added to `later`."""
        now = TakenRaw()
        for items, end, kept, rest in zip(self.parts, ends, now.parts, later.parts, strict=True):
            for item in items:
                (kept if item.offset < end else rest).append(item)
        return now


class RawDecoder:
    """Decodes the records of the four topics; an empty `email_key` refuses those that name an e-mail address."""

    def __init__(
        self, topics: Sequence[str], email_key: bytes, by_account: bool = False, native: Native | None = None
    ) -> None:
        """`topics`: full names of links, identities, raw-touches and raw-conversions. `by_account`: whether the account
        of an Identify is read, too. `native` is the compiled part, where it is there: it reads the plain touches."""
        self.native = native
        # By account each event is looked at for what it says of it.
        self._native = None if by_account else native
        self._by_account = by_account
        self._topics = tuple(topics)
        self._email_key = email_key

    def unpack(self, topic: str, records: Iterator[Any]) -> list[Any]:
        """Records as they are fetched; plain raw touches as what they come to, as `streams.decode.Decoder` has it."""
        if self._native is None or topic != self._topics[RAW_TOUCHES]:
            return list(records)
        return self._native.unpack_raw(records)

    def add(self, parts: Sequence[Iterable[Any]], partition: int, taken: TakenRaw) -> None:
        """Add the records of a batch to `taken`."""
        links, identities, touches, conversions = parts
        self._add(LINKS, links, partition, taken, self._message)
        self._add(IDENTITIES, identities, partition, taken, self._people)
        self._touches(touches, partition, taken)
        self._add(RAW_CONVERSIONS, conversions, partition, taken, self._conversion)

    def _add(
        self, i: int, records: Iterable[Any], partition: int, taken: TakenRaw, read: Callable[[Any], Item | Arrived]
    ) -> None:
        add = taken.parts[i].append
        for r in records:
            try:
                item = read(r)
            except Rejected as exc:
                item = Item(r.offset, r.timestamp, self._dead(i, partition, r, exc))
            add(item)

    def _touches(self, records: Iterable[Any], partition: int, taken: TakenRaw) -> None:
        if self._native is None:
            self._add(RAW_TOUCHES, records, partition, taken, self._touch)
            return
        records, at = list(records), 0
        while (at := self._native.raw_touches(records, at, taken.parts[RAW_TOUCHES])) < len(records):
            self._add(RAW_TOUCHES, records[at : at + 1], partition, taken, self._touch)
            at += 1

    def _message(self, r: Any) -> Item:
        message = decode_message(r.key, r.value)
        if isinstance(message, Split) and not message.at:
            # What was said before and after it is told apart by the broker's clock, as record times are.
            message = replace(message, at=r.timestamp)
        return Item(r.offset, r.timestamp, message)

    def _people(self, r: Any) -> Item:
        # A compacted topic has tombstones. What an Identify said has been taken in, and stays.
        people = () if r.value is None else decode_people(r.value, r.timestamp, self._email_key)
        if people and self._by_account:
            account_id = decode_identify(r.value, r.timestamp).account_id
            if account_id is not None:
                return Item(r.offset, r.timestamp, OfAccount(people, account_id))
        return Item(r.offset, r.timestamp, people)

    def _touch(self, r: Any) -> Arrived:
        value, record_ms, headers = r.value, r.timestamp, r.headers
        event = decode_raw("touches", value, headers, record_ms, self._email_key)
        return Arrived(event, r.offset, record_ms, r.key, value, headers)

    def _conversion(self, r: Any) -> Arrived:
        value, record_ms, headers = r.value, r.timestamp, r.headers
        event = decode_raw("conversions", value, headers, record_ms, self._email_key)
        return Arrived(event, r.offset, record_ms, r.key, value, headers)

    def _dead(self, i: int, partition: int, r: Any, exc: Rejected) -> DeadLetter:
        headers = own_headers(r.headers)
        return DeadLetter(self._topics[i], partition, r.offset, r.key, r.value, headers, exc.reason, str(exc))
