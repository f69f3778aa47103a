"""What ends a worker, as the block that people read."""

import logging

from aiokafka.errors import KafkaError
from redis.exceptions import RedisError

from models.formats import UnknownFormat
from models.rules import UnknownPolicy
from state.store import Unreachable
from streams.claiming import ELSEWHERE, FORMAT_FIX
from streams.errors import ConnectError, RunFailed, TouchstreamError, UnexpectedError
from streams.step import StartError
from streams.transport import CoPartitioningError

log = logging.getLogger("touchstream.worker")


def block_of(failure: BaseException) -> TouchstreamError:
    """The block of what ended a worker; a defect of ours is logged with its trace."""
    why = str(failure)
    match failure:
        case TouchstreamError():
            block: TouchstreamError = failure
        case StartError() | CoPartitioningError():
            fix = getattr(failure, "fix", "") or ELSEWHERE
            block = RunFailed("T222", "the worker cannot start on this state", why=why, fix=fix)
        case UnknownPolicy():
            fix = "start the program that announced it, or a later one"
            block = RunFailed("T226", "a policy cannot be followed", why=why, fix=fix)
        case UnknownFormat():
            block = RunFailed("T228", "stored state is of another format", why=why, fix=FORMAT_FIX)
        case Unreachable() | RedisError():
            block = ConnectError("T302", "Redis does not answer", why=why)
        case KafkaError() | TimeoutError() | ConnectionError():
            block = ConnectError("T301", "Kafka does not answer", why=why)
        case _:
            log.error("the worker failed", exc_info=failure)
            block = UnexpectedError.wrap(failure)
    return block
