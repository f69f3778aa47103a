"""The command: help, exit codes, blocks on stderr, JSON on stdout, and no commands before their time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from streams import embedded
from streams.cli import main
from streams.commands import work
from streams.options import ReplayOptions
from streams.topics import TABLE

ROOT = Path(__file__).parents[2]
COMMANDS = [
    *("demo", "run", "replay", "simulate", "doctor", "channel", "topics", "config", "schema"),
    *("explain", "forget", "identity", "journey", "dead-letters"),
]
NESTED = [
    ["topics", "plan"],
    ["topics", "apply"],
    ["dead-letters", "accept"],
    ["config", "check"],
    ["config", "show"],
    ["config", "schema"],
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings file of the developer may decide a test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOUCHSTREAM_DEBUG", raising=False)
    monkeypatch.delenv("TOUCHSTREAM_CONFIG", raising=False)


@pytest.fixture
def broker(embedded_broker: embedded.Broker) -> str:
    return embedded_broker.url


def listed(help_text: str) -> list[str]:
    lines = help_text.partition("Commands:\n")[2].splitlines()
    return [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]


def test_exactly_the_commands_of_this_version_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of later commands must not exist yet."""
    assert main(["--help"]) == 0
    assert sorted(listed(capsys.readouterr().out)) == sorted(COMMANDS)


@pytest.mark.parametrize("command", [[name] for name in COMMANDS] + [*NESTED, ["schema", "export"]])
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """--help says how to use it, and ends with 0."""
    assert main([*command, "--help"]) == 0
    assert f"Usage: touchstream {' '.join(command)}" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    """`touchstream --help` answers at once because it loads neither Faust, pydantic, aiokafka, redis nor rich."""
    heavy = {"faust", "pydantic", "pydantic_settings", "aiokafka", "redis", "rich", "msgspec", "asyncio"}
    code = (
        "import sys; from streams.cli import main; main(['--help']); "
        f"print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fit"], "No such command 'fit'"),
        (["topcis", "plan"], "Did you mean 'topics'"),
        (["topics", "plan", "--partitions", "many"], "--partitions"),
        (["topics", "plan", "--partitions", "0"], "between 1 and 10000"),
        (["channel", "--sauce", "x"], "No such option"),
        (["replay", "--touches", "t"], "Missing option"),
        (["config", "show", "--set", "kafka"], "--set needs"),
        (["config", "show", "--set", "kafka.prefx=x"], 'did you mean "prefix"'),
        (["config", "show", "--config", "none.toml"], "cannot be read"),
        (["replay", "--touches", "-", "--conversions", "-", "--credits", "c"], "only one input can be stdin"),
    ],
)
def test_usage_errors_are_one_block_and_exit_code_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is wrong with the command line or a setting: a block on stderr, nothing on stdout, exit code 2."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error[T1")
    assert printed.err.count("error[") == 1
    assert told in printed.err


def test_no_broker_is_exit_code_3(unused_tcp_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Cannot connect is 3, with the address and a fix."""
    assert main(["topics", "plan", "--broker", f"kafka://127.0.0.1:{unused_tcp_port}"]) == 3
    assert f"where: kafka://127.0.0.1:{unused_tcp_port}" in capsys.readouterr().err


def test_an_unexpected_exception_is_a_block(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A defect is T900 with exit code 1; its trace only with TOUCHSTREAM_DEBUG=1."""
    monkeypatch.setattr("models.channel.enrich", broken)
    assert main(["channel", "--source", "x"]) == 1
    printed = capsys.readouterr().err
    assert "error[T900]" in printed
    assert "ZeroDivisionError" in printed
    assert "Traceback" not in printed
    monkeypatch.setenv("TOUCHSTREAM_DEBUG", "1")
    assert main(["channel", "--source", "x"]) == 1
    assert "Traceback" in capsys.readouterr().err


def broken(**_: object) -> None:
    raise ZeroDivisionError("for the test")


def test_channel_says_channel_and_rule(capsys: pytest.CaptureFixture[str]) -> None:
    """The contract's two fields are there, and JSON is all there is on stdout."""
    assert main(["channel", "--source", "google", "--medium", "cpc", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["channel"] == "Paid Search"
    assert found["rule"]


def test_config_check_tells_all_errors_and_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two mistakes are two blocks; with --json a list of the same."""
    path = tmp_path / "bad.toml"
    path.write_text("[web]\nprot = 1\n[kafka]\nprefix = 'a b'\n", encoding="utf-8")
    assert main(["config", "check", str(path)]) == 2
    assert capsys.readouterr().err.count("error[") == 2
    assert main(["config", "check", "--config", str(path), "--json"]) == 2
    errors = json.loads(capsys.readouterr().out)["errors"]
    assert [error["code"] for error in errors] == ["T124", "T123"]
    assert errors[0]["where"] == f"{path}:2, web.prot"


def test_config_check_of_a_good_file_ends_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the version of the policy, by which credits are stamped."""
    path = tmp_path / "good.toml"
    path.write_text('[attribution]\nlookback = "14d"\n', encoding="utf-8")
    assert main(["config", "check", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    assert found["policy_version"]


def test_config_show_prints_values_with_their_origin_and_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Flag, variable, file and default are told apart, and secrets are masked wherever they stand."""
    (tmp_path / "touchstream.toml").write_text(
        '[kafka.security]\nusername = "u"\npassword = "hunter2"\n', encoding="utf-8"
    )
    monkeypatch.setenv("TOUCHSTREAM_REDIS__URL", "redis://:hunter2@h:1/0")
    assert main(["config", "show", "--json", "--set", "attribution.lookback=7d"]) == 0
    text = capsys.readouterr().out
    shown = json.loads(text)
    assert shown["attribution.lookback"] == {"value": "7d", "origin": "command line"}
    assert shown["redis.url"]["origin"] == "TOUCHSTREAM_REDIS__URL"
    assert shown["kafka.security.username"]["origin"] == "touchstream.toml:2"
    assert shown["web.host"]["origin"] == "default"
    assert "hunter2" not in text
    assert main(["config", "show"]) == 0
    assert "hunter2" not in capsys.readouterr().out


def test_config_schema_is_a_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """Editors can read it: the sections are its properties, durations are text."""
    assert main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["properties"].keys() >= {"attribution", "kafka", "redis"}
    assert schema["$defs"]["ProcessingSettings"]["properties"]["settle"]["type"] == "string"


def test_topics_plan_finds_apply_makes_and_plan_is_quiet(broker: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A finding is exit code 1; after apply there is none."""
    at = ["--broker", broker, "--prefix", "cli"]
    assert main(["topics", "plan", *at, "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["differences"]) == len(TABLE)
    assert main(["topics", "apply", *at, "--partitions", "2"]) == 0
    assert "created with 2 partitions" in capsys.readouterr().out
    assert main(["topics", "plan", *at]) == 0
    assert capsys.readouterr().out == "all topics are as they should be\n"
    assert main(["topics", "apply", *at, "--partitions", "3"]) == 1
    assert "the count is fixed for the life of a prefix" in capsys.readouterr().out


def test_main_ends_quietly_when_the_reader_has_gone() -> None:
    """`touchstream config schema | head -1` prints no error."""
    command = f"{sys.executable} -m streams.cli config schema | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr == ""
    assert done.stdout == "{\n"


def test_plain_takes_every_kind_of_summary() -> None:
    """Summaries of other modules are printed alike, whatever they are made of."""
    options = ReplayOptions(settings=None, touches="t", conversions="c", credits="o")  # type: ignore[arg-type]
    assert work.plain(options)["touches"] == "t"
    assert work.plain({"a": 1}) == {"a": 1}
