"""The rights that the product needs in Kafka and Redis, and no others: `touchstream topics plan --acls`.

Rights are told for three uses, so that a worker need not have those of an administrator. Kafka grants DESCRIBE with
READ and WRITE, and idempotent producing with WRITE on any topic (KIP-679), so neither is listed.
"""

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from streams.settings import Settings
from streams.topics import TABLE, group_of, name_of

Use = Literal["run", "doctor", "apply"]
Resource = Literal["topic", "group", "transactional-id"]
Pattern = Literal["literal", "prefixed"]

PRINCIPAL = "User:WORKER"  # to be replaced, where the settings name no user
PASSWORD = "PASSWORD"
USES: dict[Use, str] = {
    "run": "touchstream run",
    "doctor": "touchstream doctor and touchstream topics plan, in addition",
    "apply": "touchstream topics apply, in addition: for who sets up, not for the workers",
}

# What the scripts and reads of `state` send, and what is asked before a worker starts. HELLO and AUTH need no right.
REDIS_STORE = ("evalsha", "eval", "get", "set", "exists", "mget", "append", "pexpire", "pttl", "unlink", "scan")
REDIS_CHECKS = ("ping", "info", "time")
REDIS_CLUSTER = ("cluster|slots", "asking")


@dataclass(frozen=True)
class KafkaRight:
    """Operations on one resource of Kafka. `use` says which command of ours needs it."""

    use: Use
    resource: Resource
    name: str
    operations: tuple[str, ...]
    pattern: Pattern = "literal"

    def command(self, principal: str, bootstrap: str) -> str:
        """The `kafka-acls.sh` line that grants it."""
        operations = [part for operation in self.operations for part in ("--operation", operation)]
        words = ["--bootstrap-server", bootstrap, "--add", "--allow-principal", principal, *operations]
        words += [f"--{self.resource}", self.name, "--resource-pattern-type", self.pattern]
        return shlex.join(["kafka-acls.sh", *words])


def kafka_rights(settings: Settings) -> list[KafkaRight]:
    """Everything that a principal must be allowed, by use."""
    every = [name_of(settings, topic.name) for topic in TABLE]
    resolves = settings.identity.enabled
    worker: list[tuple[str, tuple[str, ...]]] = [
        ("touches", ("Read", "Write") if resolves else ("Read",)),
        ("conversions", ("Read", "Write") if resolves else ("Read",)),
        ("moves", ("Read", "Write")),
        ("credits", ("Write",)),
        ("dead-letters", ("Write",)),
        ("policies", ("Read", "Write")),
    ]
    if resolves:
        worker += [
            ("links", ("Read", "Write")),
            ("identities", ("Read",)),
            ("raw-touches", ("Read", "Write")),
            ("raw-conversions", ("Read", "Write")),
        ]
    stages = ("credit", "identity") if resolves else ("credit",)
    return [
        *(KafkaRight("run", "topic", name_of(settings, name), operations) for name, operations in worker),
        *(KafkaRight("run", "group", group_of(settings, stage), ("Read",)) for stage in stages),
        # One transactional id a partition number, so the part before the number is granted.
        *(
            KafkaRight("run", "transactional-id", f"{settings.kafka.prefix}.{stage}.", ("Write",), "prefixed")
            for stage in stages
        ),
        *(KafkaRight("doctor", "topic", name, ("Describe", "DescribeConfigs")) for name in every),
        *(KafkaRight("apply", "topic", name, ("Create", "AlterConfigs")) for name in every),
    ]


def redis_commands(settings: Settings) -> tuple[str, ...]:
    """The commands that a worker and the doctor send, in the spelling of ACL SETUSER."""
    database = ("select",) if urlsplit(settings.redis.url).path.strip("/") not in ("", "0") else ()
    return (*REDIS_STORE, *REDIS_CHECKS, *database, *(REDIS_CLUSTER if settings.redis.cluster else ()))


def redis_rule(settings: Settings) -> list[str]:
    """The words of the `ACL SETUSER` that makes the user of a worker anew, with these rights alone.

    The braces are the hash tag of the keys; in a pattern they, the colons and all that a prefix may hold stand for
    themselves.
    """
    user = unquote(urlsplit(settings.redis.url).username or "") or "touchstream"
    tables = [settings.kafka.prefix, *([group_of(settings, "identity")] if settings.identity.enabled else [])]
    keys = [f"~{{{table}:*}}:*" for table in tables]
    return ["ACL", "SETUSER", user, "reset", "on", f">{PASSWORD}", *keys, *(f"+{c}" for c in redis_commands(settings))]


def principal_of(settings: Settings) -> str:
    """Kafka's name of the user in the settings, else a placeholder."""
    user = settings.kafka.security.username
    return f"User:{user}" if user else PRINCIPAL


def as_dict(settings: Settings) -> dict[str, Any]:
    """All rights as plain data, for `--json`."""
    rights = [asdict(right) for right in kafka_rights(settings)]
    return {"principal": principal_of(settings), "kafka": rights, "redis": redis_rule(settings)}


def lines(settings: Settings) -> Iterator[str]:
    """All rights as commands to copy, comments between them."""
    principal, bootstrap = principal_of(settings), ",".join(settings.kafka.bootstrap_servers())
    for use, title in USES.items():
        yield f"# Kafka: {title}"
        yield from (r.command(principal, bootstrap) for r in kafka_rights(settings) if r.use == use)
        yield ""
    where = "on every node, " if settings.redis.cluster else ""
    yield f"# Redis: touchstream run and touchstream doctor ({where}in redis-cli; put the password for {PASSWORD})"
    yield " ".join(_quoted(word) for word in redis_rule(settings))


def _quoted(word: str) -> str:
    """redis-cli and shells both read single quotes."""
    return shlex.quote(word)
