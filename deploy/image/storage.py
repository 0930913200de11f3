"""Where the images are, for those who build them and those who try them."""

from __future__ import annotations

from pathlib import Path

OUT = Path(__file__).parents[2] / "build" / "image"
STORAGE = ("--root", str(OUT / "storage"), "--runroot", str(OUT / "run"), "--storage-driver", "overlay")
"""Options of buildah: nothing of it is outside of the checkout."""
