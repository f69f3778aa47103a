"""Files of records and the final view of credits."""

import gzip
import json
from pathlib import Path

import pytest

from streams import files
from streams.errors import UsageError


def credit(conversion: str, name: str, position: int, revision: int, value: int) -> bytes:
    fields = {
        "conversion_id": conversion,
        "revision": revision,
        "attribution_model": name,
        "position": position,
        "value_micros": value,
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def test_the_final_view_is_the_highest_revision_in_order_and_without_it() -> None:
    """Of each conversion and attribution model only the records of the highest revision stay, sorted by position."""
    published = [
        credit("b", "linear", 1, 4, 10),
        credit("a", "linear", 2, 3, 5),
        credit("a", "linear", 1, 3, 5),
        credit("a", "first_touch", 1, 3, 10),
        credit("a", "linear", 1, 9, 10),
    ]
    rows = [json.loads(line) for line in files.final_view(published)]
    assert [(r["conversion_id"], r["attribution_model"], r["position"], r["value_micros"]) for r in rows] == [
        ("a", "first_touch", 1, 10),
        ("a", "linear", 1, 10),
        ("b", "linear", 1, 10),
    ]
    assert all("revision" not in row for row in rows)


def test_a_revision_inside_a_text_stays() -> None:
    """Only the field is taken out, never text that looks like it."""
    value = credit('x","revision":1,"y', "linear", 1, 7, 10)
    (line,) = files.final_view([value])
    assert json.loads(line)["conversion_id"] == 'x","revision":1,"y'
    assert "revision" not in json.loads(line)


def test_lines_come_from_plain_and_gzip_files_without_blank_ones(tmp_path: Path) -> None:
    """Both kinds of file give the same lines; blank lines are none, other white space is kept."""
    plain, packed = tmp_path / "a.ndjson", tmp_path / "a.ndjson.gz"
    text = b'{"a":1}\r\n\n  \n {"b":2} \n'
    plain.write_bytes(text)
    packed.write_bytes(gzip.compress(text))
    assert list(files.lines(str(plain))) == list(files.lines(str(packed))) == [b'{"a":1}', b' {"b":2} ']


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    """The error names the file; the command ends with 2."""
    with pytest.raises(UsageError, match="T113") as found:
        list(files.lines(str(tmp_path / "none")))
    assert found.value.exit_code == 2


def test_a_dead_letter_keeps_bytes_that_are_no_text() -> None:
    """Key and value are text where they can be, base64 where not, null where absent."""
    line = json.loads(files.dead_line(None, b"\xff\x00", [("touchstream-reason", b"bad-utf8"), ("x", b"\xfe")]))
    assert line["reason"] == "bad-utf8"
    assert line["key"] is None
    assert line["value_base64"] == "/wA="
    assert line["headers"]["x"] == "/g=="
