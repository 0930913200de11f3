"""
A node's probe as a process: what `raytrail.agent.probes` starts, and nobody else.

    python -m raytrail.agent.probe_process '{"session_dir": ..., "gcs_address": ..., ...}' text

Its standard input is held open by its parent and nothing comes through it. It says on standard output what keeps it
from asking, for the parent to log. It ends with 0 when its raylet or its parent has.
"""

from __future__ import annotations

import signal
import sys

import msgspec

from raytrail.errors import ConfigError, SourceError
from raytrail.exit_codes import BROKEN, OK, USAGE
from raytrail.log import log_as, log_to_stderr
from raytrail.sources import probe


def main(argument: str, log_format: str) -> int:
    """Probe as told, log in the form that its parent does, and return the exit code."""
    log_to_stderr(verbose=False)
    log_as(log_format)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us when it has done
    try:
        probe.run(msgspec.json.decode(argument, type=probe.Probe), parent=sys.stdin.fileno())
    except (ConfigError, SourceError, OSError) as error:
        sys.stdout.write(" ".join(str(error).split()))
        return USAGE if isinstance(error, ConfigError) else BROKEN
    return OK


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
