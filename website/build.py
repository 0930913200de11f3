"""
Build the site of docs/ with Sphinx, which fails where a link leads nowhere.

    build/site/index.html           leads to the newest version
    build/site/versions.js          the versions that are there, for the list on each page
    build/site/<version>/           one version, which needs nothing outside of its directory but that list

Pages are the repository's own Markdown, at their own paths. The page of the Python API is made of docstrings. A version
that was built before stays beside a new one.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent
NO_PAGES = ("docs/example/", "docs/generate.py")
START = "docs/README"
"""The page that others are below of."""
PYTHON = "docs/reference/python"
"""The page that is made of docstrings."""
OF_RESOURCES = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
"""Elements that a browser loads something for, each with the attribute that says what."""


def main() -> int:
    """Build it. Return 1 if a page is wrong, or would load something from another host."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="directory of all versions")
    given = parser.parse_args()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    out = given.out / version
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="raytrail-site-") as name:
        source = Path(name, "source")
        stage(source)
        sphinx = ["-W", "--keep-going", "--nitpicky", "--quiet", "-b", "html", "-c", HERE, "-d", Path(name, "doctrees")]
        done = subprocess.run([sys.executable, "-m", "sphinx", *map(str, sphinx), str(source), str(out)], check=False)
    if done.returncode:
        return 1
    (given.out / "index.html").write_text(leading_to(f"{version}/{START}.html"), encoding="utf-8")
    (out / "index.html").write_text(leading_to(f"{START}.html"), encoding="utf-8")
    versions = sorted((path.name for path in given.out.iterdir() if path.is_dir()), key=parts, reverse=True)
    (given.out / "versions.js").write_text(f"window.raytrailVersions = {json.dumps(versions)};\n", encoding="utf-8")
    faults = [*foreign(out), *broken(out)]
    print("\n".join(faults) or f"{out}/index.html")
    return bool(faults)


def stage(source: Path) -> None:
    """Copy the pages, and what they lead to, as the repository has them."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    for name in names:
        path = ROOT / name
        if path.is_file() and not name.startswith(NO_PAGES) and not name.startswith("tests/captures"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, source / name)
    (source / f"{PYTHON}.rst").write_text((HERE / "python.rst").read_text(encoding="utf-8"), encoding="utf-8")


def parts(version: str) -> list[int]:
    """Return what versions are sorted by."""
    return [int(number) for number in re.findall(r"\d+", version)]


def leading_to(path: str) -> str:
    """Return a page that leads to another one."""
    target = html.escape(path)
    refresh = f'<meta http-equiv="refresh" content="0; url={target}">'
    return f'<!doctype html><meta charset="utf-8"><title>Raytrail</title>{refresh}\n'


def foreign(out: Path) -> Iterator[str]:
    """Yield what the files of a site would have a browser load from another host."""
    for path in sorted(out.rglob("*")):
        if path.suffix in (".html", ".css", ".svg"):
            for url in loaded(path.suffix, path.read_text(encoding="utf-8", errors="replace")):
                yield f"{path.relative_to(out)} loads {url}"


def broken(out: Path) -> Iterator[str]:
    """Yield what the pages of a site lead to, or show, that it has not. Sphinx looks at no HTML within a page."""
    for path in sorted(out.rglob("*.html")):
        text = path.read_text(encoding="utf-8", errors="replace")
        for url in re.findall(r"<(?:a|img|link|script)\b[^>]*?\b(?:href|src)=\"([^\"#?]+)", text):
            if ":" not in url and not (path.parent / unquote(html.unescape(url))).exists():
                yield f"{path.relative_to(out)} leads to {url}, which is not there"


def loaded(suffix: str, text: str) -> Iterable[str]:
    """Yield the addresses on other hosts that a file has a browser load something from."""
    if suffix == ".css":
        yield from re.findall(r"(?:url\(\s*['\"]?|@import\s+['\"])((?:https?:)?//[^'\")\s]+)", text)
        return
    for tag, attributes in re.findall(r"<([a-z]+)\b([^>]*)>", text):
        name = OF_RESOURCES.get(tag)
        # a link that names a page for machines to know, and not to load
        if name and not re.search(r"rel=\"(?:canonical|next|prev|license)\"", attributes):
            yield from re.findall(rf"\b{name}=\"((?:https?:)?//[^\"]+)", attributes)


if __name__ == "__main__":
    sys.exit(main())
