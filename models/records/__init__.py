"""The public contract: every record that goes in or out, in strict pydantic, and the JSON Schemas.

Unknown fields are ignored and null counts as absent everywhere, so that producers can move first.
"""

from models.records.inputs import Conversion, Cost, Identify, Touch
from models.records.output import Credit
from models.records.reading import read_record
from models.records.schemas import schema_files, schemas

__all__ = [
    "Conversion",
    "Cost",
    "Credit",
    "Identify",
    "Touch",
    "read_record",
    "schema_files",
    "schemas",
]
