"""`touchstream identity show`: who an id is, and which other ids are the same person's."""

from typing import TYPE_CHECKING, Annotated

import typer

from streams.commands.common import (
    AsJson,
    Assign,
    Broker,
    Config,
    Prefix,
    Redis,
    print_json,
    settings_from,
    wait_for,
)

if TYPE_CHECKING:
    from streams.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Who is who: the ids of a person.")


@app.callback()
def _group() -> None:
    """One command so far; it keeps its name."""


@app.command()
def show(
    identifier: Annotated[
        str, typer.Argument(metavar="ID", help="A user_id, anonymous:<anonymous_id>, email:<hash>, or see --email.")
    ],
    *,
    email: Annotated[bool, typer.Option("--email", help="ID is an e-mail address; needs identity.email_key.")] = False,
    broker: Broker = None,
    redis: Redis = None,
    prefix: Prefix = None,
    config: Config = None,
    assign: Assign = None,
    as_json: AsJson = False,
) -> int:
    """Show the person that an id belongs to, and all ids of that person.

    Ids that were refused, as too many were linked to one, are counted and the last of them named.
    """
    from streams.identities import find_person  # noqa: PLC0415
    from streams.telling import identity as lines  # noqa: PLC0415

    settings = settings_from(config, assign, kafka__broker=broker, kafka__prefix=prefix, redis__url=redis)
    person = wait_for(find_person(settings, _hashed(identifier, settings) if email else identifier))
    if as_json:
        print_json(person.document())
    else:
        typer.echo("\n".join(lines(person.document())))
    return 0


def _hashed(address: str, settings: "Settings") -> str:
    from models.identity import email_id  # noqa: PLC0415
    from streams.errors import UsageError  # noqa: PLC0415
    from streams.identities import email_key_of  # noqa: PLC0415

    key = email_key_of(settings)
    try:
        return email_id(address, key)
    except ValueError as error:
        fix = "give an e-mail address"
        raise UsageError("T116", "the address cannot be hashed", "--email", str(error), fix) from error
