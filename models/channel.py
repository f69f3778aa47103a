"""Where a touch came from: channel, source, medium, campaign, by what its producer, url and referrer say.

Who wins, field by field:

1. What the producer sent explicitly is kept, always; a channel that was sent is not derived again, and click
   id and referrer, which prove a channel, then fill in nothing.
2. The campaign, content and term that are absent come from the `utm_` parameters of the url.
3. Source and medium that are absent come from a click id, as far as there is one; else from `utm_`; else,
   where both are unknown, from the referrer; else they are `(direct)` and `(none)`.
4. The channel is judged by the click id wherever it and the known source and medium disagree, even explicit
   ones: an ad network's own stamp is better proof than a hand-written tag. The explicit text still stands in
   the record.
"""

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_plus

from models.channel_data.ga4 import DISPLAY, classify, is_paid
from models.channel_data.sources import SOURCE_CHARS_MAX, registrable, source_category
from models.text import clean_text, fold_text

# Parameter (lower case) -> source and medium that it proves, the strongest first. A `fbclid` hangs on every
# link out of Facebook, paid or not, so it only says where a visit came from, and only when nothing else does.
CLICK_IDS = {
    "gclid": ("google", "cpc"),
    "gbraid": ("google", "cpc"),
    "wbraid": ("google", "cpc"),
    "gad_source": ("google", "cpc"),
    "dclid": ("google", "display"),
    "msclkid": ("bing", "cpc"),
    "ttclid": ("tiktok", "paid_social"),
    "li_fat_id": ("linkedin", "paid_social"),
    "twclid": ("x", "paid_social"),
    "rdt_cid": ("reddit", "paid_social"),
    "sccid": ("snapchat", "paid_social"),
    "epik": ("pinterest", "paid_social"),
    "yclid": ("yandex", "cpc"),
    "mc_cid": ("mailchimp", "email"),
}
WANTED = frozenset((*CLICK_IDS, "fbclid", *(f"utm_{n}" for n in ("source", "medium", "campaign", "content", "term"))))
REFERRER_MEDIUM = {"search": "organic", "social": "social", "ai": "ai-assistant"}

# Scheme and user, where there are any, then the host, up to what can follow one.
HOST = re.compile(r"\s*(?:[a-z][\w+.-]*://|//)?(?:[^/?#@\s]*@)?([^/?#:@\s]+)(?=[/?#:\s]|$)", re.IGNORECASE)

# A url is at most a record long (1 MiB): without this bound one of a million `&` would hold up a whole batch.
PARAMS_MAX = 200
# Bounds of the cache: about 4096 * 1 kB of text. Longer arguments are derived each time.
CACHE_ENTRIES_MAX = 4096
CACHED_CHARS_MAX = 1000


class Origin(NamedTuple):
    """Where a touch came from and which rule said so: `given`, `ga4:14 Email`, `click-id:gclid → ga4:4 …`."""

    channel: str
    source: str | None
    medium: str | None
    campaign: str | None
    content: str | None
    term: str | None
    rule: str


def enrich(
    channel: str | None = None,
    source: str | None = None,
    medium: str | None = None,
    campaign: str | None = None,
    content: str | None = None,
    term: str | None = None,
    url: str | None = None,
    referrer: str | None = None,
) -> Origin:
    """Fill in what the producer left out. Any text is accepted, nothing raises, the channel is never empty.

    Blank text counts as absent. Text that is filled in is percent-decoded (`+` is a space), trimmed and NFC.
    """
    parts = (channel, source, medium, campaign, content, term, url, referrer)
    if len("".join(filter(None, parts))) > CACHED_CHARS_MAX:
        return _derive(*parts)
    return _cached(*parts)


def _derive(
    channel: str | None,
    source: str | None,
    medium: str | None,
    campaign: str | None,
    content: str | None,
    term: str | None,
    url: str | None,
    referrer: str | None,
) -> Origin:
    tags = _tags(url or "")
    given = (clean_text(source or ""), clean_text(medium or ""))
    known = (given[0] or tags.get("utm_source", ""), given[1] or tags.get("utm_medium", ""))
    campaign = clean_text(campaign or "") or tags.get("utm_campaign", "")
    named, rule = clean_text(channel or ""), "given"
    if not named:
        known, judged, via = _source_medium(given, known, tags, url or "", referrer or "")
        if not (campaign or any(known)):
            known = judged = ("(direct)", "(none)")
        named, number = classify(*judged, campaign)
        rule = f"{via}ga4:{number} {named}"
    content = clean_text(content or "") or tags.get("utm_content")
    term = clean_text(term or "") or tags.get("utm_term")
    return Origin(named, known[0] or None, known[1] or None, campaign or None, content, term, rule)


_cached = lru_cache(CACHE_ENTRIES_MAX)(_derive)


def _source_medium(
    given: tuple[str, str], tagged: tuple[str, str], tags: dict[str, str], url: str, referrer: str
) -> tuple[tuple[str, str], tuple[str, str], str]:
    """Source and medium as the record shows them, the pair that the channel is judged by, who said so."""
    clicks = CLICK_IDS.keys() & tags.keys()
    if clicks:
        click = next(name for name in CLICK_IDS if name in clicks)
        proven = tagged if _agrees(click, *tagged) else CLICK_IDS[click]
        return (given[0] or proven[0], given[1] or proven[1]), proven, f"click-id:{click} → "
    if any(tagged):
        return tagged, tagged, "" if tagged == given else "utm → "
    referred = _referred(referrer, url)
    if referred:
        return referred, referred, "referrer → "
    if "fbclid" in tags:
        return ("facebook", "social"), ("facebook", "social"), "click-id:fbclid → "
    return tagged, tagged, ""


def _agrees(click: str, source: str, medium: str) -> bool:
    """Whether source and medium say the same as the click id in other words (google / ppc)."""
    source, medium = fold_text(source), fold_text(medium)
    proven_source, proven_medium = CLICK_IDS[click]
    if proven_medium == "email":
        return medium == "email"  # the source is the name of a mailing list
    same_medium = medium in DISPLAY if proven_medium == "display" else is_paid(medium)
    return same_medium and (source == proven_source or source.startswith(f"{proven_source}."))


def _referred(referrer: str, url: str) -> tuple[str, str] | None:
    """Source (the host) and medium of a referrer; None without one, and for a page of the same site."""
    host = _host(referrer)
    if not host or _same_site(host, url):
        return None
    return host, REFERRER_MEDIUM.get(source_category(host), "referral")


def _same_site(host: str, url: str) -> bool:
    """Whether both belong to one owner; most do not, and then a search for the name is the quicker answer."""
    owner = registrable(host)
    return owner in url[: 4 * SOURCE_CHARS_MAX].casefold() and owner == registrable(_host(url))


def _host(address: str) -> str:
    """Host of an address, casefolded, without `www.` and port; `""` for what is none: `-`, `localhost`."""
    found = HOST.match(address[: 4 * SOURCE_CHARS_MAX])
    host = found[1].casefold().strip(".").removeprefix("www.") if found else ""
    return clean_text(host) if "." in host and len(host) <= SOURCE_CHARS_MAX else ""


def _tags(url: str) -> dict[str, str]:
    """The wanted parameters of a url's query, decoded, not blank; the first of a name counts, in any case."""
    query = url.partition("#")[0].partition("?")[2]
    found: dict[str, str] = {}
    if query:
        for pair in query.split("&", PARAMS_MAX)[:PARAMS_MAX]:
            name, _, value = pair.partition("=")
            name = name.lower()
            if name in WANTED and name not in found and (text := clean_text(_decoded(value))):
                found[name] = text
    return found


def _decoded(value: str) -> str:
    """Percent-decoded, bytes that are no UTF-8 as U+FFFD; most values need nothing, which is cheap to see."""
    return unquote_plus(value) if "%" in value or "+" in value else value
