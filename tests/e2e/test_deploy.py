"""docker-compose.yml and deploy/: valid, careful, and made of commands that really run (here without Docker)."""

import json
import re
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from ruamel.yaml import YAML

from streams.servers import HOST, Child, free_port
from tests.support import product, readers, servers

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
PROMETHEUS = ROOT / "deploy" / "prometheus" / "prometheus.yml"
SCRIPTS = Path(sys.executable).parent
# One-shots end by themselves; everything else has to say whether it is well.
ONE_SHOTS = {"topics"}
# Of Kafka's settings these name hosts, ports and folders of the containers.
PLACES = ("listeners", "log.dirs", "controller.quorum.voters", "listener.security", "inter.broker.listener")
# For a worker to be well and for Prometheus to have seen it; only a failing test waits this long.
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def compose() -> Any:
    return YAML(typ="safe").load(COMPOSE)


def command(*arguments: object) -> str:
    """What a tool prints, both streams; AssertionError with that text if it finds fault."""
    done = subprocess.run([str(each) for each in arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_compose_follows_the_specification() -> None:
    """docker-compose.yml is valid under the compose specification's own JSON Schema."""
    command(SCRIPTS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_the_schema_check_refuses_a_wrong_file(tmp_path: Path) -> None:
    """The check above can fail: a misspelt key is refused."""
    wrong = tmp_path / "compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("depends_on:", "depend_on:", 1))
    with pytest.raises(AssertionError, match="depend_on"):
        command(SCRIPTS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", wrong)


def test_ports_are_on_loopback_only(compose: Any) -> None:
    """Nothing in the compose file is reachable from another machine."""
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not str(port).startswith("127.0.0.1:")] == []


def test_start_order_waits_for_health(compose: Any) -> None:
    """Every service that goes on has a health check, and every dependency names the state it waits for."""
    services = compose["services"]
    for name, service in services.items():
        assert bool(service["healthcheck"].get("test")) == (name not in ONE_SHOTS), name
        for other, wait in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other in ONE_SHOTS else "service_healthy"
            assert (other in services, wait["condition"]) == (True, expected)


def test_images_are_pinned(compose: Any) -> None:
    """No image floats, and Kafka is the version that the slow suites test."""
    images = {name: service["image"] for name, service in compose["services"].items()}
    assert all(re.search(r":[\w.-]+$", image) and "latest" not in image for image in images.values())
    namespace = {"m": "http://maven.apache.org/POM/4.0.0"}
    tested = ET.parse(servers.POM).findtext(".//m:kafka.version", namespaces=namespace)
    assert images["kafka"] == f"apache/kafka:{tested}"


def test_redis_keeps_what_it_is_given(compose: Any) -> None:
    """Redis neither evicts journeys nor forgets them at a restart."""
    line = " ".join(compose["services"]["redis"]["command"])
    assert "--maxmemory-policy noeviction" in line
    assert "--appendonly yes" in line


def test_the_dockerfile_is_clean() -> None:
    """hadolint finds nothing."""
    assert command(SCRIPTS / "hadolint", DOCKERFILE) == ""


def test_the_image_is_not_root_and_complete() -> None:
    """The image runs as uid 65532 and holds every package that the wheel names."""
    text = DOCKERFILE.read_text()
    last_stage = text[text.rindex("\nFROM ") :]
    assert re.findall(r"^USER (.*)$", last_stage, re.MULTILINE) == ["65532:65532"]
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {name for line in re.findall(r"^COPY ([^-].*) \S+$", text, re.MULTILINE) for name in line.split()}
    assert set(wheel["packages"]) <= copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert [name for name in copied if not any(Path(name).match(each) for each in allowed)] == []


def test_compose_and_image_ask_the_same_question(compose: Any) -> None:
    """The worker's health check in the compose file is the image's own."""
    assert compose["services"]["worker"]["healthcheck"]["test"] == ["CMD", *health_check()]


@pytest.mark.slow
def test_prometheus_accepts_its_file() -> None:
    """promtool finds no fault with the scrape configuration."""
    try:
        promtool = servers.program("promtool", "prometheus")
    except servers.MissingServer as error:
        pytest.skip(str(error))
    assert "SUCCESS" in command(promtool, "check", "config", PROMETHEUS)


@pytest.mark.slow
def test_the_same_commands_run_without_docker(compose: Any, tmp_path: Path) -> None:
    """With the compose file's settings and commands, a conversion is credited and Prometheus sees the worker."""
    services = compose["services"]
    try:
        prometheus = servers.program("prometheus", "prometheus")
        servers.jars()
    except servers.MissingServer as error:
        pytest.skip(str(error))
    with (
        servers.apache_kafka(kafka_properties(services["kafka"]["environment"])) as kafka,
        servers.redis_server(*services["redis"]["command"][1:]) as redis,
    ):
        web = free_port()
        there = {
            "TOUCHSTREAM_KAFKA__BROKER": kafka.url,
            "TOUCHSTREAM_REDIS__URL": redis.url,
            "TOUCHSTREAM_WEB__HOST": HOST,
            "TOUCHSTREAM_WEB__PORT": str(web),
        }
        assert set(services["worker"]["environment"]) == set(there)
        applied = product.touchstream(*services["topics"]["command"], env=there)
        assert applied.code == 0, applied.said()
        with product.running(*services["worker"]["command"], env=there) as worker:
            until(lambda: healthy(web), worker.check_alive)
            send_one_journey(kafka.bootstrap)
            with readers.reader(kafka.url, "touchstream.credits") as credits:
                found = credits.until(lambda records: len(records) >= 1, DEADLINE_S, worker.check_alive)
            assert json.loads(found[0].value or b"")["conversion_id"] == "order-1"
            with scraping(prometheus, web, tmp_path) as address:
                until(lambda: scraped(address) == {"up"}, worker.check_alive)


def kafka_properties(environment: dict[str, str]) -> dict[str, str]:
    """The image's KAFKA_… variables as server properties, without the places, which differ here."""
    names = {name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, value in environment.items()}
    assert len(names) == len(environment)
    return {name: value for name, value in names.items() if not any(place in name for place in PLACES)}


def health_check() -> list[str]:
    """The command of the image's HEALTHCHECK."""
    found = re.search(r"^HEALTHCHECK .*\\\n\s+CMD (\[.*\])$", DOCKERFILE.read_text(), re.MULTILINE)
    assert found is not None
    parts: list[str] = json.loads(found[1])
    return parts


def healthy(port: int) -> bool:
    """Whether the image's health check is content with the worker at this port."""
    _, *arguments = health_check()
    asked = [part.replace(":6066", f":{port}") for part in arguments]
    assert asked != arguments
    return subprocess.run([sys.executable, *asked], capture_output=True, check=False).returncode == 0


def send_one_journey(bootstrap: str) -> None:
    """A touch and, once it is acknowledged, a conversion of the same person."""
    now = int(time.time() * 1000)
    touch = {"event_id": "t1", "person_id": "p1", "occurred_at": now - 1000, "channel": "email"}
    order = {"conversion_id": "order-1", "person_id": "p1", "occurred_at": now, "value": "12.50", "currency": "EUR"}
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random"})
    for topic, record in (("touchstream.touches", touch), ("touchstream.conversions", order)):
        producer.produce(topic, json.dumps(record).encode(), b"p1")
        assert producer.flush(DEADLINE_S) == 0


@contextmanager
def scraping(binary: Path, port: int, folder: Path) -> Iterator[str]:
    """Prometheus on the shipped file, with the worker's address in place of the containers' name."""
    text = PROMETHEUS.read_text()
    named = re.search(r" +dns_sd_configs:\n(?: {6,}.*\n)+", text)
    assert named is not None
    here = f'    static_configs:\n      - targets: ["{HOST}:{port}"]\n'
    config, address = folder / "prometheus.yml", f"{HOST}:{free_port()}"
    config.write_text(text.replace(named[0], here).replace("localhost:9090", address).replace("5s", "1s"))
    line = [binary, f"--config.file={config}", f"--storage.tsdb.path={folder}", f"--web.listen-address={address}"]
    with Child.kept("Prometheus", [str(part) for part in line]):
        yield address


def scraped(address: str) -> set[str]:
    """The health of Prometheus' touchstream targets; empty while there are none, or it is not up."""
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/targets", timeout=2) as answer:
            targets = json.load(answer)["data"]["activeTargets"]
    except (urllib.error.URLError, ConnectionError):
        return set()
    return {each["health"] for each in targets if each["labels"]["job"] == "touchstream"}


def until(condition: Callable[[], bool], alive: Callable[[], None]) -> None:
    """Return once it holds; `alive` raises when that cannot come any more. AssertionError after the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        alive()
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s"
        time.sleep(0.05)
