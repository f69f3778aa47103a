"""The marks of people who were forgotten, in the store of one partition number.

They are saved on their own, as everything else of a step lives shorter, and just before the step is. Twice does no
harm, and a crash in between is mended by the catch-up, which comes to the same marks.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from models.forgetting import DRAWN_BYTES, SECRET, Hashing
from streams.step import StartError

Read = Callable[[Sequence[bytes]], Awaitable[list[bytes | None]]]

CHANGED = "people were forgotten under another identity.email_key, and their marks cannot be read"
CHANGE_BACK = "set identity.email_key back to what it was; it is set once and kept"
GONE = "people were forgotten, and what their marks are made with is gone from the store"
REBUILD = "delete all keys of this prefix, for the store to be rebuilt from the topics"


class Marks:
    """Who was forgotten. What it is made with is read from the store when it is first needed after a claim."""

    def __init__(self, partition: int, secret: bytes, read: Read) -> None:
        """`secret`: what the settings have to make marks with; empty: one is drawn with the first of them."""
        self._partition = partition
        self._secret = secret
        self._read = read
        self._hashing: Hashing | None = None

    async def subkeys(self, keys: Iterable[bytes]) -> list[bytes]:
        """Where the marks of these would be, in a partition that has some. Raises StartError if they cannot be told."""
        hashing = await self._known()
        if hashing is None:
            raise StartError(f"partition {self._partition}: {GONE}", REBUILD)
        return [hashing.mark(key) for key in keys]

    async def new(self, since_ms: Mapping[bytes, int]) -> dict[bytes, bytes]:
        """What to save so that these are known as forgotten; `since_ms`: record time of what said so."""
        puts = {}
        hashing = await self._known()
        if hashing is None:
            hashing = Hashing(self._secret, b"" if self._secret else secrets.token_bytes(DRAWN_BYTES))
            puts[SECRET] = hashing.text()
        return puts | {hashing.mark(key): b"%d" % record_ms for key, record_ms in since_ms.items()}

    async def _known(self) -> Hashing | None:
        if self._hashing is None:
            text = (await self._read([SECRET]))[0]
            if text is None:
                return None
            self._hashing = Hashing.read(text, self._secret)
            if self._hashing is None:
                raise StartError(f"partition {self._partition}: {CHANGED}", CHANGE_BACK)
        return self._hashing
