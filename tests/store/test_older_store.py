"""Stores that older versions made, and what these said of them: see `tests.store.fixtures.make_store`."""

import json
import sqlite3
import tarfile
from contextlib import closing

import pytest
from tests.store.fixtures.make_store import CONFIG, HERE, LIVE, SEALED, answers, chunks

from raytrail.entities import installed
from raytrail.store import Store
from raytrail.store.layout import MIGRATIONS

VERSIONS = sorted(path.stem.removeprefix("store-") for path in HERE.glob("store-*.json"))


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def root(version, tmp_path):
    with tarfile.open(HERE / f"store-{version}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "store"


@pytest.fixture
def recorded(version):
    return json.loads((HERE / f"store-{version}.json").read_text())


def layout(root):
    """Return what a store says of its layout: how many migrations were made, and which one readers are to know."""
    with closing(sqlite3.connect(root / "catalogue.sqlite")) as db:
        [(made,)] = db.execute("PRAGMA user_version")
        [(version,)] = db.execute("SELECT value FROM meta WHERE key = 'version'")
    return made, int(version)


def test_each_layout_that_has_been_has_a_stored_store(tmp_path):
    layouts = set()
    for version in VERSIONS:
        with tarfile.open(HERE / f"store-{version}.tar.xz") as archive:
            archive.extractall(tmp_path / version, filter="data")
        layouts.add(max(layout(tmp_path / version / "store")))
    assert layouts >= set(range(1, len(MIGRATIONS)))


def test_a_store_gets_the_newest_layout_when_it_is_opened_to_be_written(root):
    with Store.open(root, CONFIG, write=True):
        pass
    assert layout(root) == (len(MIGRATIONS), MIGRATIONS[-1].reads)


def assert_says(store, session, recorded):
    """Check that all that was said is still said, whatever else is by now."""
    answered = answers(store, session)
    for name, rows in recorded["rows"].items():
        key = installed()[name].key
        now = {tuple(row.get(column) for column in key): row for row in answered["rows"][name]}
        assert len(now) == len(rows), name
        for row in rows:
            # what was not known then may be by now
            assert {c: now[tuple(row.get(column) for column in key)].get(c) for c in row} == row, name
    assert {name: answered["counts"][name] for name in recorded["counts"]} == recorded["counts"]
    for name in ("events", "tasks"):
        assert answered[name] == recorded[name]
    for row, before in zip(answered["ledger"], recorded["ledger"], strict=True):
        assert {name: row[name] for name in before} == before


def test_the_fixtures_hold_all_that_a_store_can(root):
    for kind in ("open", "closed", "sealed"):
        assert list(root.glob(f"state/*/*-{kind}-*.parquet")), kind
    assert list(root.glob("state/*/*.duckdb"))


def test_an_older_store_answers_as_it_did_when_it_is_only_read(root, recorded):
    with Store.open(root, CONFIG) as store:
        assert_says(store, SEALED, recorded["sealed"])
        assert_says(store, LIVE, recorded["live"])


def test_an_older_store_is_folded_on_and_sealed_and_then_says_what_one_does_that_was_sealed_at_once(root, recorded):
    with Store.open(root, CONFIG, write=True) as store:
        assert_says(store, SEALED, recorded["sealed"])
        store.fold()
        store.append(chunks(LIVE)[-1])
        store.fold()
        store.seal(LIVE)
        store.cache(LIVE)
        assert_says(store, LIVE, recorded["sealed"])


def test_an_older_stores_log_is_folded_anew(root, recorded):
    with Store.open(root, CONFIG, write=True) as store:
        store.rebuild(SEALED)
        assert_says(store, SEALED, recorded["sealed"])
