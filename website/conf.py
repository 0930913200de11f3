"""Sphinx's settings for the site of docs/."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "src"))

project = "Raytrail"
author = "the authors of Raytrail"
version = release = version_of("raytrail")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/README"
include_patterns = ["*.md", "docs/**", "deploy/helm/raytrail/README.md"]
exclude_patterns = ["docs/img/**"]
nitpick_ignore_regex = [
    ("py:.*", r"(?!raytrail\.(?:api|table|errors)\.).*")
]  # the docstrings name much that is not public
myst_heading_anchors = 6
myst_enable_extensions = ["html_image"]
suppress_warnings = ["misc.highlighting_failure"]  # output of commands stands below them
highlight_language = "text"
smartquotes = False

autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
default_role = "code"

html_theme = "furo"
html_title = f"Raytrail {version}"
html_static_path = [str(HERE / "static")]
html_css_files = ["site.css"]
html_js_files = ["versions.js"]
templates_path = [str(HERE / "templates")]
html_show_copyright = html_show_sphinx = False
html_copy_source = html_show_sourcelink = False
html_theme_options = {"light_css_variables": {"font-stack": "system-ui, sans-serif"}}
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
        "sidebar/versions.html",
    ]
}

SECTIONS = {"How to": "how-to", "Reference": "reference", "Entities": "reference/entities", "Why": "why"}
"""Parts of the navigation, each with the directory of its pages."""


def setup(app: Sphinx) -> None:
    """Have the first page lead to all others, which on its own are a list of links."""
    app.connect("source-read", _add_navigation)
    app.connect("source-read", _without_what_is_no_page)
    app.connect("autodoc-process-docstring", _without_drawings)


def _add_navigation(app: Sphinx, name: str, source: list[str]) -> None:
    if name != root_doc:
        return
    docs = Path(app.srcdir, "docs")
    pages = {title: sorted(page.stem for page in (docs / folder).glob("*.*") if page.suffix in (".md", ".rst"))
             for title, folder in SECTIONS.items()}  # fmt: skip
    trees = [("", ["tutorial", "/README"])]
    trees += [(title, [f"{SECTIONS[title]}/{page}" for page in of_section]) for title, of_section in pages.items()]
    trees += [("Project", ["benchmarks", "/CHANGELOG", "/SECURITY", "/CONTRIBUTING", "/deploy/helm/raytrail/README"])]
    for title, names in trees:
        caption = f":caption: {title}\n" if title else ""
        source[0] += f"\n```{{toctree}}\n:hidden:\n{caption}\n" + "\n".join(names) + "\n```\n"


def _without_what_is_no_page(_app: Sphinx, name: str, source: list[str]) -> None:
    """Leave out the notes for the test that runs the pages' commands, and links to directories of the repository."""

    def link(match: re.Match[str]) -> str:
        return match[1] if Path(ROOT, name).parent.joinpath(match[2]).is_dir() else match[0]

    text = re.sub(r"^<!-- (?:not run|needs|first|file): .+? -->\n", "", source[0], flags=re.MULTILINE)
    source[0] = re.sub(r"\[([^\]\[]+)\]\(([^)\s#:]+)\)", link, text)


def _without_drawings(_app: Sphinx, what: str, _name: str, _of: object, _options: object, lines: list[str]) -> None:
    """Leave out what modules say at their top, which are drawings for those who read the code."""
    if what == "module":
        lines.clear()
