"""What Ray must be told, and how it meets what Ray is told already."""

from typing import Any

import pytest

from raytrail.config import load
from raytrail.entities import installed
from raytrail.errors import ConfigError
from raytrail.export import (
    HOOKED_TYPES,
    HTTP_ADDRESS,
    HTTP_SWITCHES,
    HTTP_TYPES,
    PRELOAD,
    PROBED_TYPES,
    PROFILES,
    RAY_TYPES,
    TYPES,
    in_environment,
    in_system_config,
    loss,
    off,
    parse_types,
    settings,
)
from raytrail.sources import probe


@pytest.mark.parametrize("profile", PROFILES)
def test_no_profile_has_a_setting_that_loses_states(profile):
    config = settings(profile).system_config
    assert config["enable_export_api_write"] is True
    assert config["export_task_events_write_batch_size"] == 1_000_000
    assert config["publisher_entity_buffer_max_bytes"] == 64 * 1024 * 1024
    lost = {name: why for name, value in config.items() if (why := loss(name, value))}
    assert lost == (
        {"enable_timeline": "no timeline, and no names that options(name=) gave to tasks"} if profile == "lean" else {}
    )


def test_all_of_rays_types_take_its_one_switch_and_some_take_a_list():
    assert "enable_export_api_write_config" not in settings(types=RAY_TYPES).system_config
    some = settings(types=["NODE", "TASK"])
    assert some.system_config["enable_export_api_write"] is False
    assert some.system_config["enable_export_api_write_config"] == ["EXPORT_TASK", "EXPORT_NODE"]
    assert some.environment["RAY_enable_export_api_write"] == "0"
    assert some.environment["RAY_enable_export_api_write_config"] == "EXPORT_TASK,EXPORT_NODE"


@pytest.mark.parametrize("event_type", TYPES)
def test_a_type_alone_switches_on_what_it_needs_and_nothing_else(event_type):
    wanted = settings(types=[event_type])
    assert wanted.system_config.get("preload_python_modules") == ([PRELOAD] if event_type in HOOKED_TYPES else None)
    assert wanted.environment["RAYTRAIL_SOURCES_TYPES"] == (
        event_type if event_type in (*HOOKED_TYPES, *PROBED_TYPES) else ""
    )
    assert wanted.environment["RAY_TRAIN_ENABLE_STATE_TRACKING"] == ("1" if event_type.startswith("TRAIN") else "0")
    assert wanted.environment["RAY_enable_export_api_write_config"] == (
        f"EXPORT_{event_type}" if event_type in RAY_TYPES else ""
    )


URL = "http://127.0.0.1:8367/v1/events"


@pytest.mark.parametrize(
    ("types", "switches"),
    [
        (TYPES, ["enable_core_worker_ray_event_to_aggregator", "enable_ray_event"]),
        (["TASK"], ["enable_core_worker_ray_event_to_aggregator"]),
        (["WORKER", "SUBMISSION_JOB"], ["enable_ray_event"]),
    ],
)
def test_events_over_http_are_switched_on_for_the_types_that_come_so(types, switches):
    wanted = settings(types=types, http_events=URL)
    on = {name for name in HTTP_SWITCHES if wanted.system_config.get(name)}
    assert sorted(on) == switches
    assert sorted(name for name in HTTP_SWITCHES if wanted.environment[f"RAY_{name}"] == "1") == switches
    assert wanted.environment[HTTP_ADDRESS] == URL
    assert wanted.environment[HTTP_TYPES] == "ALL"
    environ, notes = in_environment(wanted, {"RAY_enable_ray_task_event_recorder": "1"})
    assert "RAY_enable_ray_task_event_recorder" not in environ
    assert notes == [
        "not passed on, as event files would stay empty or never rotate: RAY_enable_ray_task_event_recorder"
    ]


def test_nothing_goes_over_http_where_no_type_would_or_nobody_asked():
    for wanted in (settings(), settings(types=["SUBMISSION_JOB"], http_events=URL)):
        assert not HTTP_SWITCHES.keys() & wanted.system_config.keys()
        assert HTTP_ADDRESS not in wanted.environment
        assert wanted.environment["RAY_enable_ray_event"] is None


def test_types_are_named_as_anywhere_else_or_as_ray_does():
    assert parse_types("node, EXPORT_TASK,") == ("TASK", "NODE")
    with pytest.raises(ConfigError) as error:
        parse_types("TASK,TSAK")
    assert str(error.value) == f"no event type 'TSAK'; name some of {', '.join(TYPES)}"


def test_what_silences_the_files_is_not_passed_on_and_that_is_said_in_one_line():
    given = {"RAY_enable_ray_event": "1", "RAY_enable_ray_task_event_recorder": "0", "A": "b"}
    environ, notes = in_environment(settings(), {**given, "RAY_EXPORT_EVENT_MAX_BACKUP_COUNT": "5"})
    assert not [name for name in environ if "ray_event" in name or "MAX_BACKUP" in name]
    assert environ["A"] == "b"
    assert notes == [
        "not passed on, as event files would stay empty or never rotate: "
        "RAY_enable_ray_event, RAY_EXPORT_EVENT_MAX_BACKUP_COUNT"
    ]


def test_how_events_are_written_stays_as_it_is_set_and_what_that_loses_is_said():
    given = {
        "RAY_task_events_report_interval_ms": "100",
        "RAY_export_task_events_write_batch_size": "10000",
        "RAY_enable_timeline": "0",
        "RAY_enable_export_api_write": "0",
    }
    environ, notes = in_environment(settings(), given)
    assert environ["RAY_enable_export_api_write"] == "1"  # this is what was asked for
    assert {**environ, "RAY_enable_export_api_write": "0"}.items() >= given.items()
    assert notes == [
        "RAY_enable_timeline=0 is kept, as it is set: no timeline, and no names that options(name=) gave to tasks",
        "RAY_export_task_events_write_batch_size=10000 is kept, as it is set: "
        "a driver above 2,500 tasks/s loses the backlog when it ends",
        "RAY_task_events_report_interval_ms=100 is kept, as it is set (otherwise 500)",
    ]
    config, notes = in_system_config(settings(), {}, given)
    assert notes == []
    # the system config would win over the environment
    assert not {"task_events_report_interval_ms", "export_task_events_write_batch_size"} & config.keys()
    assert config["publisher_entity_buffer_max_bytes"] == 64 * 1024 * 1024


def test_the_same_environment_twice_has_nothing_to_say():
    once, _ = in_environment(settings("lean"), {"PATH": "/bin"})
    assert in_environment(settings("lean"), once) == (once, [])
    assert in_system_config(settings("lean"), {}, once)[0] == settings("lean").system_config


def test_a_given_system_config_wins_and_what_it_loses_is_said():
    given = {
        "export_task_events_write_batch_size": 500,
        "task_events_report_interval_ms": 200,
        "enable_ray_event": True,
    }
    config, notes = in_system_config(settings(), given, {})
    assert config == {**settings().system_config, **given}
    assert notes == [
        "--system-config has export_task_events_write_batch_size = 500: "
        "a driver above 125 tasks/s loses the backlog when it ends",
        "--system-config has enable_ray_event = 1: the files of ACTOR, NODE and DRIVER_JOB stay empty",
    ]


def test_other_modules_are_preloaded_as_well():
    environ, _ = in_environment(settings(), {"RAY_preload_python_modules": f"theirs,{PRELOAD}"})
    assert environ["RAY_preload_python_modules"] == f"theirs,{PRELOAD}"
    config, _ = in_system_config(settings(), {"preload_python_modules": ["theirs"]}, {})
    assert config["preload_python_modules"] == ["theirs", PRELOAD]


def test_off_wins_over_all_that_is_set():
    on, _ = in_environment(settings(), {"RAY_preload_python_modules": "theirs"})
    given: dict[str, Any] = {"RAY_enable_export_api_write_config": "EXPORT_TASK", "RAY_enable_timeline": "0"}
    environ, notes = in_environment(off(), {**on, **given})
    assert notes == []  # what is lost was not wanted
    assert environ["RAY_enable_export_api_write"] == "0"
    assert environ["RAY_preload_python_modules"] == "theirs"
    assert environ["RAY_TRAIN_ENABLE_STATE_TRACKING"] == "0"
    assert environ["RAYTRAIL_SOURCES_TYPES"] == ""
    assert "RAY_enable_export_api_write_config" not in environ
    given = {"enable_export_api_write": True, "preload_python_modules": [PRELOAD], "x": 1}
    config, notes = in_system_config(off(), given, {})
    assert (config["enable_export_api_write"], config["preload_python_modules"], config["x"]) == (False, [], 1)
    assert config["enable_export_api_write_config"] == []
    assert notes == []


def test_what_may_be_switched_on_is_what_there_is():
    # a probe also asks for Serve, where nothing is hooked
    assert {*PROBED_TYPES} <= {*probe.TYPES} <= {*HOOKED_TYPES, *PROBED_TYPES}
    assert {*HOOKED_TYPES, *PROBED_TYPES} <= {
        file_type for entity in installed().values() for file_type in entity.file_types
    }


def test_a_source_that_there_is_none_of_stops_the_start():
    with pytest.raises(ConfigError, match="Invalid enum value 'SERVE'"):
        load(None, {"RAYTRAIL_SOURCES_TYPES": "OBJECT,SERVE"}, {})
