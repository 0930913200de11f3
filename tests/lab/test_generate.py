"""The generator's files against what it says of them, read line by line."""

from __future__ import annotations

import base64
import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from lab.generate import BACKUPS, _LiveFiles, generate, write_live

from raytrail.errors import ConfigError

RANK = {13: 7.5}  # GETTING_AND_PINNING_ARGS comes before RUNNING, whatever its number
NAMES = {2: "PENDING_NODE_ASSIGNMENT", 8: "RUNNING", 11: "FINISHED", 12: "FAILED"}


def event_lines(session_dir):
    """Every line with its file's name, oldest first: rotated parts before the live file."""
    for path in sorted((session_dir / "logs/export_events").glob("*.log")):
        parts = [path.with_name(f"{path.name}.{number}") for number in range(BACKUPS, 0, -1)]
        for part in [*filter(os.path.exists, parts), path]:
            for line in part.read_bytes().splitlines(keepends=True):
                yield path.name, line


def fold_tasks(attempts, ended_jobs, tallies):
    """Count attempts by what they say, and return how many are in each state, before and after their jobs' ends."""
    states: Counter[str] = Counter()
    final_states: Counter[str] = Counter()
    for attempt in attempts:
        info = attempt["task_info"]
        tallies["functions"][info["func_or_class_name"]] += 1
        tallies["types"][info["type"]] += 1
        tallies["tasks_by_job"][base64.b64decode(attempt["job"]).hex()] += 1
        state = NAMES[max(map(int, attempt["states"]), key=lambda number: RANK.get(number, number))]
        states[state] += 1
        open_at_end = state != "FINISHED" and attempt["job"] in ended_jobs
        final_states["FAILED" if open_at_end else state] += 1
    return states, final_states


def fold(session_dir):
    """The numbers of a `Generated`, by the plainest of folds."""
    counted = ("events", "bytes", "files", "functions", "types", "tasks_by_job", "errors")
    tallies: dict[str, Counter[str | None]] = {name: Counter() for name in counted}
    attempts: dict[tuple[str, int], dict[str, Any]] = {}
    actors: dict[str, Any] = {}
    ids, spans, duplicates = set(), 0, 0
    last: dict[str, dict[str, Any]] = {
        "NODE": {},
        "SUBMISSION_JOB": {},
        "DATASET_METADATA": {},
        "TRAIN_RUN": {},
        "TRAIN_RUN_ATTEMPT": {},
    }
    ended_jobs = set()
    for name, line in event_lines(session_dir):
        file_type = name.removeprefix("event_EXPORT_").removesuffix(".log")
        file_type = "TASK" if file_type.startswith("TASK") else file_type
        tallies["events"][file_type] += 1
        tallies["bytes"][file_type] += len(line)
        tallies["files"][name] += len(line)
        event = json.loads(line)
        if event["event_id"] in ids:
            duplicates += 1
            continue
        ids.add(event["event_id"])
        source, body = event["source_type"].removeprefix("EXPORT_"), event["event_data"]
        if source == "TASK":
            key = body["task_id"], body["attempt_number"]
            attempt = attempts.setdefault(key, {"states": {}, "job": body["job_id"]})
            attempt.update({name: body[name] for name in ("task_info",) if name in body})
            attempt["states"].update(body.get("state_updates", {}).get("state_ts_ns", {}))
            error = body.get("state_updates", {}).get("error_info")
            tallies["errors"][error["error_type"] if error else None] += 1
            spans += len(body.get("profile_events", {}).get("events", ()))
        elif source == "ACTOR":
            actors.setdefault(body["actor_id"], []).append(body["state"])
        elif source == "DRIVER_JOB":
            if body["is_dead"]:
                ended_jobs.add(body["job_id"])
        elif source in last:
            keys = ("node_id", "submission_job_id", "dataset_id", "attempt_id", "id")
            key = next(body[key] for key in keys if key in body)
            last[source][key] = body.get("status") or body["state"]
    listed = [attempt for attempt in attempts.values() if "task_info" in attempt]
    states, final_states = fold_tasks(listed, ended_jobs, tallies)
    del tallies["errors"][None]
    return {
        **{name: dict(counts) for name, counts in tallies.items() if name not in ("functions", "types")},
        "tasks_by_function": dict(tallies["functions"]),
        "task_types": dict(tallies["types"]),
        "task_states": dict(states),
        "task_final_states": dict(final_states),
        "attempts": len(listed),
        "orphans": len(attempts) - len(listed),
        "duplicates": duplicates,
        "profile_events": spans,
        "actors": len(actors),
        "actor_states": dict(Counter(states[-1] for states in actors.values())),
        "actor_restarts": sum(states.count("RESTARTING") for states in actors.values()),
        "node_states": dict(Counter(last["NODE"].values())),
        "submission_states": dict(Counter(last["SUBMISSION_JOB"].values())),
        "dataset_states": dict(Counter(last["DATASET_METADATA"].values())),
        "train_run_states": dict(Counter(last["TRAIN_RUN"].values())),
        "train_run_attempt_states": dict(Counter(last["TRAIN_RUN_ATTEMPT"].values())),
    }


def promised(generated, tallies):
    return {name: getattr(generated, name) for name in tallies}


@pytest.mark.parametrize("ended", [True, False])
def test_the_files_hold_exactly_what_was_promised(tmp_path, ended):
    generated = generate(
        tmp_path, tasks=3000, files=8, jobs=4, actors=90, open_ratio=0.01, tasks_per_second=60, ended=ended
    )
    tallies = fold(generated.directory)
    assert tallies == promised(generated, tallies)
    assert set(generated.task_states) == set(NAMES.values())
    assert set(generated.task_final_states) == ({"FINISHED", "FAILED"} if ended else set(NAMES.values()))
    assert generated.orphans > 0
    assert generated.duplicates > 0
    assert generated.actor_restarts > 0
    assert set(generated.errors) == {"TASK_EXECUTION_EXCEPTION", "WORKER_DIED"}


def test_one_seed_gives_the_same_bytes_and_another_one_others(tmp_path):
    first = generate(tmp_path / "1", tasks=300, seed=7)
    second = generate(tmp_path / "2", tasks=300, seed=7)
    third = generate(tmp_path / "3", tasks=300, seed=8)
    lines = [list(event_lines(generated.directory)) for generated in (first, second, third)]
    assert lines[0] == lines[1]
    assert lines[0] != lines[2]


def test_lines_are_encoded_as_ray_encodes_them(tmp_path):
    generated = generate(tmp_path, tasks=2000, files=4, jobs=2, actors=40, failure_ratio=0.2)
    python_sources = {
        "SUBMISSION_JOB",
        "DATASET_METADATA",
        "DATASET_OPERATOR_SCHEMA",
        "DATASET_OPERATOR_EVENT",
    }
    python_sources |= {"TRAIN_RUN", "TRAIN_RUN_ATTEMPT"}
    seen, numbers = set(), set()
    for _, line in event_lines(generated.directory):
        event = json.loads(line)
        source = event["source_type"].removeprefix("EXPORT_")
        seen.add(source)
        if source in python_sources:
            assert line == json.dumps(event).encode() + b"\n"
            assert len(event["event_id"]) == 18
            continue
        # C++: sorted keys and no spaces, as in every line of a real session
        assert line == json.dumps(event, sort_keys=True, separators=(",", ":")).encode() + b"\n"
        assert len(bytes.fromhex(event["event_id"])) == 18
        body = event["event_data"]
        if source == "TASK":
            assert len(base64.b64decode(body["task_id"])) == 24
            numbers |= set(body.get("state_updates", {}).get("state_ts_ns", {}))
            for span in body.get("profile_events", {}).get("events", ()):
                json.loads(span["extra_data"])
                assert int(span["start_time"]) <= int(span["end_time"])
        elif source == "ACTOR":
            assert len(base64.b64decode(body["actor_id"])) == 16
    assert seen == python_sources | {"TASK", "ACTOR", "NODE", "DRIVER_JOB"}
    assert numbers == {"1", "2", "5", "7", "8", "11", "12", "13"}


def test_lines_of_a_file_are_in_the_order_of_time(tmp_path):
    generated = generate(tmp_path, tasks=1500, files=6, jobs=3, actors=60, tasks_per_second=40)
    last: dict[str, int] = {}
    for name, line in event_lines(generated.directory):
        timestamp = json.loads(line)["timestamp"]
        assert timestamp >= last.get(name, 0), name
        last[name] = timestamp
    assert min(last.values()) * 1000 >= generated.began_ms
    assert max(last.values()) * 1000 <= generated.ended_ms


@pytest.mark.parametrize("rate", [30, 0.05])  # the slow one: much befalls an actor between two tasks
def test_an_actor_goes_through_its_states_as_ray_lets_it(tmp_path, rate):
    generated = generate(tmp_path, tasks=3000, files=4, jobs=2, actors=200, tasks_per_second=rate)
    actors: dict[str, list[str]] = {}
    for _, line in event_lines(generated.directory):
        event = json.loads(line)
        if event["source_type"] == "EXPORT_ACTOR":
            actors.setdefault(event["event_data"]["actor_id"], []).append(event["event_data"]["state"])
    follows = {
        "DEPENDENCIES_UNREADY": {"PENDING_CREATION"},
        "PENDING_CREATION": {"ALIVE", "DEAD"},
        "ALIVE": {"RESTARTING", "DEAD"},
        "RESTARTING": {"ALIVE", "DEAD"},
        "DEAD": {"DEAD"},
    }
    steps = {step for states in actors.values() for step in itertools.pairwise(states)}
    assert all(then in follows[first] for first, then in steps)
    assert ("DEAD", "DEAD") in steps
    assert ("RESTARTING", "ALIVE") in steps


def test_a_session_is_laid_out_as_rays(tmp_path):
    generated = generate(tmp_path, tasks=50, files=3, session="session_2027-01-02_03-04-05_000006_7")
    assert generated.directory == tmp_path / "session_2027-01-02_03-04-05_000006_7"
    assert (tmp_path / "session_latest").resolve() == generated.directory.resolve()
    (marker,) = generated.directory.glob("gcs_server_port_*")
    head = marker.name.removeprefix("gcs_server_port_")
    assert (generated.directory / f"metrics_agent_port_{head}").exists()
    nodes = [
        event["event_data"]
        for _, line in event_lines(generated.directory)
        if (event := json.loads(line))["source_type"] == "EXPORT_NODE"
    ]
    assert {base64.b64decode(node["node_id"]).hex() for node in nodes if node["is_head_node"]} == {head}


def test_a_session_is_not_written_over(tmp_path):
    generate(tmp_path, tasks=10, session="session_a")
    with pytest.raises(ConfigError) as error:
        generate(tmp_path, tasks=10, session="session_a")
    assert str(error.value) == f"session 'session_a' exists in {tmp_path}; choose another name or place"


def test_every_job_needs_a_file_for_its_worker(tmp_path):
    with pytest.raises(ConfigError) as error:
        generate(tmp_path, tasks=10, files=3, jobs=2)
    assert str(error.value) == "3 files for 2 jobs; give each job a driver and a worker, so two"


def test_a_live_session_rotates_and_loses_nothing(tmp_path):
    generated = write_live(tmp_path, tasks=600, rate=1e9, rotate_bytes=100_000, files=4, jobs=2)
    assert generated.rotations > 3
    assert generated.deleted_bytes == 0
    assert generated.half_lines > 0
    tallies = fold(generated.directory)
    assert tallies == promised(generated, tallies)
    sizes = {path.name: path.stat().st_size for path in generated.directory.glob("logs/export_events/*.log.*")}
    assert sizes
    assert max(sizes.values()) <= 100_000


def test_rotation_deletes_the_oldest_file_once_there_are_twenty(tmp_path):
    generated = write_live(tmp_path, tasks=600, rate=1e9, rotate_bytes=5000, files=2, jobs=1)
    parts = list(generated.directory.glob("logs/export_events/event_EXPORT_TASK_20000.log.*"))
    assert {int(part.name.rsplit(".")[-1]) for part in parts} == set(range(1, BACKUPS + 1))
    kept = sum(len(line) for _, line in event_lines(generated.directory))
    assert generated.deleted_bytes == sum(generated.bytes.values()) - kept
    assert generated.deleted_bytes > 0


def test_half_lines_are_on_disk_for_a_while_and_then_whole(tmp_path):
    directory = tmp_path / "logs/export_events"
    directory.mkdir(parents=True)
    lines = {name: [f'{{"{name}":{number}}}\n' for number in range(1000)] for name in ("TASK_1", "TASK_2")}
    halves = 0
    with _LiveFiles(tmp_path, None, True, random.Random(1)) as writer:
        for pair in zip(*lines.values(), strict=True):
            for name, line in zip(lines, pair, strict=True):
                writer.write(name, line)
            halves += any(not path.read_bytes().endswith(b"\n") for path in directory.iterdir())
    assert halves > writer.half_lines > 0
    for name, expected in lines.items():
        assert (directory / f"event_EXPORT_{name}.log").read_text() == "".join(expected)


def test_a_live_session_keeps_to_its_time(tmp_path):
    generated = write_live(tmp_path, seconds=0.4, rate=500, half_lines=False)
    assert generated.half_lines == 0
    tallies = fold(generated.directory)
    assert tallies == promised(generated, tallies)
    assert 20 < sum(generated.events.values()) < 1000


def test_the_command_prints_what_it_wrote(tmp_path):
    command = [sys.executable, "-m", "lab.generate", tmp_path, "--tasks", "100", "--live"]
    run = subprocess.run([*command, "--rate", "1e9", "--rotate-bytes", "20000"], capture_output=True, check=True)
    summary = json.loads(run.stdout)
    assert summary["directory"].startswith(str(tmp_path))
    assert summary["rotations"] > 0
    assert sum(summary["task_types"].values()) == summary["attempts"]
    assert run.stderr == b""
