"""Owners that forget a person: all ids that pointers connect, wherever they lie and whatever races."""

import json
import random
from collections import Counter, defaultdict, deque
from typing import Any

import pytest

from models.linking import (
    Arrived,
    ForgetId,
    ForgetWhere,
    Outcome,
    Where,
    conversion_key,
    decode_message,
    forget_where,
    write_message,
)
from models.mail import IdentityRules, Mail
from models.moving import Forget, Merge, read_move
from models.raw import decode_raw
from models.whereabouts import Whereabouts, read_whereabouts

NOW_MS = 1_760_000_000_000
DAY_MS = 86_400_000
OWNERS = 3
RULES = IdentityRules(ids_max=50, wait_ms=90 * DAY_MS, kept_ms=180 * DAY_MS)
KEY = b"secret"
ROUNDS = 60


def owner_of(text: str) -> int:
    """Spreads ids as partitions do; any function of the text will do."""
    return sum(text.encode()) % OWNERS


def raw(kind: Any, **fields: Any) -> Arrived:
    record = {"occurred_at": NOW_MS, **fields}
    value = json.dumps(record).encode()
    return Arrived(decode_raw(kind, value, [], NOW_MS, KEY), 0, NOW_MS, None, value, [])


class Owners:
    """What all owners keep, the marks they have, and what is on its way to them."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.stored: list[dict[bytes, bytes]] = [{} for _ in range(OWNERS)]
        self.marked: list[dict[str, int]] = [{} for _ in range(OWNERS)]
        self.logs: defaultdict[tuple[int, str], deque[Any]] = defaultdict(deque)
        self.moves: list[Merge | Forget] = []
        self.emitted: list[bytes] = []
        self.dropped = 0

    def put(self, key: str, what: Any) -> None:
        """A record for the owner of the key; of one kind they keep their order."""
        self.logs[owner_of(key), "raw" if isinstance(what, Arrived) else "links"].append(what)

    def people(self, *ids: str, at: int = NOW_MS) -> None:
        self.put(ids[0], (at, ids))

    def forget(self, person_id: str) -> None:
        self.put(person_id, ForgetId(person_id, "r1", NOW_MS))

    def run(self, steps: int = 1_000_000) -> None:
        """Deliver in any order, a few records a step, until nothing is on its way."""
        for _ in range(steps):
            waiting = [place for place, log in self.logs.items() if log]
            if not waiting:
                return
            owner, kind = self.rng.choice(waiting)
            log = self.logs[owner, kind]
            self._step(owner, [log.popleft() for _ in range(min(len(log), self.rng.randrange(1, 4)))])

    def _step(self, owner: int, records: list[Any]) -> None:
        out = Outcome()
        mail = Mail(lambda text: owner_of(text) == owner, out)
        for record in records:
            if isinstance(record, tuple):
                mail.people(record[1], record[0])
            elif isinstance(record, Arrived):
                mail.event(record)
            else:
                mail.message(record)
        stored = self.stored[owner]
        blobs = [stored.get(subkey) for subkey in mail.subkeys()]
        for change in mail.decide(blobs, RULES, self.marked[owner]):
            if change is not None and change.value is None:
                stored.pop(change.subkey, None)
            elif change is not None and change.value is not None:
                before = stored.get(change.subkey, b"") if change.append else b""
                stored[change.subkey] = before + change.value
        self.marked[owner].update(out.forgotten)
        self.dropped += len(out.dropped)
        for send in out.sends:
            if send.topic == "links":
                self.put(send.key.decode(), decode_message(send.key, send.value))
            elif send.topic == "moves":
                move = read_move(send.key, send.value)
                assert isinstance(move, Merge | Forget)
                self.moves.append(move)
            elif send.topic.startswith("raw-"):
                event = decode_raw(send.topic[4:], send.value, send.headers, NOW_MS, KEY)  # type: ignore[arg-type]
                self.put(send.key.decode(), Arrived(event, 0, NOW_MS, send.key, send.value, send.headers))
            else:
                self.emitted.append(send.key)

    def keeping(self, text: str) -> list[bytes]:
        found = [(key, value) for stored in self.stored for key, value in stored.items()]
        return [key for key, value in found if text.encode() in key + b"\0" + value]


def component(links: list[tuple[str, str]], start: str) -> set[str]:
    found, more = set(), {start}
    while more:
        found |= more
        more = {b for a, b in [*links, *((b, a) for a, b in links)] if a in found} - found
    return found


def test_everybody_connected_is_forgotten_and_nobody_else(seed: int) -> None:
    """In drawn graphs, whichever id is named, every id of the person is marked, told to the crediting stage and in no
    owner's state any more, and everybody else is left alone."""
    for number in range(seed, seed + ROUNDS):
        print(f"graph {number}")
        rng = random.Random(number)
        owners = Owners(rng)
        ids = [f"<user-{i}>" for i in range(6)] + [f"anonymous:<{i}>" for i in range(10)]
        links = []
        for _ in range(rng.randrange(3, 14)):
            high, low = sorted(rng.sample(range(len(ids)), 2))
            links.append((ids[high], ids[low]))
            owners.people(ids[high], ids[low])
        owners.run()
        named = rng.choice(ids)
        gone = component(links, named)
        owners.forget(named)
        owners.run()
        assert {move.person_id for move in owners.moves if isinstance(move, Forget)} == gone
        assert {id_ for marked in owners.marked for id_ in marked} == gone
        assert not [key for id_ in gone for key in owners.keeping(id_)]
        linked = {id_ for link in links for id_ in link} - gone
        assert all(owners.keeping(id_) for id_ in linked)


def test_a_forget_among_links_reaches_everybody(seed: int) -> None:
    """Links that were said before the request, and are on their way still, count: the whole person is forgotten."""
    for number in range(seed, seed + ROUNDS):
        print(f"graph {number}")
        rng = random.Random(number)
        owners = Owners(rng)
        ids = [f"<user-{i}>" for i in range(6)] + [f"anonymous:<{i}>" for i in range(10)]
        links = []
        for _ in range(rng.randrange(3, 14)):
            high, low = sorted(rng.sample(range(len(ids)), 2))
            links.append((ids[high], ids[low]))
            owners.people(ids[high], ids[low])
        owners.run(rng.randrange(1, 20))
        named = rng.choice(ids)
        owners.forget(named)
        owners.run()
        gone = component(links, named)
        assert Counter(move.person_id for move in owners.moves if isinstance(move, Forget)) == Counter(gone)
        assert not [key for id_ in gone for key in owners.keeping(id_)]
        into = {move.person_id: move.into for move in owners.moves if isinstance(move, Merge)}
        for person in gone & into.keys():
            order = [type(move) for move in owners.moves if move.person_id == person]
            assert order == [Merge, Forget]


def test_somebody_new_at_an_old_address_is_not_forgotten() -> None:
    """Who is linked to a forgotten id after the request keeps what is known of them."""
    owners = Owners(random.Random(1))
    owners.forget("email:<e>")
    owners.run()
    owners.people("<new-user>", "email:<e>", at=NOW_MS + 1)
    owners.put("<new-user>", raw("touches", event_id="t", user_id="<new-user>"))
    owners.run()
    assert [move.person_id for move in owners.moves] == ["email:<e>"]
    assert owners.emitted == [b"<new-user>"]


def test_what_comes_later_is_dropped() -> None:
    """Events of any id of the person, alone or with a new one, and new links: none comes out, none is kept."""
    owners = Owners(random.Random(1))
    owners.people("<ada>", "anonymous:<a>")
    owners.run()
    owners.forget("anonymous:<a>")
    owners.run()
    sales = {"conversion_id": "<c>", "value": "1"}
    owners.put("<ada>", raw("touches", event_id="t", user_id="<ada>"))
    owners.put("<ada>", raw("touches", event_id="u", user_id="<ada>", anonymous_id="<new>"))
    owners.put("anonymous:<a>", raw("conversions", anonymous_id="<a>", **sales))
    owners.people("<ada>", "anonymous:<b>", at=NOW_MS + 1)
    owners.run()
    assert (owners.dropped, owners.emitted) == (3, [])
    assert not [key for text in ("<ada>", "<a>", "<b>", "<c>", "<new>") for key in owners.keeping(text)]


def test_twice_says_nothing_new() -> None:
    """A second request for the same person is passed on to nobody."""
    owners = Owners(random.Random(1))
    owners.people("<ada>", "anonymous:<a>")
    owners.forget("<ada>")
    owners.run()
    said = len(owners.moves)
    owners.forget("<ada>")
    owners.run()
    assert len(owners.moves) == said


def test_corrections_of_a_forgotten_conversion_are_dropped() -> None:
    """One that names nobody, whether it waited or comes later, is dropped; whose the conversion was is gone."""
    owners, key = Owners(random.Random(1)), conversion_key("<c>")
    correction = {"conversion_id": "<c>", "action": "retract"}
    owners.put(key, Where(key, "<ada>", NOW_MS))
    owners.run()
    assert owners.keeping("<ada>")
    owners.put(key, decode_message(*forget_where("<c>")))
    owners.put(key, raw("conversions", **correction))
    owners.run()
    owners.put(key, raw("conversions", **correction))
    owners.put(key, Where(key, "<ada>", NOW_MS))
    owners.run()
    assert (owners.dropped, owners.emitted) == (2, [])
    assert not owners.keeping("<ada>")
    (blob,) = owners.stored[owner_of(key)].values()
    assert read_whereabouts(blob) == Whereabouts(forgotten=True)


@pytest.mark.parametrize("message", [ForgetId("<ada>", "r1", NOW_MS), ForgetWhere("conversion:<c>", NOW_MS)])
def test_messages_are_read_as_they_were_written(message: ForgetId | ForgetWhere) -> None:
    """Key and value survive."""
    assert decode_message(*write_message(message)) == message
