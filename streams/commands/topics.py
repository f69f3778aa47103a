"""`touchstream topics plan|apply`: what the cluster lacks, and making it so."""

from typing import TYPE_CHECKING, Annotated

import typer

from streams.commands.common import (
    AsJson,
    Assign,
    Broker,
    Config,
    Partitions,
    Prefix,
    print_json,
    print_rows,
    settings_from,
    wait_for,
)

if TYPE_CHECKING:
    from streams.settings import Settings
    from streams.topics import Difference

app = typer.Typer(no_args_is_help=True, help="Compare the topics with the cluster, and create what is missing.")
Acls = Annotated[bool, typer.Option("--acls", help="Print the rights needed in Kafka and Redis instead; asks nobody.")]
Replication = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Copies of each partition; default 3, or all brokers.")
]


@app.command()
def plan(
    *,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    assign: Assign = None,
    partitions: Partitions = None,
    acls: Acls = False,
    as_json: AsJson = False,
) -> int:
    """Show what apply would do. Exit code 1 if there is anything to do."""
    from streams import topics  # noqa: PLC0415

    settings = settings_from(config, assign, kafka__broker=broker, kafka__prefix=prefix)
    if acls:
        return _print_acls(settings, as_json)
    found = wait_for(topics.plan(settings, _checked(partitions)))
    _print(found, as_json, applied=False)
    return 1 if found else 0


@app.command()
def apply(
    *,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    assign: Assign = None,
    partitions: Partitions = None,
    replication: Replication = None,
    as_json: AsJson = False,
) -> int:
    """Create missing topics and mend settings. Never changes the partitions of a topic that exists."""
    from streams import topics  # noqa: PLC0415

    settings = settings_from(config, assign, kafka__broker=broker, kafka__prefix=prefix)
    found = wait_for(topics.apply(settings, _checked(partitions), replication))
    blocked = any(difference.blocking for difference in found)
    _print(found, as_json, applied=not blocked)
    return 1 if blocked else 0


def _checked(partitions: int | None) -> int | None:
    from streams.topics import check_partitions  # noqa: PLC0415

    return None if partitions is None else check_partitions(partitions)


def _print_acls(settings: "Settings", as_json: bool) -> int:
    from streams import acls  # noqa: PLC0415

    if as_json:
        print_json(acls.as_dict(settings))
    else:
        typer.echo("\n".join(acls.lines(settings)))
    return 0


def _print(found: "list[Difference]", as_json: bool, applied: bool) -> None:
    if as_json:
        print_json({"applied": applied, "differences": [each.as_dict() for each in found]})
    elif not found:
        typer.echo("all topics are as they should be")
    else:
        print_rows(_row(each, applied) for each in found)


def _row(each: "Difference", applied: bool) -> tuple[str, str, str]:
    if each.blocking:
        return "!", each.topic, f"{each.setting} {each.found}, wanted {each.wanted}: {each.fix}"
    if each.kind == "missing":
        return "+", each.topic, f"{'created' if applied else 'create'} with {each.wanted} partitions"
    change = f"{each.setting} {each.found} -> {each.wanted}"
    return "~", each.topic, f"{'changed' if applied else 'change'} {change}"
