"""The category of a traffic source by the packaged lists `matomo.json` (CC0) and `names.json` (our own)."""

import json
from functools import cache
from importlib.resources import files

CATEGORIES = ("search", "social", "video", "shopping", "ai")

# Longer than any real host name (253); a longer source is nobody we know, and is not walked label by label.
SOURCE_CHARS_MAX = 256

# Labels which, under a two-letter country domain, make one public suffix with it (`co.uk`, `com.br`).
COUNTRY_SECOND_LEVEL = frozenset(("ac", "co", "com", "edu", "gob", "gov", "go", "it", "ne", "net", "or", "org"))


@cache
def source_table() -> dict[str, str]:
    """Source name or host -> category, `""` for hosts that are expressly none; our own names win. Read once.

    `{}` in a host stands for a country: `{}.bing.com` is de.bing.com, `google.{}` google.de and google.co.uk.
    """
    folder, table = files("models.channel_data"), {}
    for name in ("matomo.json", "names.json"):
        lists = json.loads(folder.joinpath(name).read_text("utf-8"))
        table.update({host: category for category in CATEGORIES for host in lists.get(category, ())})
        table.update(dict.fromkeys(lists.get("none", ()), ""))
    return table


def source_category(source: str) -> str:
    """Category of a casefolded source (`google`, `www.google.co.uk`, `l.facebook.com`), `""` where unknown.

    Everything below a known host is in its category too (old.reddit.com), except below a search engine: mail
    and documents live there. The list's makers read it so too: exact hosts for search, endings for the rest.
    """
    table, host = source_table(), source.removeprefix("www.")
    category = _exact(table, host)
    if category is not None or "." not in host or len(host) > SOURCE_CHARS_MAX:
        return category or ""
    parent = host.partition(".")[2]
    while parent:
        category = _exact(table, parent)
        if category is not None and category != "search":
            return category
        parent = parent.partition(".")[2]
    return ""


def registrable(host: str) -> str:
    """The part of a host that one owner registers: `shop.example.co.uk` -> `example.co.uk`.

    An approximation without the public suffix list: two labels, or three under a country's second level.
    """
    labels = host.rsplit(".", 3)
    if len(labels) < 3 or labels[-1].isdigit():
        return host
    wide = len(labels[-1]) == 2 and labels[-2] in COUNTRY_SECOND_LEVEL
    return ".".join(labels[-3:] if wide else labels[-2:])


def _exact(table: dict[str, str], host: str) -> str | None:
    """The category of this very host, or of the list's entry with `{}` in the place of its country."""
    category = table.get(host)
    if category is not None:
        return category
    if len(host) > 3 and host[2] == ".":
        category = table.get("{}" + host[2:])
    if category is None and len(host) > 3 and host[-3] == ".":
        stem, _, second = host[:-3].rpartition(".")
        category = table.get(f"{stem if stem and second in COUNTRY_SECOND_LEVEL else host[:-3]}.{{}}")
    return category
