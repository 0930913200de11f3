"""
Build the images of the commit that is checked out, without Docker: `make image` runs it.

    build/image/context                            what the Containerfile copies; `docker build` takes it as well
    build/image/raytrail-<version>.oci.tar         the image, as an OCI archive
    build/image/raytrail-<version>-dashboard.oci.tar    the same with the files of Ray's dashboard
    build/image/*.cdx.json                         what is in each (CycloneDX)
    build/image/storage                            buildah's own, until deploy/image/check.py has tried what is in it

The wheel is that of `make release`. The base is made by mmdebstrap, as not every machine reaches a registry of images.
Its Python is the one of that Debian.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime, timezone
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deploy.image.storage import OUT, STORAGE
from release.build import as_json, build, git, printed_by, sbom

EXTRAS = ("server", "http", "kafka", "nats", "objects", "redis")
"""What the image can do. An agent that asks Ray's GCS has Ray beside it, and so Ray's own image."""
SUITE = "bookworm"
BASE = "localhost/raytrail-base"
FLAVOURS = {"": "", "-dashboard": "1"}
"""Ends of an image's name, each with the build argument DASHBOARD."""
_RAY = re.compile(r"^ray==.*\n(?: +--hash=.*\n)+", re.MULTILINE)
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def main() -> int:
    """Build it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uv", required=True, help="the program")
    parser.add_argument("--base", default="", help="an image to build upon; empty makes one")
    given = parser.parse_args()
    shutil.rmtree(OUT, ignore_errors=True)
    epoch = int(git("log", "-1", "--format=%ct"))
    wheel = context(given.uv, epoch)
    base = given.base or made_base()
    version = wheel.split("-")[1]
    for end, dashboard in FLAVOURS.items():
        began = time.monotonic()
        name = f"raytrail-{version}{end}"
        image(f"localhost/raytrail:{version}{end}", base, dashboard, version, epoch)
        buildah(
            "push", f"localhost/raytrail:{version}{end}", f"oci-archive:{OUT / name}.oci.tar:raytrail:{version}{end}"
        )
        (OUT / f"{name}.cdx.json").write_bytes(
            as_json(bom(given.uv, epoch, wheel, f"localhost/raytrail:{version}{end}"))
        )
        size = (OUT / f"{name}.oci.tar").stat().st_size
        print(f"{name}: {size / 1e6:.0f} MB to pull, built in {time.monotonic() - began:.0f} s", flush=True)
    return 0


def context(uv: str, epoch: int) -> str:
    """Write what the Containerfile copies. Return the wheel's name."""
    directory = OUT / "context"
    directory.mkdir(parents=True)
    [(name, content)] = [(name, content) for name, content in build(uv, epoch).items() if name.endswith(".whl")]
    (directory / name).write_bytes(content)
    shutil.copy(Path(__file__).parent / "Containerfile", directory)
    (directory / "requirements.txt").write_text(locked(uv, *(word for extra in EXTRAS for word in ("--extra", extra))))
    # of the version that is locked for tests
    [ray] = _RAY.findall(locked(uv, "--only-group", "ray"))
    (directory / "ray.txt").write_text(ray)
    return name


def locked(uv: str, *words: str) -> str:
    """Return requirements with their versions and hashes."""
    return printed_by(uv, "export", "--quiet", "--frozen", "--no-emit-project", "--no-default-groups", *words) + "\n"


def made_base() -> str:
    """Make a small Debian with Python, and return its name as an image."""
    began = time.monotonic()
    tar = OUT / "base.tar"
    documents = ("exclude=/usr/share/man/*", "exclude=/usr/share/locale/*", "exclude=/usr/share/doc/*")
    paths = (*documents, "include=/usr/share/doc/*/copyright")
    run(
        *("mmdebstrap", "--quiet", "--variant=essential", "--include=python3,python3-venv,libstdc++6,ca-certificates"),
        *(f"--dpkgopt=path-{path}" for path in paths),
        *(SUITE, str(tar)),
    )
    container = buildah("from", "scratch")
    buildah("add", container, str(tar), "/")
    buildah("commit", "--rm", container, BASE)
    tar.unlink()
    print(f"base: Debian {SUITE}, made in {time.monotonic() - began:.0f} s", flush=True)
    return BASE


def image(name: str, base: str, dashboard: str, version: str, epoch: int) -> None:
    """Build an image."""
    created = datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    arguments = {
        "BASE": base,
        "DASHBOARD": dashboard,
        "VERSION": version,
        "REVISION": git("rev-parse", "HEAD"),
        "CREATED": created,
    }
    buildah(
        *(
            "bud",
            "--quiet",
            "--layers",
            "--isolation",
            "chroot",
            "--format",
            "oci",
            "--timestamp",
            str(epoch),
            "--tag",
            name,
        ),
        # of this machine, which may know more than Debian does; they are not in the image
        *(("--volume", f"{_CERTIFICATES}:{_CERTIFICATES}:ro") if Path(_CERTIFICATES).exists() else ()),
        *(word for argument, value in arguments.items() for word in ("--build-arg", f"{argument}={value}")),
        str(OUT / "context"),
    )


def bom(uv: str, epoch: int, wheel: str, name: str) -> Any:
    """Return what is in an image: Python's packages as `make release` lists them, and those of its Debian."""
    listed = sbom(uv, epoch, [wheel, name], *EXTRAS)
    container = buildah("from", "--pull-never", name)
    try:
        status = Path(buildah("mount", container), "var/lib/dpkg/status").read_text(encoding="utf-8")
    finally:
        buildah("rm", container)
    listed["components"] += [debian(Parser().parsestr(entry)) for entry in status.strip().split("\n\n")]
    return listed


def debian(package: Message) -> dict[str, str]:
    """Return a component of an entry in dpkg's status."""
    name, version = package["Package"], package["Version"]
    purl = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={package['Architecture']}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def buildah(*words: str) -> str:
    """Run buildah with a storage of its own, and return what it prints."""
    return run("buildah", *STORAGE, *words)


def run(*command: str) -> str:
    """Run a program, and return what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-3000:]}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
