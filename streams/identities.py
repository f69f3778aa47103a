"""What `touchstream identity show` knows: an id, the person that it belongs to, and all other ids of that person."""

from typing import Any, NamedTuple

from redis.exceptions import RedisError

from models.formats import CodecError
from models.linking import HOPS_MAX, NEW, IdState, read_id
from models.mail import id_subkey
from state.keys import prefix
from state.route import Route
from streams.errors import ConnectError, RunFailed, UsageError
from streams.murmur import partition_of
from streams.settings import Settings
from streams.topics import admin_client, group_of, name_of, read_cluster

TIMEOUT_S = 5.0
# Ids of one person that are shown; far more than links can bring together by intention.
IDS_SHOWN_MAX = 5_000


class Id(NamedTuple):
    """An id of a person: which one it points to (None for the person's own), and what is kept of it."""

    person_id: str
    up: str | None
    state: IdState


class Person(NamedTuple):
    """`asked` leads to `person_id`; `ids` are all of the person, the highest first. `complete`: none was left out."""

    asked: str
    person_id: str
    ids: list[Id]
    complete: bool

    def document(self) -> dict[str, Any]:
        """As `touchstream identity show --json` prints it; times are epoch ms."""
        return {
            "asked": self.asked,
            "person_id": self.person_id,
            "complete": self.complete,
            "ids": [
                {
                    "id": each.person_id,
                    "up": each.up,
                    "since": each.state.up_ms if each.up is not None else None,
                    "refused": each.state.refused,
                    "refused_last": [{"id": id_, "at": at} for id_, at in each.state.refused_last],
                }
                for each in self.ids
            ],
        }


def email_key_of(settings: Settings) -> bytes:
    """The secret that addresses are hashed with; UsageError where it is not set."""
    key = settings.identity.email_key.get_secret_value()
    if not key:
        fix = "set identity.email_key as the workers have it (TOUCHSTREAM_IDENTITY__EMAIL_KEY)"
        raise UsageError("T116", "the address cannot be hashed", "--email", "identity.email_key is not set", fix)
    return key.encode()


async def find_person(settings: Settings, asked: str) -> Person:
    """Who an id is. Raises RunFailed where nothing links it to another, ConnectError where a server does not answer."""
    async with admin_client(settings) as client:
        found = (await read_cluster(client, settings)).topics.get(name_of(settings, "links"))
    if found is None:
        raise RunFailed(
            "T244", "topics are missing", name_of(settings, "links"), settings.kafka.broker, "touchstream topics apply"
        )
    ids = _Ids(settings, found.partitions)
    try:
        person = await ids.person_of(asked)
    except (RedisError, OSError, TimeoutError) as error:
        raise ConnectError.of_redis(settings.redis.shown(), error) from error
    except CodecError as error:
        fix = "use the touchstream that the workers run"
        raise RunFailed("T243", "what is kept of an id cannot be read", asked, str(error), fix) from error
    finally:
        await ids.close()
    if len(person.ids) == 1 and person.ids[0].state == NEW:
        raise RunFailed(
            "T246",
            f"nothing is known of the id {asked!r}",
            f"{settings.redis.shown()}, prefix {settings.kafka.prefix}",
            "no Identify and no raw event ever named it together with another id",
            "ids are user_id, email:<hash> and anonymous:<anonymous_id>; with --email an address",
        )
    return person


class _Ids:
    def __init__(self, settings: Settings, partitions: int) -> None:
        self._route = Route(settings.redis.url, TIMEOUT_S)
        self._app = group_of(settings, "identity")
        self._partitions = partitions

    async def close(self) -> None:
        await self._route.close()

    async def person_of(self, asked: str) -> Person:
        """Up to the top, then down to everything below it."""
        top = asked
        for _ in range(HOPS_MAX):
            state = await self._state(top)
            if state.up is None:
                break
            top = state.up
        found: dict[str, Id] = {}
        waiting: list[tuple[str, str | None]] = [(top, None)]
        while waiting and len(found) < IDS_SHOWN_MAX:
            person_id, up = waiting.pop(0)
            state = await self._state(person_id)
            # An id that was taken in below two others has one of them above it, and comes up there.
            if person_id not in found and (up is None or state.up == up):
                found[person_id] = Id(person_id, state.up, state)
                waiting += [(lower, person_id) for lower in sorted(state.below)]
        return Person(asked, top, list(found.values()), not waiting)

    async def _state(self, person_id: str) -> IdState:
        start = prefix(self._app, partition_of(person_id.encode(), self._partitions))
        return read_id(await self._route.call(start, "GET", start + id_subkey(person_id)))
