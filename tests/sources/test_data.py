"""The hooks on Ray Data's actor, with one that no driver reports to."""

import json

import pytest

from raytrail.sources import data, hooks

stats = pytest.importorskip("ray.data._internal.stats")

INPUT = {"name": "Input", "progress": 4, "total": 4, "total_rows": None, "queued_blocks": 0, "state": "FINISHED"}
REPORT = {
    "state": "RUNNING",
    "progress": 1,
    "total": 4,
    "total_rows": 40,
    "end_time": None,
    "operators": {"Input_0": INPUT},
}


@pytest.fixture
def actor_class():
    """The actor's class as a worker gets it, which a test may hook."""
    real = stats._StatsActor.__ray_metadata__.modified_class
    return type("_StatsActor", (real,), {"__module__": real.__module__})


@pytest.fixture
def switched_on(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYTRAIL_SOURCES_TYPES", "DATASET_PROGRESS")
    monkeypatch.setattr(hooks, "export_directory", lambda: tmp_path)


def events(directory):
    return [json.loads(line)["event_data"] for path in directory.iterdir() for line in path.read_text().splitlines()]


def life(actor):
    """Go through the life of a dataset."""
    actor.register_dataset("01000000", "set_0", ["Input_0"], None, None)
    for progress in (1, 1, 2):
        actor.update_dataset("set_0", {**REPORT, "progress": progress})
    actor.update_dataset(dataset_tag="set_0", state={**REPORT, "state": "FINISHED", "end_time": 2.5})


@pytest.mark.usefixtures("switched_on")
def test_each_report_that_changes_something_is_an_event(actor_class, tmp_path):
    data.lay(actor_class)
    life(actor_class())
    reports = events(tmp_path)
    assert [(event["state"], event["progress"]) for event in reports] == [
        ("PENDING", 0),
        ("RUNNING", 1),
        ("RUNNING", 2),
        ("FINISHED", 1),
    ]
    start_time = reports[0]["start_time"]
    assert reports[-1] == {
        "dataset_id": "set_0",
        "job_id": "01000000",
        "state": "FINISHED",
        "progress": 1,
        "total": 4,
        "total_rows": 40,
        "start_time": start_time,
        "end_time": 2.5,
        "operators": [{"operator_id": "Input_0", **INPUT}],
    }


@pytest.mark.usefixtures("switched_on")
def test_no_more_datasets_are_remembered_than_ray_remembers(actor_class, tmp_path):
    data.lay(actor_class)
    actor = actor_class(max_stats=2)
    for number in range(5):
        actor.register_dataset("01000000", f"set_{number}", [], None, None)
        actor.update_dataset(f"set_{number}", {**REPORT, "state": "FINISHED"})
    assert len(actor.datasets) == 2
    [hook] = [
        cell.cell_contents for cell in actor_class.update_dataset.__closure__ if hasattr(cell.cell_contents, "func")
    ]
    _source, last = hook.args
    assert last.keys() == actor.datasets.keys()


@pytest.mark.usefixtures("switched_on")
def test_no_exception_in_a_hook_reaches_ray_data(actor_class, monkeypatch, tmp_path, caplog):
    def fail(*_):
        raise ZeroDivisionError

    data.lay(actor_class)
    monkeypatch.setattr(hooks.Source, "append", fail)
    life(actor_class())
    assert not events(tmp_path)
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("raytrail")]
    assert logged == ["some DATASET_PROGRESS events are lost: ZeroDivisionError()"]


@pytest.mark.usefixtures("switched_on")
@pytest.mark.parametrize("name", ["register_dataset", "update_dataset"])
def test_a_name_that_is_gone_is_one_line(name, monkeypatch, caplog):
    real = stats._StatsActor.__ray_metadata__.modified_class
    monkeypatch.setattr("raytrail.sources.hooks.os.getpid", lambda: 7)
    bare = type("_StatsActor", (), {"__init__": real.__init__, "__module__": real.__module__})
    for kept in {"register_dataset", "update_dataset"} - {name}:
        setattr(bare, kept, getattr(real, kept))
    data.lay(bare)
    assert [record.getMessage() for record in caplog.records] == [
        "DATASET_PROGRESS is not written by process 7: "
        f"ray.data._internal.stats._StatsActor has no {name} in this version of Ray"
    ]


def test_nothing_is_hooked_where_it_is_off(actor_class, monkeypatch):
    monkeypatch.setenv("RAYTRAIL_SOURCES_TYPES", "SERVE_REPLICA")
    before = actor_class.update_dataset
    data.lay(actor_class)
    assert actor_class.update_dataset is before
