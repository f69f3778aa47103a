"""The settings of a worker: what is read from the command line, the environment and `touchstream.toml`.

The sections attribution, conversions, models (`models.policy`) and filters (`models.filters`) belong to the core, the
rest to the shell.
`load_settings` is the one way to get them; `Settings()` alone has the defaults and reads nothing.
Times are integer milliseconds once read.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as UnreadableVariable

from models.attribution.registry import ModelTables
from models.durations import DAY_MS, Duration
from models.filters import Filters, FilterTables
from models.formats import FORMAT, OLDEST
from models.policy import AttributionTable, ConversionTables, Policy, compile_policy
from streams.errors import SettingsError
from streams.settings_sources import Layer, Loc, Merged, line_of, merge, nearest, nest, read_file

ENV_PREFIX = "TOUCHSTREAM_"
FILE_DEFAULT = Path("touchstream.toml")
FILE_VARIABLE = "TOUCHSTREAM_CONFIG"
WEB_PORT_DEFAULT = 6066
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
# The tables of the core word unknown keys themselves; the key goes into the place, the hint into the fix.
_UNKNOWN_KEY = re.compile(r"Value error, unknown key '(?P<key>[^']*)'; (?P<hint>.*)")
# redis-py takes a user's password, and that of a client's key, from the query as well.
_QUERY_PASSWORD = re.compile(r"([?&](?:ssl_)?password=)[^&]*")
_MASK = "**********"
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,199}")


class Section(BaseModel):
    """A table of the file: unknown keys are errors, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ProcessingSettings(Section):
    """How batches are cut and how long things wait; results never depend on anything here but `settle`."""

    settle: Annotated[Duration, Field(ge=0, le=60_000, description="how long a conversion waits for its touches")] = 250
    workers: Annotated[int, Field(ge=1, le=256, description="worker processes that `run` supervises")] = 1
    fetch_records: Annotated[int, Field(ge=1, le=100_000, description="records of one fetched batch")] = 16_000
    step_records: Annotated[int, Field(ge=1, le=100_000, description="records of one step: a batch of state")] = 32_000
    held_max: Annotated[int, Field(ge=1, le=1_000_000, description="conversions of a partition held by the gate")] = (
        20_000
    )
    commit_interval: Annotated[Duration, Field(ge=100, le=60_000, description="longest time between commits")] = 5_000
    session_timeout: Annotated[Duration, Field(ge=6_000, le=300_000, description="silence that loses a worker")] = (
        10_000
    )
    retry_deadline: Annotated[Duration, Field(ge=1_000, le=300_000, description="how long an outage is waited for")] = (
        30_000
    )
    stop_deadline: Annotated[Duration, Field(ge=1_000, le=600_000, description="how long a stop may take")] = 25_000
    stuck_after: Annotated[
        Duration, Field(ge=10_000, le=3_600_000, description="records wait and none is done for so long: start again")
    ] = 120_000
    trip_wire: Annotated[bool, Field(description="a partition of mostly dead letters stops until accepted")] = True
    native: Annotated[bool, Field(description="use the compiled part of the hot path where it is installed")] = True
    republish: Annotated[bool, Field(description="start although store and offsets are gone and credits are not")] = (
        False
    )


class SecuritySettings(Section):
    """TLS and SASL towards Kafka. Without `protocol` it follows from what else is given."""

    protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    key_password: SecretStr | None = None
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    username: str | None = None
    password: SecretStr | None = None

    def effective_protocol(self) -> str:
        """The protocol in Kafka's spelling: SASL with a username, TLS with a CA or certificate."""
        if self.protocol:
            return self.protocol.upper()
        tls = self.ca_file is not None or self.cert_file is not None
        if self.username is not None:
            return "SASL_SSL" if tls else "SASL_PLAINTEXT"
        return "SSL" if tls else "PLAINTEXT"

    def client_options(self) -> dict[str, Any]:
        """Keyword arguments of an aiokafka client. Raises SettingsError if a TLS file cannot be used."""
        protocol = self.effective_protocol()
        options: dict[str, Any] = {"security_protocol": protocol}
        if protocol.endswith("SSL"):
            options["ssl_context"] = self._ssl_context()
        if protocol.startswith("SASL"):
            options["sasl_mechanism"] = self.mechanism
            options["sasl_plain_username"] = self.username
            options["sasl_plain_password"] = self.password.get_secret_value() if self.password else None
        return options

    def _ssl_context(self) -> Any:
        import ssl  # noqa: PLC0415  (only who uses TLS pays for it)

        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file:
                secret = self.key_password.get_secret_value() if self.key_password else None
                context.load_cert_chain(self.cert_file, self.key_file, secret)
        except OSError as error:  # ssl.SSLError is one
            fix = "give PEM files that this user may read"
            raise SettingsError("T126", "a TLS file cannot be used", "kafka.security", str(error), fix) from error
        return context


class KafkaSettings(Section):
    """The cluster, and the prefix that all topics, groups and transactional ids share."""

    broker: str = "kafka://localhost:9092"
    prefix: str = "touchstream"
    security: SecuritySettings = SecuritySettings()

    @field_validator("broker")
    @classmethod
    def _broker(cls, value: str) -> str:
        return ";".join(f"kafka://{host}:{port}" for host, port in addresses(value))

    @field_validator("prefix")
    @classmethod
    def _prefix(cls, value: str) -> str:
        if not _PREFIX.fullmatch(value):
            raise ValueError("a prefix has letters, digits, - and dots only, and starts with a letter or digit")
        return value

    def bootstrap_servers(self) -> list[str]:
        """`host:port` of each broker, as Kafka clients want them."""
        return [f"{host}:{port}" for host, port in addresses(self.broker)]

    def client_options(self) -> dict[str, Any]:
        """Keyword arguments for every aiokafka client: addresses and security."""
        return {"bootstrap_servers": self.bootstrap_servers(), **self.security.client_options()}


def addresses(broker: str) -> list[tuple[str, int]]:
    """(host, port) of `kafka://a:9092;kafka://b:9092`; the scheme may be left out, the port is then 9092.

    Raises ValueError for anything else.
    """
    found = [_address(part.strip()) for part in broker.split(";") if part.strip()]
    if not found:
        raise ValueError("name at least one broker, for example kafka://localhost:9092")
    return found


def _address(text: str) -> tuple[str, int]:
    scheme, separator, rest = text.rpartition("://")
    match = _ADDRESS.fullmatch(rest)
    if (separator and scheme != "kafka") or not match or not 0 < int(match["port"] or 9092) < 65536:
        raise ValueError(f"{text!r} is not kafka://host:port (several are separated by semicolons)")
    return match["host"], int(match["port"] or 9092)


class RedisSettings(Section):
    """The store of journeys. It must run with `maxmemory-policy noeviction`."""

    url: str = "redis://localhost:6379/0"
    # The store finds out by itself; said here, a URL that no cluster can have is refused before anything starts.
    cluster: bool = False

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if not re.match(r"(redis|rediss|unix)://.", value):
            raise ValueError("a Redis address is redis://host:port/db, rediss://… for TLS, or unix:///path")
        return value

    @field_validator("cluster")
    @classmethod
    def _cluster(cls, value: bool, info: ValidationInfo) -> bool:
        url = urlsplit(info.data.get("url", ""))
        if value and (url.scheme == "unix" or url.path.strip("/") not in ("", "0") or "db=" in url.query):
            raise ValueError("a Redis Cluster has database 0 only and is reached by redis:// or rediss://")
        return value

    def shown(self) -> str:
        """The address without its passwords, for logs and pages. Other secrets are masked by pydantic."""
        password = urlsplit(self.url).password
        url = self.url.replace(f":{password}@", f":{_MASK}@") if password else self.url
        return _QUERY_PASSWORD.sub(rf"\1{_MASK}", url)


class WebSettings(Section):
    """Metrics, probes and pages. Without a port 6066 is tried, then any free one."""

    host: str = "127.0.0.1"
    port: Annotated[int | None, Field(ge=0, le=65535)] = None


class CreditsSettings(Section):
    """How credits are written and how long Kafka keeps them."""

    envelope: Literal["plain", "connect"] = "plain"
    retention: Annotated[Duration, Field(ge=DAY_MS)] = 400 * DAY_MS

    @field_validator("envelope")
    @classmethod
    def _envelope(cls, value: str) -> str:
        if value == "connect":
            raise ValueError('"connect" is not there yet; use "plain"')
        return value


class IdentitySettings(Section):
    """Who is who: the stage that resolves raw events and merges journeys. `email_key` keys the hashes of addresses."""

    enabled: bool = True
    email_key: SecretStr = SecretStr("")
    ids_max: Annotated[int, Field(ge=1, le=10_000)] = 50


class StateSettings(Section):
    """How state is written (`models/formats.py`). A later format is named when every worker can read it."""

    format: int = OLDEST

    @field_validator("format")
    @classmethod
    def _format(cls, value: int) -> int:
        if not OLDEST <= value <= FORMAT:
            known = " or ".join(map(str, range(OLDEST, FORMAT + 1)))
            raise ValueError(f"this version of Touchstream writes format {known}; another one writes {value}")
        return value


class Settings(BaseSettings):
    """All sections. Built by `load_settings`, or with defaults by `Settings()`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        title="touchstream.toml",
    )

    attribution: AttributionTable = AttributionTable()
    conversions: ConversionTables = {}
    models: ModelTables = {}
    filters: FilterTables = ()
    processing: ProcessingSettings = ProcessingSettings()
    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    web: WebSettings = WebSettings()
    credits: CreditsSettings = CreditsSettings()
    identity: IdentitySettings = IdentitySettings()
    state: StateSettings = StateSettings()

    _merged: Merged = PrivateAttr(default_factory=Merged)
    _given: dict[str, Any] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed in: `load_settings` reads the sources, as it keeps where a value came from."""
        return (init_settings,)

    def policy(self) -> Policy:
        """The frozen policy of the core. Raises SettingsError where sections contradict each other."""
        try:
            return compile_policy(self.attribution, self.conversions, self.models)
        except ValueError as error:
            raise SettingsError("T123", "the attribution policy cannot be", "attribution", str(error)) from error

    def compiled_filters(self) -> Filters:
        """What leaves records out. It is no part of the policy: it acts on records as they are read."""
        return Filters.of(self.filters)

    @property
    def given(self) -> dict[str, Any]:
        """What came from the command line, by dotted path: what a worker process has to be told again."""
        return dict(self._given)

    def origin(self, loc: Loc) -> str:
        """Where a value came from: command line, a variable, file:line, or default."""
        layer = self._merged.layer_of(loc)
        return _place(layer, loc) if layer else "default"


def load_settings(
    config_path: Path | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Settings by precedence: overrides (command line), environment, file, defaults.

    config_path: the file; None takes TOUCHSTREAM_CONFIG, else `touchstream.toml` here if there is one.
    overrides: dotted paths, `{"kafka.broker": "kafka://a:9092"}`; None as a value means not given.
    environ: the variables to read, for tests; None takes those of the process.
    Raises SettingsError with a block for each thing that is wrong.
    """
    variables = os.environ if environ is None else environ
    layers = [_file_layer(config_path, variables), _environment_layer(variables)]
    layers.append(Layer("command line", nest(overrides or {})))
    merged = merge(layers)
    try:
        settings = Settings(**merged.values)
    except ValidationError as error:
        raise SettingsError.of(_blocks(error, merged)) from error
    settings._merged = merged
    settings._given = {path: value for path, value in (overrides or {}).items() if value is not None}
    settings.policy()
    return settings


def _file_layer(config_path: Path | str | None, variables: Mapping[str, str]) -> Layer:
    named = config_path or variables.get(FILE_VARIABLE)
    if named:
        return read_file(Path(named))
    return read_file(FILE_DEFAULT) if FILE_DEFAULT.exists() else Layer(str(FILE_DEFAULT), {})


def _environment_layer(variables: Mapping[str, str]) -> Layer:
    """The variables with our prefix and `__`; others are not settings (Kubernetes makes some)."""
    ours = {k: v for k, v in variables.items() if k.upper().startswith(ENV_PREFIX)}
    for name in ours:
        section, nested, _ = name[len(ENV_PREFIX) :].lower().partition("__")
        if nested and section not in Settings.model_fields:
            hint = nearest(section, Settings.model_fields)
            raise SettingsError("T124", f'unknown section "{section}"', name, "no setting has this name", hint)
    source = EnvSettingsSource(Settings)
    source.env_vars = {k.lower(): v for k, v in ours.items()}
    try:
        return Layer("environment", source())
    except UnreadableVariable as error:
        fix = "lists and tables are written as JSON: '[\"linear\"]'"
        raise SettingsError("T123", "a variable cannot be read", "environment", str(error), fix) from error


def _blocks(error: ValidationError, merged: Merged) -> Iterable[SettingsError]:
    """A block for each fault, in the order of the file's lines."""
    faults = [_fault(detail, merged) for detail in error.errors(include_url=False)]
    faults.sort(key=lambda fault: fault[0])
    return [block for _, block in faults]


def _fault(detail: ErrorDetails, merged: Merged) -> tuple[int, SettingsError]:
    """The line in the file, 0 where it is in none, and the block."""
    loc = _real_loc(detail["loc"], merged.values)
    told = _UNKNOWN_KEY.match(detail["msg"])
    if told:
        loc = (*loc, told["key"])
    layer = merged.layer_of(loc)
    layer = _around(layer, detail["loc"]) if layer else None
    line, where = (line_of(layer.text, loc) or 0) if layer else 0, _where(loc, layer)
    if told or detail["type"] == "extra_forbidden":
        hint = told["hint"] if told else nearest(loc[-1], _names_at(loc[:-1]))
        return line, SettingsError("T124", f'unknown key "{".".join(loc)}"', where, "no setting has this name", hint)
    what = f'the value of "{".".join(loc)}" is not accepted'
    fix = "touchstream config schema says what may stand there"
    return line, SettingsError("T123", what, where, _why(detail), fix)


def _around(layer: Layer, loc: tuple[int | str, ...]) -> Layer:
    """The file without the other tables of an array such as `[[filters]]`, its lines where they were."""
    lines = layer.text.splitlines()
    path: list[str] = []
    for step in loc:
        if isinstance(step, str):
            path.append(step)
            continue
        header = re.compile(rf"\s*\[\[\s*{re.escape('.'.join(path))}\s*\]\]")
        starts = [number for number, line in enumerate(lines) if header.match(line)]
        if step >= len(starts):
            break
        end = starts[step + 1] if step + 1 < len(starts) else len(lines)
        lines = ["" if not starts[step] <= number < end else line for number, line in enumerate(lines)]
    return replace(layer, text="\n".join(lines))


def _why(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    given = detail["input"]
    # A table as input would print everything around the fault, a password among it.
    tell = isinstance(given, str | int | float) and repr(given) not in message
    return f"{message} (it is {given!r})" if tell else message


def _where(loc: Loc, layer: Layer | None) -> str:
    return f"{_place(layer, loc)}, {'.'.join(loc)}" if layer else ".".join(loc)


def _place(layer: Layer, loc: Loc) -> str:
    if layer.origin == "environment":
        return ENV_PREFIX + "__".join(loc).upper()
    return layer.place(loc)


def _real_loc(loc: tuple[int | str, ...], values: Mapping[str, Any]) -> Loc:
    """The path without what pydantic adds for its own sake: tags of unions, `[key]`, places in lists."""
    path: list[str] = []
    table: Any = values
    for step in loc:
        if isinstance(table, Mapping) and step in table:
            path.append(str(step))
            table = table[step]
        elif isinstance(table, list) and isinstance(step, int) and step < len(table):
            table = table[step]
    missing = isinstance(table, Mapping) and loc and str(loc[-1]) not in path
    return (*path, str(loc[-1])) if missing and isinstance(loc[-1], str) else tuple(path)


def _names_at(loc: Loc) -> set[str]:
    """The names that are known inside a table, for the hint: fields of all classes that may stand there."""
    types: list[Any] = [Settings]
    for step in loc:
        types = [inner for each in types for inner in _inside(each, step)]
    return {field.alias or name for each in types if _is_section(each) for name, field in each.model_fields.items()}


def _inside(each: Any, step: str) -> list[Any]:
    """The types that may stand behind a key: of a section its field, of a dict its values."""
    if get_origin(each) is dict:
        return _members(get_args(each)[1])
    if not _is_section(each):
        return []
    found = (field for name, field in each.model_fields.items() if step in (name, field.alias))
    return [member for field in found for member in _members(field.annotation)]


def _members(annotation: Any) -> list[Any]:
    """`A | B` and `Annotated[A | B, …]` → A, B."""
    if _is_section(annotation) or get_origin(annotation) in (None, dict):
        return [annotation]
    arguments = get_args(annotation)
    return [member for each in arguments for member in _members(each)]


def _is_section(each: Any) -> bool:
    return isinstance(each, type) and issubclass(each, BaseModel)
