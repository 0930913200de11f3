"""Bits that turn on the disk: an error that says which file, or the answer that was always given; nothing else."""

import errno
import os
import random
import shutil
import threading
from collections import Counter
from functools import partial

import msgspec
import pytest
from tests.damage import CONFIG, LIVE, SEALED, T0, chunk, copied, damage, fill, flip, tasks
from tests.histories import forget_sums

from raytrail.api import History
from raytrail.errors import StoreDamaged, StoreUnavailable
from raytrail.store import Store
from raytrail.store.catalogue import Catalogue
from raytrail.store.pages import Pages

FLIPS = 200
KINDS = {
    # what is named in the store -> which of its files
    "state": "state/*/*.parquet",
    "cache": "state/*/*.duckdb",
    "log": "log/*/*",
    "logs": "logs/*/*",
    "catalogue": "catalogue.sqlite",
}
SUMS = "catalogue.sqlite-sums"


def sql(store):
    return store.sql("SELECT session, state, count(*), max(task_id) FROM task GROUP BY ALL ORDER BY ALL").rows


def read_log(store, session):
    [log] = store.logs(session)
    return b"".join(store.read_log(session, log))


OF_ALL = {
    "clusters": lambda store: sorted((cluster.session, cluster.events, cluster.sealed) for cluster in store.clusters()),
    "sql": sql,
}
OF_ONE = {
    "tasks": lambda store, session: store.snapshot(session).rows("task", order=["task_id"]),
    "groups earlier": lambda store, session: store.snapshot(session, (T0 + 60) * 1000).rows("placement_group"),
    "log": read_log,
}
OF_SEALED = {
    "count": lambda store, session: store.snapshot(session).group("task", ["state", "func_or_class_name"]),
    "ledger": lambda store, session: store.ledger(session),
}


def questions(sessions, *, of_all):
    """Return what is asked of these sessions, and of all of them, by its name."""
    asks = dict(OF_ALL) if of_all else {}
    for session in sessions:
        for name, ask in (OF_ONE | OF_SEALED if session == SEALED else OF_ONE).items():
            asks[f"{name} of {session}"] = partial(ask, session=session)
    return asks


def answers(root, sessions=(SEALED, LIVE), *, of_all=True, write=False):
    """Return what a store answers to each question, or the error that it answers with."""
    results, asked = {}, questions(sessions, of_all=of_all)
    try:
        with Store.open(root, CONFIG, write=write) as store:
            for name, ask in asked.items():
                try:
                    results[name] = msgspec.to_builtins(ask(store))
                except StoreDamaged as damage:
                    results[name] = damage
    except StoreDamaged as damage:
        return dict.fromkeys(asked, damage)
    return results


def damaged_files(root):
    """Return the files that are found to be damaged."""
    try:
        with Store.open(root, CONFIG) as store:
            return [check.path for check in store.verify() if check.verdict == "damaged"]
    except StoreDamaged:
        return ["catalogue.sqlite"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("damage") / "store"
    fill(root)
    return root


@pytest.fixture(scope="module")
def known(root):
    return answers(root)


def test_the_store_holds_all_that_a_store_can(root, known):
    assert all(list(root.glob(pattern)) for pattern in KINDS.values())
    assert {path.name.split("-")[1] for path in root.glob("state/*/*-*.parquet")} >= {"open", "closed", "sealed"}
    assert not [name for name, answer in known.items() if isinstance(answer, StoreDamaged) or not answer]


def wrong_outcomes(root, known, directory):
    """Turn each of 200 bits by chance, in a copy for each, and return what came of those that were not seen."""
    by_chance = random.Random(17)
    files = {kind: sorted(root.glob(pattern)) for kind, pattern in KINDS.items()}
    wrong = []
    errors: Counter[str] = Counter()
    for number in range(FLIPS):
        kind = [*KINDS][number % len(KINDS)]
        path = root / SUMS if number % 50 == 4 else by_chance.choice(files[kind])
        # half of those in a cache in its headers
        bit = by_chance.randrange(12288 * 8 if kind == "cache" and number % 2 else path.stat().st_size * 8)
        copy = directory / str(number)
        turned = flip(copied(root, copy, path), bit)
        # a file of one session says nothing of the others
        sessions = [path.parent.name] if path.parent != root else [SEALED, LIVE]
        for name, answer in answers(copy, sessions, of_all=number % 20 == 0, write=number % 20 >= 15).items():
            if isinstance(answer, StoreDamaged):
                errors[kind] += 1
                answer = known[name] if f"{turned}: " in str(answer) else answer
            if answer != known[name]:
                wrong.append((str(path.relative_to(root)), bit, name, answer))
        # a writer has mended some by then
        if number % 20 < 5 and path.name != SUMS and damaged_files(copy) != [str(path.relative_to(root))]:
            wrong.append((str(path.relative_to(root)), bit, "verify", damaged_files(copy)))
        shutil.rmtree(copy)
    return wrong, errors


@pytest.mark.slow
def test_none_of_200_turned_bits_gives_a_wrong_answer(root, known, tmp_path):
    wrong, errors = wrong_outcomes(root, known, tmp_path)
    assert wrong == []
    # the damage to a cache and to a checksum is nobody's trouble
    assert errors.keys() == {"state", "log", "logs", "catalogue"}


@pytest.mark.slow
def test_none_of_40_turned_bits_in_what_a_killed_history_left_is_passed_over(root, known, tmp_path):
    store = Store.open(copied(root, tmp_path / "store", root / SUMS).parent, CONFIG, write=True)
    for number in range(5):
        store.append([chunk(LIVE, "task", tasks([300 + number], "8"), start=200_000 + 1000 * number)])
    killed = tmp_path / "left"
    shutil.copytree(tmp_path / "store", killed)  # as a kill leaves it
    store.close()
    by_chance, seen = random.Random(17), []
    with Store.open(killed, CONFIG) as reader:
        events = {cluster.session: cluster.events for cluster in reader.clusters()}
    assert events[LIVE] == 376
    wal = (killed / "catalogue.sqlite-wal").stat().st_size
    for number in range(40):
        copy = tmp_path / str(number)
        path = flip(copied(killed, copy, killed / "catalogue.sqlite-wal"), by_chance.randrange(wal * 8))
        try:
            with Store.open(copy, CONFIG, write=number % 2 == 0) as store:
                counts = dict(store._catalogue.query("SELECT session, sum(events) FROM counts GROUP BY ALL"))
            assert counts[LIVE] == 376, path
        except StoreDamaged as damage:
            seen.append(str(damage).startswith(f"{path.with_name('catalogue.sqlite')}: its last "))
        shutil.rmtree(copy)
    assert seen
    assert all(seen)


def test_what_is_cut_or_gone_is_said_with_what_to_do(root, tmp_path):
    for number, (kind, cure) in enumerate(
        {
            "state/*/task-sealed-*": f"fold it anew from the log: raytrail rebuild --cluster {SEALED}",
            f"log/{LIVE}/*": "bring it back from a copy of the store, or import the session again into another one",
            f"logs/{LIVE}/*": "bring it back from a copy of the store, or import the session again into another one",
        }.items()
    ):
        for how in ("cut", "gone"):
            path = damage(root, tmp_path / f"{number}{how}", kind)
            size = path.stat().st_size
            os.truncate(path, size - 1) if how == "cut" else path.unlink()
            with Store.open(tmp_path / f"{number}{how}", CONFIG) as store:
                [fault] = [check for check in store.verify() if check.verdict != "ok"]
            assert fault.reason.startswith(f"{path}: it")
            assert fault.reason.endswith(f"; {cure}")
            assert (f"it has {size - 1:,} bytes and not {size:,}" in fault.reason) == (
                how == "cut" and not kind.startswith("logs")
            )
            assert ("it is gone" in fault.reason) == (how == "gone")


def test_what_a_history_writes_anew_meanwhile_is_not_said_to_be_gone(root, tmp_path):
    old = damage(root, tmp_path, f"state/{SEALED}/*-sealed-*").parent
    before = set(old.iterdir())
    with Store.open(tmp_path, CONFIG) as reader:
        checks = reader.verify(SEALED)
        verdicts = [next(checks).verdict, next(checks).verdict]
        with Store.open(tmp_path, CONFIG, write=True) as store:
            store.rebuild(SEALED)
        for path in before:
            path.unlink()
        assert {*verdicts, *(check.verdict for check in checks)} == {"ok"}


def test_a_catalogue_that_is_made_anew_has_none_of_the_others_checksums(root, tmp_path):
    path = copied(root, tmp_path, root / "catalogue.sqlite")
    for kind in ("log", "logs", "state"):
        shutil.rmtree(tmp_path / kind)
    path.unlink()
    with Store.open(tmp_path, CONFIG, write=True) as store:
        assert store.clusters() == []
        assert [check.verdict for check in store.verify()] == ["ok"]


def test_the_catalogue_says_which_page_is_damaged(root, tmp_path):
    path = damage(root, tmp_path, "catalogue.sqlite")
    page = path.stat().st_size // 2 // 4096 + 1
    for write in (False, True):
        with pytest.raises(StoreDamaged) as damaged:
            Store.open(tmp_path, CONFIG, write=write)
        assert str(damaged.value) == (
            f"{path}: page {page} is not what was written; bring it and catalogue.sqlite-sums back from a copy of the "
            "store, or move the store away and import again"
        )


def test_a_damaged_cache_is_thrown_away_and_made_anew(root, known, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("raytrail.store.writer.CACHED_ROWS", 1)
    [path] = root.glob("state/*/*.duckdb")
    copy = copied(root, tmp_path, path)
    copy.write_bytes(copy.read_bytes()[:12288] + b"\1" * (copy.stat().st_size - 12288))
    with Store.open(tmp_path, CONFIG, write=True) as store:
        for _ in range(2):
            assert store.snapshot(SEALED).rows("task", order=["task_id"]) == known[f"tasks of {SEALED}"]
        assert store.snapshot(SEALED).read_once("task")
        store.seal_due(T0 * 1000)
        assert not store.snapshot(SEALED).read_once("task")
        assert store.snapshot(SEALED).rows("task", order=["task_id"]) == known[f"tasks of {SEALED}"]
    assert caplog.text.count(f"{copy}: it is damaged and read no more") == 1
    assert not copy.exists()
    assert damaged_files(tmp_path) == []


def test_a_cache_that_is_damaged_after_it_was_looked_at_is_thrown_away_too(root, known, tmp_path):
    [path] = root.glob("state/*/*.duckdb")
    copy = copied(root, tmp_path, path)
    with Store.open(tmp_path, CONFIG) as store:
        [cache] = [file for file in store._catalogue.state_files(SEALED) if file.kind == "cache"]
        store._files.path(cache)
        status = copy.stat()
        copy.write_bytes(copy.read_bytes()[:12288] + b"\1" * (status.st_size - 12288))
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert store.snapshot(SEALED).rows("task", order=["task_id"]) == known[f"tasks of {SEALED}"]


def test_columns_are_read_from_the_files_where_the_cache_is_damaged(root, known, tmp_path):
    """Whichever block it is: of some the engine finds it when it comes to read them."""
    [path] = root.glob("state/*/*.duckdb")
    rows = [{"task_id": row["task_id"], "state": row["state"]} for row in known[f"tasks of {SEALED}"]]
    late = 0
    for place in range(12288, path.stat().st_size, 262144):
        copy = copied(root, tmp_path / str(place), path)
        with copy.open("r+b") as file:
            file.seek(place + 100)
            file.write(b"\1" * 1000)
        with Store.open(tmp_path / str(place), CONFIG) as store:
            late += not store.snapshot(SEALED).read_once("task")
            table = History(store).cluster(SEALED).tasks(every=True, columns=["task_id", "state"], order=["task_id"])
            assert table.arrow().to_pylist() == rows
    assert late


@pytest.mark.parametrize("kind", ["open", "closed"])
def test_a_damaged_partial_state_is_folded_anew_when_a_history_starts(root, known, tmp_path, caplog, kind):
    path = damage(root, tmp_path, f"state/{LIVE}/task-{kind}-*")
    with Store.open(tmp_path, CONFIG) as store, pytest.raises(StoreDamaged, match=path.name):
        store.snapshot(LIVE).rows("task")
    with Store.open(tmp_path, CONFIG, write=True) as store:
        store.fold()
        assert store.snapshot(LIVE).rows("task", order=["task_id"]) == known[f"tasks of {LIVE}"]
    assert caplog.text.count(path.name) == 1
    assert damaged_files(tmp_path) == []


def test_a_rebuild_mends_a_damaged_state_and_leaves_all_as_it_is_where_the_log_is_damaged(root, known, tmp_path):
    damage(root, tmp_path / "state", "state/*/task-sealed-*")
    with Store.open(tmp_path / "state", CONFIG, write=True) as store:
        store.rebuild(SEALED)
        assert store.snapshot(SEALED).rows("task", order=["task_id"]) == known[f"tasks of {SEALED}"]
    assert damaged_files(tmp_path / "state") == []
    path = damage(root, tmp_path / "log", f"log/{SEALED}/task-*")
    with Store.open(tmp_path / "log", CONFIG, write=True) as store:
        with pytest.raises(StoreDamaged, match=path.name):
            store.rebuild(SEALED)
        assert store.snapshot(SEALED).rows("task", order=["task_id"]) == known[f"tasks of {SEALED}"]


def test_one_damaged_session_holds_up_no_other(root, tmp_path, caplog):
    path = damage(root, tmp_path, f"log/{LIVE}/placement_group-*")
    with Store.open(tmp_path, CONFIG, write=True) as store:
        store.append([chunk("session_other", "task", tasks([1], "8"))])
        store.fold()
        assert store.snapshot("session_other").count("task") == 1
        store.seal_due(2 * 10**12)
        assert {cluster.session: cluster.sealed for cluster in store.clusters()} == {
            SEALED: True,
            "session_other": True,
            LIVE: False,
        }
    assert f"of session {LIVE}: {path}: its bytes are not those that were written" in caplog.text


def test_a_session_whose_states_are_damaged_is_listed_and_says_so(root, tmp_path):
    path = damage(root, tmp_path, f"state/{LIVE}/node-*")
    with Store.open(tmp_path, CONFIG) as store:
        clusters = {cluster.session: cluster for cluster in store.clusters()}
        assert clusters[SEALED].damaged == ""
        assert str(path) in clusters[LIVE].damaged
        assert (clusters[LIVE].events, clusters[LIVE].nodes) == (371, 0)
        assert store.find(LIVE) == clusters[LIVE]


def test_a_store_of_the_first_layout_is_served_and_counted_as_unknown_and_gets_checksums_by_and_by(
    root, known, tmp_path
):
    copied(root, tmp_path, root / SUMS)
    forget_sums(tmp_path)
    assert answers(tmp_path) == known
    with Store.open(tmp_path, CONFIG) as store:
        assert {check.verdict for check in store.verify()} == {"no checksum"}
    with Store.open(tmp_path, CONFIG, write=True) as store:
        store.append([chunk(LIVE, "task", tasks([1], "8"), start=300_000)])
        store.rebuild(SEALED)
    with Store.open(tmp_path, CONFIG) as store:
        verdicts = {check.path: check.verdict for check in store.verify()}
        assert verdicts["catalogue.sqlite"] == "ok"
        assert Counter(verdicts.values())["ok"] == 1 + 1 + len(list(tmp_path.glob(f"state/{SEALED}/*sealed*")))
        for name in ("tasks", "count"):
            assert (
                msgspec.to_builtins(questions([SEALED], of_all=False)[f"{name} of {SEALED}"](store))
                == (known[f"{name} of {SEALED}"])
            )


def test_a_damaged_checksum_damages_nothing_and_is_noted_anew(root, known, tmp_path):
    sums = flip(copied(root, tmp_path, root / SUMS), 8 * 8 * 3)
    assert len(Pages(tmp_path / "catalogue.sqlite").unknown()) == 1
    assert answers(tmp_path, [SEALED], of_all=False) == {
        name: answer for name, answer in known.items() if name.endswith(SEALED)
    }
    Store.open(tmp_path, CONFIG, write=True).close()
    assert Pages(tmp_path / "catalogue.sqlite").unknown() == []
    assert sums.read_bytes() != b""


def count(catalogue):
    [(number,)] = catalogue.query("SELECT count(*) FROM quiet")
    return number


def test_pages_that_cannot_be_noted_stay_in_the_write_ahead_log(tmp_path, monkeypatch):
    path, full = tmp_path / "catalogue.sqlite", OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("raytrail.store.catalogue.CHECKPOINT_COMMITS", 1)

    def fail(pages, frames):
        raise full

    catalogue = Catalogue(path, write=True)
    with catalogue.transaction() as db:
        db.execute("INSERT INTO quiet VALUES('a')")
    with monkeypatch.context() as failing:
        failing.setattr(Pages, "note", fail)
        with pytest.raises(StoreUnavailable, match="No space left"), catalogue.transaction():
            pass
        catalogue.close()
    assert Pages(path).damaged() == []
    reader = Catalogue(path, write=False)
    assert count(reader) == 1
    reader.close()
    catalogue = Catalogue(path, write=True)
    assert (count(catalogue), catalogue.has_sums) == (1, True)
    catalogue.close()
    assert not path.with_name("catalogue.sqlite-wal").exists()
    assert Pages(path).damaged() == []


def test_who_reads_while_pages_change_finds_none_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr("raytrail.store.catalogue.CHECKPOINT_COMMITS", 2)
    catalogue, done = Catalogue(tmp_path / "catalogue.sqlite", write=True), threading.Event()

    def write():
        number = 0
        while not done.is_set():
            number += 1
            with catalogue.transaction() as db:
                db.execute("INSERT INTO quiet VALUES(?)", (f"{number % 7}{number:0>2000}",))

    writing = threading.Thread(target=write)
    writing.start()
    try:
        for _ in range(100):
            reader = Catalogue(tmp_path / "catalogue.sqlite", write=False)
            reader.verify()
            reader.close()
    finally:
        done.set()
        writing.join()
        catalogue.close()
    assert Pages(tmp_path / "catalogue.sqlite").damaged() == []
