"""What `touchstream explain` and `touchstream journey` know: the journey, the credits, and what caused them."""

from collections.abc import Sequence
from typing import NamedTuple

from models import explaining
from models.attribution.table import nearest
from models.forgetting import FORGOTTEN
from models.policy import Policy
from models.revisions import Place, PublishedCredit, Revision, final_view, revisions
from models.rules import Rules
from streams import published
from streams.errors import RunFailed, UsageError
from streams.journeys import StoredJourney, read_journey, was_forgotten
from streams.published import Cause, Say
from streams.settings import Settings
from streams.topics import name_of

CONVERSIONS_NAMED_MAX = 10  # in an error


class Explained(NamedTuple):
    """All that is known of a conversion.

    `explanation` is None where the journey does not hold the conversion any more: then only what was published is
    known. `matches` is None without an explanation or without credits.
    """

    conversion_id: str
    journey: StoredJourney | None
    explanation: explaining.Explanation | None
    revisions: list[Revision]
    causes: dict[Place, Cause]
    matches: bool | None


class JourneyFound(NamedTuple):
    """A journey, and the rules under which its conversions stand."""

    journey: StoredJourney
    rules: Rules


async def explain(settings: Settings, conversion_id: str, person: str | None, say: Say) -> Explained:
    """Explain a conversion. Raises RunFailed where nobody knows it, ConnectError where a server does not answer."""
    counts = await published.partitions(settings)
    policy = settings.policy()
    async with published.consumer(settings) as reader:
        earlier = await published.policies(settings, reader, policy)
        found = await published.credits(settings, reader, conversion_id, person, counts["credits"], say)
        if _is_forgotten(found):
            raise _forgotten(f"the conversion {conversion_id!r}")
        key = person if person is not None else _owner(found, policy)
        if key is None:
            raise _unknown_conversion(settings, conversion_id)
        rules = Rules(policy, settings.processing.settle, earlier)
        journey = await read_journey(settings, key, counts["touches"], rules)
        told = None if journey is None else explaining.explain(journey.touches, journey.state, conversion_id, rules)
        history = revisions(found)
        if told is None and not history:
            if journey is None and await was_forgotten(settings, key, counts["touches"]):
                raise _forgotten(repr(key))
            raise _not_in_journey(conversion_id, key, journey)
        causes = await published.causes(settings, reader, history)
    matches = None if told is None or not history else agrees(told, history)
    return Explained(conversion_id, journey, told, history, causes, matches)


async def find_journey(settings: Settings, person: str) -> JourneyFound:
    """A person's (or account's) journey. Raises RunFailed where there is none, ConnectError as above."""
    counts = await published.partitions(settings)
    policy = settings.policy()
    async with published.consumer(settings) as reader:
        earlier = await published.policies(settings, reader, policy)
    rules = Rules(policy, settings.processing.settle, earlier)
    journey = await read_journey(settings, person, counts["touches"], rules)
    if journey is None:
        if await was_forgotten(settings, person, counts["touches"]):
            raise _forgotten(repr(person))
        raise _unknown_person(settings, person)
    return JourneyFound(journey, rules)


def agrees(told: explaining.Explanation, history: Sequence[Revision]) -> bool:
    """Whether the explanation gives the very credits that were published last."""
    explained = {
        each.attribution_model: [
            ("" if p.touch is None else p.touch.event_id, p.position, p.share, p.value_micros, p.reason)
            for p in each.credited
        ]
        for each in told.sets
    }
    published = {
        name: [(r["touch_id"], r["position"], r["share"], r["value_micros"], r["reason"]) for r in rows]
        for name, rows in final_view(history).items()
    }
    return explained == published


def _owner(found: Sequence[PublishedCredit], policy: Policy) -> str | None:
    """The key of the journey as the latest credit names it."""
    field = "account_id" if policy.journey == "account" else "person_id"
    return next((each.row.get(field) for each in reversed(found) if each.row is not None), None)


def _is_forgotten(found: Sequence[PublishedCredit]) -> bool:
    """Earlier credits, and what caused them, may lie in Kafka still; they are not shown."""
    return next((each.row["person_id"] == FORGOTTEN for each in reversed(found) if each.row is not None), False)


def _forgotten(whose: str) -> RunFailed:
    return RunFailed("T251", "forgotten", whose, "the person was forgotten: the credits remain, and name nobody")


def check_attribution_model(told: Explained, name: str) -> None:
    """Raise UsageError where the conversion has no credits under that attribution model."""
    known = set(final_view(told.revisions))
    if told.explanation is not None:
        known |= {each.name for each in told.explanation.policy.models}
    if name not in known:
        where, why = f"--attribution-model {name}", f"it has {', '.join(sorted(known))}"
        raise UsageError(
            "T115", "the conversion is not credited under this attribution model", where, why, nearest(name, known)
        )


def _unknown_conversion(settings: Settings, conversion_id: str) -> RunFailed:
    why = "it may wait at the gate, be a milestone, be a dead letter, or be older than credits.retention"
    fix = f"name its journey (touchstream explain {conversion_id} --person KEY), or look into the dead letters"
    return RunFailed(
        "T240", f"no credit names the conversion {conversion_id!r}", name_of(settings, "credits"), why, fix
    )


def _not_in_journey(conversion_id: str, key: str, journey: StoredJourney | None) -> RunFailed:
    if journey is None:
        return RunFailed("T241", f"there is no journey {key!r}, and no credit names the conversion", conversion_id)
    known = ", ".join(sorted(c.conversion_id for c in journey.state.conversions)[:CONVERSIONS_NAMED_MAX]) or "none"
    why = f"the journey holds these conversions: {known}"
    return RunFailed("T240", f"the journey {key!r} does not hold the conversion {conversion_id!r}", "", why)


def _unknown_person(settings: Settings, person: str) -> RunFailed:
    kind = "account" if settings.policy().journey == "account" else "person"
    return RunFailed(
        "T241",
        f"there is no journey of the {kind} {person!r}",
        f"{settings.redis.shown()}, prefix {settings.kafka.prefix}",
        f"nothing of this {kind} was accepted, or all of it has outlived its retention",
        "check the spelling, upper and lower case count; and that --prefix and --redis are those of the workers",
    )
