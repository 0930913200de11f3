"""
Open files of others as what they are and where they are, and files of ours, which nobody else may read.

Whoever may write into a directory that is read here can put a link, a FIFO, a socket or a device in a file's place, at
any moment. One function opens all of them. It follows no link below the root that it is given, waits for nothing,
and gives only what is a file once it is open.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
    stat.S_IFREG: "a file",
}
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ON_THE_WAY = _DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)
"""The files below a directory may be readable where its names are not."""

# control characters, characters that break a line or turn its direction, bytes that are no UTF-8, as Python has them,
# and the escape
_ESCAPED = re.compile("[\x00-\x1f\x7f-\x9f\\\\\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\udc80-\udcff]+")
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")

_SYNCED_WHOLE = ("ext4", "xfs")
"""The file systems on which syncfs(2) waits for the disk, and tells what failed."""

PRIVATE_FILE, PRIVATE_DIRECTORY = 0o600, 0o700


class Refused(OSError):
    """Something else has a file's or a directory's name. `strerror` says what."""


def kind(mode: int) -> str:
    """Return what an ``st_mode`` is of, in words."""
    return _KINDS.get(stat.S_IFMT(mode), "no file")


# -- of others


def open_file(path: Path, root: Path, flags: int = os.O_RDONLY, mode: int = PRIVATE_FILE) -> int:
    """
    Open a file, and nothing else. Return its descriptor.

    Args:
        path: The file, which is below `root`.
        root: Files below it are reached through directories alone. It may itself be a link, see `directory`.
        flags: The flags of `os.open`. A descriptor never blocks, and is not inherited.
        mode: The mode of a file that is made.

    Raises:
        Refused: It is something else, or lies behind a link.
        OSError: It is not there, or cannot be opened.
    """
    above = _descend(path.parent, root)
    try:
        return _open_at(path, above, flags, mode)
    finally:
        os.close(above)


def _open_at(path: Path, above: int, flags: int, mode: int) -> int:
    name = path.name
    try:  # looked at first, as to open a device may do something
        _check(os.stat(name, dir_fd=above, follow_symlinks=False), path)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    try:
        fd = os.open(name, flags | _FILE, mode, dir_fd=above)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):  # it became a link or a socket meanwhile
            raise _refused("no file any more", path) from error
        raise
    try:
        _check(os.fstat(fd), path)
    except Refused:
        os.close(fd)
        raise
    return fd


@contextmanager
def directory(path: Path, root: Path) -> Iterator[int]:
    """
    Hold a directory open that is `root` or below it. Give its descriptor, by which names in it can be opened.

    `root` may be a link to a directory, of the user who made the link or made by root: a session that was moved to
    another disk. No other link is followed.

    Raises:
        Refused: Something on the way is no directory.
        OSError: It is not there, or cannot be opened.
    """
    fd = _descend(path, root)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def listed(path: Path, root: Path) -> Iterator[dict[str, os.DirEntry[str]]]:
    """
    Give the entries of a directory, by name. They can be asked as long as it is held open.

    Raises:
        Refused: As `directory`.
        OSError: As `directory`, or it cannot be listed.
    """
    with directory(path, root) as there:
        fd = os.open(".", _DIRECTORY, dir_fd=there)
        try:
            with os.scandir(fd) as entries:
                by_name = {entry.name: entry for entry in entries}
            yield by_name
        finally:
            os.close(fd)


def read_file(path: Path, root: Path, most_bytes: int) -> bytes:
    """
    Return a file's content, or the beginning of it.

    Raises:
        Refused: As `open_file`.
        OSError: As `open_file`.
    """
    with open(open_file(path, root), "rb") as file:
        return file.read(most_bytes)


def make_directories(path: Path, root: Path) -> None:
    """
    Make a directory below `root`, and what is missing on the way to it, for all who may see it by the umask.

    Raises:
        Refused: Something on the way is no directory.
        OSError: It cannot be made.
    """
    root.mkdir(parents=True, exist_ok=True)
    os.close(_descend(path, root, make=True))


def _descend(path: Path, root: Path, *, make: bool = False) -> int:
    """Open a directory below `root`, one step at a time. Make missing ones, if that is asked for."""
    fd = _open_root(root)
    if path == root:
        return fd
    # texts, as each file that an agent reads comes this way
    at, prefix = os.fspath(root), os.path.join(os.fspath(root), "")
    if not os.fspath(path).startswith(prefix):
        os.close(fd)
        raise ValueError(f"{path} is not below {root}")
    for name in os.fspath(path).removeprefix(prefix).split("/"):
        at = os.path.join(at, name)
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=fd)
            below = _open_below(name, fd, at)
        finally:
            os.close(fd)
        fd = below
    return fd


def _open_root(root: Path) -> int:
    try:
        return os.open(root, _ON_THE_WAY)
    except OSError:
        link = os.lstat(root)
        if not stat.S_ISLNK(link.st_mode):
            raise
    fd = os.open(os.path.join(root.parent, os.readlink(root)), _ON_THE_WAY)
    after = os.lstat(root)
    unchanged = (link.st_dev, link.st_ino, link.st_ctime_ns) == (after.st_dev, after.st_ino, after.st_ctime_ns)
    if not unchanged or link.st_uid not in (os.fstat(fd).st_uid, 0):
        os.close(fd)
        raise _refused("a link to somebody else's directory", root)
    return fd


def _open_below(name: str, above: int, path: str) -> int:
    try:
        return os.open(name, _ON_THE_WAY, dir_fd=above)
    except NotADirectoryError:
        status = os.stat(name, dir_fd=above, follow_symlinks=False)
        raise _refused(f"{kind(status.st_mode)}, and no directory", path) from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):  # systems without O_PATH say this of a link
            raise _refused("a link, and no directory", path) from None
        raise


def _check(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _refused(f"{kind(status.st_mode)}, and no file", path)


def _refused(what: str, path: Path | str) -> Refused:
    return Refused(errno.ELOOP, what, escape_name(str(path)))


# -- of ours


def make_private_directory(path: Path) -> None:
    """
    Make a directory, and those missing above it, for its owner alone, whatever the umask. One that is there stays.

    Raises:
        OSError: It cannot be made.
    """
    if path.is_dir():
        return
    for missing in reversed([above for above in (path, *path.parents) if not above.exists()] or [path]):
        try:
            missing.mkdir(PRIVATE_DIRECTORY)
        except FileExistsError:
            if missing.is_dir():  # made by somebody else meanwhile
                continue
            raise
        if stat.S_IMODE(missing.stat().st_mode) != PRIVATE_DIRECTORY:
            with suppress(OSError):  # some file systems keep no modes
                missing.chmod(PRIVATE_DIRECTORY)


def open_private(path: Path, flags: int) -> int:
    """
    Open a file, or make it for its owner alone, whatever the umask. Return its descriptor.

    Args:
        path: The file.
        flags: As of `os.open`.

    Raises:
        OSError: It cannot be opened.
    """
    flags |= os.O_CREAT | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | os.O_EXCL, PRIVATE_FILE)
    except FileExistsError:
        return os.open(path, flags, PRIVATE_FILE)
    make_private(fd)
    return fd


def create_private(path: Path) -> None:
    """
    Make an empty file for its owner alone, before a library opens it that would make it by the umask.

    One that is there is not opened: who closes a descriptor of it ends this process's locks on it (fcntl(2)).

    Raises:
        OSError: It cannot be made.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    except FileExistsError:
        return
    make_private(fd)
    os.close(fd)


def make_private(fd: int) -> None:
    """Leave an open file to its owner alone, on a file system that keeps modes."""
    if stat.S_IMODE(os.fstat(fd).st_mode) != PRIVATE_FILE:
        with suppress(OSError):  # such a file system refuses it
            os.fchmod(fd, PRIVATE_FILE)


def sync_file_system(directory: Path) -> bool:
    """
    Make all that was written to a directory's file system durable at once, if one call promises that there.

    Returns:
        False where it does not, and nothing was done: on network and user-space file systems, and before Linux 5.8,
        which told of no errors.

    Raises:
        OSError: Something could not be written.
    """
    if _kernel() < (5, 8) or _file_system(directory) not in _SYNCED_WHOLE:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(fd)
    return True


def _kernel() -> tuple[int, int]:
    """Return Linux's version, or zeros on another system."""
    match = re.match(r"(\d+)\.(\d+)", os.uname().release) if os.uname().sysname == "Linux" else None
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _file_system(directory: Path) -> str:
    """Return the kind of a directory's file system, e.g. ``ext4``. Empty where nothing tells."""
    device = os.stat(directory).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    # 36 35 98:0 /root /mount options optional - ext4 /dev/vda rw   (proc_pid_mountinfo(5))
    kinds = {line.partition(" - ")[2].split(" ")[0] for line in mounts if line.split(" ")[2] == number}
    return kinds.pop() if len(kinds) == 1 else ""


# -- names


@lru_cache(maxsize=10_000)
def escape_name(name: str) -> str:
    r"""
    Return a file's name as text that any JSON, header, table or terminal can hold. `unescape_name` gives it back.

    A byte that is no UTF-8 is written ``\xNN``, with two hex digits. All bytes of a character that controls a terminal,
    breaks a line or turns its direction are written so, too, and those of a backslash, which is ``\x5c``.

    Args:
        name: As Python has names: bytes that are no UTF-8 are lone surrogates.
    """
    return _ESCAPED.sub(lambda match: "".join(f"\\x{byte:02x}" for byte in _bytes(match[0])), name)


def unescape_name(text: str) -> str:
    """Return the name that `escape_name` wrote."""
    name = _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), _bytes(text))
    return name.decode(errors="surrogateescape")


def _bytes(name: str) -> bytes:
    return name.encode(errors="surrogateescape")
