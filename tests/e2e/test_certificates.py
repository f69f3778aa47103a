"""Certificates in place of passwords, or beside them, and PLAIN over TLS, on Apache Kafka, Redis and Redis Cluster."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.cluster import RedisCluster

from streams.settings import RedisSettings
from tests.support import credited, mutual, servers
from tests.support.secured import PASSWORD, REDIS_PASSWORD, USER, Secured, authority, secured

KEY_PASSWORD, ADMIN = "opens the key&?", "admin of/redis"


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> mutual.Trust:
    made = authority(tmp_path_factory.mktemp("authority"))
    return mutual.Trust(made, made.server("server"), made.client(USER, KEY_PASSWORD), KEY_PASSWORD)


@pytest.fixture(scope="module")
def kafka(trust: mutual.Trust) -> Iterator[mutual.MutualKafka]:
    with mutual.mutual_kafka(trust, {USER: PASSWORD}) as running:
        yield running


@pytest.fixture(scope="module")
def redis(trust: mutual.Trust) -> Iterator[mutual.MutualRedis]:
    with mutual.mutual_redis(trust, ADMIN) as running:
        yield running


@pytest.fixture
def by_certificate(kafka: mutual.MutualKafka, redis: mutual.MutualRedis, tmp_path: Path) -> Secured:
    return with_certificate(kafka, [redis], tmp_path)


def with_certificate(
    kafka: mutual.MutualKafka, nodes: list[mutual.MutualRedis], folder: Path, more: str = ""
) -> Secured:
    """Settings for the listener where the subject of the certificate is the user."""
    client = nodes[0].trust.client
    security = {"ca_file": str(kafka.ca), "cert_file": str(client.cert), "key_file": str(client.key)}
    made = secured(folder, kafka, nodes, kafka.certificate_url, security, {"key_password": KEY_PASSWORD}, more)
    made.principal = f"User:CN={USER}"
    return made


@pytest.mark.slow
def test_plain_over_tls_and_a_certificate_for_redis(
    kafka: mutual.MutualKafka, redis: mutual.MutualRedis, tmp_path: Path, seed: int
) -> None:
    """PLAIN over TLS to Kafka, a certificate and a user to Redis, the printed rights: the oracle's credits."""
    security = {"ca_file": str(kafka.ca), "mechanism": "PLAIN", "username": USER}
    made = secured(tmp_path, kafka, [redis], kafka.secure_url, security, {"password": PASSWORD})
    made.make_topics()
    made.grant("run")
    with Redis.from_url(redis.url) as store:
        assert credited.check_run(made.config, kafka.url, store, made.prefix, seed, env=made.env) > 0
    assert made.refused() == set()


@pytest.mark.slow
def test_a_certificate_for_kafka_and_a_cluster(
    trust: mutual.Trust, kafka: mutual.MutualKafka, tmp_path: Path, seed: int
) -> None:
    """A certificate is enough for Kafka, and opens every node of a Redis Cluster that talks TLS only."""
    with mutual.mutual_cluster(trust, ADMIN) as nodes:
        made = with_certificate(kafka, list(nodes), tmp_path, "[redis]\ncluster = true\n")
        made.make_topics()
        made.grant("run", "doctor")
        doctor = made.touchstream("doctor")
        assert doctor.code == 0, doctor.said()
        with RedisCluster.from_url(nodes[0].url) as store:
            assert credited.check_run(made.config, kafka.url, store, made.prefix, seed, env=made.env) > 0
        assert made.refused() == set()


@pytest.mark.slow
def test_without_its_certificate_kafka_refuses_it(by_certificate: Secured) -> None:
    """A client without a certificate ends with 3 and a block: all it can see is that Kafka closes the connection."""
    without = "".join(
        line for line in by_certificate.config.read_text().splitlines(True) if not line.startswith(("cert_", "key_"))
    )
    by_certificate.config.write_text(without)
    done = by_certificate.touchstream("topics", "plan")
    assert done.code == 3, done.said()
    assert "error[T30" in done.stderr, done.said()
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_without_its_certificate_redis_refuses_it(by_certificate: Secured) -> None:
    """A client without a certificate ends with 3 and a block, and no password is shown."""
    by_certificate.make_topics()
    by_certificate.grant("run")
    url = servers.SecureRedis.url_of(by_certificate.redis, USER, REDIS_PASSWORD)
    done = by_certificate.touchstream("run", TOUCHSTREAM_REDIS__URL=url)
    assert done.code == 3, done.said()
    assert "error[T302]" in done.stderr, done.said()
    assert REDIS_PASSWORD not in done.stderr
    assert url.partition("@")[0] not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_wrong_key_password_is_said(by_certificate: Secured) -> None:
    """A key that the password does not open ends with 2 before any server is asked."""
    done = by_certificate.touchstream("topics", "plan", TOUCHSTREAM_KAFKA__SECURITY__KEY_PASSWORD="wrong")
    assert done.code == 2, done.said()
    assert "error[T126]" in done.stderr, done.said()
    assert KEY_PASSWORD not in done.stderr


@pytest.mark.parametrize("name", ["ssl_password", "password"])
def test_passwords_of_a_redis_url_are_masked(name: str) -> None:
    """Neither the user's password nor one in the query is shown; the rest of the address is."""
    url = f"rediss://me:hidden@h:1/0?ssl_certfile=/c.pem&{name}=hidden&ssl_keyfile=/k.pem"
    shown = RedisSettings(url=url).shown()
    assert "hidden" not in shown
    assert shown.endswith("&ssl_keyfile=/k.pem")
