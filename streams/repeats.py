"""Keeps a library that cannot connect from filling the log: the same line at most every few seconds."""

import logging

EVERY_S = 10.0
KINDS_MAX = 256
LIBRARIES = ("aiokafka", "faust", "mode")


class Repeats(logging.Filter):
    """Of lines with the same level and text before filling in, lets one through in `EVERY_S`, by the lines' own times.

    The next one that passes says how many were left out. For handlers: a logger's filters do not see what its
    children log.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to print it."""
        if record.name.partition(".")[0] not in LIBRARIES:
            return True
        kind = (record.name, record.levelno, str(record.msg))
        printed_s, left_out = self._kinds.get(kind, (float("-inf"), 0))
        if record.created - printed_s < EVERY_S:
            self._kinds[kind] = (printed_s, left_out + 1)
            return False
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} more of this kind)", None
        if len(self._kinds) >= KINDS_MAX:
            self._kinds.clear()
        self._kinds[kind] = (record.created, 0)
        return True
