"""Where the chart is, and what a file in helm/rendered was made from, for `make chart` and for the tests."""

from __future__ import annotations

import hashlib
from pathlib import Path

HERE = Path(__file__).parent
CHART = HERE / "helm" / "raytrail"
RENDERED = HERE / "helm" / "rendered"


def first_line(values: Path) -> str:
    """Return the first line of a rendered file: it has the hash of the chart and the values, and so tells its age."""
    sources = [path for path in sorted(CHART.rglob("*")) if path.is_file() and path.suffix != ".md"]
    named = b"".join(path.relative_to(CHART).as_posix().encode() + b"\0" + path.read_bytes() for path in sources)
    return f"# Made by `make chart-write` from {hashlib.sha256(named + values.read_bytes()).hexdigest()}"
