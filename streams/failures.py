"""What ends a worker, as the block that people read."""

import logging

from aiokafka.errors import KafkaError
from redis.exceptions import RedisError

from models.rules import UnknownPolicy
from state.store import Unreachable
from streams.claiming import ELSEWHERE
from streams.errors import ConnectError, RunFailed, TouchstreamError, UnexpectedError
from streams.step import StartError
from streams.transport import CoPartitioningError

log = logging.getLogger("touchstream.worker")


def block_of(failure: BaseException) -> TouchstreamError:
    """The block of what ended a worker; a defect of ours is logged with its trace."""
    if isinstance(failure, TouchstreamError):
        return failure
    if isinstance(failure, (StartError, CoPartitioningError)):
        fix = getattr(failure, "fix", "") or ELSEWHERE
        return RunFailed("T222", "the worker cannot start on this state", why=str(failure), fix=fix)
    if isinstance(failure, UnknownPolicy):
        fix = "start the program that announced it, or a later one"
        return RunFailed("T226", "a policy cannot be followed", why=str(failure), fix=fix)
    if isinstance(failure, Unreachable | RedisError):
        return ConnectError("T302", "Redis does not answer", why=str(failure))
    if isinstance(failure, KafkaError | TimeoutError):
        return ConnectError("T301", "Kafka does not answer", why=str(failure))
    log.error("the worker failed", exc_info=failure)
    return UnexpectedError.wrap(failure)
