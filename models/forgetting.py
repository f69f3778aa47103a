"""A person who wants to be forgotten: credits without the person, and a mark that tells nobody who it was.

The money stays where it is: every conversion that is still kept is published once more with the same keys, shares and
values, at a higher revision, and without any id of the person. Then nothing of the person is kept but a mark, so that
what comes later of the same id is not taken in. A mark is a hash under a secret: an id can be looked up, but not read
back, and not guessed by whoever does not have the secret.
"""

import hmac
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from itertools import chain
from typing import NamedTuple

from models.counting import uncounted
from models.credit import CreditSet, Record
from models.crediting import Journey, Publication, Source, credit_sets
from models.facts import JourneyTouch
from models.journey import JourneyConversion
from models.moving import MovedConversion
from models.rules import Rules

# What a credit names in place of a person who was forgotten.
FORGOTTEN = "(forgotten)"
# Where a partition keeps what its marks are made with.
SECRET = b"xk"
DRAWN_BYTES, CHECK_BYTES = 32, 8


class Forgotten(NamedTuple):
    """What forgetting comes to. `conversions` were published again; `mismatched` sets did not add up."""

    publications: list[Publication]
    conversions: int
    mismatched: int


class Hashing:
    """Makes marks: HMAC-SHA256 under a secret of the settings, or one that was drawn and is kept with the marks.

    Marks of a drawn secret stay good when the settings get one later.
    """

    def __init__(self, secret: bytes, drawn: bytes = b"") -> None:
        """`secret` is that of the settings, and only counts where none was drawn; one of both must not be empty."""
        if not secret and not drawn:
            raise ValueError("marks need a secret")
        self._drawn = drawn
        self._key = hmac.digest(drawn or secret, b"touchstream-forgotten", "sha256")

    def mark(self, key: bytes) -> bytes:
        """Where it stands that the person of this key was forgotten."""
        return b"x:" + hmac.digest(self._key, key, "sha256").hex().encode()

    def text(self) -> bytes:
        """What is kept under SECRET: a check by which another secret shows, and the secret if it was drawn."""
        return hmac.digest(self._key, b"check", "sha256")[:CHECK_BYTES] + self._drawn

    @classmethod
    def read(cls, text: bytes, secret: bytes) -> "Hashing | None":
        """From what is kept; None where the marks were made with another secret than this one of the settings."""
        drawn = text[CHECK_BYTES:]
        if not secret and not drawn:
            return None
        found = cls(secret, drawn)
        return found if hmac.compare_digest(found.text(), text) else None


def forget(journey: Journey, rules: Rules, revision: int, source: Source) -> Forgotten:
    """The credits of a journey without its person; the same as they were published last in everything else.

    Those of a conversion that is older than anything can change stay as they are, with their person: its touches may be
    gone, and its shares with them.
    Where that is not known, as the conversion was read again from the log, its other keys get tombstones. A sealed one
    is published from what is left of its touches: its shares may change, its sum does not.
    """
    state = journey.state
    touches = [_without_person(t) for t in journey.touches]
    shown = [t.event_id for t in touches]
    no_credit = uncounted(state.conversions, rules)
    found = []
    for c in state.conversions:
        if rules.of(c.policy_version)[0].credited(c.type) and _is_kept(c, rules, source.record_ms):
            sets = list(
                credit_sets(nameless(c), touches, state.conversions, no_credit, state.dropped_ms, rules, revision)
            )
            found.append((c, sets, shown if c.rebuilt else []))
    return _published(found, rules, source)


def forget_moved(moved: Sequence[tuple[MovedConversion, Source]], rules: Rules, revision: int) -> Forgotten:
    """The credits of conversions that arrive for somebody who was forgotten: without a person, and without touches.

    Their touches were not taken in, so nothing can be said of shares any more: each becomes one unattributed record
    that carries the whole value.
    """
    publications, conversions, mismatched = [], 0, 0
    for (c, shown), source in ((_parts(m), source) for m, source in moved):
        if rules.of(c.policy_version)[0].credited(c.type):
            sets = list(credit_sets(nameless(c), [], [c], (), -1, rules, revision))
            done = _published([(c, sets, shown)], rules, source)
            publications += done.publications
            conversions += done.conversions
            mismatched += done.mismatched
    return Forgotten(publications, conversions, mismatched)


def _is_kept(c: JourneyConversion, rules: Rules, record_ms: int) -> bool:
    """Whether all touches that it was credited with are still there, as of a record of this time."""
    policy, _ = rules.of(c.policy_version)
    return c.record_ms + max(policy.corrections_ms, policy.retention_ms, rules.lateness_of(policy)) >= record_ms


def nameless(c: JourneyConversion) -> JourneyConversion:
    """The conversion without anything that says whose it is."""
    one = copy(c)
    one.person_id, one.account_id = FORGOTTEN, None
    return one


def _published(
    found: Iterable[tuple[JourneyConversion, Sequence[CreditSet], Sequence[str]]], rules: Rules, source: Source
) -> Forgotten:
    """`found`: conversions, their sets, and the touches that they may have been shown with besides."""
    publications, mismatched = [], 0
    for c, sets, shown in found:
        records: list[Record] = list(chain.from_iterable(s.records for s in sets))
        if shown:
            records += _tombstones(c, shown, {key for key, _ in records}, rules)
        publications.append(Publication(source, records, c.homes))
        mismatched += sum(s.mismatched for s in sets)
    return Forgotten(publications, len(publications), mismatched)


def _tombstones(
    c: JourneyConversion, shown: Sequence[str], kept: set[bytes], rules: Rules
) -> Iterator[tuple[bytes, None]]:
    _, encoder = rules.of(c.policy_version)
    for _, keys in encoder.keys(c.conversion_id, list(dict.fromkeys(shown))):
        yield from ((key, None) for key in keys if key not in kept)


def _without_person(touch: JourneyTouch) -> JourneyTouch:
    if touch.person_id is None:
        return touch
    one = copy(touch)
    one.person_id = None
    return one


def _parts(moved: MovedConversion) -> tuple[JourneyConversion, list[str]]:
    return moved.conversion, moved.shown
