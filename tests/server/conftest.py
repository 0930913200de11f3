"""The server over real stores: one of a real session, and small ones made by hand."""

import base64
import hashlib
import itertools
import json
import tarfile
from collections import defaultdict
from pathlib import Path

import httpx
import pytest
from tests.serving import listening

from raytrail.config import ServerConfig
from raytrail.event import Chunk, Segment
from raytrail.server import app
from raytrail.store import Store

CAPTURE = Path(__file__).parents[1] / "captures" / "ray-2.60.tar.xz"
SESSION = "session_2026-11-23_07-40-30_867494_13129"
MADE = "session_2026-01-01_00-00-00_000000_1"


def segment(session, data):
    """The range of a file that begins with these lines."""
    return Segment(
        f"0000000001-{hashlib.blake2b(session.encode() + data, digest_size=16).hexdigest()}", 0, 0, len(data)
    )


def logged(path, data):
    """The chunk of one of the session's files."""
    name = path.name.removeprefix("event_EXPORT_").removesuffix(".log")
    return Chunk(
        cluster="varied",
        session=SESSION,
        node_id="",
        event_type="TASK" if name.startswith("TASK_") else name,
        segments=(segment(SESSION, data),),
        data=data,
    )


@pytest.fixture(scope="session")
def capture(tmp_path_factory):
    """The directory of a session that a real Ray 2.60 left, with what it answered just before its end."""
    root = tmp_path_factory.mktemp("capture")
    with tarfile.open(CAPTURE) as archive:
        archive.extractall(root, filter="data")
    return root / "varied"


@pytest.fixture(scope="session")
def ground_truth(capture):
    """What Ray's State API answered, by noun."""
    rows = json.loads((capture / "ground_truth.json").read_text())
    for job in rows["jobs"]:
        if job["driver_info"]:
            # recorded as Python shows the object: id='01000000' node_ip_address='192.0.2.2' pid='13699'
            pairs = (part.split("=") for part in job["driver_info"].replace("'", "").split())
            job["driver_info"] = dict(pairs)
    return rows


@pytest.fixture(scope="session")
def store(capture, tmp_path_factory):
    """The session in a store, sealed."""
    with Store.open(tmp_path_factory.mktemp("store"), write=True) as store:
        files = sorted((capture / "export_events").glob("*.log"))
        store.append([logged(path, data) for path in files if (data := path.read_bytes())])
        store.fold()
        store.seal(SESSION)
        store.cache(SESSION)
        yield store


@pytest.fixture(scope="session")
def address(store):
    """The address of the captured cluster on a server of its own."""
    with listening(store) as url:
        yield f"{url}/clusters/{SESSION}"


@pytest.fixture
def made(tmp_path):
    """An empty store to write to."""
    with Store.open(tmp_path / "made", write=True) as store:
        yield store


def connected(store):
    transport = httpx.ASGITransport(app(store, ServerConfig()))
    return httpx.AsyncClient(transport=transport, base_url="http://history")


@pytest.fixture
async def client(store):
    """A client of the captured session's store."""
    async with connected(store) as client:
        yield client


@pytest.fixture
async def made_client(made):
    """A client of the store that is made by hand."""
    async with connected(made) as client:
        yield client


@pytest.fixture
def chunk():
    """Make a chunk of a session's only file of its type."""

    def chunk(event_type, data, *, session=MADE, cluster=""):
        return Chunk(
            cluster=cluster,
            session=session,
            node_id="",
            event_type=event_type,
            segments=(segment(session, data),),
            data=data,
        )

    return chunk


@pytest.fixture
def add(made, chunk):
    """Store and fold events, each a type (``EXPORT_TASK``) and its data, written at a second since the epoch."""
    ids = itertools.count()

    def add(*events, at_s=1, **of):
        lines = defaultdict(list)
        for source_type, data in events:
            event = {
                "event_id": str(next(ids)),
                "timestamp": at_s,
                "source_type": source_type,
                "event_data": data,
            }
            lines[source_type.removeprefix("EXPORT_")].append(json.dumps(event) + "\n")
        made.append([chunk(kind, "".join(written).encode(), **of) for kind, written in lines.items()])
        made.fold()

    return add


@pytest.fixture
def task():
    """Make an event of a task whose id is its number."""

    def task(number, attempt=0, *, info=True, **fields):
        job = "01000000"
        data = {"task_id": b64(f"{number:040x}{job}"), "attempt_number": attempt, "job_id": b64(job)}
        if info:
            data["task_info"] = {"type": "NORMAL_TASK", "func_or_class_name": "f", **fields}
        return "EXPORT_TASK", data

    return task


def b64(hexadecimal):
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()
