"""TLS and passwords towards Kafka and Redis, with the rights that `topics plan --acls` prints and no others."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from state.redis_store import RedisStore
from state.store import StoreError, Writes
from streams import acls
from streams.errors import ConnectError
from streams.settings import Settings, load_settings
from tests.support import credited, product, servers
from tests.support import secured as support
from tests.support.certificates import Authority
from tests.support.secured import PARTITIONS, PASSWORD, REDIS_PASSWORD, USER, Secured

MINE = b"token-mine"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[servers.SecureKafka, servers.SecureRedis]]:
    authority = support.authority(tmp_path_factory.mktemp("authority"))
    cert = authority.server("server")
    users = {USER: PASSWORD}
    with (
        servers.secure_kafka(authority.ca, cert.both, users) as kafka,
        servers.secure_redis(authority.ca, cert.cert, cert.key, "admin of/redis") as redis,
    ):
        yield kafka, redis


@pytest.fixture
def secured(pair: tuple[servers.SecureKafka, servers.SecureRedis], tmp_path: Path) -> Secured:
    kafka, redis = pair
    security = {"ca_file": str(kafka.ca), "mechanism": "SCRAM-SHA-512", "username": USER}
    return support.secured(tmp_path, kafka, [redis], kafka.secure_url, security, {"password": PASSWORD})


@pytest.mark.slow
def test_a_run_with_exactly_the_printed_rights(secured: Secured, seed: int) -> None:
    """Over TLS with passwords and only what is printed: doctor is content, and a run gives the oracle's credits."""
    secured.make_topics()
    secured.grant("run", "doctor")
    doctor = secured.touchstream("doctor", "--json")
    assert doctor.code == 0, doctor.said()
    assert {check["status"] for check in checks_of(doctor)} == {"ok"}, doctor.said()
    with Redis.from_url(secured.redis.url) as store:
        assert credited.check_run(secured.config, secured.kafka.url, store, secured.prefix, seed, env=secured.env) > 0
    assert secured.refused() == set()


def checks_of(done: product.Finished) -> list[dict[str, Any]]:
    found = json.loads(done.stdout)
    return list(found["checks"] if isinstance(found, dict) else found)


@pytest.mark.slow
def test_a_run_needs_no_rights_of_the_doctor(secured: Secured, seed: int) -> None:
    """The rights printed for `run` alone are enough for a run."""
    secured.make_topics()
    secured.grant("run")
    with Redis.from_url(secured.redis.url) as store:
        assert credited.check_run(secured.config, secured.kafka.url, store, secured.prefix, seed, env=secured.env) > 0


@pytest.mark.slow
def test_topics_are_made_with_the_rights_of_apply(secured: Secured) -> None:
    """With what is printed for `doctor` and `apply`, topics are created and mended; plan then finds nothing to do."""
    secured.grant("doctor", "apply")
    made = secured.touchstream("topics", "apply", "--partitions", PARTITIONS)
    assert made.code == 0, made.said()
    longer = secured.touchstream("topics", "apply", "--set", "attribution.lookback=300d")
    assert longer.code == 0, longer.said()
    assert "retention.ms" in longer.stdout
    plan = secured.touchstream("topics", "plan")
    assert plan.code == 0, plan.said()


BOTH = ("Read", "Write")
OF_CREDITING = {
    "touches": ("Read",),
    "conversions": ("Read",),
    "moves": BOTH,
    "credits": ("Write",),
    "dead-letters": ("Write",),
    "policies": BOTH,
}
OF_IDENTITIES = {
    "touches": BOTH,
    "conversions": BOTH,
    "links": BOTH,
    "identities": ("Read",),
    "raw-touches": BOTH,
    "raw-conversions": BOTH,
}


@pytest.mark.parametrize(
    ("given", "topics", "stages"),
    [
        ({"identity.enabled": False}, OF_CREDITING, ("credit",)),
        ({}, OF_CREDITING | OF_IDENTITIES, ("credit", "identity")),
    ],
)
def test_rights_of_a_run_are_those_of_a_workers_own_topics(
    given: dict[str, Any], topics: dict[str, Any], stages: tuple[str, ...]
) -> None:
    """No right of a run is listed twice, none is on all of Kafka, and inputs and outputs are not mixed up."""
    rights = [right for right in acls.kafka_rights(load_settings(None, given, {})) if right.use == "run"]
    own = [right for right in rights if right.resource == "topic"]
    assert [(right.name.removeprefix("touchstream."), right.operations) for right in own] == list(topics.items())
    assert [(r.resource, r.name, r.operations, r.pattern) for r in rights if r.resource != "topic"] == [
        *(("group", f"touchstream.{stage}", ("Read",), "literal") for stage in stages),
        *(("transactional-id", f"touchstream.{stage}.", ("Write",), "prefixed") for stage in stages),
    ]


@pytest.mark.parametrize(
    ("given", "more"),
    [
        ({}, set()),
        ({"redis.url": "redis://h/3"}, {"select"}),
        ({"redis.cluster": True}, {"cluster|slots", "asking"}),
    ],
)
def test_redis_commands_follow_the_settings(given: dict[str, Any], more: set[str]) -> None:
    """A database of its own needs SELECT, a cluster the question for its slots; nothing else changes."""
    plain = set(acls.redis_commands(Settings()))
    assert set(acls.redis_commands(load_settings(None, given, {}))) - plain == more


@pytest.mark.slow
def test_a_wrong_password_of_kafka_is_said(secured: Secured) -> None:
    """A wrong password ends `run` with 3 and a block that says who was refused and where."""
    secured.make_topics()
    secured.grant("run")
    done = secured.touchstream("run", TOUCHSTREAM_KAFKA__SECURITY__PASSWORD="wrong")
    assert done.code == 3, done.said()
    assert "error[T304]" in done.stderr, done.said()
    assert "SCRAM-SHA-512" in done.stderr
    assert "ERROR" not in done.stderr, "what the block tells is in the log as well"
    assert f"127.0.0.1:{secured.kafka.secure_port}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_wrong_password_of_redis_is_said(secured: Secured) -> None:
    """A wrong password ends `run` with 3 and a block with Redis' own words, and never shows the password."""
    secured.make_topics()
    secured.grant("run")
    done = secured.touchstream("run", TOUCHSTREAM_REDIS__URL=secured.redis.url_of(USER, "wrongwrong"))
    assert done.code == 3, done.said()
    assert "error[T302]" in done.stderr, done.said()
    assert "invalid username-password pair" in done.stderr
    assert "wrongwrong" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_foreign_authority_is_refused(secured: Secured, tmp_path: Path) -> None:
    """A server whose certificate another authority signed is not talked to: exit code 3, and the reason."""
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other").ca
    done = secured.touchstream("topics", "plan", TOUCHSTREAM_KAFKA__SECURITY__CA_FILE=str(other))
    assert done.code == 3, done.said()
    assert "error[T305]" in done.stderr, done.said()
    assert "certificate verify failed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_foreign_authority_of_redis_is_refused(secured: Secured, tmp_path: Path) -> None:
    """The same for Redis: `run` ends with 3 and says that the certificate is not trusted."""
    secured.make_topics()
    secured.grant("run")
    (tmp_path / "other").mkdir()
    url = secured.redis.url_of(USER, REDIS_PASSWORD).replace(
        str(secured.redis.ca), str(Authority(tmp_path / "other").ca)
    )
    done = secured.touchstream("run", TOUCHSTREAM_REDIS__URL=url)
    assert done.code == 3, done.said()
    assert "error[T302]" in done.stderr, done.said()
    assert "certificate verify failed" in done.stderr, done.said()


async def everything(secured: Secured) -> None:
    """Each thing that a worker and the doctor do with Redis, once."""
    from streams.doctor import examine  # noqa: PLC0415
    from streams.preflight import _ping  # noqa: PLC0415

    settings = secured.settings()
    with suppress(ConnectError):
        await _ping(settings)
    await examine(settings)
    with Redis.from_url(secured.redis.url) as admin:
        admin.script_flush()
        admin.delete(*(f"{{{secured.prefix}:0}}:{name}" for name in ("owner", "applied", "a", "p")))
    store = RedisStore(settings.redis.url, secured.prefix)
    for do in (
        lambda: store.claim(0, MINE),
        lambda: store.begin(0, MINE, b"0"),
        lambda: store.save(
            0, MINE, b"0", b"1", Writes(appends={b"a": b"1"}, puts={b"p": b"1"}, deletes=[b"d"], renew_below_ms=1)
        ),
        lambda: store.save(0, MINE, b"1", b"2", Writes(appends={b"a": b"1"}, renew_below_ms=1)),
        lambda: store.load(0, MINE, b"2", [b"a"]),
        lambda: store.drop(0, MINE),
        store.health,
    ):
        with suppress(StoreError):  # what was refused stands in Redis' own log
            await do()
    await store.close()


@pytest.mark.slow
def test_every_printed_command_of_redis_is_needed(secured: Secured) -> None:
    """With all printed commands Redis refuses nothing; with any one of them taken away it refuses that one."""
    secured.make_topics()
    secured.grant("run", "doctor")
    asyncio.run(everything(secured))
    assert secured.refused() == set()
    for command in acls.redis_commands(secured.settings()):
        secured.set_user(["ACL", "SETUSER", USER, f"-{command}"])
        asyncio.run(everything(secured))
        assert command in secured.refused(), command
        secured.set_user(["ACL", "SETUSER", USER, f"+{command}"])


@pytest.mark.slow
def test_keys_of_others_are_out_of_reach(secured: Secured) -> None:
    """The printed pattern covers the keys of this prefix alone."""
    secured.grant()
    with Redis.from_url(secured.redis.url) as admin:
        for key, allowed in ((f"{{{secured.prefix}:12}}:owner", True), (f"{{{secured.prefix}x:1}}:owner", False),
                             (f"{secured.prefix}", False), ("other", False)):  # fmt: skip
            answer = admin.execute_command("ACL DRYRUN", USER, "GET", key)
            assert (answer == b"OK") == allowed, (key, answer)


def test_rights_are_printed_as_json(tmp_path: Path) -> None:
    """With --json the rights are one document, without a server being asked and without the password."""
    env = {"TOUCHSTREAM_KAFKA__BROKER": "kafka://nowhere.invalid:1", "TOUCHSTREAM_REDIS__URL": "redis://me:hidden@h:1"}
    done = product.touchstream("topics", "plan", "--acls", "--json", "--prefix", "shop", env=env, cwd=tmp_path)
    assert done.code == 0, done.said()
    found = json.loads(done.stdout)
    assert found["principal"] == "User:WORKER"
    assert found["redis"][:7] == ["ACL", "SETUSER", "me", "reset", "on", ">PASSWORD", "~{shop:*}:*"]
    assert {right["use"] for right in found["kafka"]} == set(acls.USES)
    assert "hidden" not in done.stdout
