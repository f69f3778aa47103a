"""Settings: precedence, hints, line numbers, and values that cannot be."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from models.filters import OF_CONVERSION, OF_TOUCH, ConditionTable, FilterTable
from models.filters import Reason as FilterReason
from streams.errors import SettingsError, render
from streams.settings import Settings, addresses, load_settings
from streams.settings_sources import Layer as Source
from streams.settings_sources import line_of, merge, nest, parse_assignment


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "touchstream.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path | None = None, environ: dict[str, str] | None = None, **overrides: object) -> str:
    """The blocks of a refusal, as text."""
    with pytest.raises(SettingsError) as caught:
        load_settings(path, nest_names(overrides), environ or {})
    assert caught.value.exit_code == 2
    return render(caught.value, colour=False)


def nest_names(overrides: dict[str, object]) -> dict[str, object]:
    return {name.replace("__", "."): value for name, value in overrides.items()}


def test_without_anything_the_defaults_of_the_contract_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no variable, no flag: 30 d lookback, settle 250 ms, prefix touchstream, and no web port asked for."""
    monkeypatch.chdir(tmp_path)
    settings = load_settings(environ={})
    assert settings.policy().lookback_default_ms == 30 * 86_400_000
    assert settings.processing.settle == 250
    assert settings.kafka.prefix == "touchstream"
    assert settings.web.port is None
    assert settings.origin(("kafka", "prefix")) == "default"


def test_command_line_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    """Each source wins over those after it, setting by setting, and says where the value came from."""
    path = write(tmp_path, '[kafka]\nprefix = "file"\nbroker = "kafka://file:1"\n[web]\nport = 7000\n')
    environ = {"TOUCHSTREAM_KAFKA__PREFIX": "env", "TOUCHSTREAM_KAFKA__BROKER": "kafka://env:1"}
    settings = load_settings(path, {"kafka.prefix": "flag"}, environ)
    assert (settings.kafka.prefix, settings.kafka.broker, settings.web.port) == ("flag", "kafka://env:1", 7000)
    assert settings.origin(("kafka", "prefix")) == "command line"
    assert settings.origin(("kafka", "broker")) == "TOUCHSTREAM_KAFKA__BROKER"
    assert settings.origin(("web", "port")) == f"{path}:5"
    assert settings.origin(("web", "host")) == "default"


def test_the_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    """TOUCHSTREAM_CONFIG names the file where --config does not."""
    path = write(tmp_path, "[web]\nport = 7000\n")
    assert load_settings(environ={"TOUCHSTREAM_CONFIG": str(path)}).web.port == 7000


def test_tables_of_the_core_can_be_set_in_the_environment() -> None:
    """`__` reaches into dictionaries of tables; lists are JSON."""
    environ = {
        "TOUCHSTREAM_MODELS__TIME_DECAY__HALF_LIFE": "3d",
        "TOUCHSTREAM_ATTRIBUTION__MODELS": '["time_decay"]',
        "TOUCHSTREAM_CONVERSIONS__LEAD__CREDITED": "false",
    }
    policy = load_settings(environ=environ).policy()
    assert policy.effective()["models"]["time_decay"]["half_life"] == "3d"
    assert not policy.credited("lead")


def test_every_unknown_key_is_told_with_its_line_and_the_nearest_name(tmp_path: Path) -> None:
    """Keys of the shell, of the core, in a table written in a line, and whole sections: one block each."""
    text = (
        '[attribution]\nlookbak = "30d"\n[models.time_decay]\nhalf_lif = "3d"\n'
        '[kafka]\nsecurity = { usernam = "x" }\n[kafak]\nbroker = "b"\n'
    )
    path = write(tmp_path, text)
    blocks = refused(path)
    assert blocks.count("error[T124]") == 4
    for line, key, hint in (
        (2, "attribution.lookbak", "lookback"),
        (4, "models.time_decay.half_lif", "half_life"),
        (6, "kafka.security.usernam", "username"),
        (7, "kafak", "kafka"),
    ):
        assert f"where: {path}:{line}, {key}" in blocks
        assert f'did you mean "{hint}"' in blocks.replace("'", '"')


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[attribution]\nlookback = "30 days"\n', "not a duration"),
        ('[processing]\nsettle = "2h"\n', "less than or equal to"),
        ('[kafka]\nprefix = "a_b"\n', "letters, digits, - and dots"),
        ('[kafka]\nbroker = "http://a:1"\n', "kafka://host:port"),
        ('[redis]\nurl = "localhost"\n', "redis://host:port"),
        ('[credits]\nenvelope = "connect"\n', "not there yet"),
        ("[models.position_based]\nfirst = 0.6\nlast = 0.6\n", "more than 1"),
        ('[attribution]\nmodels = ["linaer"]\n', "did you mean 'linear'"),
        ("[web]\nport = 70000\n", "65535"),
        ('[conversions.lead]\ncredited = false\ncount = "first"\n', "credited = false that none are"),
        ('[conversions.order]\ncount = "frist"\n', "'every' or 'first'"),
        ('[redis]\nurl = "redis://h/2"\ncluster = true\n', "database 0 only"),
    ],
)
def test_values_that_cannot_be_are_refused_with_a_reason(tmp_path: Path, text: str, told: str) -> None:
    """Each wrong value is refused with exit code 2 and words that say what is right."""
    assert told in refused(write(tmp_path, text))


FILTERS = """
[[filters]]
name = "test orders"
drop = "conversion"
[[filters.when]]
field = "properties.email"
ends_with = "@example.com"

[[filters]]
name = "internal"
drop = "both"
[[filters.when]]
field = "type"
equals = "x"
[[filters.when]]
field = "properties.ip"
start_with = "10."

[[filters]]
name = "consent"
drop = "touch"
reason = "consnt"
when = [{ field = "properties.consent", equals = "granted", negat = true }]

[[filters]]
name = "nowhere"
drop = "conversion"
[[filters.when]]
field = "chanel"
equals = "x"
"""


def test_what_is_wrong_with_a_filter_is_told_with_the_line_of_that_filter(tmp_path: Path) -> None:
    """Of several filters with the same keys, the one at fault is named by its line."""
    path = write(tmp_path, FILTERS)
    blocks = refused(path)
    for line, key, told in (
        (17, "filters.when.start_with", "did you mean 'starts_with'?"),
        (22, "filters.reason", "'test', 'internal', 'consent' or 'other'"),
        (23, "filters.when.negat", "did you mean 'negate'?"),
        (25, "filters", "conversions have no field 'chanel'"),
    ):
        assert f"where: {path}:{line}, {key}" in blocks
        assert told in blocks
    assert blocks.count("error[") == 4


def test_filters_are_read_from_a_file_and_from_the_environment(tmp_path: Path) -> None:
    """In the order in which they stand; in the environment they are JSON, and take the place of those in the file."""
    text = FILTERS.replace("start_with", "starts_with").replace("consnt", "consent").replace("negat =", "negate =")
    path = write(tmp_path, text.replace("chanel", "action"))
    read = load_settings(path, environ={})
    assert [each.name for each in read.filters] == ["test orders", "internal", "consent", "nowhere"]
    assert [filtered.name for filtered, _ in read.compiled_filters().touches] == ["internal", "consent"]
    assert read.policy() == Settings().policy(), "filters are no part of the policy"
    environ = {"TOUCHSTREAM_FILTERS": '[{"name":"a","drop":"touch","when":[{"field":"type","equals":"x"}]}]'}
    assert [each.name for each in load_settings(path, environ=environ).filters] == ["a"]


def test_a_file_that_is_no_toml_is_told_with_its_line(tmp_path: Path) -> None:
    """A slip in the syntax names the line."""
    path = write(tmp_path, "[kafka]\nprefix = touchstream\n")
    assert f"{path}:2" in refused(path)


def test_a_named_file_has_to_be_there(tmp_path: Path) -> None:
    """A --config that does not exist is no reason to go on with defaults."""
    assert "T121" in refused(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("TOUCHSTREAM_KAFKAA__BROKER", "x", 'did you mean "kafka"'),
        ("TOUCHSTREAM_KAFKA__BROKR", "x", 'did you mean "broker"'),
        ("TOUCHSTREAM_ATTRIBUTION__MODELS", "linear", "JSON"),
        ("TOUCHSTREAM_PROCESSING__SETTLE", "soon", "TOUCHSTREAM_PROCESSING__SETTLE"),
    ],
)
def test_wrong_variables_are_told_by_name(name: str, value: str, told: str) -> None:
    """A variable that no setting has, or with a value that cannot be, is an error too."""
    assert told in refused(environ={name: value})


def test_variables_that_are_no_settings_are_left_alone() -> None:
    """Kubernetes makes TOUCHSTREAM_PORT for a service of our name; that must not stop a worker."""
    load_settings(environ={"TOUCHSTREAM_PORT": "tcp://10.0.0.1:6066", "TOUCHSTREAM_DEBUG": "1"})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("kafka://a:9092;kafka://b:9093", [("a", 9092), ("b", 9093)]),
        ("kafka://a", [("a", 9092)]),
        ("a:1;b", [("a", 1), ("b", 9092)]),
        ("kafka://[::1]:9092", [("[::1]", 9092)]),
    ],
)
def test_brokers_are_read_as_people_write_them(text: str, found: list[tuple[str, int]]) -> None:
    """One or several brokers, with or without scheme and port."""
    assert addresses(text) == found


@pytest.mark.parametrize("text", ["", ";", "kafka://", "kafka://a:0", "kafka://a:99999", "a b", "redis://a:1"])
def test_what_is_no_broker_is_refused(text: str) -> None:
    """Nothing that a client could not connect to gets through."""
    with pytest.raises(ValueError, match=r"broker|kafka://"):
        addresses(text)


def test_security_follows_from_what_is_given(tmp_path: Path) -> None:
    """A username means SASL, a CA means TLS, both mean both; passwords never show."""
    settings = load_settings(None, {"kafka.security.username": "u", "kafka.security.password": "secret"}, {})
    options = settings.kafka.client_options()
    assert options["security_protocol"] == "SASL_PLAINTEXT"
    assert options["sasl_plain_password"] == "secret"
    assert "secret" not in repr(settings)
    assert "secret" not in str(settings.model_dump(mode="json"))
    missing = {"kafka.security.ca_file": str(tmp_path / "none.pem")}
    with pytest.raises(SettingsError, match="TLS file"):
        load_settings(None, missing, {}).kafka.client_options()


def test_the_password_in_a_redis_address_is_not_shown() -> None:
    """`shown` is what logs and `config show` print."""
    settings = load_settings(None, {"redis.url": "redis://:hunter2@h:6379/0"}, {})
    assert settings.redis.shown() == "redis://:**********@h:6379/0"


def test_the_contracts_own_example_is_accepted_once_later_kinds_are_out(tmp_path: Path) -> None:
    """The table of `contract.md` section 4 is read as it stands, without the milestone attribution model."""
    text = """
[attribution]
models = ["first_touch", "last_touch", "last_non_direct", "linear", "position_based", "time_decay"]
lookback = "30d"
allowed_lateness = "7d"
corrections = "90d"
journey = "person"
touch_reuse = "reuse"
direct = "count"
exclude_channels = []
repeats_by = "channel"
repeats = "keep"
short_path = "normalise_ends"
max_touches = 500
journey_touches_max = 10000
currency = "USD"
[attribution.lookback_by_touch_type]
impression = "1d"
[conversions.lead]
credited = false
milestone = "lead"
[conversions.order]
value = "10.00"
lookback = "90d"
[models.position_based]
kind = "position_based"
first = 0.4
last = 0.4
[processing]
settle = "250ms"
[kafka]
broker = "kafka://localhost:9092"
prefix = "touchstream"
[redis]
url = "redis://localhost:6379/0"
[web]
host = "127.0.0.1"
port = 6066
"""
    settings = load_settings(write(tmp_path, text), environ={})
    assert settings.policy().retention_ms == 97 * 86_400_000
    assert settings.web.port == 6066


def test_the_schema_for_editors_names_every_section() -> None:
    """`config schema` describes all tables and allows no others."""
    schema = Settings.model_json_schema()
    assert set(schema["properties"]) == set(Settings.model_fields)
    assert schema["additionalProperties"] is False


def test_what_the_command_line_gave_can_be_told_to_a_worker() -> None:
    """`given` repeats the flags, without those that were not given."""
    settings = load_settings(None, {"kafka.prefix": "p", "web.port": None}, {})
    assert settings.given == {"kafka.prefix": "p"}


def test_layers_merge_key_by_key_and_the_last_one_wins() -> None:
    """A table is merged, any other value is replaced."""
    layers = [Source("a", {"t": {"x": 1, "y": [1, 2]}}), Source("b", {"t": {"y": [3]}})]
    merged = merge(layers)
    assert merged.values == {"t": {"x": 1, "y": [3]}}
    assert [merged.layer_of(("t", key)).origin for key in "xy"] == ["a", "b"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("loc", "line"),
    [
        (("a",), 1),
        (("a", "k"), 2),
        (("a", "b"), 4),
        (("a", "b", "inner"), 5),
        (("a", "b", "inner", "deep"), 5),
        (("a", "b", "unwritten"), 4),
        (("q", "dotted"), 7),
        (("nowhere",), None),
    ],
)
def test_the_line_of_a_setting_is_found(loc: tuple[str, ...], line: int | None) -> None:
    """Tables, keys, tables in a line and dotted keys; else the nearest table around it."""
    text = '[a]\nk = 1  # comment\n\n[a.b]\ninner = { deep = 1, other = 2 }\n["q"]\ndotted.more = 1\n'
    assert line_of(text, loc) == line


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a.b=1", ("a.b", 1)),
        ("a.b=30d", ("a.b", "30d")),
        ('a.b="30d"', ("a.b", "30d")),
        ('a.b=["x"]', ("a.b", ["x"])),
        ("a.b=redis://h/0?x=y", ("a.b", "redis://h/0?x=y")),
    ],
)
def test_set_takes_toml_or_plain_text(text: str, found: tuple[str, object]) -> None:
    """`--set` needs no quotes around text."""
    assert parse_assignment(text) == found


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", ""])
def test_set_without_key_or_value_is_refused(text: str) -> None:
    """What has no key or no value is a usage error."""
    with pytest.raises(SettingsError):
        parse_assignment(text)


def test_dotted_paths_become_tables() -> None:
    """None means not given, so that flags can be passed on as they are."""
    assert nest({"a.b.c": 1, "a.d": None, "a.b.e": 2}) == {"a": {"b": {"c": 1, "e": 2}}}


def documented() -> str:
    return (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("section", ["attribution", "processing", "kafka", "redis", "web", "credits"])
def test_every_setting_is_documented(section: str) -> None:
    """docs/configuration.md names each key of each table; a setting that nobody can find does not exist."""
    table = Settings.model_fields[section].annotation
    assert table is not None
    text = documented()
    assert f"`[{section}]`" in text
    missing = [name for name in table.model_fields if f"`{name}`" not in text]
    assert missing == []


def test_every_setting_of_a_filter_is_documented() -> None:
    """docs/counting.md names each key of a filter and of a condition, each field, and each reason."""
    text = (Path(__file__).parents[2] / "docs" / "counting.md").read_text(encoding="utf-8")
    names = [
        *FilterTable.model_fields,
        *ConditionTable.model_fields,
        *OF_TOUCH,
        *OF_CONVERSION,
        *get_args(FilterReason),
    ]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_filters_in_the_documentation_are_accepted(tmp_path: Path) -> None:
    """The files shown in docs/counting.md are read without an error."""
    text = (Path(__file__).parents[2] / "docs" / "counting.md").read_text(encoding="utf-8")
    examples = [part.partition("```")[0] for part in text.split("```toml\n")[1:]]
    for example in examples:
        load_settings(write(tmp_path, example), environ={})
    assert sum(example.count("[[filters]]") for example in examples) >= 3


def test_the_documented_example_is_accepted(tmp_path: Path) -> None:
    """The file shown in docs/configuration.md is read without an error."""
    example = documented().partition("```toml\n")[2].partition("```")[0]
    assert example.count("\n") > 5
    load_settings(write(tmp_path, example), environ={})


def test_the_documented_defaults_are_those_of_the_code() -> None:
    """Each row of the tables in docs/configuration.md gives the default that holds without a file."""
    rows = re.findall(r"^\| `([a-z_]+)` \| `([^`]+)` \|", documented(), re.MULTILINE)
    tables = [table for table in Settings().model_dump(mode="json").values() if isinstance(table, dict)]
    values = {key: value for table in tables for key, value in table.items()}
    wrong = {key: (told, values[key]) for key, told in rows if told not in (str(values[key]), json.dumps(values[key]))}
    assert len(rows) > 25
    assert wrong == {}
