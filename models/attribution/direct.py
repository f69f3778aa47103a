"""Which touches are direct, and how channel names compare."""

from models.facts import JourneyTouch

_DIRECT = frozenset({"direct", "(direct)"})


def fold(channel: str) -> str:
    """A channel's name as it is compared: case does not count."""
    return channel.casefold()


def is_direct(touch: JourneyTouch) -> bool:
    """True where nobody sent the person: the channel is `direct` or `(direct)`."""
    return touch.channel.casefold() in _DIRECT
