"""A name says what the thing is. These words stand for anything, and a reader has to look up what they hold."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BUILT = {"build", "dist"}
WORDS = {"found", "said", "one", "came", "told", "left"}
BOUND = re.compile(
    r"(?:^|[(\[{,.:;=*|]|\b(?:for|as|def|class|lambda|case|if|elif|while|assert))[ \t]*"
    rf"_*(?:{'|'.join(WORDS)})_*\b",
    re.MULTILINE,
)
"""Whatever binds a name has one of these before it. Files without need no tree, which takes long to make."""
DOCUMENTED = {("src/raytrail/cli/doctor.py", "found")}
"""A key of what `raytrail doctor --format json` prints, which programs read."""
BINDS = {
    ast.Name: "id",
    ast.Attribute: "attr",
    ast.arg: "arg",
    ast.FunctionDef: "name",
    ast.AsyncFunctionDef: "name",
    ast.ClassDef: "name",
    ast.ExceptHandler: "name",
    ast.alias: "asname",
    ast.MatchAs: "name",
    ast.MatchStar: "name",
    ast.MatchMapping: "rest",
}


def is_empty(name):
    return name is not None and name.strip("_") in WORDS


def empty_names(text):
    """Return where a program gives something such a name, and which: the lines and the names."""
    places = []
    node: Any
    for node in ast.walk(ast.parse(text)) if BOUND.search(text) else ():
        name = getattr(node, BINDS.get(type(node), ""), None)
        if is_empty(name) and not isinstance(getattr(node, "ctx", None), ast.Load | ast.Del):
            places.append((node.lineno, name))
    return sorted(places)


def test_every_name_says_what_it_is_the_name_of():
    directories = [path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "." and path.name not in BUILT]
    empty = []
    for path in (path for directory in directories for path in sorted(directory.rglob("*.py"))):
        place = path.relative_to(ROOT).as_posix()
        names = empty_names(path.read_text(encoding="utf-8"))
        empty += [f"{place}:{line}: {name}" for line, name in names if (place, name) not in DOCUMENTED]
    assert empty == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("one = 1", "one"),
        ("one: int = 1", "one"),
        ("one += 1", "one"),
        ("a = one = 1", "one"),
        ("if a: one = 1", "one"),
        ("a, (b, *left) = c", "left"),
        ("for said in lines: pass", "said"),
        ("with open(path) as told: pass", "told"),
        ("if found := a: pass", "found"),
        ("a = [b for left in c]", "left"),
        ("a = f'{[b for left in c]}'", "left"),
        ("a = [b for b in c if (left := b)]", "left"),
        ("a = [b for\nleft in c]", "left"),
        ("a = lambda one: 1", "one"),
        ("def f(said): pass", "said"),
        ("def f(*, said=1): pass", "said"),
        ("async def f(*told): pass", "told"),
        ("def f(**told): pass", "told"),
        ("def found(): pass", "found"),
        ("async def found(): pass", "found"),
        ("class one: pass", "one"),
        ("class A:\n one: int", "one"),
        ("import a as came", "came"),
        ("from a import b as came", "came"),
        ("try: a\nexcept E as told: pass", "told"),
        ("match a:\n case [left]: pass", "left"),
        ("match a:\n case left: pass", "left"),
        ("match a:\n case {1: left}: pass", "left"),
        ("match a:\n case b | left: pass", "left"),
        ("match a:\n case A(b=left): pass", "left"),
        ("match a:\n case [*left]: pass", "left"),
        ("match a:\n case {**left}: pass", "left"),
        ("self.left = 1", "left"),
        ("self._left: int = 1", "_left"),
        ("_told = 1", "_told"),
    ],
)
def test_a_name_is_seen_wherever_it_is_given(text, name):
    assert empty_names(text) == [(text.count("\n") + 1, name)]


@pytest.mark.parametrize(
    "text", ["a = one", "del one", "a = b.left", "f(said=1)", "a = 'one'", "a = {'found': 1}", "one_of = 1", "# one"]
)
def test_a_name_that_is_only_used_is_of_another_place(text):
    assert empty_names(text) == []
