"""What an older Raytrail wrote: partial states of another form, columns by another name."""

import duckdb
import pytest
from tests.histories import forget_sums

from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.store import Store
from raytrail.testing.entities import SESSION, chunk

ENTITIES = installed()
APP = {"name": "app", "status": "DEPLOY_FAILED", "message": "no module", "route_prefix": "/a"}
OLD_NAMES = {"message": "_message", "route_prefix": "_route", "deployed_app_config": "_config"}
OLD_STATES = {
    "message": ("_said", "''"),
    "route_prefix": ("_routed", "''"),
    "deployed_app_config": ("_configured", "'null'"),
}


def rewrite(path, select):
    forget_sums(path.parents[2])
    with duckdb.connect() as db:
        db.execute(f"COPY ({select.format(path=path)}) TO '{path}.new' (FORMAT parquet)")
    path.with_suffix(".parquet.new").rename(path)


def age_log(root):
    """Give the columns of a log the names that they had."""
    names = ", ".join(f"{new} AS {old}" for new, old in OLD_NAMES.items())
    for path in (root / "log").rglob("serve_application-*.parquet"):
        rewrite(path, f"SELECT * EXCLUDE ({', '.join(OLD_NAMES)}), {names} FROM '{{path}}'")


def only(store, name="serve_application"):
    [state] = store.snapshot(SESSION).rows(name)
    return state


@pytest.fixture
def aged(tmp_path, event):
    """A store whose log has columns by their old names, and what it tells of an application."""
    with Store.open(tmp_path, StoreConfig(threads=1), write=True) as store:
        store.append([chunk(ENTITIES["serve_application"], [event("serve_application", 1795419640, **APP)])])
        store.fold()
        row = only(store)
    age_log(tmp_path)
    return tmp_path, row


def test_a_log_is_read_by_the_names_that_its_columns_had(aged):
    root, row = aged
    with Store.open(root, StoreConfig(threads=1), write=True) as store:
        store.rebuild(SESSION)
        unlike = {name for name in row if only(store)[name] != row[name]}
        assert unlike == {"status", "end_time_ms", "inferred"}  # the session has ended


@pytest.mark.parametrize("write", [False, True])
def test_partial_states_of_another_form_are_folded_anew_from_the_log(aged, event, write):
    root, row = aged
    for path in (root / "state").rglob("serve_application-*.parquet"):
        rewrite(path, "SELECT * EXCLUDE (message), message.v AS message FROM '{path}'")
    with Store.open(root, StoreConfig(threads=1), write=write) as store:
        assert only(store) == row
        if write:
            healthy = event("serve_application", 1795419641, name="app", status="RUNNING", route_prefix="/a")
            store.append([chunk(ENTITIES["serve_application"], [healthy], file="0000000001-0")])
            store.fold()
            assert (only(store)["status"], only(store)["message"], only(store)["route_prefix"]) == (
                "RUNNING",
                None,
                "/a",
            )
    if write:
        with Store.open(root, StoreConfig(threads=1)) as store:
            assert only(store)["status"] == "RUNNING"


def test_sealed_states_are_read_by_the_names_that_their_columns_had(tmp_path, event):
    with Store.open(tmp_path, StoreConfig(threads=1), write=True) as store:
        store.append([chunk(ENTITIES["serve_application"], [event("serve_application", 1795419640, **APP)])])
        store.seal(SESSION)
        row = only(store)
    for path in (tmp_path / "state").rglob("serve_application-*.parquet"):
        olds = ", ".join(
            f"{new} AS {OLD_NAMES[new]}, coalesce({new}, {null}) AS {old}" for new, (old, null) in OLD_STATES.items()
        )
        rewrite(path, f"SELECT * EXCLUDE ({', '.join(OLD_NAMES)}), {olds} FROM '{{path}}'")
    with Store.open(tmp_path, StoreConfig(threads=1)) as store:
        assert only(store) == row
        assert row["deployed_app_config"] is None
