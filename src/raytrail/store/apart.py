"""
Questions in SQL that processes of their own answer, as a server needs it.

The engine gives a question up between two of its steps only. One that compares two texts of a megabyte letter by letter
has no such point for hours. A process can be ended whatever it is at, and takes its memory with it.

    answer_all()        reads `_Opened` and then `_Asked` after `_Asked` from stdin, a line of JSON each
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from raytrail.config import StoreConfig
from raytrail.errors import ConfigError, RaytrailError, StoreError
from raytrail.store.engine import Limits, Rows

GIVE_UP_SECONDS = 5.0
"""How long the engine has to give up a question before its process is ended."""
MOST_REPLY_BYTES = 64 * 1024 * 1024
"""How many bytes of text an answer may have. The server holds them, too."""
_PLAIN = (str, float, bool, type(None))


class _Opened(msgspec.Struct):
    root: str
    config: StoreConfig


class _Asked(msgspec.Struct):
    statement: str
    rows: int
    seconds: float
    end_after: float
    """After how many seconds the process ends itself. So it does where nobody waits for it any more."""
    explain: bool
    clusters: tuple[str, ...] | None = None
    """Patterns of the names of the clusters that are asked. None is all."""


class _Reply(msgspec.Struct):
    columns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    rows: list[tuple[Any, ...]] = []
    wrong: str = ""
    is_config: bool = False


class _Process:
    """A process that answers, with a directory of its own for what it spills."""

    def __init__(self, opened: bytes) -> None:
        self._scratch = tempfile.mkdtemp(prefix="raytrail-")
        # with -c, Python looks for modules in the working directory first, which may be anybody's
        program = f"import sys; sys.path[:] = filter(None, sys.path); from {__name__} import answer_all; answer_all()"
        self._popen = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": self._scratch},
            start_new_session=True,  # Ctrl-C is for the server, which then closes it
        )
        assert self._popen.stdin is not None, "it is a pipe"
        with suppress(OSError):  # if it has ended already, to ask it fails
            self._popen.stdin.write(opened + b"\n")

    def is_alive(self) -> bool:
        """Return whether it can be asked."""
        return self._popen.poll() is None

    def ask(self, asked: _Asked) -> _Reply:
        """
        Return its answer.

        Raises:
            OSError: It has ended.
            EOFError: It ended meanwhile.
        """
        assert self._popen.stdin is not None, "it is a pipe"
        assert self._popen.stdout is not None, "it is a pipe"
        self._popen.stdin.write(msgspec.json.encode(asked) + b"\n")
        self._popen.stdin.flush()
        line = self._popen.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        return msgspec.json.decode(line, type=_Reply)

    def end(self) -> None:
        """End it, and delete what it spilled."""
        self._popen.kill()
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was to be written is of no use any more
                    pipe.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


class Apart:
    """
    The processes, which are started when they are needed. One of them waits for the next question.

    Args:
        root: The store's directory.
        config: Its settings.
    """

    def __init__(self, root: Path, config: StoreConfig) -> None:
        self._opened = msgspec.json.encode(_Opened(str(root), config))
        self._seconds = config.sql_seconds
        self._lock = threading.Lock()
        self._waiting: _Process | None = None
        self._closed = False

    def close(self) -> None:
        """End the process that waits."""
        with self._lock:
            self._closed = True
            process, self._waiting = self._waiting, None
        if process is not None:
            process.end()

    def ask(
        self, statement: str, limits: Limits, *, explain: bool = False, clusters: tuple[str, ...] | None = None
    ) -> Rows:
        """
        Answer one SELECT as `Store.sql`, or as `Store.explain` with the plan as its only value.

        Numbers of more than 64 bits, times and bytes are texts in the answer, and decimals are floats.

        Raises:
            ConfigError: It is not one SELECT, asks for what is not there, or takes more than it may.
            StoreError: It cannot be worked out.
        """
        process = self._take()
        end_after = min(limits.seconds, self._seconds) + GIVE_UP_SECONDS
        try:
            reply = process.ask(_Asked(statement, limits.rows, limits.seconds, end_after, explain, clusters))
        except (OSError, EOFError):
            process.end()
            raise ConfigError(
                f"SQL: ended by force, as it did not give up within {end_after:g} seconds or took all memory; ask for "
                "less"
            ) from None
        except BaseException:
            process.end()
            raise
        self._give_back(process)
        if reply.wrong:
            raise (ConfigError if reply.is_config else StoreError)(reply.wrong)
        return Rows(reply.columns, reply.types, reply.rows)

    def _take(self) -> _Process:
        with self._lock:
            process, self._waiting = self._waiting, None
        if process is not None and process.is_alive():
            return process
        if process is not None:
            process.end()
        return _Process(self._opened)

    def _give_back(self, process: _Process) -> None:
        with self._lock:
            waiting = self._waiting
            if not self._closed:
                self._waiting = process
        spare = process if self._closed else waiting
        if spare is not None:
            spare.end()


def answer_all() -> None:
    """Answer one question after the other, until there are no more, or one cannot be given up."""
    from raytrail.store.store import Store  # which has an `Apart` itself

    opened = msgspec.json.decode(sys.stdin.buffer.readline(), type=_Opened)
    with Store.open(Path(opened.root), opened.config) as store:
        for line in sys.stdin.buffer:
            asked = msgspec.json.decode(line, type=_Asked)
            force = threading.Timer(asked.end_after, os._exit, (1,))
            force.daemon = True
            force.start()
            text = msgspec.json.encode(_answer(store, asked))
            if len(text) > MOST_REPLY_BYTES:
                wrong = f"SQL: the answer has more than {MOST_REPLY_BYTES:,} bytes; ask for less"
                text = msgspec.json.encode(_Reply(wrong=wrong, is_config=True))
            force.cancel()
            sys.stdout.buffer.write(text + b"\n")
            sys.stdout.buffer.flush()


def _answer(store: Any, asked: _Asked) -> _Reply:
    from raytrail.store.restricted import RestrictedStore  # which is a `Store`, too

    limits = Limits(asked.rows, asked.seconds)
    try:
        if asked.clusters is not None:
            with RestrictedStore(store, asked.clusters) as restricted:
                return _answer(restricted, msgspec.structs.replace(asked, clusters=None))
        if asked.explain:
            return _Reply(("plan",), ("VARCHAR",), [(store.explain(asked.statement, limits),)])
        answer = store.sql(asked.statement, limits)
    except RaytrailError as error:
        return _Reply(wrong=str(error), is_config=isinstance(error, ConfigError))
    return _Reply(answer.columns, answer.types, [tuple(map(_plain, row)) for row in answer.rows])


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (date, datetime, time, timedelta, UUID)):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    return [_plain(member) for member in value] if isinstance(value, (list, tuple)) else str(value)
