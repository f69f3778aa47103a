"""Text as records give it: trimmed, in NFC, compared without regard to case."""

from unicodedata import normalize


def clean_text(text: str) -> str:
    """The text without white space at its ends, in Unicode's composed form (NFC); may be empty."""
    text = text.strip()
    return text if text.isascii() else normalize("NFC", text)


def fold_text(text: str) -> str:
    """The form in which source, medium and channel compare; never for display."""
    if text.isascii():
        return text.strip().lower()
    # Folding can undo the composed form (as with U+0390), and NFKC would go too far: it makes ² into 2.
    return normalize("NFC", normalize("NFC", text.strip()).casefold())


def same_text(one: str, other: str) -> bool:
    """Whether two sources, media or channels are the same but for case, outer white space and composition."""
    return one == other or fold_text(one) == fold_text(other)
