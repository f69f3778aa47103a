"""Owners that tell each other who is whose: whatever the order of what they hear, they end with one truth.

The fabric below is all owners together, with their messages on the way. Ids are spread over a few owners as Kafka's
partitions spread them; each delivers the records that it got in steps, and anything on the way may come next.
"""

import json
import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, note, seed, settings
from hypothesis import strategies as st

from models.formats import CodecError
from models.identity import Names, higher, is_higher, people_of, precedence
from models.linking import (
    HOPS_MAX,
    NEW,
    REFUSED_KEPT,
    Admit,
    Arrived,
    IdState,
    Link,
    Message,
    Offer,
    Outcome,
    Said,
    Send,
    Where,
    conversion_key,
    decide_id,
    decode_message,
    introduce,
    read_id,
    write_id,
)
from models.mail import IdentityRules, Mail
from models.moving import Merge, read_move
from models.outcome import Reason, Rejected
from models.raw import FOUND, HOPS, PERSON, Header, decode_raw
from models.whereabouts import WAITING_MAX, Whereabouts, decide_whereabouts, read_whereabouts

SEED = 20_261_122
NOW_MS = 1_760_000_000_000
DAY_MS = 86_400_000
KEY = b"secret"
OWNERS = 3
RULES = IdentityRules(ids_max=50, wait_ms=90 * DAY_MS, kept_ms=180 * DAY_MS)

Facts = Mapping[str, Any]


class Record(NamedTuple):
    """A record on its way to an owner."""

    topic: str
    key: bytes
    value: bytes
    headers: Sequence[Header]
    offset: int


def owner_of(text: str) -> int:
    """Spreads ids as partitions do; any function of the text will do."""
    return sum(text.encode()) % OWNERS


class Fabric:
    """All owners, what they keep, and what is on its way between them."""

    def __init__(self, rng: random.Random, rules: IdentityRules = RULES) -> None:
        self.rng, self.rules = rng, rules
        self.again = rng.choice((0.0, 0.3))
        self.in_order = False
        self.stored: list[dict[bytes, bytes]] = [{} for _ in range(OWNERS)]
        self.logs: defaultdict[tuple[int, str], deque[Record]] = defaultdict(deque)
        self.merges: list[Merge] = []
        self.delivered: list[tuple[Send, dict[str, Any]]] = []
        self.dead: list[tuple[Arrived, Reason]] = []
        self.refused = self.passed_on = 0
        self._offset = 0

    def put(self, topic: str, facts: Facts, owner: int | None = None) -> None:
        """A producer's record; it may lie with any owner, as its key says nothing."""
        where = self.rng.randrange(OWNERS) if owner is None else owner
        value = json.dumps({"occurred_at": NOW_MS, **facts}).encode()
        self._append(where, Send(topic, b"any", value, (), NOW_MS))

    def tell(self, message: Message) -> None:
        out = Outcome()
        out.tell(message, NOW_MS)
        self._append(owner_of(message.id), out.sends[0])

    def run(self) -> None:
        """Until nothing is on its way."""
        while ready := [place for place, log in self.logs.items() if log]:
            owner = self.rng.choice(ready)[0]
            self._step(owner)

    def _append(self, owner: int, send: Send) -> None:
        self._offset += 1
        record = Record(send.topic, send.key, send.value, send.headers, self._offset)
        log = self.logs[owner, send.topic]
        # Kafka would keep the order; nothing here needs it but exact counts, nor minds to hear a thing twice.
        for _ in range(2 if send.topic == "links" and self.rng.random() < self.again else 1):
            log.insert(len(log) if self.in_order else self.rng.randint(0, len(log)), record)

    def _step(self, owner: int) -> None:
        out = Outcome()
        mail = Mail(lambda text: owner_of(text) == owner, out)
        for topic in ("links", "identities", "raw-touches", "raw-conversions"):
            log = self.logs[owner, topic]
            for _ in range(min(len(log), self.rng.choice((0, 1, 3)))):
                self._take(log.popleft(), mail)
        stored = self.stored[owner]
        for change in mail.decide([stored.get(subkey) for subkey in mail.subkeys()], self.rules):
            if change is not None:
                before = stored.get(change.subkey, b"") if change.append else b""
                stored[change.subkey] = before + change.value
        self.refused += out.refused
        self.passed_on += out.passed_on
        self.dead += [(arrived, reason) for arrived, reason, _ in out.dead]
        for send in out.sends:
            self._route(owner, send)

    def _take(self, record: Record, mail: Mail) -> None:
        if record.topic == "links":
            mail.message(decode_message(record.key, record.value))
        elif record.topic == "identities":
            given = json.loads(record.value)
            mail.people(people_of(Names(*[given.get(name) for name in Names._fields]), KEY), NOW_MS)
        else:
            mail.event(arrived(record.topic.removeprefix("raw-"), record.value, record.headers, record.offset))

    def _route(self, owner: int, send: Send) -> None:
        text = send.key.decode()
        if send.topic == "moves":
            assert owner_of(text) == owner, "a merge is said by the owner of the lower id"
            move = read_move(send.key, send.value)
            assert isinstance(move, Merge)
            self.merges.append(move)
        elif send.topic in ("touches", "conversions"):
            record = json.loads(send.value)
            assert record["person_id"] == text
            assert owner_of(text) == owner or ":" not in text, "only events of users come out elsewhere"
            assert not {name for name, _ in send.headers} & {HOPS, PERSON}
            self.delivered.append((send, record))
        else:
            self._append(owner_of(text), send)

    def state(self, person_id: str) -> IdState:
        return read_id(self.stored[owner_of(person_id)].get(b"i:" + person_id.encode()))

    def top(self, person_id: str) -> str:
        """Where the chain of an id ends; fails on a cycle, as each pointer must go up."""
        while (up := self.state(person_id).up) is not None:
            assert is_higher(up, person_id)
            person_id = up
        return person_id

    def people(self) -> Iterable[tuple[str, IdState]]:
        for owned in self.stored:
            for subkey, blob in owned.items():
                if subkey.startswith(b"i:"):
                    yield subkey[2:].decode(), read_id(blob)


def arrived(kind: Any, value: bytes, headers: Sequence[Header] = (), offset: int = 0, at: int = NOW_MS) -> Arrived:
    return Arrived(decode_raw(kind, value, headers, at, KEY), offset, at, b"any", value, headers)


def components(groups: Iterable[Sequence[str]]) -> dict[str, str]:
    """Id → the highest of its connected component: the slow, obvious way."""
    people: dict[str, set[str]] = {}
    for group in groups:
        joined = set(group).union(*(people.get(each, set()) for each in group))
        people.update(dict.fromkeys(joined, joined))
    return {each: min(all_of_it, key=precedence) for each, all_of_it in people.items()}


NAMES = st.builds(
    Names,
    anonymous_id=st.sampled_from([None, "a1", "a2", "a3", "a4", "a5", "a6"]),
    user_id=st.sampled_from([None, None, "u1", "u2", "u3"]),
    email=st.sampled_from([None, None, "bo@ex.com", "Cy@ex.com", "di@ex.com"]),
    person_id=st.none(),
).filter(any)

# Decides what comes next; as one number, as thousands of draws would each cost Hypothesis a choice.
SEEDS = st.integers(0, 2**32 - 1)


def facts_of(names: Names) -> dict[str, str]:
    return {name: given for name, given in zip(Names._fields, names, strict=True) if given is not None}


@seed(SEED)
@settings(max_examples=300)
@given(
    st.lists(NAMES, max_size=14),
    st.lists(NAMES, max_size=10),
    st.lists(NAMES, max_size=5),
    SEEDS,
)
def test_all_owners_end_with_one_truth(
    links: list[Names], touches: list[Names], creates: list[Names], draw: int
) -> None:
    """Every chain ends at the highest id of its component, each other id is merged once, each event comes out once."""
    fabric = Fabric(random.Random(draw))
    for names in links:
        for _ in range(fabric.rng.choice((1, 1, 2))):
            fabric.put("identities", facts_of(names))
    events: dict[str, Names] = {}
    for i, names in enumerate(touches):
        events[f"t{i}"] = names
        fabric.put("raw-touches", {"event_id": f"t{i}", **facts_of(names)})
    for i, names in enumerate(creates):
        events[f"c{i}"] = names
        for action in ("create", "retract"):
            named = facts_of(names) if action == "create" else {}
            fabric.put("raw-conversions", {"conversion_id": f"c{i}", "action": action, **named})
    fabric.run()
    groups = [people_of(names, KEY) for names in [*links, *touches, *creates]]
    wanted = components(groups)
    note(str({each: fabric.state(each).up for each in wanted}))
    # (a) pointers
    assert {each: fabric.top(each) for each in wanted} == wanted
    # (b) merges
    assert Counter(merge.person_id for merge in fabric.merges) == Counter(
        each for each, canonical in wanted.items() if each != canonical
    )
    assert all(fabric.state(merge.person_id).up == merge.into for merge in fabric.merges)
    # (c) events
    assert fabric.dead == []
    assert not fabric.refused
    ended = Counter()
    for send, record in fabric.delivered:
        name = record["event_id"] if send.topic == "touches" else record["conversion_id"]
        ended[name, record.get("action", "touch")] += 1
        assert wanted[record["person_id"]] == wanted[people_of(events[name], KEY)[0]]
        assert not {"anonymous_id", "user_id", "email"} & record.keys()
    assert ended == Counter(
        [(name, "touch") for name in events if name[0] == "t"]
        + [(name, action) for name in events if name[0] == "c" for action in ("create", "retract")]
    )


@seed(SEED)
@settings(max_examples=200)
@given(st.lists(NAMES, min_size=5, max_size=40), st.integers(1, 3), SEEDS)
def test_no_id_takes_in_more_than_it_may(links: list[Names], ids_max: int, draw: int) -> None:
    """Never more than ids_max below an id; what is refused is counted where it was, and the last are named."""
    fabric = Fabric(random.Random(draw), IdentityRules(ids_max, RULES.wait_ms, RULES.kept_ms))
    for names in links:
        fabric.put("identities", facts_of(names))
    fabric.run()
    wanted = components(people_of(names, KEY) for names in links)
    people = dict(fabric.people())
    assert all(len(state.below) <= ids_max for state in people.values())
    assert all(len(state.refused_last) <= min(REFUSED_KEPT, state.refused) for state in people.values())
    assert sum(state.refused for state in people.values()) == fabric.refused
    if not fabric.refused:
        assert {each: fabric.top(each) for each in wanted} == wanted
    # However many are refused, nobody is given to a stranger, and nobody twice.
    assert all(wanted[each] == wanted[fabric.top(each)] for each in wanted)
    assert max(Counter(merge.person_id for merge in fabric.merges).values(), default=0) <= 1
    taken_in = {lower for each, state in people.items() for lower in state.below if fabric.state(lower).up}
    assert {merge.person_id for merge in fabric.merges} <= taken_in


@seed(SEED)
@settings(max_examples=200)
@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=2, unique=True), min_size=1, max_size=12),
    SEEDS,
)
def test_admissions_that_race_make_no_cycle(pairs: list[list[str]], draw: int) -> None:
    """Users are linked in pairs, all at once: the pointers form trees under the smallest of each component."""
    fabric = Fabric(random.Random(draw))
    for pair in pairs:
        high, low = sorted(pair, key=precedence)
        fabric.tell(introduce(high, low, NOW_MS))
    fabric.run()
    wanted = components(pairs)
    assert {each: fabric.top(each) for each in wanted} == wanted


@seed(SEED)
@settings(max_examples=60)
@given(
    st.permutations([f"u{i:02}" for i in range(30)]),
    st.integers(1, 8),
    st.sampled_from(["same", "email", "pairs"]),
    SEEDS,
)
def test_a_placeholder_does_not_make_one_person_of_everybody(
    users: list[str], ids_max: int, shared: str, draw: int
) -> None:
    """Whatever users share, and in whatever order they come, no person gets more than ids_max ids beside its own."""
    fabric = Fabric(random.Random(draw), IdentityRules(ids_max, RULES.wait_ms, RULES.kept_ms))
    fabric.in_order = True
    for i, user in enumerate(users):
        other = {
            "same": {"anonymous_id": "unknown"},
            "email": {"email": "info@ex.com", "anonymous_id": f"a{i}"},
            "pairs": {"anonymous_id": f"a{i // 2}", "email": f"e{(i + 1) // 2}@ex.com"},
        }[shared]
        fabric.put("identities", {"user_id": user, **other})
        fabric.run()
    people = {each for each, _ in fabric.people()}
    sizes = Counter(fabric.top(each) for each in people)
    assert max(sizes.values()) <= ids_max + 1
    assert fabric.refused


def one(person_id: str, state: IdState, *messages: Said, ids_max: int = 50) -> tuple[IdState, Outcome]:
    out = Outcome()
    return decide_id(person_id, state, messages, {}, (), ids_max, out), out


def said(out: Outcome) -> list[Any]:
    """What was said to other owners."""
    return [decode_message(send.key, send.value) for send in out.sends if send.topic == "links"]


def test_a_first_link_sets_the_pointer_for_good() -> None:
    """The first link is followed and told to the crediting stage; a later, higher one is passed up."""
    state, out = one("anonymous:a1", NEW, Link("anonymous:a1", "u2", NOW_MS))
    assert (state.up, state.up_ms) == ("u2", NOW_MS)
    assert [(send.topic, send.key) for send in out.sends] == [("moves", b"anonymous:a1")]
    again, out = one("anonymous:a1", state, Link("anonymous:a1", "u2", NOW_MS + 1))
    assert (again, out.sends) == (state, [])
    higher_still, out = one("anonymous:a1", state, Link("anonymous:a1", "u1", 5))
    assert higher_still is state
    assert said(out) == [Offer("u2", "u1", 5)]
    _, out = one("anonymous:a1", state, Link("anonymous:a1", "u3", 6))
    assert said(out) == [Offer("u3", "u2", 6)]


def test_who_points_up_sends_admissions_up() -> None:
    """An id that belongs to another does not take in any more; it says so once of each."""
    state = IdState(up="u1")
    first, out = one("u2", state, Admit("u2", "anonymous:a1", 7))
    assert said(out) == [Admit("u1", "anonymous:a1", 7)]
    again, out = one("u2", first, Admit("u2", "anonymous:a1", 8))
    assert (again, said(out)) == (first, [])


@pytest.mark.parametrize("first", [0, 1])
def test_a_third_id_does_not_bring_together_who_was_split(first: int) -> None:
    """Two that are apart ask to be taken in at once, before either could say so: the second one is refused."""
    away = "anonymous:a~2"
    out = Outcome()
    split = IdState(apart={away: NOW_MS})
    decide_id("email:x", split, [Offer("email:x", "u", NOW_MS)], {}, [], 50, out)
    asked = decode_message(out.sends[0].key, out.sends[0].value)
    assert asked == Admit("u", "email:x", NOW_MS, 0, [away])
    both = [asked, Admit("u", away, NOW_MS)]
    out = Outcome()
    state = decide_id("u", NEW, both[::-1] if first else both, {}, [], 50, out)
    assert list(state.below) == [away if first else "email:x"]
    assert (out.admitted, out.refused) == (1, 1)
    told = [decode_message(send.key, send.value) for send in out.sends]
    assert [message for message in told if isinstance(message, Link)] == [Link(next(iter(state.below)), "u", NOW_MS)]


def test_a_full_id_refuses_and_tells_nobody() -> None:
    """Beyond ids_max nothing is linked; the refusal is counted, and the last ids stay named with their times."""
    state = IdState(below={"anonymous:a1": 1})
    for i in range(REFUSED_KEPT + 2):
        state, out = one("u1", state, Admit("u1", f"anonymous:b{i}", i), ids_max=1)
        assert (out.sends, out.refused) == ([], 1)
    assert state.refused == REFUSED_KEPT + 2
    assert state.refused_last[0] == ("anonymous:b2", 2)
    assert len(state.refused_last) == REFUSED_KEPT


def test_what_was_refused_is_not_said_again_with_each_event() -> None:
    """A full id that refused a lower one introduces it no more, until there is room by another `ids_max`."""
    state, _ = one("u1", IdState(below={"anonymous:a": 1}), Admit("u1", "anonymous:b", 2), ids_max=1)
    for ids_max, lower, wanted in (
        (1, "anonymous:b", 0),
        (1, "anonymous:c", 1),
        (1, "anonymous:a", 0),
        (2, "anonymous:b", 1),
    ):
        out = Outcome()
        assert decide_id("u1", state, (), {lower: 3}, (), ids_max, out) is state
        assert said(out) == [Admit("u1", lower, 3)] * wanted


def test_who_brings_many_is_asked_first() -> None:
    """An offer is answered with how many ids come along; with too many of them on either side nothing is linked."""
    state, out = one("u2", IdState(below={"anonymous:a": 1}, deeper=2), Offer("u2", "u1", 5), ids_max=4)
    assert said(out) == [Admit("u1", "u2", 5, 3)]
    assert state.refused == 0
    state, out = one("u2", state, Offer("u2", "u1", 6), ids_max=3)
    assert (said(out), state.refused_last) == ([], [("u1", 6)])
    taken, out = one("u1", NEW, Admit("u1", "u2", 5, 3), ids_max=4)
    assert said(out) == [Link("u2", "u1", 5)]
    assert taken.size == 4
    full, out = one("u1", NEW, Admit("u1", "u2", 5, 3), ids_max=3)
    assert (said(out), full.refused_last) == ([], [("u2", 5)])


def test_a_link_is_followed_whatever_the_bounds_are() -> None:
    """A pointer depends on what the log says alone, as it is read again under other settings."""
    state, _ = one("u2", IdState(below={"anonymous:a": 1}), Link("u2", "u1", 5), ids_max=1)
    assert state.up == "u1"


def test_a_long_chain_ends_in_the_open() -> None:
    """After 64 hops an event comes out where it is: the crediting stage sends it up from there."""
    value = json.dumps({"event_id": "t1", "anonymous_id": "a1", "occurred_at": NOW_MS}).encode()
    for hops, topic in ((HOPS_MAX - 1, "raw-touches"), (HOPS_MAX, "touches")):
        out = Outcome()
        event = arrived("touches", value, [(HOPS, b"%d" % hops)])
        decide_id("anonymous:a1", IdState(up="email:1"), (), {}, [event], 50, out)
        assert [send.topic for send in out.sends] == [topic]


def test_a_record_that_never_finds_its_owner_is_a_dead_letter() -> None:
    """Where partition counts differ a record could go round for ever: it ends after 64 hops."""
    value = json.dumps({"event_id": "t1", "anonymous_id": "a1", "occurred_at": NOW_MS}).encode()
    out = Outcome()
    mail = Mail(lambda text: False, out)
    mail.event(arrived("touches", value, [(HOPS, b"%d" % (HOPS_MAX - 1))]))
    mail.event(arrived("touches", value, [(HOPS, b"%d" % HOPS_MAX)]))
    assert [(send.topic, send.key, send.value) for send in out.sends] == [("raw-touches", b"anonymous:a1", value)]
    assert out.sends[0].headers == [(HOPS, b"%d" % HOPS_MAX)]
    assert [reason for _, reason, _ in out.dead] == [Reason.TOO_MANY_HOPS]


def test_who_a_record_was_sent_to_is_not_forgotten() -> None:
    """A record that was sent up, and is found where nobody owns it, goes on to that person, not to its own ids."""
    value = json.dumps({"event_id": "t1", "anonymous_id": "a1", "occurred_at": NOW_MS}).encode()
    out = Outcome()
    Mail(lambda text: False, out).event(arrived("touches", value, [(HOPS, b"1"), (PERSON, b"u1")]))
    assert [(send.key, send.headers) for send in out.sends] == [(b"u1", [(HOPS, b"2"), (PERSON, b"u1")])]


def test_state_survives_its_bytes_and_other_versions_do_not() -> None:
    """What is written is read again; bytes of another version are refused, never misread."""
    state = IdState(up="u1", up_ms=5, below={"anonymous:ü": 1}, refused=2, refused_last=[("x", 3)])
    assert read_id(write_id(state)) == state
    assert read_id(None) == NEW
    with pytest.raises(CodecError, match="of format 2, this program reads 1"):
        read_id(write_id(IdState(version=2)))
    with pytest.raises(CodecError):
        read_id(b"\xc1")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"u1", b'{"do":"admit","id":"u1","lower":"u1","at":1}', Reason.BAD_MERGE),
        (b"u2", b'{"do":"admit","id":"u2","lower":"u1","at":1}', Reason.BAD_MERGE),
        (b"u1", b'{"do":"link","id":"u1","up":"anonymous:a"}', Reason.BAD_MERGE),
        (b"u2", b'{"do":"link","id":"anonymous:a","up":"u1"}', Reason.KEY_MISMATCH),
        (None, b'{"do":"link","id":"anonymous:a","up":"u1"}', Reason.KEY_MISMATCH),
        (b"u1", b'{"do":"offer","id":"u1","to":"u2"}', Reason.BAD_MERGE),
        (b"u1", b'{"do":"marry","id":"u1"}', Reason.WRONG_TYPE),
        (b"u1", b'{"do":"link","id":"u1"}', Reason.WRONG_TYPE),
        (b"u1", b"{", Reason.INVALID_JSON),
        (b"u1", None, Reason.NULL_VALUE),
    ],
)
def test_what_no_owner_says_is_rejected(key: bytes | None, value: bytes | None, reason: Reason) -> None:
    """Pointers never go down or to themselves, whoever writes to the topic."""
    with pytest.raises(Rejected) as caught:
        decode_message(key, value)
    assert caught.value.reason is reason


# -- corrections that name nobody


def correction(i: int, at: int = NOW_MS) -> Arrived:
    value = json.dumps({"conversion_id": "c1", "action": "restate", "value": str(i), "occurred_at": NOW_MS}).encode()
    return arrived("conversions", value, [("traceparent", b"00")], offset=i, at=at)


def where(at: int = NOW_MS, person_id: str = "u1") -> Where:
    return Where(conversion_key("c1"), person_id, at)


def play(*steps: Sequence[Where | Arrived]) -> tuple[Whereabouts, list[Outcome]]:
    """Each step on what the one before it left, through its bytes."""
    blob, outs = b"", []
    for step in steps:
        outs.append(Outcome())
        told = [each for each in step if isinstance(each, Where)]
        rest = [each for each in step if isinstance(each, Arrived)]
        blob += decide_whereabouts(read_whereabouts(blob), told, rest, 90 * DAY_MS, outs[-1])
    return read_whereabouts(blob), outs


def test_corrections_wait_for_their_conversion() -> None:
    """Those that come before it are sent after it when it comes, in their order and with their headers."""
    known, outs = play([correction(1)], [correction(2)], [where()], [correction(3)])
    assert known == Whereabouts("u1", ())
    assert [len(out.sends) for out in outs] == [0, 0, 2, 1]
    assert [json.loads(send.value)["value"] for out in outs for send in out.sends] == ["1", "2", "3"]
    for send in [send for out in outs for send in out.sends]:
        assert (send.topic, send.key) == ("raw-conversions", b"u1")
        assert send.headers == [("traceparent", b"00"), (HOPS, b"1"), (PERSON, b"u1"), (FOUND, b"1")]


def test_the_first_create_counts() -> None:
    """A second create of the same conversion for somebody else changes nothing."""
    known, outs = play([where()], [where(person_id="u2")], [correction(1)])
    assert known.person_id == "u1"
    assert outs[2].sends[0].key == b"u1"


def test_only_so_many_wait() -> None:
    """The twenty-first correction that waits is a dead letter; the others are still released."""
    known, outs = play([correction(i) for i in range(WAITING_MAX + 1)], [where()])
    assert known == Whereabouts("u1", ())
    assert [(each.offset, reason) for each, reason, _ in outs[0].dead] == [(WAITING_MAX, Reason.NO_CREATE)]
    assert len(outs[1].sends) == WAITING_MAX


def test_who_waited_too_long_is_a_dead_letter() -> None:
    """After `wait_ms` of record time a correction ends, once, when the next record of its conversion comes."""
    late = NOW_MS + 90 * DAY_MS + 1
    known, outs = play([correction(1), correction(2, at=NOW_MS + DAY_MS)], [correction(3, at=late)], [where(late)])
    assert [(each.offset, reason) for each, reason, _ in outs[1].dead] == [(1, Reason.NO_CREATE)]
    assert outs[2].dead == []
    assert [json.loads(send.value)["value"] for send in outs[2].sends] == ["2", "3"]
    assert known == Whereabouts("u1", ())


def test_whereabouts_of_unknown_bytes_are_refused() -> None:
    """Bytes that this program does not write are never misread."""
    with pytest.raises(CodecError):
        read_whereabouts(b"\x00\x00\x00\x01\xc1")


def test_higher_is_the_rule_that_links_go_by() -> None:
    """Of two ids, the one that `higher` names may take the other in."""
    assert is_higher(higher("u2", "u1"), "u2")
