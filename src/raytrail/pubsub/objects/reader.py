"""The reader of a group: where it is in each writer's folder, and the object that says so."""

from __future__ import annotations

import asyncio
import functools
import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import obstore
from obstore import exceptions

from raytrail.event import UNDECODABLE, Chunk, Unreadable
from raytrail.pubsub import Delivery
from raytrail.pubsub.objects.wire import SUFFIXES

LEASE_SECONDS = 10.0


class _Place(msgspec.Struct, kw_only=True):
    """Where a group is."""

    reader: str = ""
    """Who reads as it; empty for nobody."""
    beat: int = 0
    """One more each time it is written, so that the object changes."""
    next: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}
    """By writer, the number of its first object that is not acknowledged whole."""


class Following:
    """A writer, as a reader follows it."""

    def __init__(self, writer: str, number: int) -> None:
        self.writer = writer
        self.number = number
        """Of the object to be read next."""
        self.suffix = ""
        self.due = self.gap_at = 0.0
        self.news_at = time.monotonic()
        self._unacknowledged: dict[int, int] = {}  # chunks that are not acknowledged, by object

    def suffixes(self) -> tuple[str, ...]:
        """What the next object's name may end in: a writer keeps to one."""
        return (self.suffix,) if self.suffix else tuple(SUFFIXES.values())

    @property
    def place(self) -> int:
        """The number of the first object that is not acknowledged whole."""
        return min(self._unacknowledged, default=self.number)

    def read(self, chunks: int) -> int:
        """Note that the next object came; return its number."""
        number, self.number = self.number, self.number + 1
        self.news_at = time.monotonic()
        if chunks:
            self._unacknowledged[number] = chunks
        return number

    def ack(self, number: int) -> None:
        """Note that one of an object's chunks is acknowledged."""
        if number in self._unacknowledged:
            self._unacknowledged[number] -= 1
            if not self._unacknowledged[number]:
                del self._unacknowledged[number]

    def pass_over(self, number: int) -> None:
        """Go on with that object."""
        self.number, self.due = number, 0.0


class Reader:
    """The reader of a group, and the object that says where the group is."""

    def __init__(self, store: Any, path: str, shown: str) -> None:
        self.folders_at = 0.0
        self.unreadable: Unreadable | None = None
        """What was in the place of the group's place when it was joined, if that was none."""
        self._store, self._path, self._shown = store, path, shown
        self._id = uuid.uuid4().hex
        self._place = _Place()
        self._version: Any = None
        self._written_at = 0.0
        self._following: dict[str, Following] = {}

    async def join(self, *, from_start: bool) -> bool:
        """Become the group's reader; return whether nobody else is. Who was killed is waited for to be silent."""
        self._place, self._version = await self._read()
        silent_at = time.monotonic() + LEASE_SECONDS
        while self._place.reader and time.monotonic() < silent_at:
            await asyncio.sleep(LEASE_SECONDS / 10)
            before = self._version
            self._place, self._version = await self._read()
            if self._place.reader and self._version != before:
                return False
        if from_start:
            self._place.next = {}
        return await self.write(0)

    async def _read(self) -> tuple[_Place, Any]:
        try:
            result = await obstore.get_async(self._store, self._path)
            body = bytes(await result.bytes_async())
        except (exceptions.NotFoundError, FileNotFoundError):
            return _Place(), None
        try:
            place = msgspec.json.decode(body, type=_Place)
        except UNDECODABLE as error:
            what = f"{self._shown}: object {self._path}"
            reason = (
                f"{what} is no place of a group: {error}; it was altered, and the group begins with the oldest object"
            )
            self.unreadable = Unreadable(place=what, reason=reason, headers={}, data=body)
            place = _Place()
        return place, _version(result.meta)

    def know(self, writers: set[str]) -> None:
        """Follow those writers, and no others."""
        for writer in writers - self._following.keys():
            self._following[writer] = Following(writer, self._place.next.get(writer, 0))
        for writer in self._following.keys() - writers:
            del self._following[writer]

    def following(self) -> list[Following]:
        """Return who is followed, oldest first."""
        return [followed for _, followed in sorted(self._following.items())]

    def give(self, followed: Following, chunks: Sequence[Chunk | Unreadable] | None) -> list[Delivery]:
        """Return the deliveries of a writer's next object."""
        if chunks is None:
            return []
        number = followed.read(len(chunks))
        return [Delivery(chunk, functools.partial(_ack_once, followed, number, [])) for chunk in chunks]

    async def write(self, at_least_seconds: float) -> bool:
        """
        Write down where the group is, if that changed or was not written for so long; return whether we may.

        Args:
            at_least_seconds: Write it after that time, changed or not, to stay the group's reader.
        """
        following = {writer: followed.place for writer, followed in self._following.items()}
        changed = following and following != self._place.next
        if not changed and self._place.reader == self._id and time.monotonic() < self._written_at + at_least_seconds:
            return True
        return await self._replace(self._id, following or self._place.next)

    async def leave(self) -> None:
        """Write down where the group is, and let somebody else be its reader."""
        following = {writer: followed.place for writer, followed in self._following.items()}
        await self._replace("", following or self._place.next)

    async def _replace(self, reader: str, places: dict[str, int]) -> bool:
        place = _Place(reader=reader, beat=self._place.beat + 1, next=places)
        body = msgspec.json.encode(place)
        try:
            result = await obstore.put_async(
                self._store, self._path, body, mode=self._version or "create", use_multipart=False
            )
        except (exceptions.PreconditionError, exceptions.AlreadyExistsError):
            stored, version = await self._read()
            if stored != place:  # else an earlier try of ours was stored, and its answer lost
                return False
            self._version = version
        else:
            self._version = _version(result)
        self._place, self._written_at = place, time.monotonic()
        return True


def _version(meta: Any) -> dict[str, str]:
    """Return what a store calls this content of an object; some have the one, some the other."""
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name)}


async def _ack_once(followed: Following, number: int, done: list[bool]) -> None:
    if not done:
        done.append(True)
        followed.ack(number)
