"""`touchstream identity`: who an id is, which other ids are the same person's, and taking a wrong link back."""

from typing import TYPE_CHECKING, Annotated

import typer

from streams.commands.common import (
    DEADLINE,
    AsJson,
    Assign,
    Broker,
    Config,
    Deadline,
    Prefix,
    Redis,
    Wait,
    print_json,
    settings_from,
    wait_for,
    wait_s,
)

if TYPE_CHECKING:
    from streams.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Who is who: the ids of a person.")


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


@app.command()
def split(
    identifier: Annotated[
        str, typer.Argument(metavar="ID", help="A user_id, anonymous:<anonymous_id>, email:<hash>, or see --email.")
    ],
    *,
    email: Annotated[bool, typer.Option("--email", help="ID is an e-mail address; needs identity.email_key.")] = False,
    wait: Wait = True,
    deadline: Deadline = DEADLINE,
    broker: Broker = None,
    redis: Redis = None,
    prefix: Prefix = None,
    config: Config = None,
    assign: Assign = None,
    as_json: AsJson = False,
) -> int:
    """Take a wrong link back: from now on, the id is not that of the person it was linked to.

    Later events of it are somebody's own, under a new person id (`anonymous:9f3c~2`), and nothing links that to the
    person again. What the id had brought to the person stays there. There is no way back. See docs/identity.md.
    """
    from streams.identities import split as ask  # noqa: PLC0415

    settings = settings_from(config, assign, kafka__broker=broker, kafka__prefix=prefix, redis__url=redis)
    done = wait_for(ask(settings, _hashed(identifier, settings) if email else identifier, wait_s(wait, deadline)))
    if as_json:
        print_json(done._asdict())
    elif done.done:
        typer.echo(f"split: {done.person_id} is {done.now} from now on, and not {done.former}")
    else:
        typer.echo(f"asked: {done.person_id} is split from {done.former} as soon as the workers read it")
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
