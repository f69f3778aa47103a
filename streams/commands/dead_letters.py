"""`touchstream dead-letters accept`: what a person decides about records that could not be used."""

import dataclasses
from typing import Annotated

import typer

from streams.commands.common import (
    AsJson,
    Assign,
    Broker,
    Config,
    Prefix,
    Redis,
    print_json,
    print_rows,
    say,
    settings_from,
    wait_for,
)

app = typer.Typer(help="Records that could not be used.", no_args_is_help=True, rich_markup_mode=None)
Numbers = Annotated[
    list[int] | None, typer.Option("--partition", "-p", metavar="N", help="Only this one. Repeatable; default all.")
]


@app.callback()
def _group() -> None:
    """Records that could not be used."""


@app.command()
def accept(
    *,
    partitions: Numbers = None,
    broker: Broker = None,
    redis: Redis = None,
    prefix: Prefix = None,
    config: Config = None,
    assign: Assign = None,
    as_json: AsJson = False,
) -> int:
    """Let partitions go on that stopped because most of their records are dead letters.

    Those records go to the dead letters then. The partition stops again only after good ones have come.
    """
    from streams.accept import accept as accept_all  # noqa: PLC0415

    settings = settings_from(config, assign, kafka__broker=broker, kafka__prefix=prefix, redis__url=redis)
    found = wait_for(accept_all(settings, partitions or ()))
    if as_json:
        print_json({"stopped": [dataclasses.asdict(each) for each in found]})
        return 0
    print_rows([f"partition {each.partition}", each.done, each.why] for each in found)
    if not found:
        say("no partition has stopped: nothing to accept")
    return 0
