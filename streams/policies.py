"""The policies that conversions were ever credited with, kept in a compacted topic.

A restatement uses the policy of the first credit, so a worker needs earlier ones too. Each worker publishes its own
under its version when it starts; the same version always has the same content, so a repeat does no harm.
"""

import asyncio
import json
import logging

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from models.policy import Policy
from streams.settings import Settings
from streams.topics import name_of

log = logging.getLogger("touchstream.policies")

READ_S = 20.0


async def exchange(settings: Settings) -> list[Policy]:
    """Publish this policy where it is not known yet; the others that are. Raises TimeoutError, KafkaError."""
    mine = settings.policy()
    async with asyncio.timeout(READ_S):
        stored = await _read(settings)
        if mine.version not in stored:
            await _publish(settings, mine)
    return [policy for version, text in stored.items() if version != mine.version and (policy := _parse(version, text))]


async def _read(settings: Settings) -> dict[str, bytes]:
    place = TopicPartition(name_of(settings, "policies"), 0)
    # Reset, not seek: a seek to the beginning can be overtaken by the reset to the end that assigning has begun.
    consumer = AIOKafkaConsumer(
        **settings.kafka.client_options(),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=100,
    )
    await consumer.start()
    try:
        consumer.assign([place])
        end = (await consumer.end_offsets([place]))[place]
        found: dict[str, bytes] = {}
        while await consumer.position(place) < end:
            for record in (await consumer.getmany(place, timeout_ms=100)).get(place, []):
                if record.key is not None and record.value is not None:
                    found[record.key.decode()] = record.value
        return found
    finally:
        await consumer.stop()


async def _publish(settings: Settings, policy: Policy) -> None:
    producer = AIOKafkaProducer(**settings.kafka.client_options(), acks="all")
    await producer.start()
    try:
        value = json.dumps({"policy_version": policy.version, "policy": policy.effective()}, sort_keys=True)
        await producer.send_and_wait(name_of(settings, "policies"), value.encode(), policy.version.encode())
    finally:
        await producer.stop()


def _parse(version: str, text: bytes) -> Policy | None:
    """The policy; None, with a warning, where it is of a later program and this one cannot follow it."""
    try:
        return Policy.from_effective(json.loads(text)["policy"])
    except (ValueError, KeyError) as exc:
        log.warning("policy %s cannot be read, its conversions are restated under the running one: %s", version, exc)
        return None
