"""The drawings that other tests rest on."""

import pytest

from models.facts import Conversion, Touch
from tests.support.drawn import NOW_MS, draw

DAY_MS = 86_400_000


def test_a_drawing() -> None:
    """Channels, campaigns, types, values and times are read; ids follow the drawing."""
    drawn = draw("email/spring@-3d > paid_search:impression@-1d12h > conversion:order=10.5 > direct@+500ms")
    email, search, order, direct = drawn.facts
    assert isinstance(email, Touch)
    assert (email.event_id, email.channel, email.campaign, email.type) == ("t1", "email", "spring", "visit")
    assert email.occurred_ms == email.record_ms == NOW_MS - 3 * DAY_MS
    assert (search.type, search.occurred_ms) == ("impression", NOW_MS - 3 * DAY_MS // 2)
    assert isinstance(order, Conversion)
    assert (order.conversion_id, order.type, order.value_micros) == ("c1", "order", 10_500_000)
    assert (order.occurred_ms, direct.occurred_ms) == (NOW_MS, NOW_MS + 500)


def test_touches_are_in_order() -> None:
    """The journey is by time, then by id, however it was drawn."""
    drawn = draw("a@-1d > b@-3d > c@-1d > conversion")
    assert [touch.event_id for touch in drawn.touches] == ["t2", "t1", "t3"]


@pytest.mark.parametrize("text", ["email@3x", "email@", "@-3d", "email=5@-3d", "email@-3d12"])
def test_a_bad_drawing_is_refused(text: str) -> None:
    """What cannot be read is an error, not a guess."""
    with pytest.raises(ValueError, match=r"cannot read|has no value"):
        draw(text)
