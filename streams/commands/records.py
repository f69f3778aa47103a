"""`touchstream channel` and `touchstream schema export`: questions about records that need no server."""

from pathlib import Path
from typing import Annotated

import typer

from streams.commands.common import AsJson, print_json, print_rows

schema_app = typer.Typer(no_args_is_help=True, help="JSON Schemas of all records.")


def channel(
    *,
    source: Annotated[str | None, typer.Option(help="utm_source.")] = None,
    medium: Annotated[str | None, typer.Option(help="utm_medium.")] = None,
    campaign: Annotated[str | None, typer.Option(help="utm_campaign.")] = None,
    url: Annotated[str | None, typer.Option(help="Landing page, with its query.")] = None,
    referrer: Annotated[str | None, typer.Option(help="The page before it.")] = None,
    as_json: AsJson = False,
) -> int:
    """Say which channel a touch has, and by which rule."""
    from models.channel import enrich  # noqa: PLC0415

    origin = enrich(source=source, medium=medium, campaign=campaign, url=url, referrer=referrer)
    shown = {name: value for name, value in origin._asdict().items() if value is not None}
    if as_json:
        print_json(shown)
    else:
        print_rows(shown.items())
    return 0


@schema_app.command("export")
def export(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Write one file a record there, in place of stdout.")
    ] = None,
) -> int:
    """Print the JSON Schemas of all records, or write each to a file."""
    import json  # noqa: PLC0415

    from models.records import schemas  # noqa: PLC0415

    found = schemas()
    if directory is None:
        print_json(found)
        return 0
    directory.mkdir(parents=True, exist_ok=True)
    for name, schema in sorted(found.items()):
        path = directory / f"{name}.json"
        path.write_text(json.dumps(schema, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        typer.echo(str(path))
    return 0
