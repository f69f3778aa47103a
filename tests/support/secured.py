"""A secured Kafka and Redis with a prefix of its own, and the granting of what `topics plan --acls` prints."""

import asyncio
import shlex
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from redis import Redis

from streams import acls, topics
from streams.settings import Settings, load_settings
from tests.support import credited, product
from tests.support.certificates import Authority
from tests.support.servers import MissingServer, SecureKafka, SecureRedis, jars, redis_binary

USER, PASSWORD, REDIS_PASSWORD = "worker", "scram pass/word", "a:b@c/d#e%41é"
PARTITIONS = 3
WAIT_S = 30.0
RESOURCES = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional-id": ResourceType.TRANSACTIONAL_ID,
}
OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Create": AclOperation.CREATE,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
    "AlterConfigs": AclOperation.ALTER_CONFIGS,
}
PATTERNS = {"literal": ResourcePatternType.LITERAL, "prefixed": ResourcePatternType.PREFIXED}


@dataclass
class Secured:
    """The servers, and a file of settings for a prefix of its own, without rights so far.

    `nodes` are one Redis, or all primaries of a cluster; `env` holds the secrets; `principal` is how Kafka calls the
    worker where the settings do not say it.
    """

    kafka: SecureKafka
    nodes: Sequence[SecureRedis]
    config: Path
    prefix: str
    env: Mapping[str, str]
    principal: str = ""

    @property
    def redis(self) -> SecureRedis:
        """The one that the worker is told."""
        return self.nodes[0]

    def settings(self) -> Settings:
        """As the worker has them."""
        return load_settings(self.config, {}, self.env)

    def touchstream(self, *arguments: object, **env: str) -> product.Finished:
        """The command with this file; `env` on top."""
        return product.touchstream(*arguments, "--config", self.config, env={**self.env, **env})

    def make_topics(self) -> None:
        """As an administrator would, through the open listener."""
        overrides = {"kafka.broker": self.kafka.url, "kafka.prefix": self.prefix}
        asyncio.run(topics.apply(load_settings(None, overrides, {}), PARTITIONS))

    def printed(self) -> list[str]:
        """The lines of `topics plan --acls`."""
        done = self.touchstream("topics", "plan", "--acls")
        assert done.code == 0, done.said()
        assert PASSWORD not in done.stdout
        assert REDIS_PASSWORD not in done.stdout
        return [line.replace(acls.PRINCIPAL, self.principal or acls.PRINCIPAL) for line in done.stdout.splitlines()]

    def grant(self, *uses: str) -> None:
        """Make exactly the rights that are printed for these uses, in Kafka and in Redis."""
        granted: list[AclBinding] = []
        use = ""
        for line in self.printed():
            if line.startswith("# Kafka: "):
                use = next(name for name, title in acls.USES.items() if line.endswith(title))
            elif line.startswith("kafka-acls.sh") and use in uses:
                granted += _bindings(line)
            elif line.startswith("ACL SETUSER"):
                self.set_user([word.replace("PASSWORD", REDIS_PASSWORD) for word in shlex.split(line)])
        if not granted:
            return
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap})
        for future in admin.create_acls(granted, request_timeout=WAIT_S).values():
            future.result(WAIT_S)

    def set_user(self, words: Sequence[str]) -> None:
        """Send an ACL command to every node, and forget what was refused before."""
        for node in self.nodes:
            with Redis.from_url(node.url) as admin:
                admin.execute_command(*words)
                admin.execute_command("ACL LOG", "RESET")

    def refused(self) -> set[str]:
        """What Redis has refused to the worker's user since its rights were made."""
        found: set[str] = set()
        for node in self.nodes:
            with Redis.from_url(node.url) as admin:
                found |= {str(entry["object"]).lower() for entry in admin.acl_log()}
        return found


def authority(folder: Path) -> Authority:
    """A new authority; skips the test where the servers that need its certificates are not on this machine."""
    try:
        jars()
        redis_binary()
        return Authority(folder)
    except MissingServer as error:
        pytest.skip(str(error))


def secured(
    folder: Path,
    kafka: SecureKafka,
    nodes: Sequence[SecureRedis],
    broker: str,
    security: Mapping[str, str],
    secrets: Mapping[str, str],
    more: str = "",
) -> Secured:
    """A file in `folder` for `broker` with the table `kafka.security`; `secrets` are keys of it for the environment.

    `more` is text for the end of the file.
    """
    prefix = f"secure-{uuid.uuid4().hex[:10]}"
    config = folder / "touchstream.toml"
    table = "".join(f'{name} = "{value}"\n' for name, value in security.items())
    kafka_table = f'[kafka]\nbroker = "{broker}"\nprefix = "{prefix}"\n[kafka.security]\n{table}'
    config.write_text(f"{credited.ATTRIBUTION}{kafka_table}{more}")
    env = {f"TOUCHSTREAM_KAFKA__SECURITY__{name.upper()}": value for name, value in secrets.items()}
    env["TOUCHSTREAM_REDIS__URL"] = nodes[0].url_of(USER, REDIS_PASSWORD)
    return Secured(kafka, nodes, config, prefix, env)


def _bindings(line: str) -> list[AclBinding]:
    """What a printed `kafka-acls.sh` line grants."""
    words = shlex.split(line)
    options: dict[str, list[str]] = {}
    for name, value in pairwise(words):
        if name.startswith("--"):
            options.setdefault(name[2:], []).append(value)
    (resource,) = options.keys() & RESOURCES.keys()
    (pattern,), (principal,) = options["resource-pattern-type"], options["allow-principal"]
    return [
        AclBinding(
            RESOURCES[resource], options[resource][0], PATTERNS[pattern], principal, "*",
            OPERATIONS[operation], AclPermissionType.ALLOW,
        )
        for operation in options["operation"]
    ]  # fmt: skip
