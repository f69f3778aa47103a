"""The stages that a worker process can be: crediting, and before it, telling who is who."""

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from models.linking import Outcome as Linked
from models.mail import IdentityRules
from models.rules import MARGIN_MS, TOPICS_MARGIN_MS, Rules
from streams.app import Stage
from streams.compiled import CompiledPublisher
from streams.crash import crash_point
from streams.credit_task import CreditTask
from streams.decode import Decoder
from streams.following import Following
from streams.identity import IdentityTask
from streams.identity_decode import RawDecoder
from streams.identity_publish import CompiledRelayPublisher, RelayPublisher
from streams.native import describe, load
from streams.origin import Origin
from streams.publish import Publisher
from streams.report import BatchReport
from streams.settings import Settings
from streams.step import Limits
from streams.topics import Topics, group_of, topics_of

Report = Callable[[BatchReport], None]

log = logging.getLogger("touchstream.worker")


def credit_stage(
    settings: Settings, report: Report, following: Following | None = None, origin: Origin | None = None
) -> Stage:
    """Touches, conversions and moves in, credits out.

    `report` gets what each step did; `following` knows the policies that were announced, None gives all conversions
    that of the settings; `origin` is the log as Kafka tells it, which the store must be made from.
    """
    topics = topics_of(settings)
    inputs = (topics.touches, topics.conversions, topics.moves)
    policy, group = settings.policy(), group_of(settings)
    log.info("hot path: %s", describe(settings.processing.native))
    native = load(settings.processing.native)
    decoder = Decoder(*inputs, policy.journey == "account", settings.compiled_filters(), native)
    secret = settings.identity.email_key.get_secret_value().encode()
    crash, limits = crash_point(), _limits(settings)

    def new_part(partition: int, store: Any) -> CreditTask:
        client, name = settings.kafka.client_options(), f"{settings.kafka.prefix}.credit.{partition}"
        given = (client, name, group, _names(topics), crash)
        publisher = Publisher(*given) if native is None else CompiledPublisher(*given, native)
        republish = settings.processing.republish
        return CreditTask(
            partition,
            topics,
            store,
            publisher,
            decoder,
            Rules(policy, settings.processing.settle) if following is None else following.rules,
            limits,
            crash,
            report,
            origin,
            republish,
            secret,
            settings.identity.enabled,
            following,
        )

    return Stage(group, settings.kafka.prefix, inputs, new_part, decoder.unpack)


def identity_stage(
    settings: Settings, report: Report, tell: Callable[[Linked], None], origin: Origin | None = None
) -> Stage:
    """Raw events and Identify records in; touches, conversions and moves out. `tell` gets what links came to."""
    topics = topics_of(settings)
    inputs = (topics.links, topics.identities, topics.raw_touches, topics.raw_conversions)
    group = group_of(settings, "identity")
    policy = settings.policy()
    by_account = policy.journey == "account"
    wait_ms, unread_ms = policy.corrections_ms, policy.retention_ms + TOPICS_MARGIN_MS
    kept_ms = wait_ms + unread_ms + MARGIN_MS
    ids_max, state_format = settings.identity.ids_max, settings.state.format
    rules = IdentityRules(ids_max, wait_ms, kept_ms, unread_ms, by_account, state_format)
    secret = settings.identity.email_key.get_secret_value().encode()
    native = load(settings.processing.native)
    decoder = RawDecoder(inputs, secret, by_account, native)
    behind: set[int] = set()
    crash, limits = crash_point(), _limits(settings)

    def new_part(partition: int, store: Any) -> IdentityTask:
        client, name = settings.kafka.client_options(), f"{settings.kafka.prefix}.identity.{partition}"
        given = (client, name, group, _names(topics), crash)
        publisher = RelayPublisher(*given) if native is None else CompiledRelayPublisher(*given, native)
        return IdentityTask(
            partition, inputs, store, publisher, decoder, rules, limits, crash, report, tell, origin, secret, behind
        )

    return Stage(group, group, inputs, new_part, decoder.unpack)


def _limits(settings: Settings) -> Limits:
    p = settings.processing
    return Limits(
        p.settle,
        p.step_records,
        p.held_max,
        p.commit_interval / 1000,
        p.retry_deadline / 1000,
        p.trip_wire,
        settings.state.format,
    )


def _names(topics: Topics) -> dict[str, str]:
    """Full names by what producers call them: `dead_letters`, `raw-touches`."""
    names = {field.name.replace("_", "-"): getattr(topics, field.name) for field in fields(topics)}
    return {**names, "dead_letters": topics.dead_letters}
