"""The format of stored state: the very bytes of the present one, and the way from one format to the next.

There is no second format yet. So a program of the future is made up here: its journeys are the same, in other bytes.
"""

import zlib
from collections.abc import Callable

import msgspec
import pytest

from models import journey
from models.facts import Conversion, Touch
from models.formats import FORMAT, OLDEST, Codec, CodecError, Form, UnknownFormat, first_element
from models.journey import (
    JourneyConversion,
    JourneyState,
    PendingCorrection,
    forward_key,
    frame,
    frame_with_person,
    read_frames,
    read_state,
    state_key,
    state_writer,
    touches_key,
    write_state,
)
from models.linking import (
    Admit,
    Arrived,
    IdState,
    Link,
    Offer,
    Outcome,
    Where,
    id_writer,
    read_id,
    write_id,
    write_message,
)
from models.mail import id_subkey
from models.moving import Merge, Move, MovedConversion, write_move
from models.raw import RawEvent
from models.whereabouts import Whereabouts, decide_whereabouts, forgotten_whereabouts, read_whereabouts

NOW_MS = 1_714_564_800_000

TOUCH = Touch("t|1", "ada", NOW_MS, "click", "Email", "google", "cpc", "spring", "ü", None, "acme", NOW_MS + 7)
CREATED = JourneyConversion(
    *("c1", "ada", "order", NOW_MS, NOW_MS + 5, 42, 9_990_000, "EUR", "acme", "eb75840e", True, (NOW_MS, 43)),
    *((NOW_MS, 44), ["e1"], True, True, 7, [1, 3]),
)
CORRECTION = Conversion(
    "c2", "ada", NOW_MS, value_micros=5, action="restate", event_id="e2", record_ms=NOW_MS, offset=9
)
PENDING = PendingCorrection(CORRECTION, b"ada", b"{}", [("h", None)])
STATE = JourneyState(conversions=[CREATED], pending=[PENDING], dropped_ms=NOW_MS)
ID = IdState(up="ada", up_ms=NOW_MS, below={"anonymous:x": 5}, refused=1, refused_last=[("y", 6)], deeper=2)
EVENT = RawEvent("conversions", ("ada",), None, b"{}", 1, "c2", "restate")
WAITING = Arrived(EVENT, 3, NOW_MS, None, b"{}", [("h", b"1")])


def whereabouts(told: list[Where], corrections: list[Arrived]) -> bytes:
    return decide_whereabouts(Whereabouts(), told, corrections, 1_000, Outcome())


WRITTEN: dict[str, bytes] = {
    "touch": frame(TOUCH),
    "touch with its person": frame_with_person(TOUCH),
    "conversions": write_state(STATE),
    "id": write_id(ID),
    "conversion that waits": whereabouts([], [WAITING]),
    "conversion that is known": whereabouts([Where("conversion:c2", "ada", NOW_MS)], []),
    "conversion that is forgotten": forgotten_whereabouts(),
    "moved journey": b"=".join(
        write_move(
            Move("ada", "anonymous:x", 1, read_frames(frame(TOUCH)), [MovedConversion(CREATED, ["t|1"])], [PENDING])
        )
    ),
    "merge": b"=".join(write_move(Merge("anonymous:x", "ada"))),
    "offer": b"=".join(write_message(Offer("anonymous:x", "ada", 1))),
    "admit": b"=".join(write_message(Admit("ada", "anonymous:x", 1, 2))),
    "link": b"=".join(write_message(Link("anonymous:x", "ada", 1))),
    "keys": b" ".join([touches_key(310, b"ada"), state_key(b"ada"), forward_key(b"ada"), id_subkey("ada")]),
}
GOLDEN: dict[str, bytes] = {
    "touch": (
        b"\x9b\xc0\xa3t|1\xcf\x00\x00\x01\x8f4\x06\x9e\x00\x07\xa5click\xa5Email\xa6google\xa3cpc\xa6spring\xa2\xc3\xbc\xc0"
    ),
    "touch with its person": (
        b"\x9c\xc0\xa3t|1\xcf\x00\x00\x01\x8f4\x06\x9e\x00\x07\xa5click\xa5Email\xa6google\xa3cpc\xa6spring\xa2\xc3\xbc\xc0\xa3ada"
    ),
    "conversions": (
        b"\x94\x01\x91\xdc\x00\x12\xa2c1\xa3ada\xa5order\xcf\x00\x00\x01\x8f4\x06\x9e\x00\xcf\x00\x00\x01\x8f4\x06\x9e\x05*\xce\x00\x98op\xa3EUR\xa4acme\xa8eb75840e\xc3\x92\xcf\x00\x00\x01\x8f4\x06"
        b"\x9e\x00+\x92\xcf\x00\x00\x01\x8f4\x06\x9e\x00,\x91\xa2e1\xc3\xc3\x07\x92\x01\x03\x91\x95\x8b\xadconversion_id\xa2c2\xa9person_id\xa3ada\xaboccurred_ms"
        b"\xcf\x00\x00\x01\x8f4\x06\x9e\x00\xa4type\xaaconversion\xacvalue_micros\x05\xa8currency\xc0\xaaaccount_id\xc0\xa6action\xa7r"
        b"estate\xa8event_id\xa2e2\xa9record_ms\xcf\x00\x00\x01\x8f4\x06\x9e\x00\xa6offset\t\xc4\x03ada\xc4\x02{}\x91\x92\xa1h\xc0\xc0\xcf\x00\x00\x01\x8f4\x06\x9e\x00"
    ),
    "id": (b"\x97\x01\xa3ada\xcf\x00\x00\x01\x8f4\x06\x9e\x00\x81\xabanonymous:x\x05\x01\x91\x92\xa1y\x06\x02"),
    "conversion that waits": (
        b"\x00\x00\x00o\x97\xa21w\x03\xcf\x00\x00\x01\x8f4\x06\x9e\x00\xc0\xc4\x02{}\x91\x92\xa1h\xc4\x011\x87\xa4kind\xabconversions\xa3ids\x91\xa3ada\xa6person\xc0\xa7reke"
        b"yed\xc4\x02{}\xa4hops\x01\xadconversion_id\xa2c2\xa6action\xa7restate"
    ),
    "conversion that is known": (b"\x00\x00\x00\x08\x92\xa21c\xa3ada"),
    "conversion that is forgotten": (b"\x00\x00\x00\x04\x91\xa21f"),
    "moved journey": (
        b'ada={"do":"journey","person_id":"ada","of":"anonymous:x","partition":1'
        b',"touches":[[null,"t|1",1714564800000,7,"click","Email","google","cpc"'
        b',"spring","\xc3\xbc",null,null]],"conversions":[[["c1","ada","order",1714564'
        b'800000,1714564800005,42,9990000,"EUR","acme","eb75840e",true,[17145648'
        b'00000,43],[1714564800000,44],["e1"],true,true,7,[1,3]],["t|1"]]],"even'
        b'ts":[[{"conversion_id":"c2","person_id":"ada","occurred_ms":1714564800'
        b'000,"type":"conversion","value_micros":5,"currency":null,"account_id":'
        b'null,"action":"restate","event_id":"e2","record_ms":1714564800000,"off'
        b'set":9},"YWRh","e30=",[["h",null]],null]]}'
    ),
    "merge": (b'anonymous:x={"do":"merge","person_id":"anonymous:x","into":"ada"}'),
    "offer": (b'anonymous:x={"do":"offer","id":"anonymous:x","to":"ada","at":1}'),
    "admit": (b'ada={"do":"admit","id":"ada","lower":"anonymous:x","at":1,"size":2}'),
    "link": (b'anonymous:x={"do":"link","id":"anonymous:x","up":"ada","at":1}'),
    "keys": (b"t:310:ada c:ada f:ada i:ada"),
}


class TestFormatOne:
    """What lies in stores and topics of programs that run now. Whoever changes it needs a new format."""

    @pytest.mark.parametrize("what", WRITTEN)
    def test_its_bytes_stay(self, what: str) -> None:
        """The same values are written as the same bytes, to the last one."""
        assert WRITTEN[what] == GOLDEN[what]

    def test_its_bytes_are_read(self) -> None:
        """And the bytes come to the same values."""
        assert read_state(GOLDEN["conversions"]) == STATE
        assert read_id(GOLDEN["id"]) == ID
        assert [t.event_id for t in read_frames(GOLDEN["touch"] + GOLDEN["touch with its person"])] == ["t|1"] * 2
        assert read_whereabouts(GOLDEN["conversion that waits"]) == Whereabouts(None, (WAITING,))
        assert read_whereabouts(GOLDEN["conversion that is known"]).person_id == "ada"
        assert read_whereabouts(GOLDEN["conversion that is forgotten"]).forgotten

    def test_this_program_writes_what_it_says(self) -> None:
        """The writers by number are those of the hot path, and the latest can be read and written."""
        assert state_writer(FORMAT)(STATE) == write_state(STATE)
        assert id_writer(FORMAT)(ID) == write_id(ID)
        assert OLDEST <= FORMAT <= OLDEST + 1


class TestOthers:
    """Bytes of formats that this program does not know."""

    @pytest.mark.parametrize(
        ("read", "blob", "what"),
        [
            (read_state, b"\x94\x02\x90\x90\xff", "a journey's conversions are of format 2"),
            (read_state, b"\x92\x03\xc4\x01x", "a journey's conversions are of format 3"),
            (read_id, b"\x91\x02", "what is kept of an id are of format 2"),
            (read_frames, b"\x9b\x02" + GOLDEN["touch"][2:], "a journey's touches are of format 2"),
            (read_whereabouts, b"\x00\x00\x00\x04\x91\xa22f", "whereabouts are of format 2"),
        ],
    )
    def test_later_ones_are_named(self, read: Callable[[bytes], object], blob: bytes, what: str) -> None:
        """The error says which format they are of, and which this program reads."""
        with pytest.raises(UnknownFormat, match=f"{what}, this program reads 1$"):
            read(blob)

    @pytest.mark.parametrize("blob", [b"", b"\xc1", b"\x94", GOLDEN["conversions"][:-1], b"\x94\x01\xc0\xc0\xc0"])
    def test_torn_ones_are_of_none(self, blob: bytes) -> None:
        """Damage is not taken for another format: nobody should look for a program that can read it."""
        for read in (read_state, read_id, read_frames):
            with pytest.raises(CodecError) as error:
                read(blob)
            assert not isinstance(error.value, UnknownFormat)

    def test_a_format_that_is_not_written_here_is_refused(self) -> None:
        """When a worker starts, not when it first has something to write."""
        with pytest.raises(UnknownFormat, match="cannot be written in format 2"):
            state_writer(2)
        with pytest.raises(UnknownFormat, match="cannot be written in format 2"):
            id_writer(2)

    @pytest.mark.parametrize(
        ("blob", "number"), [(b"\x91\x05", 5), (b"\x9f\x7f", 127), (b"\x91\xc0", None), (b"", None)]
    )
    def test_the_first_element_tells(self, blob: bytes, number: int | None) -> None:
        """A small number behind the head of an array, and nothing else."""
        assert first_element(blob) == number


def packed(state: JourneyState) -> bytes:
    """A journey in the made-up format 2."""
    return msgspec.msgpack.encode((2, zlib.compress(write_state(state))))


def unpacked(blob: bytes) -> JourneyState:
    return read_state(zlib.decompress(msgspec.msgpack.decode(blob)[1]))


def test_a_program_of_two_formats_reads_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the one before wrote and what it writes itself come to the same; each is written as it is told."""
    monkeypatch.setattr(
        journey,
        "STATES",
        Codec(journey.STATES.what, {**journey.STATES.forms, 2: Form(unpacked, packed)}, first_element),
    )
    for number in (1, 2):
        blob = state_writer(number)(STATE)
        assert first_element(blob) == number
        assert read_state(blob) == STATE
    with pytest.raises(UnknownFormat, match="this program reads 1 and 2"):
        read_state(b"\x92\x03\x90")
