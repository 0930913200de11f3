"""
Backup of a store, beside whoever writes to it, and what brings it back.

    <backup>/
      backup.json                   which store, when, and which catalogue with which checksum
      catalogue-<time>.sqlite       the catalogue as it was at that time
      log/ logs/ state/             the files that it names

Files of a store never change once the catalogue names them. A backup is therefore one copy of the catalogue, and links
to the files that it names, or copies of them. A file that is deleted meanwhile is one that a newer catalogue does not
name, which is then taken in place of the first. ``backup.json`` is written last, so that a backup that is made anew is
whole at any moment. No Raytrail takes a backup for a store, and writes to it.

A store that is brought back gets another id. Brokers then give it all that they hold once more, and with it what came
after the backup.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from raytrail import disk
from raytrail.errors import NotFoundError, StoreDamaged, StoreError
from raytrail.event import UNDECODABLE
from raytrail.store.catalogue import Catalogue
from raytrail.store.directory import KINDS, check_place, delete_file
from raytrail.store.files import measure, sync_directories
from raytrail.store.layout import ID, PLAIN_GROUP

MOST_ROUNDS = 10
"""How often the catalogue is taken anew, as files of it were deleted meanwhile. Only new files are copied then."""

_MANIFEST = "backup.json"
_CATALOGUE = "catalogue.sqlite"
_OF_FILE_SYSTEM = "lost+found"
"""What an empty disk has."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself."""

    store: str
    """The id of the store."""
    made_ms: int
    catalogue: str
    """The file of the catalogue."""
    catalogue_bytes: int
    catalogue_crc32: int
    files: int
    bytes: int
    """How many bytes the files have."""


class _File(NamedTuple):
    """A file that a catalogue names."""

    path: str
    bytes: int
    """0 where an older version did not write it down."""


def back_up(root: Path, target: Path, *, copy: bool, advance: Callable[[int], None]) -> Manifest:
    """
    Back a store up. Somebody may write to it meanwhile.

    Args:
        root: The store's directory.
        target: The backup's directory: none yet, an empty one, or an older backup of the store, which is made anew.
        copy: Whether to copy all files. Otherwise those that lie on the same file system are linked.
        advance: Told how many bytes are there, as they come.

    Raises:
        NotFoundError: There is no store.
        StoreDamaged: The store's catalogue is not what was written.
        StoreError: The target is something else, or another backup is under way there, or the store changes faster than
            it can be read.
        OSError: A disk is full, or fails.
    """
    if not (root / _CATALOGUE).exists():
        raise NotFoundError(f"{root}: no store there; store.dir says where it is")
    _refuse_around(root, target)
    disk.make_private_directory(target)
    with _alone(target):
        _check_target(root, target)
        return _back_up(root, target, copy=copy, advance=advance)


def _back_up(root: Path, target: Path, *, copy: bool, advance: Callable[[int], None]) -> Manifest:
    name = f"catalogue-{time.time_ns():020d}.sqlite"
    for _ in range(MOST_ROUNDS):
        _copy_catalogue(root, target / name)
        files = list(_list_files(target / name))
        if _bring_all(root, target, files, copy=copy, advance=advance):
            break
    else:
        raise StoreError(f"{root}: it deletes files faster than they can be copied; try again when less is going on")
    size, crc32 = measure(target / name)
    manifest = Manifest(
        store=_read_id(target / name),
        made_ms=time.time_ns() // 1_000_000,
        catalogue=name,
        catalogue_bytes=size,
        catalogue_crc32=crc32,
        files=len(files),
        bytes=sum(file.bytes for file in files),
    )
    _make_durable(target, files, name)
    _write(target / _MANIFEST, msgspec.json.encode(manifest))
    _forget_others(target, name, {file.path for file in files})
    return manifest


def restore(backup: Path, target: Path, *, advance: Callable[[int], None]) -> Manifest:
    """
    Bring a store back. All files are copied, and the target is there only once all of them are.

    Args:
        backup: The backup's directory.
        target: The store's directory: none yet, or an empty one.
        advance: Told how many bytes are there, as they come.

    Raises:
        NotFoundError: There is no backup.
        StoreDamaged: Its catalogue is not what was written. Nothing is brought back.
        StoreError: The target is not empty.
        OSError: A disk is full, or fails.
    """
    manifest = read_manifest(backup)
    _refuse_full(target)
    if measure(backup / manifest.catalogue) != (manifest.catalogue_bytes, manifest.catalogue_crc32):
        raise StoreDamaged(
            f"{backup / manifest.catalogue}: its bytes are not those that were written; take another backup"
        )
    is_there = target.exists()  # it may be another disk, or a link to one, which nothing else can take the place of
    unfinished = (target if is_there else target.parent) / f"{target.name}.unfinished-{uuid.uuid4().hex[:8]}"
    try:
        disk.make_private_directory(unfinished)
        _copy(backup / manifest.catalogue, unfinished / _CATALOGUE)
        files = list(_list_files(unfinished / _CATALOGUE))
        for file in files:
            with suppress(FileNotFoundError):  # a damage like others, which who opens the store is told of
                _bring(backup, unfinished, file, copy=True)
            advance(file.bytes)
        _change_id(unfinished / _CATALOGUE)
        _make_durable(unfinished, files, _CATALOGUE)
        if is_there:
            _move_up(unfinished)
        else:
            os.rename(unfinished, target)
            sync_directories([target.parent])
    except BaseException:  # also when it is interrupted: a half is of no use
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return manifest


def _move_up(unfinished: Path) -> None:
    """Move what a directory has into the one that it is in. The catalogue comes last: without it there is no store."""
    target = unfinished.parent
    for entry in unfinished.iterdir():
        if entry.name != _CATALOGUE:
            os.rename(entry, target / entry.name)
    sync_directories([target])
    os.rename(unfinished / _CATALOGUE, target / _CATALOGUE)
    unfinished.rmdir()
    sync_directories([target])


def read_manifest(backup: Path) -> Manifest:
    """
    Return what a backup says of itself.

    Raises:
        NotFoundError: There is none.
    """
    try:
        return msgspec.json.decode((backup / _MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{backup}: no backup there; `raytrail backup` makes one") from None
    except UNDECODABLE as error:
        raise StoreDamaged(f"{backup / _MANIFEST}: {error}; take another backup") from error


def _refuse_around(root: Path, target: Path) -> None:
    """
    Refuse a backup that lies in its store, which goes with it, or around it.

    Raises:
        StoreError: It does.
    """
    store, place = root.resolve(), target.resolve()
    if store == place or store in place.parents or place in store.parents:
        raise StoreError(f"{target}: it lies in the history, or around it; give a directory beside it")


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """
    Keep others from a directory that a backup is made in.

    Raises:
        StoreError: One is being made there.
    """
    descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(f"{target}: another backup is being made there; wait for its end") from None
        yield
    finally:
        os.close(descriptor)


def _check_target(root: Path, target: Path) -> None:
    """
    Check that a backup of a store can be made there.

    Raises:
        StoreError: There is something else.
    """
    names = _names(target)
    if not names:
        return
    try:
        manifest = read_manifest(target)
    except NotFoundError:
        if any(name not in KINDS and not name.startswith(("catalogue-", _MANIFEST)) for name in names):
            raise StoreError(f"{target}: it is not empty, and no backup; give another directory") from None
        return  # a first backup that was cut short
    with closing(Catalogue(root / _CATALOGUE, write=False)) as catalogue:
        store = catalogue.id
    if manifest.store != store:
        raise StoreError(f"{target}: it is a backup of another store; give another directory")


def _refuse_full(target: Path) -> None:
    if target.exists() and (not target.is_dir() or _names(target)):
        raise StoreError(f"{target}: it is not empty; give a directory that is, or that is not there yet")


def _names(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir() if entry.name != _OF_FILE_SYSTEM]


def _read(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _copy_catalogue(root: Path, target: Path) -> None:
    """Copy the catalogue as it is at one moment, whoever writes to it. Its checksums are looked at."""
    disk.create_private(target)
    with closing(Catalogue(root / _CATALOGUE, write=False)) as source, closing(sqlite3.connect(target)) as written:
        with source.reading() as read:
            read.backup(written)
        written.execute("PRAGMA journal_mode=DELETE")  # so that it is one file


def _read_id(catalogue: Path) -> str:
    with closing(_read(catalogue)) as db:
        rows = db.execute("SELECT value FROM meta WHERE key = ?", (ID,)).fetchall()
    return str(rows[0][0]) if rows else ""


def _change_id(catalogue: Path) -> None:
    with closing(sqlite3.connect(catalogue)) as db, db:
        db.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (ID, uuid.uuid4().hex[:16]))
        db.execute("DELETE FROM meta WHERE key = ?", (PLAIN_GROUP,))


def _list_files(catalogue: Path) -> Iterator[_File]:
    """
    Yield the files that a catalogue names. Those of a session that is being deleted are not among them.

    Raises:
        StoreDamaged: It names a place that no store has files in.
    """
    with closing(_read(catalogue)) as db:
        for table in ("log", "bodies", "state"):
            there = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
            if there:
                size = "coalesce(bytes, 0)" if "bytes" in there else "0"
                for row in db.execute(
                    f"SELECT path, {size} FROM {table} WHERE session IN (SELECT session FROM sessions)"
                ):
                    file = _File(*row)
                    try:
                        check_place(file.path)
                    except disk.Refused as refused:
                        raise StoreDamaged(f"{catalogue}: it names a file: {refused}; take another backup") from refused
                    yield file


def _bring_all(root: Path, target: Path, files: list[_File], *, copy: bool, advance: Callable[[int], None]) -> bool:
    """Bring files that are not there yet. Return whether all of them still were in the store."""
    for file in files:
        if not _has(target, file, root, copy=copy):
            try:
                _bring(root, target, file, copy=copy)
            except FileNotFoundError:
                if not _is_cache(file):  # which somebody may delete at any time
                    return False
            advance(file.bytes)
    return True


def _has(target: Path, file: _File, root: Path, *, copy: bool) -> bool:
    """Return whether a backup has a file. A link that an earlier one made is none, where copies are asked for."""
    try:
        return not (copy and (target / file.path).samefile(root / file.path)) and (target / file.path).exists()
    except FileNotFoundError:
        return (target / file.path).exists()


def _is_cache(file: _File) -> bool:
    return file.path.endswith(".duckdb")


def _bring(root: Path, target: Path, file: _File, *, copy: bool) -> None:
    """Link or copy one file. It has its name only once it is whole."""
    to = target / file.path
    disk.make_private_directory(to.parent)
    if not copy:
        try:
            os.link(root / file.path, to)
            return
        except FileNotFoundError:
            raise
        except OSError:  # another file system, or one without links
            pass
    _copy(root / file.path, to)


def _copy(source: Path, target: Path) -> None:
    """Copy a file, durably. It has its name only once it is whole."""
    new = target.with_name(f"{target.name}.new")
    with source.open("rb") as read, open(disk.open_private(new, os.O_WRONLY | os.O_TRUNC), "wb") as written:
        shutil.copyfileobj(read, written, 1024 * 1024)
        written.flush()
        os.fsync(written.fileno())
    os.rename(new, target)


def _write(path: Path, text: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    with open(disk.open_private(new, os.O_WRONLY | os.O_TRUNC), "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, path)
    sync_directories([path.parent])


def _make_durable(target: Path, files: list[_File], catalogue: str) -> None:
    """Make the names of files durable. The files are: they were in the store, or were copied so."""
    with (target / catalogue).open("rb") as file:
        os.fsync(file.fileno())
    sync_directories({target, *((target / file.path).parent for file in files if (target / file.path).exists())})


def _forget_others(target: Path, catalogue: str, named: set[str]) -> None:
    """Delete what older backups in the same directory had, and this one has not."""
    for path in target.glob("catalogue-*.sqlite*"):
        if path.name != catalogue:
            path.unlink()
    for kind, is_ours in KINDS.items():
        for path in target.glob(f"{kind}/*/*"):
            place = str(path.relative_to(target))
            if place not in named and is_ours.fullmatch(path.name.removesuffix(".new")):
                delete_file(target, place)
        for directory in target.glob(f"{kind}/*"):
            if directory.is_dir() and not directory.is_symlink() and not any(directory.iterdir()):
                directory.rmdir()
