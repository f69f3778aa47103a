"""Whom `touchstream forget` means, and which records belong to its request."""

import json
from pathlib import Path

import pytest

from models.identity import email_id
from models.linking import ForgetId, write_message
from models.moving import Forget, write_move
from streams.cli import main
from streams.errors import UsageError
from streams.forget import _whose, person_of
from streams.settings import Settings, load_settings

KEY = "a secret"
ADDRESS = "Ada@Analytical.example"
HASHED = email_id(ADDRESS, KEY.encode())


def settings(tmp_path: Path, **changes: str) -> Settings:
    file = tmp_path / "touchstream.toml"
    file.write_text("")
    return load_settings(file, {name.replace("__", "."): value for name, value in changes.items()}, {})


@pytest.mark.parametrize("text", ["ana", "anonymous:9f3c", HASHED, " ana "])
def test_an_id_is_taken_as_it_is(tmp_path: Path, text: str) -> None:
    """Ids as credits have them need no key, and are trimmed as ids in records are."""
    assert person_of(settings(tmp_path), text) == text.strip()


def test_an_address_is_hashed_where_there_is_a_key(tmp_path: Path) -> None:
    """With a key an address is the id that the identity stage gives it; without one, or by --id, it is a user id."""
    assert person_of(settings(tmp_path, identity__email_key=KEY), ADDRESS) == HASHED
    assert person_of(settings(tmp_path, identity__email_key=KEY), f" {ADDRESS.upper()}", email=True) == HASHED
    assert person_of(settings(tmp_path, identity__email_key=KEY), ADDRESS, literal=True) == ADDRESS
    assert person_of(settings(tmp_path), ADDRESS) == ADDRESS
    by_account = settings(tmp_path, identity__email_key=KEY, attribution__journey="account")
    assert person_of(by_account, ADDRESS) == ADDRESS


def test_an_address_without_a_key_is_refused(tmp_path: Path) -> None:
    """Who insists on an address has to have the key; what is nobody's id, and no address, is refused too."""
    with pytest.raises(UsageError, match="T116"):
        person_of(settings(tmp_path), ADDRESS, email=True)
    for text in ("", " ", "x" * 257):
        with pytest.raises(UsageError, match="T117"):
            person_of(settings(tmp_path), text)
    with pytest.raises(UsageError, match="T117"):
        person_of(settings(tmp_path, identity__email_key=KEY), "no address", email=True)


@pytest.mark.parametrize(
    ("arguments", "code"), [(["ana", "--deadline", "soon"], "T118"), (["ana", "--email", "--id"], "T119")]
)
def test_wrong_options_are_told(
    arguments: list[str], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A block with its code on stderr and exit code 2, before any server is asked."""
    monkeypatch.chdir(tmp_path)
    assert main(["forget", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error[{code}] ")


def test_only_records_of_the_request_are_followed() -> None:
    """Another request, another kind of record that has the number in it, and what cannot be read do not count."""
    _, value = write_move(Forget("ada", "r1"))
    assert _whose(value, "r1") == "ada"
    assert _whose(write_message(ForgetId("email:e", "r1"))[1], "r1") == "email:e"
    assert not _whose(write_move(Forget("ada", "r2"))[1], "r1")
    assert not _whose(json.dumps({"do": "merge", "person_id": "r1", "into": "r1", "request": "r1"}).encode(), "r1")
    assert not _whose(b"{r1", "r1")
    assert not _whose(b'"r1"', "r1")
    assert not _whose(None, "r1")
