"""Secrets in a shell's command: values of variables wherever a shell takes them, and passwords after a user's name."""

from __future__ import annotations

import re

Spans = list[tuple[int, int]]
"""Start and end of what is to be masked."""

_WORD = re.compile(rb"""(?:[^\s;&|()`'"\\]|\\.|'[^']*'?|"(?:[^"\\]|\\.)*"?)+|[;&|()`\n]""", re.DOTALL)
_VARIABLE = re.compile(rb"[A-Za-z_]\w*(?:\[\w*\])?\+?=")
_SHELL = re.compile(rb"(?:.*/)?(?:ba|z|da|k|a|fi)?sh\Z|(?:.*/)?(?:su|runuser|ssh|srun|tmux|screen|watch)\Z", re.DOTALL)
_USER = re.compile(rb"[^\s:\"']+:(?!\d+\Z)")
_QUOTES = b"\"'\\"
_OPERATORS = {b";", b"&", b"|", b"(", b")", b"`", b"\n"}
_BEFORE_A_COMMAND = {
    *(b"then", b"do", b"else", b"elif", b"if", b"while", b"until", b"{", b"!", b"time"),
    *(b"env", b"export", b"sudo", b"doas", b"declare", b"local", b"readonly", b"typeset", b"command", b"builtin"),
    *(b"exec", b"nohup", b"setsid", b"nice", b"eval", b"xargs", b"stdbuf", b"set"),
}
_WITH_VALUE = {b"-u", b"-g", b"-C", b"-h", b"-p", b"-n", b"--user", b"--group", b"--unset", b"--chdir"}
"""Options of `sudo`, `env` and `nice` whose value is the next word."""
_SETS_A_VARIABLE = {b"-e", b"--env", b"--set-env", b"--build-arg"}
_SETS = re.compile(rb"--(?:env|set-env|build-arg)=|-e(?=[A-Za-z_]\w*=)")
_NAMES_A_USER = {b"-u", b"-U", b"--user", b"--proxy-user"}
_SHELLS_DEEP = 3


def secrets(command: bytes, *, depth: int = _SHELLS_DEEP) -> Spans:
    """
    Return what a command sets variables to, for whatever it runs, and passwords that follow a user's name.

    The options of a command are read, too: ``-e K=v``, ``--env=K=v``.

    Args:
        command: As a shell reads it.
        depth: How many shells deep a command within it is looked into.
    """
    return [span for span in _Reader(depth).read(command) if span[0] < span[1]]


class _Reader:
    """Reads a command word by word."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._program = b""
        """The program that runs. Empty where the next word may be a variable or the program."""
        self._prefix = b""
        """The words before the program, as ``sudo``."""
        self._before = b""
        """The last word."""

    def read(self, command: bytes) -> Spans:
        spans: Spans = []
        for match in _WORD.finditer(command):
            word = match[0]
            if word in _OPERATORS:
                self._program = self._prefix = self._before = b""
                continue
            quoted = len(word) - len(word.lstrip(_QUOTES))
            start, end = match.start() + quoted, match.start() + max(quoted, len(word.rstrip(_QUOTES)))
            if self._program:
                spans += self._read_argument(command, start, end, quoted=bool(quoted))
            elif variable := _VARIABLE.match(word):
                spans.append((match.start() + variable.end(), match.end()))
            else:
                spans += self._read_program(command, start, end)
            self._before = word.strip(_QUOTES)
        return spans

    def _read_program(self, command: bytes, start: int, end: int) -> Spans:
        """Take a word before which no program stands."""
        word = command[start:end]
        if word in _BEFORE_A_COMMAND:
            self._prefix = word
        elif not (self._prefix and (word.startswith(b"-") or self._before in _WITH_VALUE)):
            self._program = word
            return self._read_argument(command, start, end, quoted=False)
        return []

    def _read_argument(self, command: bytes, start: int, end: int, *, quoted: bool) -> Spans:
        """Return what is secret in a word that lies in ``[start, end)``, without its quotes."""
        sets = _SETS.match(command, start, end)
        if sets or self._before in _SETS_A_VARIABLE:
            variable = _VARIABLE.match(command, sets.end() if sets else start, end)
            return [(variable.end(), end)] if variable else []
        if self._before in _NAMES_A_USER and (user := _USER.match(command[start:end])):
            return [(start + user.end(), end)]
        word = command[start:end]
        inner = quoted and (_SHELL.match(self._program) or self._prefix == b"eval" or b"$(" in word or b"`" in word)
        if inner and self._depth:
            return [(start + a, start + b) for a, b in secrets(word, depth=self._depth - 1)]
        return []
