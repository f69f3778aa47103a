"""`touchstream journey`: the touches and conversions of one person (or account), as the workers keep them."""

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
    settings_from,
    wait_for,
)


def journey(
    person: Annotated[str, typer.Argument(metavar="PERSON", help="Its person_id; account_id under account journeys.")],
    *,
    broker: Broker = None,
    redis: Redis = None,
    prefix: Prefix = None,
    config: Config = None,
    assign: Assign = None,
    as_json: AsJson = False,
) -> int:
    """Show a person's touches and conversions.

    What the journey holds now, by time: touches with their origin, conversions with their corrections folded in.
    """
    from streams.explain import find_journey  # noqa: PLC0415
    from streams.told import journey_document  # noqa: PLC0415

    settings = settings_from(config, assign, kafka__broker=broker, kafka__prefix=prefix, redis__url=redis)
    found = journey_document(wait_for(find_journey(settings, person)), settings.policy().journey)
    if as_json:
        print_json(found)
        return 0
    from streams.telling import journey as lines  # noqa: PLC0415

    typer.echo("\n".join(lines(found)))
    return 0
