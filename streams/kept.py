"""How commands reach what the workers keep in Redis: a connection for each command, and errors that say what to do."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from redis.exceptions import RedisError

from models.formats import CodecError
from state.route import Route
from streams.errors import ConnectError, RunFailed
from streams.settings import Settings

TIMEOUT_S = 5.0


@contextmanager
def redis_told(settings: Settings) -> Iterator[None]:
    """Raises ConnectError where Redis does not answer."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise ConnectError.of_redis(settings.redis.shown(), error) from error


@asynccontextmanager
async def kept(settings: Settings, what: str = "") -> AsyncIterator[Route]:
    """A way to the keys of the workers.

    Raises ConnectError where Redis does not answer, RunFailed where what is kept of `what` is of another version of
    this program.
    """
    route = Route(settings.redis.url, TIMEOUT_S)
    try:
        with redis_told(settings):
            yield route
    except CodecError as error:
        fix = "use the touchstream that the workers run"
        raise RunFailed("T243", "what is kept cannot be read", what, str(error), fix) from error
    finally:
        await route.close()
