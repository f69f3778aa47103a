"""`touchstream forget`: keep nothing of a person any more, and take the person out of the credits."""

import dataclasses
from typing import Annotated

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
    say,
    settings_from,
    wait_for,
    wait_s,
)


def forget(
    person: Annotated[
        str,
        typer.Argument(
            metavar="PERSON",
            help="A user_id (account_id under account journeys), anonymous:<anonymous_id>, email:<hash>, or an e-mail "
            "address, which is hashed where identity.email_key is set.",
        ),
    ],
    *,
    email: Annotated[bool, typer.Option("--email", help="PERSON is an e-mail address.")] = False,
    literal: Annotated[bool, typer.Option("--id", help="PERSON is the id itself, even if it has an @ in it.")] = False,
    wait: Wait = True,
    deadline: Deadline = DEADLINE,
    broker: Broker = None,
    redis: Redis = None,
    prefix: Prefix = None,
    config: Config = None,
    assign: Assign = None,
    as_json: AsJson = False,
) -> int:
    """Forget a person.

    Touches, conversions and ids are deleted, the person's credits are published again without the person and with the
    same money, and what comes later of the same ids is dropped. There is no way back. What stays in Kafka, and for how
    long: docs/erasure.md.
    """
    from streams.errors import UsageError  # noqa: PLC0415
    from streams.forget import forget as ask  # noqa: PLC0415
    from streams.forget import person_of  # noqa: PLC0415

    settings = settings_from(config, assign, kafka__broker=broker, kafka__prefix=prefix, redis__url=redis)
    if email and literal:
        raise UsageError("T119", "PERSON is one of the two", "--email --id", "", "leave one of them out")
    done = wait_for(ask(settings, person_of(settings, person, email, literal), wait_s(wait, deadline), say))
    if as_json:
        print_json(dataclasses.asdict(done))
    elif done.done:
        typer.echo(f"forgotten: ids {done.ids} · conversions {done.conversions}, published again without the person")
    else:
        typer.echo(f"asked: the workers forget the person as soon as they read request {done.request}")
    return 0
