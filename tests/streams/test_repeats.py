"""A broker that is away fills no log."""

import logging

from streams.repeats import EVERY_S, KINDS_MAX, Repeats


def _line(name: str, text: str, *args: object, at_s: float = 0.0) -> logging.LogRecord:
    record = logging.LogRecord(name, logging.ERROR, "", 0, text, args, None)
    record.created = at_s
    return record


def test_lines_of_one_kind_come_once_in_a_while_with_their_number() -> None:
    """The first is printed, the next ones are counted, and the first one after the time says how many they were."""
    repeats = Repeats()
    lines = [_line("aiokafka.conn", "cannot reach %s", n, at_s=n * 0.1) for n in range(4)]
    assert [repeats.filter(line) for line in lines] == [True, False, False, False]
    later = _line("aiokafka.conn", "cannot reach %s", 9, at_s=EVERY_S)
    assert repeats.filter(later)
    assert later.getMessage() == "cannot reach 9 (and 3 more of this kind)"
    again = _line("aiokafka.conn", "cannot reach %s", 10, at_s=2 * EVERY_S)
    assert repeats.filter(again)
    assert again.getMessage() == "cannot reach 10"


def test_other_kinds_and_our_own_lines_are_all_printed() -> None:
    """A line is only left out where its own logger said the same: what we log is never left out."""
    repeats = Repeats()
    assert all(repeats.filter(_line("aiokafka.conn", text)) for text in ("a", "b"))
    assert repeats.filter(_line("aiokafka.producer", "a"))
    assert all(repeats.filter(_line("touchstream.worker", "same")) for _ in range(3))


def test_kinds_are_bounded() -> None:
    """Texts that are never the same do not fill the memory."""
    repeats = Repeats()
    for n in range(3 * KINDS_MAX):
        assert repeats.filter(_line("aiokafka", f"text {n}"))
    assert len(repeats._kinds) <= KINDS_MAX
