"""Names of keys in Redis: `{<app>:<partition>}:<subkey>`.

The part in braces is the hash tag of Redis Cluster, so all keys of a partition share one slot and one script
may touch them all. The subkey is any bytes: a person's id goes in as it came.
"""

import re
from functools import lru_cache

OWNER = b"owner"
APPLIED = b"applied"
DROPPING = b"dropping"  # stands while `drop` runs, so that a crash in it leaves no half of a partition behind
RESERVED = (OWNER, APPLIED, DROPPING)

_APP = re.compile(r"[A-Za-z0-9._-]{1,200}")  # no braces (they would move the hash tag), no glob characters


def check_app(app: str) -> str:
    """Return `app` if it can stand in a hash tag; raise ValueError otherwise."""
    if not _APP.fullmatch(app):
        raise ValueError(f"a store name has letters, digits, dots, `_` and `-` only: {app!r}")
    return app


@lru_cache(maxsize=4096)
def prefix(app: str, partition: int) -> bytes:
    """Return what every key of the partition starts with."""
    return b"{%s:%d}:" % (app.encode("ascii"), partition)
