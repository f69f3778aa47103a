"""`touchstream explain`: why each touch of a conversion's journey has its credit, and the others none."""

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
    say,
    settings_from,
    wait_for,
)


def explain(
    conversion: Annotated[str, typer.Argument(metavar="CONVERSION", help="Its conversion_id.")],
    *,
    attribution_model: Annotated[
        str | None, typer.Option("--attribution-model", "-m", metavar="M", help="One of all; default all of them.")
    ] = None,
    person: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Whose it is (person or account), which spares the search of all credits."),
    ] = None,
    broker: Broker = None,
    redis: Redis = None,
    prefix: Prefix = None,
    config: Config = None,
    assign: Assign = None,
    as_json: AsJson = False,
) -> int:
    """Say why each touch has its credit.

    Every touch of the journey with its share, exact value and reason, every touch that got nothing with the reason,
    and the revisions of the credits with what caused each.
    """
    from streams.explain import check_attribution_model  # noqa: PLC0415
    from streams.explain import explain as find  # noqa: PLC0415
    from streams.told import document  # noqa: PLC0415

    settings = settings_from(config, assign, kafka__broker=broker, kafka__prefix=prefix, redis__url=redis)
    told = wait_for(find(settings, conversion, person, say))
    if attribution_model is not None:
        check_attribution_model(told, attribution_model)
    found = document(told, attribution_model)
    if as_json:
        print_json(found)
        return 0
    from streams.telling import explained  # noqa: PLC0415

    typer.echo("\n".join(explained(found)))
    return 0
