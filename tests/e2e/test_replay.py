"""`touchstream replay` on drawn worlds against the oracle, and the ways in and out of the command."""

import contextlib
import gzip
import json
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from redis import Redis

from streams import embedded
from streams.native import load
from tests.support import oracle, product, readers, worlds

WORLDS = 20
POLICIES = {
    "every rule-based attribution model": """
        [attribution]
        models = ["first_touch", "last_touch", "last_non_direct", "linear", "position_based",
                  "j_shaped", "inverse_j", "time_decay", "participation"]
        """,
    "reset, lookbacks and milestones": """
        [attribution]
        models = ["linear", "last_non_direct"]
        touch_reuse = "reset_after_conversion"
        lookback = "14d"
        [attribution.lookback_by_touch_type]
        impression = "1d"
        click = "45d"
        [conversions.order]
        lookback = "30d"
        value = "10.01"
        [conversions.lead]
        credited = false
        milestone = "lead"
        """,
    "direct and exclusion": """
        [attribution]
        models = ["linear", "last_non_direct", "position_based"]
        direct = "ignore_unless_alone"
        exclude_channels = ["EMAIL"]
        currency = "EUR"
        """,
    "adjacent repeats": """
        [attribution]
        models = ["linear", "j_shaped"]
        repeats = "collapse_adjacent"
        lookback = "7d"
        """,
    "first of a channel": """
        [attribution]
        models = ["linear", "time_decay"]
        repeats = "first_of_channel"
        """,
    "last of a campaign, after direct": """
        [attribution]
        models = ["linear", "inverse_j"]
        repeats = "last_of_channel"
        repeats_by = "campaign"
        direct = "ignore_unless_alone"
        """,
    "short paths, few touches, own weights": """
        [attribution]
        models = ["j_shaped", "inverse_j", "position_based", "mine", "ends"]
        short_path = "split_middle"
        max_touches = 3
        [models.position_based]
        kind = "position_based"
        first = 0.3
        last = 0.15
        [models.mine]
        kind = "custom"
        front = [0.37, 0.11]
        back = [0.2]
        [models.ends]
        kind = "position_based"
        first = 0
        last = 0
        """,
    "decay": """
        [attribution]
        models = ["time_decay", "fast", "daily"]
        allowed_lateness = "0s"
        [models.fast]
        kind = "time_decay"
        half_life = "90m"
        [models.daily]
        kind = "time_decay"
        half_life = "2d"
        age_unit = "1d"
        [processing]
        settle = "0s"
        """,
    "accounts": """
        [attribution]
        models = ["linear", "first_touch", "participation"]
        journey = "account"
        """,
}
LINEAR = '[attribution]\nmodels = ["linear"]\n'
TOUCHES = [
    '{"event_id":"t1","person_id":"ada","occurred_at":"2024-05-30T10:00:00Z","channel":"Email"}',
    '{"event_id":"t2","person_id":"ada","occurred_at":"2024-05-31T10:00:00+02:00","channel":"Display"}',
]
CONVERSIONS = [
    '{"conversion_id":"c1","person_id":"ada","occurred_at":"2024-06-01T10:00:00Z","value":"10.000001"}',
    '{"conversion_id":"c2","person_id":"bob","occurred_at":"2024-06-01T10:00:00Z","value":5}',
]
BAD_TOUCHES = {
    "invalid-json": '{"event_id":',
    "missing-field": '{"event_id":"t3","person_id":"ada","channel":"Email"}',
    "bad-time": '{"event_id":"t4","person_id":"ada","occurred_at":"1970-01-01T00:00:00Z"}',
}
METADATA_SECONDS = 30


@pytest.mark.parametrize("number", range(len(POLICIES)), ids=list(POLICIES))
def test_drawn_worlds_are_credited_as_by_the_oracle(number: int, tmp_path: Path) -> None:
    """Twenty worlds under one policy give the oracle's credits in every field but the reason."""
    name, config = list(POLICIES.items())[number]
    first_seed = 1_000 * (number + 1)
    drawn = [worlds.draw(first_seed + n, accounts=name == "accounts") for n in range(WORLDS)]
    touches = [t for world in drawn for t in world.touches]
    conversions = [c for world in drawn for c in world.conversions]
    policy = tomllib.loads(config)
    done = product.replay(tmp_path, worlds.lines(touches), worlds.lines(conversions), config)
    expected = _comparable(oracle.final_view(touches, conversions, policy))
    got = _comparable(done.rows())
    print(f"seeds from {first_seed} on")
    assert [r["credit_id"] for r in got] == [r["credit_id"] for r in expected]
    for one, other in zip(got, expected, strict=True):
        assert one == other


@pytest.mark.native
@pytest.mark.parametrize("name", ["every rule-based attribution model", "accounts"])
def test_both_ways_give_the_same_file(name: str, seed: int, tmp_path: Path) -> None:
    """With the compiled part and without, the credits are equal byte for byte, and so are the dead letters' values."""
    if load() is None:
        pytest.skip("touchstream-native is not installed")
    drawn = [worlds.draw(seed + n, accounts=name == "accounts") for n in range(WORLDS)]
    touches = [*worlds.lines([t for world in drawn for t in world.touches]), '{"event_id":"bad"}']
    conversions = worlds.lines([c for world in drawn for c in world.conversions])
    ways = []
    for native in ("true", "false"):
        config = f"{POLICIES[name]}\n[processing]\nnative = {native}\n"
        letters = ("--dead-letters", tmp_path / native / "dead.ndjson")
        done = product.replay(tmp_path / native, touches, conversions, config, *letters)
        assert len(done.rows()) > WORLDS
        dead = [json.loads(line) for line in done.dead_letters.read_text().splitlines()]
        ways.append((done.credits.read_bytes(), [(each["reason"], each["value"]) for each in dead]))
    assert ways[0] == ways[1]


def test_the_log_view_leads_to_the_final_view(tmp_path: Path) -> None:
    """Keeping the highest revision of everything published gives the final view."""
    world = worlds.draw(77, people=20)
    lines = worlds.lines(world.touches), worlds.lines(world.conversions)
    final = product.replay(tmp_path / "final", *lines, LINEAR).rows()
    log = product.replay(tmp_path / "log", *lines, LINEAR, "--view", "log").rows()
    published = [row for row in log if row.get("revision") is not None]
    records = [_record(n, row) for n, row in enumerate(published)]
    assert len(published) >= len(final)
    assert _without_revision(readers.append_only_view(records)) == final


def _record(offset: int, row: dict[str, Any]) -> readers.Read:
    return readers.Read(0, offset, 0, row["credit_id"].encode(), json.dumps(row).encode())


def test_compressed_files_and_stdin_are_read_alike(tmp_path: Path) -> None:
    """Touches from .ndjson.gz and conversions from stdin give the same file as plain ones."""
    plain = product.replay(tmp_path / "plain", TOUCHES, CONVERSIONS, LINEAR)
    packed, out = tmp_path / "touches.ndjson.gz", tmp_path / "credits.ndjson"
    packed.write_bytes(gzip.compress("".join(f"{line}\n" for line in TOUCHES).encode()))
    config = tmp_path / "plain" / "touchstream.toml"
    files = ("--touches", packed, "--conversions", "-", "--config", config, "--credits", out)
    done = product.touchstream("replay", *files, stdin="\n".join(CONVERSIONS))
    assert done.code == 0, done.said()
    assert len(plain.rows()) == 3
    assert out.read_bytes() == plain.credits.read_bytes()


def test_the_summary_is_one_line_that_counts_everything(tmp_path: Path) -> None:
    """The summary names touches, conversions, credits, duplicates, dead letters and seconds."""
    done = product.replay(tmp_path, [*TOUCHES, TOUCHES[0]], [*CONVERSIONS, CONVERSIONS[0]], LINEAR)
    assert len(done.rows()) == 3
    (summary,) = done.finished.stdout.splitlines()
    for name in ("touches", "conversions", "credits", "duplicates", "dead letters", "seconds"):
        assert name in summary


def test_the_summary_as_json_has_the_figures(tmp_path: Path) -> None:
    """With --json the figures are a document: three credits, two duplicates, no dead letter."""
    done = product.replay(tmp_path, [*TOUCHES, TOUCHES[0]], [*CONVERSIONS, CONVERSIONS[0]], LINEAR, "--json")
    assert len(done.rows()) == 3
    summary = json.loads(done.finished.stdout)
    figures = {name: summary[name] for name in ("credits", "duplicates", "dead_letters")}
    assert figures == {"credits": 3, "duplicates": 2, "dead_letters": 0}


def test_dead_letters_are_written_and_harm_nobody(tmp_path: Path) -> None:
    """Bad lines among good ones: exit code 0, all credits, and one line a dead letter with its reason."""
    touches = [BAD_TOUCHES["invalid-json"], TOUCHES[0], *list(BAD_TOUCHES.values())[1:], TOUCHES[1]]
    clean = product.replay(tmp_path / "clean", TOUCHES, CONVERSIONS, LINEAR)
    folder = tmp_path / "bad"
    done = product.replay(folder, touches, CONVERSIONS, LINEAR, "--dead-letters", folder / "dead.ndjson")
    assert done.rows() == clean.rows()
    letters = done.dead_letters.read_text().splitlines()
    assert len(letters) == len(BAD_TOUCHES)
    for reason in BAD_TOUCHES:
        assert sum(reason in letter for letter in letters) == 1, reason


def test_strict_makes_dead_letters_a_finding(tmp_path: Path) -> None:
    """--strict ends with 1 where there are dead letters, having written all credits, and with 0 otherwise."""
    bad = product.replay(tmp_path / "bad", [*TOUCHES, "{"], CONVERSIONS, LINEAR, "--strict")
    assert bad.finished.code == 1, bad.finished.said()
    good = product.replay(tmp_path / "good", TOUCHES, CONVERSIONS, LINEAR, "--strict")
    assert good.rows() == [json.loads(line) for line in bad.credits.read_text().splitlines()]


def test_a_replay_leaves_nothing_behind_unless_told_to(servers: tuple[str, str], tmp_path: Path) -> None:
    """On servers of the user, topics and keys of the replay are gone at its end; --keep keeps them."""
    broker, redis = servers
    there = ("--broker", broker, "--redis", redis)
    assert len(product.replay(tmp_path / "gone", TOUCHES, CONVERSIONS, LINEAR, *there).rows()) == 3
    assert _topics(broker) == set()
    assert _keys(redis) == 0
    assert len(product.replay(tmp_path / "kept", TOUCHES, CONVERSIONS, LINEAR, *there, "--keep").rows()) == 3
    assert {name.rpartition(".")[2] for name in _topics(broker)} >= {"touches", "conversions", "credits"}
    assert _keys(redis) > 0


BAD_CONFIGS = {
    "unknown key": ('[attribution]\nlookbak = "30d"\n', "lookback"),
    "unknown attribution model": ('[attribution]\nmodels = ["linaer"]\n', "linear"),
    "not a duration": ('[attribution]\nlookback = "30 days"\n', "30 days"),
    "not TOML": ("[attribution\n", "touchstream.toml"),
}


@pytest.mark.parametrize(("config", "named"), BAD_CONFIGS.values(), ids=list(BAD_CONFIGS))
def test_a_bad_configuration_is_exit_code_2(config: str, named: str, tmp_path: Path) -> None:
    """What is wrong in the settings is told as a block with the nearest name, before any server starts."""
    done = product.replay(tmp_path, TOUCHES, CONVERSIONS, config).finished
    assert done.code == 2, done.said()
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_file_is_exit_code_2(tmp_path: Path) -> None:
    """An input that is not there is an error of usage that names the file."""
    files = ("--touches", "nowhere.ndjson", "--conversions", "nowhere.ndjson", "--credits", "out.ndjson")
    done = product.touchstream("replay", *files, cwd=tmp_path)
    assert done.code == 2, done.said()
    assert "nowhere.ndjson" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unreachable_broker_is_exit_code_3(tmp_path: Path) -> None:
    """A broker and a Redis where nobody listens are told as a block that names the address."""
    with _silent_port() as port:
        there = ("--broker", f"kafka://127.0.0.1:{port}", "--redis", f"redis://127.0.0.1:{port}/0")
        done = product.replay(tmp_path, TOUCHES, CONVERSIONS, LINEAR, *there).finished
    assert done.code == 3, done.said()
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def servers() -> Iterator[tuple[str, str]]:
    """URLs of an empty embedded broker and an empty Valkey."""
    with embedded.broker() as kafka, embedded.valkey() as redis:
        yield kafka.url, redis.url


@contextlib.contextmanager
def _silent_port() -> Iterator[int]:
    """A port that refuses connections: it is bound, so nobody else takes it, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def _topics(broker: str) -> set[str]:
    found = AdminClient({"bootstrap.servers": readers.hosts(broker)}).list_topics(timeout=METADATA_SECONDS)
    return {name for name in found.topics if not name.startswith("__")}


def _keys(redis: str) -> int:
    with Redis.from_url(redis) as client:
        return int(str(client.dbsize()))


def _comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return oracle.comparable(rows, without=(*oracle.NOT_THE_ORACLES, "reason"))


def _without_revision(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "revision"} for row in rows]
