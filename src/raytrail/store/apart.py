"""
Questions in SQL that processes of their own answer, as a server needs it.

The engine gives a question up between two of its steps only. One that compares two texts of a megabyte letter by letter
has no such point for hours. A process can be ended whatever it is at, and takes its memory with it.

    answer_all()        reads `_Opened` and then `_Asked` after `_Asked` from stdin, a line of JSON each
"""

from __future__ import annotations

import os
import subprocess
import sys
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


class _Reply(msgspec.Struct):
    columns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    rows: list[tuple[Any, ...]] = []
    wrong: str = ""
    is_config: bool = False


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
        self._waiting: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """End the process that waits."""
        with self._lock:
            process, self._waiting = self._waiting, None
        if process is not None:
            _end(process)

    def ask(self, statement: str, limits: Limits, *, explain: bool = False) -> Rows:
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
            reply = _exchange(process, _Asked(statement, limits.rows, limits.seconds, end_after, explain))
        except (OSError, EOFError):
            _end(process)
            raise ConfigError(
                f"SQL: ended by force, as it did not give up within {end_after:g} seconds or took all memory; ask for "
                "less"
            ) from None
        except BaseException:
            _end(process)
            raise
        self._give_back(process)
        if reply.wrong:
            raise (ConfigError if reply.is_config else StoreError)(reply.wrong)
        return Rows(reply.columns, reply.types, reply.rows)

    def _take(self) -> subprocess.Popen[bytes]:
        with self._lock:
            process, self._waiting = self._waiting, None
        if process is not None and process.poll() is None:
            return process
        process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import answer_all; answer_all()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the server, which then closes it
        )
        assert process.stdin is not None, "it is a pipe"
        with suppress(OSError):  # if it has ended already, to ask it fails
            process.stdin.write(self._opened + b"\n")
        return process

    def _give_back(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            spare, self._waiting = self._waiting, process
        if spare is not None:
            _end(spare)


def _exchange(process: subprocess.Popen[bytes], asked: _Asked) -> _Reply:
    assert process.stdin is not None, "it is a pipe"
    assert process.stdout is not None, "it is a pipe"
    process.stdin.write(msgspec.json.encode(asked) + b"\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return msgspec.json.decode(line, type=_Reply)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what was to be written is of no use any more
                pipe.close()


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
            reply = _answer(store, asked)
            force.cancel()
            sys.stdout.buffer.write(msgspec.json.encode(reply) + b"\n")
            sys.stdout.buffer.flush()


def _answer(store: Any, asked: _Asked) -> _Reply:
    limits = Limits(asked.rows, asked.seconds)
    try:
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
