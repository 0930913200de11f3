"""What Raytrail keeps is for its owner alone, whatever the umask; and what lies on a read-only mount can be asked."""

import json
import os
import shutil
import stat
import subprocess
import sys

import msgspec
import pytest
from tests.line import Line, wait_for
from tests.rights import lacking

from raytrail.config import StoreConfig, TailConfig
from raytrail.entities import installed
from raytrail.event import Chunk, Segment
from raytrail.pubsub import connect
from raytrail.sources.set_aside import SetAside
from raytrail.store import Store
from raytrail.tail import Checkpoint, Tailer
from raytrail.testing.entities import line

SESSION = "session_2026-11-23_07-40-30_867494_13129"


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def open_to_others(*roots):
    """Return the directories and files that are not their owner's alone, with their modes."""
    return {
        str(path): oct(mode)
        for root in roots
        for path in (root, *root.rglob("*"))
        if (mode := stat.S_IMODE(path.lstat().st_mode)) != (0o700 if path.is_dir() else 0o600)
    }


def chunks():
    """A node, an event of an unknown type, a line that is none, and a log."""
    made = []
    for number, (event_type, data) in enumerate(
        {
            "NODE": line(installed()["node"], 1, {"node_id": "qg==", "state": "ALIVE"}) + b"\nno\n",
            "NEW": b'{"event_data":{}}\n',
            "LOG": b"up\n" * 1000,
        }.items()
    ):
        made += [
            Chunk(
                cluster="",
                session=SESSION,
                node_id="aa",
                event_type=event_type,
                segments=(Segment(f"0000000001-{number:032x}", 0, len(data) * turn, len(data)),),
                data=data,
            )
            for turn in range(2)
        ]
    return made


def test_a_store_is_its_owners_alone(umask, tmp_path):
    with Store.open(tmp_path / "a" / "store", StoreConfig(threads=1), write=True) as store:
        for chunk in chunks():
            store.append([chunk])
            assert open_to_others(tmp_path / "a") == {}
            store.fold()
        store.seal(SESSION)
        store.cache(SESSION)
        assert open_to_others(tmp_path / "a") == {}
        store.rebuild(SESSION)
        store.cache(SESSION)
    assert open_to_others(tmp_path / "a") == {}
    kinds = {path.suffix for path in (tmp_path / "a").rglob("*")}
    assert kinds >= {".parquet", ".zst", ".duckdb", ".sqlite"}


async def test_a_file_broker_is_its_owners_alone(umask, tmp_path):
    broker = connect(f"file://{tmp_path}/a/events?file_bytes=1")
    for chunk in chunks():
        await broker.publish(chunk)
    deliveries = broker.subscribe("alerts", from_start=True)
    for _ in chunks():
        await (await anext(deliveries)).ack()
    await deliveries.aclose()
    await broker.aclose()
    assert json.loads((tmp_path / "a" / "events" / "groups" / "alerts.json").read_text())
    assert open_to_others(tmp_path / "a") == {}


def test_a_state_directory_is_its_owners_alone(umask, tmp_path):
    logs = tmp_path / "ray" / SESSION / "logs"
    (logs / "export_events").mkdir(parents=True)
    (logs / "raylet.out").write_bytes(b"up\n")
    checkpoint = Checkpoint(tmp_path / "a" / "state" / "checkpoint.sqlite")
    tailer = Tailer(TailConfig(temp_dir=str(tmp_path / "ray")), checkpoint)
    for chunk in tailer.poll():
        checkpoint.acknowledge(chunk.segments)
    assert checkpoint.commit()
    assert {path.name for path in (tmp_path / "a" / "state").iterdir()} >= {
        "checkpoint.sqlite",
        "checkpoint.sqlite-wal",
        "checkpoint.sqlite.lock",
    }
    SetAside(tmp_path / "a" / "state" / "set-aside.ndjson").put(b"secret", "no JSON")
    assert open_to_others(tmp_path / "a") == {}
    tailer.close()
    checkpoint.close()
    assert open_to_others(tmp_path / "a") == {}


def test_a_directory_that_is_there_keeps_the_mode_that_somebody_gave_it(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(0o750)
    with Store.open(tmp_path / "store", StoreConfig(threads=1), write=True) as store:
        store.append(chunks())
    assert open_to_others(tmp_path / "store") == {str(tmp_path / "store"): "0o750"}


@pytest.mark.slow
def test_processes_leave_nothing_open_to_others(tmp_path):
    before = os.umask(0)
    try:
        processes = Line(tmp_path, f"file://{tmp_path}/events")
        try:
            with processes.writer(seconds=2, rate=200) as writer:
                for name in ("agent", "history"):
                    processes.start(name)
                output, _ = writer.communicate(timeout=120)
            wait_for(lambda: processes.arrived(json.loads(output)), 90, "all events in the store")
            processes.stop("agent")
            processes.stop("history")
        finally:
            processes.end()
    finally:
        os.umask(before)
    for name in ("store", "events", "state"):
        assert open_to_others(tmp_path / name) == {}


# -- read-only


ASK = """
import sys
from pathlib import Path
from raytrail.errors import RaytrailError
from raytrail.store import Store
try:
    with Store.open(Path(sys.argv[1])) as store:
        print([(cluster.session, cluster.events) for cluster in store.clusters()])
        print(len(store.snapshot(sys.argv[2]).rows("node")), len(store.logs(sys.argv[2])))
        print(store.sql("SELECT count(*) FROM node").rows)
except RaytrailError as error:
    print(type(error).__name__, error)
"""


def read_only(root, program):
    """Start a program of Python in a place where root, to whom no mode forbids anything, sees a directory read-only."""
    mount = f"mount --bind {root} {root} && mount -o remount,bind,ro {root}"
    if subprocess.run(["unshare", "--mount", "sh", "-c", mount], check=False, capture_output=True).returncode:
        lacking("mount")
    started = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", program]
    return subprocess.Popen([*started, str(root), SESSION], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def ask_read_only(tmp_path):
    """Ask a store that lies where nothing can be written, in a process of its own; return what it says."""

    def ask(root):
        if os.geteuid() == 0:
            with read_only(root, ASK) as asked:
                return asked.communicate(timeout=120)[0]
        directories = [path for path in (root, *root.rglob("*")) if path.is_dir()]
        for path in directories:
            path.chmod(0o500)
        try:
            program = [sys.executable, "-c", ASK, str(root), SESSION]
            return subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout
        finally:
            for path in directories:
                path.chmod(0o700)

    return ask


def filled(root):
    with Store.open(root, StoreConfig(threads=1), write=True) as store:
        store.append(chunks())
        store.fold()
        store.seal(SESSION)
        store.cache(SESSION)
    return f"[('{SESSION}', 2)]\n1 0\n[(1,)]\n"


def test_a_store_that_was_closed_is_read_from_a_read_only_mount(tmp_path, ask_read_only):
    expected = filled(tmp_path / "store")
    assert not (tmp_path / "store" / "catalogue.sqlite-wal").exists()
    assert ask_read_only(tmp_path / "store") == expected
    assert not (tmp_path / "store" / "catalogue.sqlite-shm").exists()


def test_a_store_that_is_written_to_elsewhere_is_read_from_a_read_only_mount(tmp_path, ask_read_only):
    expected = filled(tmp_path / "store")
    with Store.open(tmp_path / "store", StoreConfig(threads=1), write=True):
        assert ask_read_only(tmp_path / "store") == expected


def test_a_store_whose_writer_was_killed_is_read_or_says_what_to_do(tmp_path, ask_read_only):
    with Store.open(tmp_path / "store", StoreConfig(threads=1), write=True) as store:
        store.append(chunks())
        shutil.copytree(tmp_path / "store", tmp_path / "copy")  # as a kill leaves it
    (tmp_path / "copy" / "catalogue.sqlite-shm").unlink()  # which many a copy leaves out
    catalogue = tmp_path / "copy" / "catalogue.sqlite"
    assert ask_read_only(tmp_path / "copy") == (
        f"StoreError {catalogue}: its writer was killed, and it lies where nothing can be written: {catalogue}-wal "
        "holds what is not in it yet; copy the store to where it can be written, and open it there\n"
    )
    with Store.open(tmp_path / "copy") as store:  # where it can be
        assert [cluster.events for cluster in store.clusters()] == [2]


def test_what_is_no_store_is_still_said_to_be_none(tmp_path, ask_read_only):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "catalogue.sqlite").write_bytes(b"no database, but long enough to be taken for one" * 100)
    assert ask_read_only(tmp_path / "store") == (
        f"StoreError {tmp_path}/store/catalogue.sqlite: file is not a database; is it a Raytrail store, on a local "
        "disk with room left?\n"
    )


WATCH = """
import sys
from pathlib import Path
from raytrail.store import Store
with Store.open(Path(sys.argv[1])) as store:
    for _ in sys.stdin:
        print([cluster.events for cluster in store.clusters()], flush=True)
"""


@pytest.mark.usefixtures("as_root")
def test_a_store_that_somebody_begins_to_write_to_after_all_is_read_as_it_is_then(tmp_path):
    filled(tmp_path / "store")
    with read_only(tmp_path / "store", WATCH) as asked:

        def events():
            asked.stdin.write("?\n")
            asked.stdin.flush()
            return json.loads(asked.stdout.readline())

        assert events() == [2]
        more = [
            msgspec.structs.replace(chunk, segments=(chunk.segments[0]._replace(start=10**6),)) for chunk in chunks()
        ]
        for number, chunk in enumerate(more[::2]):
            with Store.open(tmp_path / "store", StoreConfig(threads=1), write=True) as store:
                store.append([chunk])
                now = [cluster.events for cluster in store.clusters()]
                assert events() == now
            assert events() == now, number
        asked.stdin.close()
        assert asked.wait(60) == 0
