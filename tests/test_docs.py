"""
The docs say what is so: made pages are fresh, links lead somewhere, and commands print what stands below them.

Every ``console`` block of a page is run, in order, in one empty directory a page:

    $ raytrail clusters               a command, run by bash; it must succeed. `\\` at its end continues it
    session  state ...                what it prints; `...` stands for any text, on a line of its own for any lines
    $ raytrail serve &                runs until the page's end; what it prints is waited for
    $ export RAYTRAIL_CONFIG=x.toml   holds for the rest of the page

The line above a block may say otherwise:

    <!-- not run: why -->             for the reader only
    <!-- needs: ray, jq -->           run where these commands are installed
    <!-- first: raytrail import /tmp/ray -->    run before the block, and not shown; any number of these
    <!-- file: check.py -->           a block of any language: written to that file of the directory

``/tmp/ray`` and ``docs/example`` hold the example session, whose Ray is gone, and its copy is where the docs' own paths
and port lead to.
"""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import pytest
from lab.ports import free_port

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
LANGUAGES = {"console", "python", "toml", "json", "text", "sql", "ini"}
COMMAND_SECONDS = 60

BLOCK = re.compile(r"((?:^<!-- .+? -->\n)*)^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (not run|needs|first|file): (.+?) -->")
CODE = re.compile(r"```.*?^```|`[^`\n]*`|^    .*?$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href|srcset)=\"([^\"]+)\"")


def named(page):
    return str(page.relative_to(ROOT))


def blocks(page):
    """Yield the line, the marks, the language and the text of each block of code."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, MARK.findall(match[1]), match[2], match[3]


def steps(block):
    """Yield each command of a console block with what it is said to print."""
    command = ""
    printed: list[str] = []
    for line in block.splitlines():
        if command.endswith("\\"):
            command = command[:-1] + line.lstrip("> ")
        elif line.startswith("$ "):
            if command:
                yield command, printed
            command, printed = line[2:], []
        else:
            assert command, f"{line!r} stands before any command"
            printed.append(line)
    yield command, printed


def pattern(lines):
    """Return the expression for what a command is said to print."""
    parts = []
    for line in lines:
        if line.strip() == "...":
            parts.append(r"(?:[^\n]*\n)*")
        else:
            parts.append(r"[^\n]*?".join(map(re.escape, line.rstrip().split("..."))) + r"\n")
    return re.compile("".join(parts))


class Shell:
    """Runs the commands of one page."""

    def __init__(self, directory):
        port = free_port()
        self.directory = directory
        self.places = {
            "/tmp/ray": str(directory / "ray"),
            "docs/example": str(directory / "ray"),
            "/var/lib/raytrail": str(directory / "var"),
            "/nodes/": f"{directory / 'nodes'}/",
            "8365": str(port),
        }
        home = directory / "home"
        home.mkdir()
        # Ray's tools and ours are those beside this Python, whatever else is installed
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "RAYTRAIL_TAIL_TEMP_DIR": self.places["/tmp/ray"],
            "RAYTRAIL_SERVER_PORT": str(port),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self.running = []

    def here(self, text):
        for written, place in self.places.items():
            text = text.replace(written, place)
        return text

    def may_run(self, mark, needed):
        commands = needed.split(", ") if mark == "needs" else []
        return mark != "not run" and all(shutil.which(program, path=self.environment["PATH"]) for program in commands)

    def run(self, command, expected=None):
        command = self.here(command)
        if match := re.fullmatch(r"export (\w+)=(\S+)", command):
            self.environment[match[1]] = match[2]
            return
        if command.endswith(" &"):
            self.start(command[:-2], expected)
            return
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        printed = "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())
        assert done.returncode == 0, f"$ {command}\n{printed}ended with {done.returncode}"
        if expected is not None:
            expected_text = "".join(f"{self.here(line)}\n" for line in expected)
            assert pattern(map(self.here, expected)).fullmatch(printed), (
                f"$ {command}\n{printed}--- said:\n{expected_text}"
            )

    def start(self, command, expected):
        log = self.directory / f"started-{len(self.running)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self.directory,
                env=self.environment,
                stdout=out,
                stderr=out,
            )
        self.running.append(process)
        wanted = pattern([*map(self.here, expected or ()), "..."])
        deadline = time.monotonic() + COMMAND_SECONDS
        while not wanted.fullmatch(log.read_text()):
            ended = process.poll() is not None or time.monotonic() > deadline
            assert not ended, f"$ {command}\n{log.read_text()}--- said:\n{expected}"
            time.sleep(0.05)

    def close(self):
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        codes = [process.wait(COMMAND_SECONDS) for process in self.running]
        assert not any(codes), f"what ran in the background ended with {codes}"


def with_console():
    return [page for page in PAGES if any(language == "console" for _, _, language, _ in blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", with_console(), ids=named)
def test_the_commands_of_a_page_print_what_it_says(page, tmp_path):
    ray = tmp_path / "ray"
    shutil.copytree(DOCS / "example", ray)
    [session] = ray.glob("session_*")
    (ray / "session_latest").symlink_to(session.name)
    shell = Shell(tmp_path)
    try:
        for line, marks, language, text in blocks(page):
            for mark, argument in marks:
                if mark == "file":
                    (tmp_path / argument).write_text(shell.here(text), encoding="utf-8")
            if language == "console" and all(shell.may_run(*pair) for pair in marks):
                for _, command in (pair for pair in marks if pair[0] == "first"):
                    shell.run(command)
                for command, printed in steps(text):
                    try:
                        shell.run(command, printed)
                    except AssertionError as error:
                        raise AssertionError(f"{named(page)}, block at line {line}:\n{error}") from None
    finally:
        shell.close()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_blocks_of_code_can_be_read(page):
    for line, marks, language, text in blocks(page):
        place = f"{named(page)}:{line}"
        assert language in LANGUAGES, f"{place}: language {language!r} is not among {sorted(LANGUAGES)}"
        assert language == "console" or all(mark == "file" for mark, _ in marks), f"{place}: only console is run"
        if language == "python":
            ast.parse(text, place)
        elif language == "toml":
            tomllib.loads(text)
        elif language == "json" and "…" not in text:
            json.loads(text)
        elif language == "console":
            assert list(steps(text)), place


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    dead = [target for target in links(page) if not leads_somewhere(page, target)]
    assert not dead, f"{named(page)}: {dead}"


def links(page):
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    return [markdown or html for markdown, html in LINK.findall(text)]


def leads_somewhere(page, target):
    if re.match(r"[a-z]+:", target):
        return target.startswith("https://")
    path, _, anchor = unquote(target).partition("#")
    there = (page.parent / path).resolve() if path else page
    if not there.exists() or ROOT not in (there, *there.parents):
        return False
    return not anchor or anchor in anchors(there)


def anchors(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_linked_from_another():
    linked = {(page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in links(page)}
    assert not [named(page) for page in PAGES if page.name != "README.md" and page not in linked]


def test_made_pages_are_up_to_date():
    done = subprocess.run(
        [sys.executable, DOCS / "generate.py", "--check"],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, f"run `make docs`:\n{done.stdout}"


def test_the_docs_name_no_machine():
    """Neither a home nor a scratch directory of whoever wrote them."""
    wrong = []
    for path in (*PAGES, *(DOCS / "example").rglob("*.log")):
        text = path.read_text(encoding="utf-8")
        wrong += [
            f"{named(path)}: {machine_path}"
            for machine_path in re.findall(r"/(?:work|opt|root|Users)/\S*|/tmp/(?!ray\b)\S*", text)
        ]
    assert not wrong
