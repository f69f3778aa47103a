"""Every command of the README does what it says: each `console` and `bash` block is run, line by line, in order.

All run in one folder that looks like the repository, against one embedded broker and Valkey in place of whatever
address the README names. `HOW` says how each command is run; a command that matches no entry fails.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from streams import embedded
from tests.support import product, readers

README = product.ROOT / "README.md"
COMMAND_SECONDS = 600  # make demo on a fresh machine sets everything up first
SEND_SECONDS = 30
BLOCK = re.compile(r"^```(console|bash)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
TOUCHES = [
    '{"event_id":"t1","person_id":"ada","occurred_at":"2024-05-30T10:00:00Z","channel":"Email"}',
    '{"event_id":"t2","person_id":"ada","occurred_at":"2024-05-31T10:00:00Z","channel":"Paid Search"}',
]
CONVERSIONS = ['{"conversion_id":"c1","person_id":"ada","occurred_at":"2024-06-01T10:00:00Z","value":"10"}']


def commands(text: str) -> list[str]:
    """All commands in the order of the text: lines after `$ ` of a console block, all lines of a bash block."""
    found: list[str] = []
    for language, body in BLOCK.findall(text):
        lines = body.replace("\\\n", " ").splitlines()
        prompt = "$ " if language == "console" else ""
        found += [line.removeprefix(prompt) for line in lines if line.startswith(prompt)]
    stripped = (re.sub(r"\s+#\s.*", "", line).strip() for line in found)
    return [line for line in stripped if line and not line.startswith("#")]


def test_commands_are_found_in_both_kinds_of_block() -> None:
    """Prompts, comments, output and continued lines are told apart; other languages are no commands."""
    text = "```console\n$ make demo  # now\noutput\n```\n```bash\n# first\na \\\n  b\n```\n```toml\nx = 1\n```\n"
    assert commands(text) == ["make demo", "a    b"]


# The place


@dataclass
class Place:
    """A folder like the repository, and servers that stand for the reader's own."""

    folder: Path
    broker: str
    redis: str

    def here(self, command: str) -> str:
        """The command with our addresses in place of the README's."""
        moved = re.sub(r"kafka://[^\s\"'`]+", self.broker, command)
        moved = re.sub(r"rediss?://[^\s\"'`]+", self.redis, moved)
        return re.sub(r"(?<![/\w])[\w.-]+:9092\b", readers.hosts(self.broker), moved)

    def shell(self, command: str) -> "subprocess.Popen[str]":
        """Start a command of the shell, with `.venv/bin` on the path as after activating it."""
        path = f"{product.ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            ["bash", "-ec", command],
            cwd=self.folder,
            env=product.clean_environment({"PATH": path}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("readme")
    for entry in product.ROOT.iterdir():
        if entry.name != ".git":
            (folder / entry.name).symlink_to(entry)
    for name, lines in (("touches", TOUCHES), ("conversions", CONVERSIONS)):
        if not (folder / f"{name}.ndjson").exists():
            (folder / f"{name}.ndjson").write_text("".join(f"{line}\n" for line in lines))
    with embedded.broker() as kafka, embedded.valkey() as redis:
        yield Place(folder, kafka.url, redis.url)


# The ways


def to_its_end(place: Place, command: str) -> str:
    """Run it and wait; it must end with 0. Gives what it printed."""
    process = place.shell(place.here(command))
    try:
        output, _ = process.communicate(timeout=COMMAND_SECONDS)
    finally:
        product.stop(process)
    assert process.returncode == 0, f"{command}: exit {process.returncode}\n{output}"
    return output


def counted_demo(place: Place, command: str) -> None:
    """The demo ends by itself after twenty credits."""
    limit = "--credits 20 --plain"
    to_its_end(place, f'{command} TS_ARGS="{limit}"' if command.startswith("make") else f"{command} {limit}")


def short_simulation(place: Place, command: str) -> None:
    """The generator ends by itself after a few seconds."""
    to_its_end(place, f"{command} --seconds 3")


def dry(place: Place, command: str) -> None:
    """A target that runs these tests, or runs for minutes: make says what it would do."""
    assert to_its_end(place, command.replace("make", "make -n", 1)).strip()


def cloned(place: Place, command: str) -> None:
    """A clone of this repository, wherever the README says it lies."""
    to_its_end(place, re.sub(r"(https?://|git@)\S+", f"{product.ROOT} clone", command, count=1))
    assert (place.folder / "clone" / "Makefile").is_file()


def nowhere(place: Place, command: str) -> None:
    """`cd` into the clone: the other commands run in a folder like it anyway."""
    assert (place.folder / "Makefile").is_file(), command


def with_worker(place: Place, command: str) -> None:
    """A worker of the README's: it credits a conversion and ends well when it is asked to."""
    process = place.shell(place.here(command))
    try:
        _send_and_await_credits(place, process)
        os.killpg(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=product.STOP_SECONDS)
    finally:
        product.stop(process)
    assert process.returncode in {0, -signal.SIGTERM}, output


def beside_a_worker(place: Place, command: str) -> None:
    """What asks a worker, as curl does: one runs meanwhile, on the port that the command names."""
    port = re.search(r":(\d+)", command)
    assert port, command
    servers = ("--broker", place.broker, "--redis", place.redis, "--set", f"web.port={port[1]}")
    with product.running("run", *servers, cwd=place.folder) as worker:
        deadline = time.monotonic() + COMMAND_SECONDS
        while (process := place.shell(command)).wait(COMMAND_SECONDS) != 0:
            worker.check_alive()
            assert time.monotonic() < deadline, worker.said()
    assert process.returncode == 0


def written_down(place: Place, command: str) -> None:
    """Docker is not at hand: the compose file is there (`test_compose` runs what is in it)."""
    assert (place.folder / "docker-compose.yml").is_file(), command


def _send_and_await_credits(place: Place, process: "subprocess.Popen[str]") -> None:
    client = AdminClient({"bootstrap.servers": readers.hosts(place.broker)})
    topics = client.list_topics(timeout=SEND_SECONDS).topics
    prefix = next(name.removesuffix(".credits") for name in topics if name.endswith(".credits"))
    producer = Producer({"bootstrap.servers": readers.hosts(place.broker), "partitioner": "murmur2_random"})
    for topic, lines in (("touches", TOUCHES), ("conversions", CONVERSIONS)):
        for line in lines:
            producer.produce(f"{prefix}.{topic}", line.encode(), json.loads(line)["person_id"].encode())
        assert producer.flush(SEND_SECONDS) == 0

    def alive() -> None:
        assert process.poll() is None, f"the worker ended with {process.returncode}"

    with readers.reader(place.broker, f"{prefix}.credits") as credits_:
        credits_.until(lambda records: any(b'"c1|' in (r.value or b"") for r in records), alive=alive)


OURS = r"(\.venv/bin/)?touchstream"
HOW: list[tuple[str, Callable[[Place, str], object]]] = [
    (r"make demo", counted_demo),
    (r"make (setup|help)", to_its_end),
    (r"make (test|check|slow|bench|faults|lint|types)", dry),
    (rf"{OURS} demo\b.*", counted_demo),
    (rf"{OURS} simulate\b.*", short_simulation),
    (rf"{OURS} run\b.*", with_worker),
    (rf"{OURS} (?!demo\b|simulate\b|run\b).+", to_its_end),
    (r"curl .+", beside_a_worker),
    (r"git clone .+", cloned),
    (r"cd [\w./-]+", nowhere),
    (r"docker compose .+", written_down),
    (r"(cat|head|zcat|tail|jq|echo|printf) .+", to_its_end),
]


def _how(command: str) -> list[Callable[[Place, str], object]]:
    return [how for pattern, how in HOW if re.fullmatch(pattern, command)]


def test_no_command_has_two_ways() -> None:
    """The table is unambiguous for what it lists."""
    samples = ["make demo", "make test", "touchstream demo --plain", ".venv/bin/touchstream run --workers 2"]
    assert [len(_how(sample)) for sample in samples] == [1, 1, 1, 1]
    assert _how("rm -rf /") == []


def test_there_is_a_readme_with_commands() -> None:
    """The README is there and shows how to start."""
    assert "make demo" in commands(README.read_text())


@pytest.mark.parametrize("command", commands(README.read_text()) if README.exists() else [])
def test_each_command_of_the_readme_runs(place: Place, command: str) -> None:
    """A command of the README works as it is written there."""
    ways = _how(command)
    assert len(ways) == 1, f"`{command}` needs one entry in HOW, it has {len(ways)}"
    ways[0](place, command)
