"""
All that is asked of a live Ray, and of the history after it: each path, and the rows that its answer is compared by.

    recorded = record(cluster.dashboard_url, Path("answers.json"))
    ...
    for score in compare_answers(recorded["asked"], ask):
        print(score)
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from lab.compare import KEYS, Score, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

Row = dict[str, Any]
Rows = list[Row]


class Question(NamedTuple):
    """A path of Ray's dashboard, State API or Jobs API."""

    resource: str
    """The name that its rows are scored under."""
    path: str
    """With ``{node}``, ``{actor}`` or ``{job}`` in it, it is asked of each."""
    rows: Callable[[Any], Rows]
    """Takes the rows out of an answer."""


def _state(body: Any) -> Rows:
    return list(body["data"]["result"]["result"])


def _summary(body: Any) -> Rows:
    [cluster] = body["data"]["result"]["result"]["node_id_to_summary"].values()
    totals = {name: value for name, value in cluster.items() if name != "summary"}
    counts = {name: body["data"]["result"][name] for name in ("total", "num_after_truncation", "num_filtered")}
    return [{"name": "", **totals, **counts}, *({"name": name, **entry} for name, entry in cluster["summary"].items())]


def _lineage(body: Any) -> Rows:
    [cluster] = body["data"]["result"]["result"]["node_id_to_summary"].values()
    totals = {name: value for name, value in cluster.items() if name != "summary"}
    return [{"_place": "", **totals}, *_branches("", cluster["summary"])]


def _branches(above: str, branches: Iterable[Row]) -> Iterator[Row]:
    for branch in branches:
        place = f"{above}/{branch['key']}"
        yield {"_place": place, **{name: value for name, value in branch.items() if name != "children"}}
        yield from _branches(place, branch["children"])


def _timeline(body: Any) -> Rows:
    # it is the name of a node or a process. In any other event, a process begins one thing at a time
    return [
        {"_key": str([event["name"], event["tid"], event.get("ts") or event["args"]["name"]]), **event}
        for event in body
    ]


def _object_at(*path: str) -> Callable[[Any], Rows]:
    def rows(body: Any) -> Rows:
        for name in path:
            body = body[name]
        return [flat(body)] if body else []

    return rows


def _each(*path: str) -> Callable[[Any], Rows]:
    def rows(body: Any) -> Rows:
        for name in path:
            body = body[name]
        return [flat(row) for row in (body.values() if isinstance(body, dict) else body)]

    return rows


def _events(body: Any) -> Rows:
    return [{"job": job, **event} for job, events in body["data"]["events"].items() for event in events]


def _host_names(body: Any) -> Rows:
    return [{"_number": number, "hostname": name} for number, name in enumerate(body["data"]["hostNameList"])]


def _node(body: Any) -> Rows:
    return [flat({name: value for name, value in body["data"]["detail"].items() if name not in ("actors", "workers")})]


def _node_actors(body: Any) -> Rows:
    return [flat(actor) for actor in body["data"]["detail"]["actors"].values()]


def _node_workers(body: Any) -> Rows:
    return [flat(worker) for worker in body["data"]["detail"]["workers"]]


def _status(body: Any) -> Rows:
    # usage, demands: each line one, but for the first, which is the time
    lines = body["data"]["clusterStatus"].splitlines()[1:]
    sections: dict[str, list[str]] = {}
    section = ""
    for line in lines:
        if line and not line.startswith(" "):
            section = line
        # the last digits of Ray's sums depend on the order of a hash table
        sections.setdefault(section, []).append(_SUM.sub(lambda match: str(round(float(match[0]), 9)), line))
    return [
        {"_line": f"{section} {number}", "text": line}
        for section, lines in sections.items()
        for number, line in enumerate(sorted(lines) if section in _IN_NO_ORDER else lines)
    ]


_SUM = re.compile(r"\d+\.\d{4,}(e-\d+)?")
_IN_NO_ORDER = ("Active:", "Pending Demands:")
"""Resources in the order of the GCS's hash tables, which is another one in each of its processes."""


def _applications(body: Any) -> Rows:
    top = {name: value for name, value in body.items() if name != "applications"}
    return [{"name": "", **flat(top)}, *(flat(app) for app in body["applications"].values())]


def flat(row: Mapping[str, Any], above: str = "") -> Row:
    """Return a row with the members of some of its objects lifted, as ``raylet.state``."""
    lifted: Row = {}
    for name, value in row.items():
        if isinstance(value, dict) and value and name in _LIFTED:
            lifted |= flat(value, f"{above}{name}.")
        else:
            lifted[f"{above}{name}"] = value
    return lifted


_LIFTED = ("raylet", "address", "driver_info", "controller_info", "http_options", "grpc_options")
_OF_JOB = "filter_keys=job_id&filter_predicates=%3D&filter_values={job}"

QUESTIONS: tuple[Question, ...] = (
    Question("tasks", "/api/v0/tasks?detail=1&limit=10000&exclude_driver=False", _state),
    Question("actors", "/api/v0/actors?detail=1&limit=10000", _state),
    Question("nodes", "/api/v0/nodes?detail=1", _state),
    Question("jobs", "/api/v0/jobs?detail=1", _state),
    Question("workers", "/api/v0/workers?detail=1&limit=10000", _state),
    Question("placement_groups", "/api/v0/placement_groups?detail=1&limit=10000", _state),
    Question("objects", "/api/v0/objects?detail=1&limit=10000", _state),
    Question("runtime_envs", "/api/v0/runtime_envs?detail=1&limit=10000", _state),
    Question("cluster_events", "/api/v0/cluster_events?detail=1&limit=10000", _state),
    Question("tasks summary", "/api/v0/tasks/summarize", _summary),
    Question("tasks summary", f"/api/v0/tasks/summarize?{_OF_JOB}", _summary),
    Question("actors summary", "/api/v0/actors/summarize", _summary),
    Question("objects summary", "/api/v0/objects/summarize", _summary),
    Question("lineage", "/api/v0/tasks/summarize?summary_by=lineage", _lineage),
    Question("lineage", f"/api/v0/tasks/summarize?{_OF_JOB}&summary_by=lineage", _lineage),
    Question("timeline", "/api/v0/tasks/timeline", _timeline),
    Question("timeline", "/api/v0/tasks/timeline?download=1&job_id={job}", _timeline),
    Question("dashboard nodes", "/nodes?view=summary", _each("data", "summary")),
    Question("dashboard hosts", "/nodes?view=hostNameList", _host_names),
    Question("dashboard nodes", "/nodes/{node}", _node),
    Question("dashboard actors", "/nodes/{node}", _node_actors),
    Question("dashboard workers", "/nodes/{node}", _node_workers),
    Question("dashboard actors", "/logical/actors", _each("data", "actors")),
    Question("dashboard actors", "/logical/actors/{actor}", _object_at("data", "detail")),
    Question("dashboard events", "/events", _events),
    Question("dashboard status", "/api/cluster_status?format=1", _status),
    Question("submissions", "/api/jobs/", _each()),
    Question("submissions", "/api/jobs/{job}", _object_at()),
    Question("dashboard settings", "/timezone", _object_at()),
    Question("dashboard settings", "/usage_stats_enabled", _object_at("data")),
    Question("dashboard settings", "/api/authentication_mode", _object_at()),
    Question("dashboard settings", "/api/profiling_enabled", _object_at("data")),
    Question("dashboard settings", "/api/v0/cluster_metadata", _object_at("data")),
    Question("dashboard settings", "/api/v0/runtime_env_redaction", _object_at("data")),
    Question("version", "/api/version", _object_at()),
    Question("serve", "/api/serve/applications/", _applications),
    Question("train", "/api/train/v2/runs/v1", _each("train_runs")),
    # last, as Ray runs a task for it
    Question("data", "/api/data/datasets/{job}", _each("datasets")),
)
"""The questions. One that is there twice, with other rows, is asked once."""
AT_A_MOMENT = frozenset(
    {
        *("tasks", "actors", "nodes", "jobs", "workers", "placement_groups", "objects", "submissions"),
        *("tasks summary", "actors summary", "objects summary", "lineage"),
        *("dashboard nodes", "dashboard actors", "dashboard status"),
    }
)
"""The resources that `moment_paths` asks for: those that Ray concludes anything about."""
ACTORS_ASKED = 20
"""So many actors are asked for on their own."""


def paths(jobs: Iterable[str], nodes: Iterable[str], actors: Iterable[str]) -> list[str]:
    """Return what is asked of a cluster that has these, each once."""
    ids = {"job": list(jobs), "node": list(nodes), "actor": list(itertools.islice(actors, ACTORS_ASKED))}
    asked: dict[str, None] = {}
    for question in QUESTIONS:
        [kind] = re.findall(r"{(\w+)}", question.path) or [""]
        asked |= dict.fromkeys(question.path.format(**{kind: value}) for value in ids.get(kind, [""]))
    return list(asked)


def moment_paths(jobs: Iterable[str]) -> list[str]:
    """
    Return the questions about a cluster while it lives, which are all that Ray lists, counts and concludes, each once.

    The lineage of one job is not: of a task that was tried again it has the time of whichever attempt comes last, and
    Ray's GCS keeps a job's attempts in the order of a hash table.
    """
    jobs = list(jobs)
    asked: dict[str, None] = {}
    for question in QUESTIONS:
        apart = "{node}" in question.path or "{actor}" in question.path
        by_chance = question.resource == "lineage" and "{job}" in question.path
        if question.resource in AT_A_MOMENT and not apart and not by_chance:
            each = jobs if "{job}" in question.path else [""]
            asked |= dict.fromkeys(question.path.format(job=job) for job in each)
    return list(asked)


def compare_answers(
    asked: Mapping[str, Mapping[str, Any]], ask: Callable[[str, int], tuple[int, Any]], *, types: bool = True
) -> list[Score]:
    """
    Compare the history's answers with all that was recorded.

    Args:
        asked: Ray's answers, by path, with ``status``, ``body``, and ``at_ms``, the time it was asked.
        ask: Asks the history for a path as of a moment in milliseconds. Returns the status and the body of its answer.
        types: Whether numbers must be written alike, as in `compare`.

    """
    live: dict[str, Rows] = {}
    ours: dict[str, Rows] = {}
    for question in QUESTIONS:
        pattern = re.compile(re.sub(r"\\{\w+\\}", "[^/&?]+", re.escape(question.path)))
        for path, answer in asked.items():
            # Ray itself fails at some, such as events of which C++ and Python each wrote some
            if not pattern.fullmatch(path) or answer["status"] != 200:
                continue
            theirs = [{"_of": path, **row} for row in question.rows(answer["body"])]
            status, body = ask(path, answer["at_ms"])
            mine = [{"_of": path, **row} for row in question.rows(body)] if status == 200 else []
            live.setdefault(question.resource, []).extend(theirs)
            ours.setdefault(question.resource, []).extend(mine)
    return [
        compare(rows, ours[resource], resource=resource, key=("_of", *KEYS[resource]), types=types)
        for resource, rows in live.items()
    ]
