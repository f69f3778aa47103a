"""The JSON Schemas of all records, generated from the pydantic descriptions; kept in `docs/schemas/`."""

import json
from typing import Any

from pydantic import BaseModel

from models.records.inputs import Conversion, Cost, Identify, Touch
from models.records.output import Credit
from models.records.raw import RawConversion, RawTouch

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_RECORDS: dict[str, type[BaseModel]] = {
    "touch": Touch,
    "conversion": Conversion,
    "raw-touch": RawTouch,
    "raw-conversion": RawConversion,
    "identify": Identify,
    "cost": Cost,
    "credit": Credit,
}


def schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema (2020-12) by record name: touch, conversion, raw-touch, raw-conversion, identify …"""
    return {name: {"$schema": DIALECT, **record.model_json_schema()} for name, record in _RECORDS.items()}


def schema_files() -> dict[str, str]:
    """File name → content of `docs/schemas/`."""
    return {
        f"{name}.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in schemas().items()
    }
