"""What `touchstream identity` knows: an id, the person that it belongs to, and all other ids of that person.

An id that was split from a person goes on as a new one, and is shown with the person that this one is or belongs to.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from models.linking import HOPS_MAX, NEW, IdState, Split, read_id, write_message
from models.mail import id_subkey
from models.splitting import next_incarnation
from state.keys import prefix
from state.route import Route
from streams.errors import RunFailed, UsageError
from streams.kept import kept
from streams.murmur import partition_of
from streams.settings import Settings
from streams.topics import admin_client, group_of, name_of, read_cluster, unreachable

# Ids of one person that are shown; far more than links can bring together by intention.
IDS_SHOWN_MAX = 5_000
LOOK_S = 0.1


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
                    "since": _since(each),
                    "apart": list(each.state.apart),
                    "account_id": each.state.account,
                    "refused": each.state.refused,
                    "refused_last": [{"id": id_, "at": at} for id_, at in each.state.refused_last],
                }
                for each in self.ids
            ],
        }


class WasSplit(NamedTuple):
    """`person_id` was an id of `former`, and is `now` from now on; `done` is false where nobody waited."""

    person_id: str
    former: str
    now: str
    done: bool


def _since(each: Id) -> int | None:
    if each.up is None:
        return None
    return each.state.up_ms if each.state.now is None else each.state.split_ms


def email_key_of(settings: Settings) -> bytes:
    """The secret that addresses are hashed with; UsageError where it is not set."""
    key = settings.identity.email_key.get_secret_value()
    if not key:
        fix = "set identity.email_key as the workers have it (TOUCHSTREAM_IDENTITY__EMAIL_KEY)"
        raise UsageError("T116", "the address cannot be hashed", "--email", "identity.email_key is not set", fix)
    return key.encode()


async def find_person(settings: Settings, asked: str) -> Person:
    """Who an id is. Raises RunFailed where nothing links it to another, ConnectError where a server does not answer."""
    async with _known_ids(settings, asked) as ids:
        person = await ids.person_of(asked)
    if len(person.ids) == 1 and person.ids[0].state == NEW:
        raise _unknown(settings, asked)
    return person


async def present_id(settings: Settings, asked: str) -> str:
    """The id that this one goes on as, where it was split from a person; errors as in `find_person`."""
    async with _known_ids(settings, asked) as ids:
        present, _ = await ids.present(asked)
    return present


async def split(settings: Settings, asked: str, wait_s: float | None) -> WasSplit:
    """Have an id be somebody of its own again, and wait for at most `wait_s` until it is; None does not wait.

    Raises RunFailed where it belongs to nobody else, cannot be split, or is not in time; else as `find_person`.
    """
    async with _known_ids(settings, asked) as ids:
        present, state = await ids.present(asked)
        if state == NEW:
            raise _unknown(settings, asked)
        if state.up is None:
            fix = "`touchstream identity show` lists the ids that were linked to it; split the one that does not belong"
            raise RunFailed("T252", f"the id {present!r} belongs to nobody else", asked, "nothing to take back", fix)
        try:
            now = next_incarnation(present)
        except ValueError as error:
            raise RunFailed("T253", f"the id {present!r} cannot be split", asked, str(error)) from error
        await _ask(settings, Split(present))
        done = WasSplit(present, state.up, now, wait_s is not None)
        deadline_s = time.monotonic() + (wait_s or 0)
        while wait_s is not None and (await ids.state(present)).now is None:
            if time.monotonic() > deadline_s:
                fix = "start the workers (`touchstream run`): they do it then; to ask once more does no harm until then"
                why = f"the request was written, but not applied within {wait_s:g} s"
                raise RunFailed("T254", "the id is not split yet", present, why, fix)
            await asyncio.sleep(LOOK_S)
    return done


async def _ask(settings: Settings, message: Split) -> None:
    key, value = write_message(message)
    topic = name_of(settings, "links")
    producer = AIOKafkaProducer(**settings.kafka.client_options(), acks="all", enable_idempotence=True)
    try:
        await producer.start()
        count = len(await producer.partitions_for(topic))
        await producer.send_and_wait(topic, value, key, partition_of(key, count))
    except (KafkaError, OSError, TimeoutError) as error:
        raise unreachable(settings, error) from error
    finally:
        await producer.stop()


@asynccontextmanager
async def _known_ids(settings: Settings, asked: str) -> AsyncIterator["_Ids"]:
    async with admin_client(settings) as client:
        found = (await read_cluster(client, settings)).topics.get(name_of(settings, "links"))
    if found is None:
        raise RunFailed(
            "T244", "topics are missing", name_of(settings, "links"), settings.kafka.broker, "touchstream topics apply"
        )
    async with kept(settings, asked) as route:
        yield _Ids(route, group_of(settings, "identity"), found.partitions)


def _unknown(settings: Settings, asked: str) -> RunFailed:
    return RunFailed(
        "T246",
        f"nothing is known of the id {asked!r}",
        f"{settings.redis.shown()}, prefix {settings.kafka.prefix}",
        "no Identify and no raw event ever named it together with another id",
        "ids are user_id, email:<hash> and anonymous:<anonymous_id>; with --email an address",
    )


class _Ids:
    def __init__(self, route: Route, app: str, partitions: int) -> None:
        self._route, self._app, self._partitions = route, app, partitions

    async def present(self, asked: str) -> tuple[str, IdState]:
        """What an id goes on as after all splits, and what is kept of that."""
        state = await self.state(asked)
        while state.now is not None:
            asked = state.now
            state = await self.state(asked)
        return asked, state

    async def person_of(self, asked: str) -> Person:
        """Up to the top, then down to everything below it."""
        top = asked
        for _ in range(HOPS_MAX):
            up = _above(await self.state(top))
            if up is None:
                break
            top = up
        found: dict[str, Id] = {}
        waiting: list[tuple[str, str | None]] = [(top, None)]
        while waiting and len(found) < IDS_SHOWN_MAX:
            person_id, up = waiting.pop(0)
            state = await self.state(person_id)
            # An id that was taken in below two others has one of them above it, and comes up there.
            if person_id not in found and (up is None or _above(state) == up):
                found[person_id] = Id(person_id, up, state)
                lower = {*state.below, *state.before, *filter(None, [state.was])}
                waiting += [(each, person_id) for each in sorted(lower)]
        return Person(asked, top, list(found.values()), not waiting)

    async def state(self, person_id: str) -> IdState:
        """What is kept of an id."""
        start = prefix(self._app, partition_of(person_id.encode(), self._partitions))
        return read_id(await self._route.call(start, "GET", start + id_subkey(person_id)))


def _above(state: IdState) -> str | None:
    return state.up if state.now is None else state.now
