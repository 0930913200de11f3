"""Which sessions the settings keep, and what the history deletes by itself."""

import asyncio
import os
import time

import msgspec
import pytest
from tests.damage import CONFIG, chunk, tasks
from tests.keeping import (
    DAY_MS,
    LIVING,
    MIDDLE,
    NEW,
    NOW_MS,
    OLD,
    SEALED,
    files_of,
    filled,
    in_one_round,
    root,
    rows_of,
    sessions,
    set_grown,
)

from raytrail import disk, history
from raytrail.metrics.history import Watch
from raytrail.pubsub import connect
from raytrail.store import Request, Store
from raytrail.store.retention import CHECK_SECONDS, LISTENED_SECONDS, SILENT_DAYS, retained_days

__all__ = ["filled", "in_one_round", "root"]


def opened(root, **settings):
    return Store.open(root, msgspec.structs.replace(CONFIG, **settings), write=True)


def due(store, now_ms=NOW_MS):
    return [session for session, _ in store.retention.due(now_ms)]


def test_by_default_nothing_is_deleted(root):
    with opened(root) as store:
        assert due(store, NOW_MS + 10**6 * DAY_MS) == []
        assert store.tidy(NOW_MS + 10**6 * DAY_MS) == ([], [])
        assert sessions(store) == {*SEALED, LIVING}


@pytest.mark.parametrize(("days", "kept"), [(31, SEALED), (30, SEALED), (25, (MIDDLE, NEW)), (0.5, ())])
def test_sealed_sessions_are_deleted_by_age(root, days, kept):
    with opened(root, retain_days=days) as store:
        assert due(store) == [session for session in SEALED if session not in kept]
        assert {deleted.session for deleted in store.tidy(NOW_MS).marked} == {*SEALED} - {*kept}
        assert sessions(store) == {*kept, LIVING}


def test_each_is_logged_with_the_reason(root, caplog):
    caplog.set_level("INFO")
    with opened(root, retain_days_by_name={"pr*": 25}) as store:
        size = store.deletions.size(OLD)
        [marked] = store.tidy(NOW_MS).marked
        why = "its last event came 30.0 days ago, and store.retain_days_by_name of 'pr*' is 25"
        assert [record.message for record in caplog.records if OLD in record.message] == [
            f"deleting session {OLD}, {size} bytes: {why}"
        ]
        assert marked.why == why


def test_a_name_of_its_own_comes_before_all_others(root):
    config = msgspec.structs.replace(
        CONFIG, retain_days=5, retain_days_by_name={"nightly-*": 7, "nightly-prod*": 90, "keep*": 0, "*keep": 3}
    )
    assert retained_days(config, "other") == (5, "store.retain_days")
    assert retained_days(config, "nightly-1")[0] == 7
    assert retained_days(config, "nightly-prod-2") == (90, "store.retain_days_by_name of 'nightly-prod*'")
    assert retained_days(config, "keepkeep")[0] == 0
    assert retained_days(config, "Nightly-1") == (5, "store.retain_days")
    with opened(root, retain_days=1, retain_days_by_name={"prod": 0}) as store:
        assert due(store) == []


def test_the_oldest_go_first_until_there_is_room(root):
    with opened(root) as store:
        sizes = {session: store.deletions.size(session) for session in (*SEALED, LIVING)}
    for most, gone in (
        (sum(sizes.values()), []),
        (sum(sizes.values()) - 1, [OLD]),
        (sizes[NEW] + sizes[LIVING], [OLD, MIDDLE]),
        (1, [OLD, MIDDLE, NEW]),
    ):
        with opened(root, retain_bytes=most) as store:
            assert due(store) == gone
    with opened(root, retain_bytes=sizes[NEW] + sizes[LIVING]) as store:
        store.tidy(NOW_MS)
        assert sessions(store) == {NEW, LIVING}
        # those that are marked count no more, though their files are there
        assert due(store) == []


def test_a_store_that_is_full_of_what_must_stay_says_so_once(root, caplog):
    with opened(root, retain_bytes=1) as store:
        for session in SEALED:
            store.retention.do(Request(verb="hold", session=session), NOW_MS)
        assert due(store) == due(store) == []
        assert len([record for record in caplog.records if "none of them may be deleted" in record.message]) == 1


def test_a_held_session_is_deleted_by_no_setting(root):
    with opened(root, retain_days=1, retain_bytes=1) as store:
        store.retention.do(Request(verb="hold", session=OLD), NOW_MS)
        store.tidy(NOW_MS)
        assert sessions(store) == {OLD, LIVING}
        store.retention.do(Request(verb="release", session=OLD), NOW_MS)
        assert due(store) == [OLD]


def test_one_that_only_went_quiet_may_live_and_waits_for_a_week(root):
    with opened(root, retain_days=1, retain_bytes=1) as store:
        store.seal(LIVING, quiet=True)
        store.retention._listening -= LISTENED_SECONDS
        set_grown(store, LIVING, NOW_MS - SILENT_DAYS * DAY_MS + 1)
        assert due(store) == [*SEALED]
        set_grown(store, LIVING, NOW_MS - SILENT_DAYS * DAY_MS - 1)
        assert due(store) == [*SEALED, LIVING]


def test_a_history_that_was_away_or_whose_clock_was_set_takes_that_for_no_silence(root):
    """A broker may hold all that a living session has said meanwhile."""
    with opened(root, retain_days=1) as store:
        store.seal(LIVING, quiet=True)
        set_grown(store, LIVING, NOW_MS - 30 * DAY_MS)
        assert LIVING not in due(store)
        store.tidy(NOW_MS)
        store.retention._listening -= LISTENED_SECONDS
        assert LIVING in due(store)
        store.retention._checked -= CHECK_SECONDS
        store.tidy(NOW_MS + DAY_MS)
        assert sessions(store) == {LIVING}


def test_thousands_are_marked_a_few_at_a_time(root, monkeypatch):
    monkeypatch.setattr("raytrail.store.retention.MARK_SECONDS", 0)
    with opened(root, retain_days=1) as store:
        assert [[deleted.session for deleted in store.tidy(NOW_MS).marked] for _ in range(4)] == [
            *([session] for session in SEALED),
            [],
        ]


def test_an_age_counts_from_when_the_last_event_came(root):
    """The events of all these are of one day years ago. What was imported yesterday stays."""
    with opened(root, retain_days=25) as store:
        set_grown(store, OLD, NOW_MS - DAY_MS)
        assert due(store) == []


def test_sessions_are_looked_through_now_and_then(root, monkeypatch):
    with opened(root, retain_days=25) as store:
        looks = []
        real = store.retention.due
        monkeypatch.setattr(store.retention, "due", lambda now_ms: looks.append(now_ms) or real(now_ms))
        for _ in range(5):
            store.tidy(NOW_MS)
        assert looks == [NOW_MS]


async def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_the_history_does_it_beside_its_other_work(root):
    """It marks and deletes what is old, does what commands ask for, and goes on storing what comes."""
    config = msgspec.structs.replace(CONFIG, retain_days=25, sql_seconds=0.1, batch_seconds=0.02, fold_seconds=0.02)
    broker, stop = connect("memory://retention"), asyncio.Event()
    with Store.open(root, config, write=True) as store, Store.open(root, config) as reader:
        # this clock is not that of `NOW_MS`
        set_grown(store, OLD, time.time_ns() // 10**6 - 30 * DAY_MS)
        for session in (MIDDLE, NEW):
            set_grown(store, session, time.time_ns() // 10**6)
        watch = Watch(store)
        running = asyncio.create_task(history.run(broker, store, config, stop, group="history", watch=watch))
        await until(lambda: OLD not in sessions(reader))
        asked = [
            reader.requests.leave(Request(verb="hold", session=NEW)),
            reader.requests.leave(Request(verb="delete", session=NEW)),
            reader.requests.leave(Request(verb="delete", session=MIDDLE, reason="asked")),
        ]
        await until(lambda: not any(path.exists() for path in asked))
        assert sessions(reader) == {NEW, LIVING}
        await broker.publish(chunk(LIVING, "task", tasks(range(50, 60), "11"), start=10**6))
        await until(lambda: not files_of(root, OLD) and not files_of(root, MIDDLE))
        await until(lambda: reader.snapshot(LIVING).count("task") == 60)
        await until(lambda: not reader.marks.waiting())
        stop.set()
        await running
        figures = {
            sample.name: sample.value for metric in watch.collect() for sample in metric.samples if not sample.labels
        }
        assert figures["raytrail_history_deleted_clusters_total"] == 2
        assert figures["raytrail_history_deleted_bytes_total"] == sum(gone.bytes for gone in reader.marks.every())
        assert rows_of(store, OLD) == rows_of(store, MIDDLE) == {}


def test_what_is_no_request_is_passed_over(root, caplog):
    directory = root / "requests"
    with opened(root) as store:
        store.requests.leave(Request(verb="delete", session="nobody"))
        (directory / f"{1:020d}-00000001.json").write_text('{"verb": "burn"}')
        (directory / f"{1:020d}-00000002.json").symlink_to("/etc/passwd")
        (directory / "notes.txt").write_text("mine")
        store.tidy(NOW_MS)
        assert [path.name for path in directory.iterdir()] == ["notes.txt"]
        assert "asked to delete session nobody: no session 'nobody'" in caplog.text
        assert sessions(store) == {*SEALED, LIVING}


def test_a_request_that_cannot_be_read_holds_up_no_other(root, caplog, monkeypatch):
    with opened(root) as store:
        barred = store.requests.leave(Request(verb="hold", session=OLD))
        store.requests.leave(Request(verb="hold", session=NEW))
        (root / "requests" / f"{1:020d}-00000001.json").mkdir()
        real = disk.read_file

        def read_file(path, *rest):
            if path == barred:
                raise PermissionError(13, "Permission denied", str(path))  # who tests as root reads everything
            return real(path, *rest)

        monkeypatch.setattr(disk, "read_file", read_file)
        store.tidy(NOW_MS)
        assert store.marks.holds().keys() == {NEW}
        assert not barred.exists()
        assert "Permission denied" in caplog.text


def test_what_root_asks_for_can_be_read_by_whom_the_store_is(root):
    owner = 12_345 if os.geteuid() == 0 else os.geteuid()
    os.chown(root, owner, -1)
    with Store.open(root, CONFIG) as store:
        asked = store.requests.leave(Request(verb="hold", session=OLD))
    assert (asked.stat().st_uid, asked.parent.stat().st_uid) == (owner, owner)
