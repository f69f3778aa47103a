"""Ids: what counts as one, and how several are joined into a key without ambiguity.

`|` joins, `\\` escapes: inside an id both are written with a `\\` before them.
"""

import re

from models.text import clean_text

ID_BYTES_MAX = 256

_PART = re.compile(r"(?:[^|\\]|\\[|\\])*")


def clean_id(text: str) -> str:
    """The id trimmed and in NFC; ValueError where blank, or over 256 bytes before or after that."""
    cleaned = clean_text(text)
    if not cleaned:
        raise ValueError("blank id")
    size = len(text) if text.isascii() else max(len(text.encode()), len(cleaned.encode()))
    if size > ID_BYTES_MAX:
        raise ValueError("id longer than 256 bytes")
    return cleaned


def escape_id(text: str) -> str:
    """The id as it stands inside a joined key."""
    if "\\" in text or "|" in text:
        return text.replace("\\", "\\\\").replace("|", "\\|")
    return text


def credit_id(conversion_id: str, attribution_model: str, touch_id: str) -> str:
    """The key of a credit; `touch_id` is empty for unattributed and retracted ones."""
    return f"{escape_id(conversion_id)}|{escape_id(attribution_model)}|{escape_id(touch_id)}"


def split_credit_id(text: str) -> tuple[str, str, str]:
    """(conversion_id, attribution_model, touch_id) of a credit's key; ValueError where it is none."""
    parts: list[str] = []
    start = 0
    while (match := _PART.match(text, start)) is not None:
        parts.append(_unescape(match.group()))
        if match.end() == len(text) or text[match.end()] != "|":
            break
        start = match.end() + 1
    if len(parts) != 3 or match is None or match.end() != len(text):
        raise ValueError(f"not a credit_id: {text!r}")
    return parts[0], parts[1], parts[2]


def _unescape(part: str) -> str:
    return re.sub(r"\\(.)", r"\1", part)
