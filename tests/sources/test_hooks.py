"""What all hooks have in common."""

import logging
from dataclasses import dataclass
from typing import Any

import pytest

from raytrail.errors import ConfigError
from raytrail.sources import hooks
from raytrail.sources.event_file import EventFiles
from raytrail.sources.hooks import Source


@dataclass
class Field:
    filled: int


class OldModel:
    __fields__ = {"filled": int}  # noqa: RUF012 (as in Pydantic 1)


class Thing:
    def __init__(self):
        self.state = "new"

    def move(self, to, *, slowly=False):
        self.state = to
        return (to, slowly)


@pytest.fixture
def thing():
    """A class that a test may hook."""
    return type("Thing", (Thing,), {})


@pytest.fixture
def source(tmp_path):
    return Source("A", EventFiles(tmp_path))


def test_a_hook_comes_after_the_method_and_changes_nothing_of_it(thing, source):
    heard = []
    source.after(thing, "move", lambda this, result, *args, **kwargs: heard.append((this.state, result, args, kwargs)))
    assert thing().move("up", slowly=True) == ("up", True)
    assert heard == [("up", ("up", True), ("up",), {"slowly": True})]
    assert thing.move.__name__ == "move"


def test_what_the_method_raises_is_raised_and_no_hook_called(thing, source):
    heard = []
    source.after(thing, "move", lambda *_: heard.append(1))
    with pytest.raises(TypeError):
        thing().move()
    assert not heard


def test_an_assignment_is_heard_and_kept_where_it_always_was(thing, source):
    heard = []
    source.on_assignment(thing, "state", lambda this: heard.append(this.state))
    first, other = thing(), thing()
    first.state = "up"
    first.state = first.state
    assert heard == ["new", "new", "up"]
    assert (first.state, other.state, vars(first)) == ("up", "new", {"state": "up"})
    del first.state
    assert not hasattr(first, "state")
    with pytest.raises(AttributeError, match="'Thing' object has no attribute 'state'"):
        del first.state


@pytest.mark.parametrize("error", [ZeroDivisionError, RecursionError, MemoryError, LookupError])
def test_an_exception_in_a_hook_is_told_once_and_goes_no_further(thing, source, error, caplog):
    def fail(*_args, **_kwargs):
        raise error("x")

    source.after(thing, "move", fail)
    source.on_assignment(thing, "state", fail)
    assert thing().move("up") == ("up", False)
    assert thing().move("down") == ("down", False)
    assert [record.getMessage() for record in caplog.records] == [f"some A events are lost: {error('x')!r}"]


def test_a_log_that_fails_is_not_heard_of_either(thing, source):
    class Broken(logging.Handler):
        def emit(self, record):
            raise OSError("no log")

    source.after(thing, "move", lambda *_: 1 / 0)
    log = logging.getLogger("raytrail")
    log.addHandler(Broken())
    assert thing().move("up") == ("up", False)


def test_what_is_told_already_is_not_told_again(thing, source, tmp_path):
    first, other = thing(), thing()
    for about, state in ((first, (1, 2)), (first, (1, 2)), (other, (1, 2)), (first, (1, 3)), (first, (1, 2))):
        source.tell(about, state, lambda: {})
    [path] = tmp_path.iterdir()
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("types", "on"), [("", False), ("OBJECT", False), ("OBJECT,SERVE_REPLICA", True), ("ALL", True)]
)
def test_a_type_is_off_unless_it_is_switched_on(types, on, monkeypatch):
    monkeypatch.setenv("RAYTRAIL_SOURCES_TYPES", types)
    laid: list[Any] = []
    hooks.lay("SERVE_REPLICA", laid.append)
    assert bool(laid) is on


def test_a_name_that_is_not_there_is_one_line(monkeypatch, caplog):
    monkeypatch.setenv("RAYTRAIL_SOURCES_TYPES", "SERVE_REPLICA")
    monkeypatch.setattr("raytrail.sources.hooks.os.getpid", lambda: 7)
    hooks.lay("SERVE_REPLICA", lambda _: hooks.need(Thing, "move", "state", "stop"))
    [record] = caplog.records
    assert record.name.startswith("raytrail.sources")
    assert (
        record.getMessage()
        == f"SERVE_REPLICA is not written by process 7: {__name__}.Thing has no stop in this version of Ray"
    )


def test_a_wrong_setting_is_one_line_and_no_event(monkeypatch, caplog):
    monkeypatch.setenv("RAYTRAIL_SOURCES_TYPE", "SERVE_REPLICA")
    with pytest.raises(ConfigError):
        hooks.on("SERVE_REPLICA")
    laid: list[Any] = []
    hooks.lay("SERVE_REPLICA", laid.append)
    assert not laid
    [record] = caplog.records
    assert "did you mean RAYTRAIL_SOURCES_TYPES?" in record.getMessage()


def test_names_are_looked_for_wherever_they_may_be():
    hooks.need(Thing, "move", "state")
    hooks.need(Field, "filled")
    hooks.need(OldModel, "filled")
    with pytest.raises(AttributeError):
        hooks.need(Field, "empty")


def test_a_long_text_is_cut():
    assert hooks.cut("x" * 20_000) == "x" * 10_000
    assert hooks.cut(None) == ""
