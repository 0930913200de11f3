"""
Loaded into each of Ray's workers by Ray itself, before it does any work: lays hooks where there is something to hook.

    RAY_preload_python_modules=raytrail.sources.preload        wherever ``ray start`` runs, or in its system config

    this module --finder on sys.meta_path--> ray.serve._private.controller, once a worker imports it --> serve.py
                --wrapper of the class loader--> Ray Data's ``_StatsActor``, once it is a worker's actor --> data.py

Most workers never meet either, so all that is done for them is done here, with nothing but Python's own: no setting is
read before a hook is to be laid. It never raises, as a worker whose preloading fails is no worker.
"""

from __future__ import annotations

import functools
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_CLASS_LOADER = "ray._private.function_manager"
_LOADERS = ("_load_actor_class_from_gcs", "_load_actor_class_from_local")

_MODULES = {"ray.serve._private.controller": "raytrail.sources.serve"}
"""Ray's modules whose import begins what is hooked, and ours that hooks it."""

_ACTOR_CLASSES = {"ray.data._internal.stats": ("_StatsActor", "raytrail.sources.data")}
"""
Actor classes, by their module, that a worker gets from the GCS by value: patching the module would miss them.
"""


class _Finder:
    """Finds nothing by itself: lets the others find a module, and lays its hooks when it has been executed."""

    def __init__(self) -> None:
        self._finding: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that the other finders have for one of our modules, or None for any other module."""
        # another that asks all the others, as we do, would ask us
        if name not in _MODULES or name in self._finding:
            return None
        self._finding.add(name)
        try:
            return _then_lay(name, self._ask_others(name, path, target))
        finally:
            self._finding.discard(name)

    def _ask_others(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find_spec = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find_spec and find_spec(name, path, target)
            if spec is not None:
                return spec
        return None


def _then_lay(name: str, spec: ModuleSpec | None) -> ModuleSpec | None:
    """Return the spec, whose loader lays the hooks of the module after it has executed it."""
    execute = getattr(getattr(spec, "loader", None), "exec_module", None)
    if spec is None or execute is None:
        return spec

    def exec_module(module: ModuleType) -> None:
        execute(module)
        _call(_MODULES[name], "lay")

    try:
        # on the loader that is there, so that it stays what others ask it to be: inspect, pkgutil
        spec.loader.exec_module = exec_module  # type: ignore[union-attr, method-assign]
    except AttributeError:
        _say("no hooks in %s: its loader takes none", name)
    return spec


def _watch_class_loader(manager: type) -> None:
    """
    Lay hooks on an actor's class when a worker has just got it.

    Later is too late: by then the worker has taken down which functions its methods are.
    """
    try:
        loaders = {name: getattr(manager, name) for name in _LOADERS}
    except AttributeError as error:
        for _, ours in _ACTOR_CLASSES.values():
            _call(ours, "off", error)
        return
    for name, load in loaders.items():
        setattr(manager, name, _watched(load))


def _watched(load: Any) -> Any:
    @functools.wraps(load)
    def loading(*args: Any, **kwargs: Any) -> Any:
        loaded = load(*args, **kwargs)
        try:
            name, ours = _ACTOR_CLASSES.get(loaded.__module__, ("", ""))
            if name and loaded.__name__ == name:
                _call(ours, "lay", loaded)
        except Exception:  # noqa: BLE001 (a class that does not even say its name is none of ours)
            pass
        return loaded

    return loading


def _call(ours: str, function: str, *args: Any) -> None:
    """Call a function of the module of ours that hooks it, and be it only to say that it will not."""
    try:
        getattr(import_module(ours), function)(*args)
    except Exception as error:  # noqa: BLE001 (whatever it is, Ray goes on)
        _say("no hooks of %s: %r", ours, error)


def _say(message: str, *args: object) -> None:
    import logging  # if all goes well, it is not needed here

    logging.getLogger(__name__).warning(message, *args)


def _install() -> None:
    sys.meta_path.insert(0, _Finder())
    for name in _MODULES.keys() & sys.modules.keys():
        _call(_MODULES[name], "lay")
    if _CLASS_LOADER in sys.modules:
        _watch_class_loader(sys.modules[_CLASS_LOADER].FunctionActorManager)


try:
    _install()
except Exception as error:  # noqa: BLE001 (whatever it is, Ray goes on)
    _say("no hooks in this process: %r", error)
