"""
The common part of all hooks. A hook runs in a process of Ray, after Ray's own code, and nothing of it is felt there.

    Ray's method --returns--> hook --> `EventFiles` of this process
                                \\__ raises: the first time it is logged, Ray never hears of it
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raytrail import config
from raytrail.sources.event_file import EventFiles

_LOG = logging.getLogger(__name__)

MAX_TEXT = 10_000
"""The most characters of a text in an event, e.g. of a traceback. The rest is cut off."""


def on(event_type: str) -> bool:
    """
    Return whether this process is to write events of that type.

    Raises:
        ConfigError: As in `config.load`.
    """
    types = config.load(None, os.environ, {}).sources.types
    return event_type in types or "ALL" in types


def lay(event_type: str, hooks: Callable[[Source], None]) -> None:
    """
    Lay the hooks of an event type, if it is switched on. A hook that does not fit this Ray leaves that type off.

    Args:
        event_type: As in file names.
        hooks: Checks the names that it needs, before it lays the first.
    """
    try:
        if on(event_type):
            hooks(Source(event_type, EventFiles(export_directory)))
    except Exception as error:  # noqa: BLE001 (whatever it is, Ray goes on without our events)
        _LOG.warning("%s is not written by process %d: %s", event_type, os.getpid(), error)


def export_directory() -> Path:
    """Return the directory that Ray writes its own export events to. This process must have met its node."""
    import ray

    node: Any = ray._private.worker._global_node
    return Path(node.get_logs_dir_path()) / "export_events"


def need(owner: Any, *names: str) -> None:
    """
    Check that a class has these: methods, properties, fields, and attributes that its ``__init__`` sets.

    Raises:
        AttributeError: It lacks one.
    """
    # unwrapped, as Ray's tracing wraps every method of an actor
    set_by_init = getattr(getattr(inspect.unwrap(owner.__init__), "__code__", None), "co_names", ())
    known = fields(owner)
    for name in names:
        if not (hasattr(owner, name) or name in set_by_init or name in known):
            raise AttributeError(f"{owner.__module__}.{owner.__name__} has no {name} in this version of Ray")


def fields(model: Any) -> tuple[str, ...]:
    """Return the names of a model's fields. Anything that is no model has none."""
    # fields of Pydantic 2, of Pydantic 1 (which Serve's schema is in Ray 2.48), of a dataclass
    kinds = ("model_fields", "__fields__", "__dataclass_fields__")
    return tuple(next((names for kind in kinds if (names := getattr(model, kind, None))), ()))


def cut(text: str | None) -> str:
    """Return a text that is not too long for an event."""
    return (text or "")[:MAX_TEXT]


class Source:
    """One event type that this process writes, and its hooks in Ray's classes."""

    def __init__(self, event_type: str, files: EventFiles) -> None:
        self._event_type, self._files = event_type, files
        self._last_attribute = f"_raytrail_{event_type}"
        self._failed = False

    def append(self, data: dict[str, Any]) -> None:
        """Write an event."""
        self._files.append(self._event_type, data)

    def tell(self, about: Any, state: Any, data: Callable[[], dict[str, Any]]) -> None:
        """
        Write an event about one of Ray's objects, unless nothing has changed since the last.

        Args:
            about: The object.
            state: The event's content, quick to compare, since Ray goes over its objects several times a second.
            data: Makes the event.
        """
        last = about.__dict__.get(self._last_attribute, self)
        if last is not state and last != state:
            about.__dict__[self._last_attribute] = state
            self.append(data())

    def after(self, owner: type, method: str, hook: Callable[..., None]) -> None:
        """Call `hook` after each call of a method that returns: with its object, its result and its arguments."""
        original = getattr(owner, method)

        @functools.wraps(original)
        def hooked(this: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(this, *args, **kwargs)
            self.guard(hook, this, result, *args, **kwargs)
            return result

        setattr(owner, method, hooked)

    def on_assignment(self, owner: type, attribute: str, hook: Callable[[Any], None]) -> None:
        """Call `hook` with the object after each assignment of another value to an attribute, wherever that is."""
        setattr(owner, attribute, _Assigned(attribute, functools.partial(self.guard, hook)))

    def guard(self, hook: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Call a hook. Whatever it raises stays here."""
        try:
            hook(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 (whatever it is, Ray never hears of it)
            if not self._failed:
                self._failed = True
                with contextlib.suppress(Exception):  # it may come from somebody's log handler
                    _LOG.warning("some %s events are lost: %r", self._event_type, error)


class _Assigned:
    """An attribute of instances, kept where it would be kept anyhow, of whose assignments somebody hears."""

    def __init__(self, name: str, hear: Callable[[Any], None]) -> None:
        self._name, self._hear = name, hear

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        try:
            return instance.__dict__[self._name]
        except KeyError:
            raise AttributeError(f"{type(instance).__name__!r} object has no attribute {self._name!r}") from None

    def __set__(self, instance: Any, value: Any) -> None:
        before = instance.__dict__.get(self._name, self)
        instance.__dict__[self._name] = value
        if value is not before:
            self._hear(instance)

    def __delete__(self, instance: Any) -> None:
        self.__get__(instance)
        del instance.__dict__[self._name]
