"""Log lines, on stderr: what a command prints on stdout can always be piped on."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Final

FORMATS: Final = ("text", "json")
"""The forms of a line."""

_REPEAT_SECONDS = 60.0


class _Formatter(logging.Formatter):
    """Times in UTC with their zone, as everywhere in Raytrail."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


class _Json(_Formatter):
    """One object a line, whatever a message holds: a traceback, line ends, or bytes that are no text."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to_stderr(verbose: bool) -> None:
    """Log ours from INFO on (DEBUG when verbose), and warnings of everybody else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(False)
    logging.getLogger("raytrail").setLevel(logging.DEBUG if verbose else logging.INFO)


def log_as(form: str) -> None:
    """
    Log in this form from now on.

    Args:
        form: One of `FORMATS`. With ``json``, Python's own warnings are logged, too.
    """
    if form == "json":
        logging.captureWarnings(True)
        for handler in logging.getLogger().handlers:
            handler.setFormatter(_Json())


def log_format() -> str:
    """Return the form that is logged in."""
    return "json" if any(isinstance(handler.formatter, _Json) for handler in logging.getLogger().handlers) else "text"


class Seldom:
    """Logs the same thing once a minute: an outage of a night fills no disk with its log."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._again_at: dict[str, float] = {}

    def __call__(self, level: int, message: str, *args: object) -> None:
        """Log a message, unless the same was logged less than a minute ago."""
        now, text = time.monotonic(), message % args
        if now < self._again_at.get(text, now):
            return
        # those that are over are forgotten
        self._again_at = {other: at for other, at in self._again_at.items() if at > now}
        self._again_at[text] = now + _REPEAT_SECONDS
        self._log.log(level, "%s", text)
