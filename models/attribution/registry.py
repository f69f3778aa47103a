"""All kinds of attribution model and the built-in names. A new kind is one file and one line here."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints

from models.attribution.custom import CustomTable
from models.attribution.linear import LinearTable
from models.attribution.participation import ParticipationTable
from models.attribution.position_based import PositionBasedTable
from models.attribution.single import SingleTable
from models.attribution.table import AttributionModelTable, nearest
from models.attribution.time_decay import TimeDecayTable

KINDS: Mapping[str, type[AttributionModelTable]] = {
    "single": SingleTable,
    "linear": LinearTable,
    "position_based": PositionBasedTable,
    "time_decay": TimeDecayTable,
    "custom": CustomTable,
    "participation": ParticipationTable,
}

BUILT_IN: Mapping[str, Mapping[str, Any]] = {
    "first_touch": {"kind": "single", "pick": "first"},
    "last_touch": {"kind": "single", "pick": "last"},
    "last_non_direct": {"kind": "single", "pick": "last_non_direct"},
    "linear": {"kind": "linear"},
    "position_based": {"kind": "position_based", "first": "0.4", "last": "0.4"},
    "j_shaped": {"kind": "position_based", "first": "0.2", "last": "0.6"},
    "inverse_j": {"kind": "position_based", "first": "0.6", "last": "0.2"},
    "time_decay": {"kind": "time_decay", "half_life": "7d", "age_unit": "exact"},
    "participation": {"kind": "participation"},
}

# The contract names these too; saying that they are yet to come is better than "unknown".
LATER_KINDS = frozenset({"milestone", "markov", "shapley"})
LATER_NAMES = frozenset({"w_shaped", "full_path", "markov", "shapley"})

# The name is part of credit ids, record keys and metric labels.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]

KnownTable = Annotated[
    SingleTable | LinearTable | PositionBasedTable | TimeDecayTable | CustomTable | ParticipationTable,
    Field(discriminator="kind"),
]


def built_in(name: str) -> AttributionModelTable:
    """The table of a built-in name with its own defaults."""
    table = BUILT_IN[name]
    return KINDS[table["kind"]].model_validate(table)


def complete(tables: object) -> object:
    """The `[models.*]` tables with what built-in names need not say: their kind and their own defaults."""
    if not isinstance(tables, Mapping):
        return tables
    return {name: _complete_one(str(name), table) for name, table in tables.items()}


def _complete_one(name: str, table: object) -> object:
    if not isinstance(table, Mapping):
        return table
    defaults = BUILT_IN.get(name, {})
    kind = table.get("kind", defaults.get("kind"))
    if kind in LATER_KINDS or (kind is None and name in LATER_NAMES):
        raise ValueError(not_yet(f"[models.{name}]", kind or name))
    if kind is None:
        raise ValueError(f"[models.{name}] needs a kind: one of {', '.join(KINDS)}")
    if kind not in KINDS:
        raise ValueError(f"[models.{name}] has an unknown kind {kind!r}; {nearest(str(kind), KINDS)}")
    return {**defaults, **table} if kind == defaults.get("kind") else table


def not_yet(where: str, what: str) -> str:
    """What to say to a policy that names an attribution model of later work."""
    return f"{where}: this version does not have the attribution model {what!r} yet; leave it out"


ModelTables = Annotated[
    dict[Name, KnownTable],
    BeforeValidator(complete),
    Field(max_length=100),
]
