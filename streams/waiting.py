"""Corrections whose create never comes: found without looking at every journey, and given up by record time.

A partition keeps a queue of those that began to wait, as pairs of record time and journey. Each conversion record that
is processed looks at the head of it, and takes out at most AT_ONCE entries that are due: whose time to wait was over
some time before this record's time. So what is given up follows from the log alone, however it is cut into batches, and
a replay comes to the same; and a step has a bounded amount of it to do. An entry says only where to look: its journey
may have got the create meanwhile, have refused the correction itself, or have gone to another person.

The queue lies in segments, each written anew as it grows, so that it lives as long as its last entry needs. How many
entries were ever added, and taken out, stands beside the applied offsets, and moves with them.
"""

import struct
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from faust.types import TP

from models.crediting import NEVER_CREATED
from models.journey import JourneyState, read_state, state_key, write_state
from models.outcome import Reason
from state.store import Writes
from streams.deciding import Decided
from streams.publish import DeadLetter

# Entries of a key. It is read and written as a whole.
SEGMENT = 100
# For each conversion record; the queue grows by at most one with each of them, so that it can only become shorter.
AT_ONCE = 8
# Segments read at once where all of them have to be looked at.
SEGMENTS_A_READ = 500

_HEAD = struct.Struct(">QH")

Read = Callable[[Sequence[bytes]], Awaitable[list[bytes | None]]]


class Entry(NamedTuple):
    """A correction of this record time (epoch ms) began to wait in a journey; no key: its person was forgotten."""

    record_ms: int
    key: bytes


class Timed(Protocol):
    """A record of the log by which time goes."""

    @property
    def record_ms(self) -> int: ...


class Waiting:
    """The queue of one partition number from a claim on."""

    def __init__(self, corrections_ms: int, unread_ms: int, read: Read, waited: int, given_up: int) -> None:
        """`unread_ms`: how long a record can lie in a topic before it is read. `waited` and `given_up`: entries ever
        added and taken out.

        A create that is in time can be with a partition that lags behind this one, and come from there when its person
        was merged. A dead letter can wait for that.
        """
        self._wait_ms = corrections_ms + unread_ms
        self._read = read
        self.waited, self.given_up = waited, given_up
        # The entries from `given_up` on, as far as they are known here.
        self._known: deque[Entry] = deque()
        # The bytes of the last segment, None until they were read; and those of segments that grew in this step.
        self._tail: bytes | None = None
        self._grown: dict[int, bytes] = {}

    async def turn(
        self, records: Sequence[Timed], fresh: Iterable[tuple[int, int, bytes]], writes: Writes
    ) -> dict[bytes, int]:
        """Add what began to wait in this step (record time, offset, key), and take out what is due by these records.

        The answer says of each key up to which record time its corrections have waited for too long. What is to be
        saved is added to `writes`.
        """
        added = deque(Entry(record_ms, key) for record_ms, _, key in sorted(fresh))
        if self.waited == self.given_up and not added:
            return {}
        if added and self._tail is None:
            self._tail = await self._segment(self.waited // SEGMENT) if self.waited % SEGMENT else b""
        first = self.given_up // SEGMENT
        due = await self._pass(records, added)
        kept = self.given_up // SEGMENT
        if self.given_up == self.waited:
            # An empty queue leaves nothing behind, so that no name stays longer than it must.
            kept, self._tail = self.waited // SEGMENT + 1, b""
        writes.puts.update({_subkey(n): blob for n, blob in self._grown.items() if n >= kept})
        writes.deletes += [_subkey(n) for n in range(first, kept)]
        self._grown.clear()
        return due

    async def _pass(self, records: Sequence[Timed], added: deque[Entry]) -> dict[bytes, int]:
        due: dict[bytes, int] = {}
        last_ms = records[-1].record_ms if records else -1
        head = await self._head() or added[0]
        for record in records if head.record_ms + self._wait_ms <= last_ms else ():
            while added and added[0].record_ms <= record.record_ms:
                self._add(added.popleft())
            for _ in range(AT_ONCE):
                entry = await self._head()
                if entry is None or entry.record_ms + self._wait_ms > record.record_ms:
                    break
                self._known.popleft()
                self.given_up += 1
                if entry.key:
                    due[entry.key] = max(entry.record_ms, due.get(entry.key, -1))
        for entry in added:
            self._add(entry)
        return due

    def _add(self, entry: Entry) -> None:
        number, place = divmod(self.waited, SEGMENT)
        self._tail = ((self._tail or b"") if place else b"") + _packed(entry)
        self._grown[number] = self._tail
        if self.waited == self.given_up + len(self._known) and len(self._known) < SEGMENT:
            self._known.append(entry)
        self.waited += 1

    async def _head(self) -> Entry | None:
        """The first entry, read from the store where it is not known; None where there is none."""
        while not self._known and self.given_up < self.waited:
            number = self.given_up // SEGMENT
            end = min(self.waited, (number + 1) * SEGMENT)
            found = list(_unpacked(self._grown.get(number) or await self._segment(number)))
            # What is not there any more has expired, and its journey with it.
            self.given_up = max(self.given_up, end - len(found))
            self._known.extend(found[len(found) - (end - self.given_up) :])
        return self._known[0] if self._known else None

    async def _segment(self, number: int) -> bytes:
        return (await self._read([_subkey(number)]))[0] or b""

    async def forget(self, keys: Collection[bytes], writes: Writes) -> None:
        """Take these keys out of the queue, which stays as long as it is; after `turn`."""
        if self.given_up == self.waited:
            return
        numbers = range(self.given_up // SEGMENT, -(-self.waited // SEGMENT))
        for at in range(0, len(numbers), SEGMENTS_A_READ):
            subkeys = [_subkey(n) for n in numbers[at : at + SEGMENTS_A_READ]]
            for subkey, blob in zip(subkeys, await self._read(subkeys), strict=True):
                entries = list(_unpacked(writes.puts.get(subkey) or blob or b""))
                if any(entry.key in keys for entry in entries):
                    writes.puts[subkey] = b"".join(_packed(_without(keys, entry)) for entry in entries)
        self._known = deque(_without(keys, entry) for entry in self._known)
        self._tail = None


async def give_up(due: dict[bytes, int], read: Read, conversions: TP, decided: Decided) -> None:
    """Make dead letters of the corrections that have waited for too long, as `Waiting.turn` says."""
    writes = decided.writes
    gone = set(writes.deletes)
    subkeys = {state_key(key): until_ms for key, until_ms in due.items() if state_key(key) not in gone}
    unread = [subkey for subkey in subkeys if subkey not in writes.puts]
    blobs = dict(zip(unread, await read(unread), strict=True)) if unread else {}
    for subkey, until_ms in subkeys.items():
        state = read_state(writes.puts.get(subkey) or blobs.get(subkey))
        late = [p for p in state.pending if p.correction.record_ms <= until_ms]
        if not late:
            continue
        left = [p for p in state.pending if p.correction.record_ms > until_ms]
        writes.puts[subkey] = write_state(JourneyState(state.version, state.conversions, left, state.dropped_ms))
        for p in late:
            lies = conversions.partition if p.partition is None else p.partition
            place = (conversions.topic, lies, p.correction.offset, p.key, p.value, p.headers)
            decided.output.dead.append(DeadLetter(*place, Reason.NO_CREATE, NEVER_CREATED, "decide"))


def _subkey(number: int) -> bytes:
    return b"n:%d" % number


def _packed(entry: Entry) -> bytes:
    return _HEAD.pack(entry.record_ms, len(entry.key)) + entry.key


def _unpacked(blob: bytes) -> Iterator[Entry]:
    at = 0
    while at < len(blob):
        record_ms, length = _HEAD.unpack_from(blob, at)
        at += _HEAD.size + length
        yield Entry(record_ms, blob[at - length : at])


def _without(keys: Collection[bytes], entry: Entry) -> Entry:
    return Entry(entry.record_ms, b"") if entry.key in keys else entry
