"""Log lines, on stderr: what a command prints on stdout can always be piped on."""

from __future__ import annotations

import logging
import sys
import time


class _Formatter(logging.Formatter):
    """Times in UTC with their zone, as everywhere in Raytrail."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


def log_to_stderr(verbose: bool) -> None:
    """Log ours from INFO on (DEBUG when verbose), and warnings of everybody else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("raytrail").setLevel(logging.DEBUG if verbose else logging.INFO)
