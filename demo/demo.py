"""
A Ray cluster lives, dies, and answers on: the whole of Raytrail on this machine, in a minute or two.

Starts `raytrail up` and a local Ray whose export is on, has it do the work in workload.py, writes down what Ray
itself answers, stops it, and compares that with what the history says. All of it listens on 127.0.0.1 only, and
nothing is left behind at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lab.compare import Score, compare
from lab.ray_cluster import RayCluster, ray_cluster
from lab.record import record
from rich.console import Console
from rich.table import Table

from raytrail.errors import RaytrailError

BIN = Path(sys.executable).parent
WORKLOAD = Path(__file__).with_name("workload.py")
STATES = {"tasks": "state", "actors": "state", "jobs": "status", "nodes": "state"}
"""What we compare, and which of its fields says how it is."""
ENDED = ("FINISHED", "FAILED")
WORK_SECONDS, SEAL_SECONDS = 300, 120
OK, DIFFERENT, BROKEN, INTERRUPTED = 0, 1, 3, 130

console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=100)


class Up(NamedTuple):
    """A `raytrail up` that runs."""

    url: str
    store: Path
    log: Path
    process: subprocess.Popen[bytes]

    def ask(self, path: str) -> Any:
        """Return the answer to a GET, decoded."""
        if self.process.poll() is not None:
            raise RaytrailError(f"raytrail up ended with {self.process.returncode}; it said:\n{tail(self.log)}")
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def cluster(self) -> dict[str, Any] | None:
        """Return the figures of the only cluster, if there is one yet."""
        clusters: list[dict[str, Any]] = self.ask("/api/clusters")["clusters"]
        return clusters[0] if clusters else None

    def rows(self, cluster: str, resource: str) -> list[dict[str, Any]]:
        """List a resource as Ray's own clients do."""
        path = f"/clusters/{cluster}/api/v0/{resource}?detail=1&limit=10000&exclude_driver=False"
        rows: list[dict[str, Any]] = self.ask(path)["data"]["result"]["result"]
        return rows


class Step:
    """One step of the demo: a spinner with words that change, then a line."""

    def __init__(self, words: str) -> None:
        self.done = words
        self._status = console.status(words)

    def say(self, words: str) -> None:
        self._status.update(words)

    def __enter__(self) -> Step:
        self._began = time.monotonic()
        self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._status.stop()
        mark = "[green]✓[/]" if kind is None else "[red]✗[/]"
        console.print(f"{mark} {time.monotonic() - self._began:5.1f} s  {self.done}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make demo DEMO_ARGS=...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit codes: 0 Ray and the history agree, 1 they do not, 3 something did not work, 130 interrupted.",
    )
    parser.add_argument("--once", action="store_true", help="exit after the comparison; else serve until Ctrl-C")
    parser.add_argument("--port", type=int, default=0, help="where to serve the history [default: a free port]")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        return demo(options.port, once=options.once)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (RaytrailError, OSError, subprocess.TimeoutExpired) as error:
        console.print("[bold red]the demo did not work:[/]", end=" ")
        console.print(str(error), markup=False)
        return BROKEN


def interrupt(number: int, _: object) -> None:
    """Stop once; a second signal must not keep us from cleaning up."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    console.print("stopping everything ...")
    raise KeyboardInterrupt


def demo(port: int, *, once: bool) -> int:
    console.print("[bold]A Ray cluster lives, dies, and answers on.[/]\n")
    # short, as the paths of Ray's sockets must stay below 107 bytes
    with tempfile.TemporaryDirectory(prefix="rt", dir="/tmp", ignore_cleanup_errors=True) as directory:
        home = Path(directory)
        with contextlib.ExitStack() as stack:
            with Step("raytrail up: agent, history and server") as step:
                up = stack.enter_context(raytrail_up(home, port))
                step.done = f"raytrail up: agent, history and server, at {up.url}"
            answers = live_and_die(home, up)
            with Step("the history seals the session") as step:
                session = wait_until_sealed(up, step)
            agree = report(up, session, answers)
            if not once:
                serve(up, session, answers["ended_ms"])
    return OK if agree else DIFFERENT


def live_and_die(home: Path, up: Up) -> dict[str, Any]:
    """Run a Ray from its start to its end, and return what it answered just before."""
    with contextlib.ExitStack() as stack:
        with Step("starting a Ray with its export on") as step:
            cluster = stack.enter_context(ray_cluster(temp_dir=home / "ray"))
            version = cluster.ask("/api/version")["ray_version"]
            step.done = f"Ray {version} started, its export switched on"
        with Step("a day's work") as step:
            work(cluster, home / "work.log", up, step)
        with Step("waiting until Ray is quiet, and recording its answers") as step:
            wait_until_quiet(cluster)
            answers = record(cluster.dashboard_url, home / "answers.json")
            step.done = "Ray's own answers recorded: " + ", ".join(count(len(answers[noun]), noun) for noun in STATES)
            # actors' events tell whole seconds: what the end brings must not fall into that of the answers
            time.sleep(1.1)
        with Step("stopping Ray") as step:
            cluster.stop()
            step.done = "Ray stopped; none of its processes is left"
    return answers


@contextlib.contextmanager
def raytrail_up(home: Path, port: int) -> Iterator[Up]:
    log = home / "up.log"
    arguments: dict[str, Any] = {
        "--cluster": "demo",
        "--temp-dir": home / "ray",
        "--state-dir": home / "raytrail",
        "--port": port,
        "--fold-seconds": 1,
        # by default it waits longer: on a busy machine the last events of many nodes take their time
        "--seal-after-end-seconds": 3,
        # Ray's own answers, which ours are compared with, mask nothing
        "--redact": "",
    }
    # settings of one's own would lead elsewhere
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RAYTRAIL_")}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [BIN / "raytrail", "up", *(str(word) for item in arguments.items() for word in item)],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environ,
            start_new_session=True,  # a Ctrl-C is for us to pass on
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not (serving := re.search(r"serving on (http://\S+)", log.read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RaytrailError(f"raytrail up does not serve; it said:\n{tail(log)}")
            time.sleep(0.1)
        yield Up(serving[1], home / "raytrail" / "store", log, process)
    finally:
        end(process)


def work(cluster: RayCluster, log: Path, up: Up, step: Step) -> None:
    """Run the workload, showing what of it has arrived in the history meanwhile."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, WORKLOAD], env=cluster.environment, stdin=subprocess.DEVNULL,
            stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + WORK_SECONDS
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise RaytrailError(f"{WORKLOAD.name} still runs after {WORK_SECONDS} s; it said:\n{tail(log)}")
            if known := up.cluster():
                counted = ", ".join(count(known[noun], noun) for noun in ("tasks", "actors", "jobs", "events"))
                step.say(f"Ray works; in the history so far: {counted}")
            time.sleep(0.5)
    finally:
        end(process)
    if process.returncode:
        raise RaytrailError(f"{WORKLOAD.name} ended with {process.returncode}; it said:\n{tail(log)}")
    step.done = "a workload done: tasks fail and retry, actors die and restart, jobs, a Data pipeline"


def wait_until_quiet(cluster: RayCluster, seconds: float = 60) -> None:
    """Wait until no task is open, drivers aside, and two answers a second apart are the same."""
    deadline = time.monotonic() + seconds
    before = None
    while time.monotonic() < deadline:
        rows = {
            noun: cluster.ask(f"/api/v0/{noun}?detail=1&limit=10000")["data"]["result"]["result"] for noun in STATES
        }
        if rows == before and all(row["state"] in ENDED for row in rows["tasks"]):
            return
        before = rows
        time.sleep(1)
    raise RaytrailError(f"Ray is not quiet after {seconds:g} s: tasks are still open")


def wait_until_sealed(up: Up, step: Step) -> str:
    deadline = time.monotonic() + SEAL_SECONDS
    while time.monotonic() < deadline:
        known = up.cluster()
        if known and known["sealed"]:
            step.done = f"sealed: {known['session']}, {count(known['events'], 'events')}"
            return str(known["session"])
        if known:
            step.say(f"{known['events']:,} events; waiting for the history to seal the session")
        time.sleep(0.2)
    raise RaytrailError(f"not sealed after {SEAL_SECONDS} s; raytrail up said:\n{tail(up.log)}")


def report(up: Up, session: str, answers: dict[str, Any]) -> bool:
    """Print what Ray said beside what the history says; return whether they agree."""
    moment = answers["ended_ms"]
    then = {noun: up.rows(f"{session}/at/{moment}", noun) for noun in STATES}
    last = {noun: up.rows(f"{session}/final", noun) for noun in STATES}
    scores = [compare(answers[noun], then[noun], resource=noun) for noun in STATES]
    ledger = up.ask(f"/api/clusters/{session}")["ledger"]
    at = time.strftime("%H:%M:%S", time.gmtime(moment / 1000))
    console.print(f"\n[bold]Ray is gone.[/] What it said at {at} UTC, beside what the history says:\n")
    for part in (states(answers, then, last), failures(answers, then), fields(scores), completeness(ledger)):
        console.print(part)
        console.print()
    console.print(f"[dim]Not compared, as no event of Ray's tells it: {'; '.join(untold(scores))}.[/]\n")
    differ = [score for score in scores if not score.exact]
    for score in differ:
        console.print(str(score), markup=False)
    missing = sum(row["missing_bytes"] for row in ledger)
    if missing:
        console.print(f"[bold red]The history is not complete: {missing:,} bytes of events are missing.[/]")
    if differ:
        console.print(f"[bold red]Ray and the history differ in {', '.join(s.resource for s in differ)}: see above.[/]")
    else:
        console.print("[bold green]Ray and the history agree[/] in every row and every field that Ray exports.")
    return not differ and not missing


def states(
    answers: dict[str, Any], then: dict[str, list[dict[str, Any]]], last: dict[str, list[dict[str, Any]]]
) -> Table:
    grid = table(("How many are how", ""), "Ray, then", "history, then", "history, at last")
    for noun, field in STATES.items():
        counts = [Counter(row[field] for row in rows[noun]) for rows in (answers, then, last)]
        shown = noun
        for state in sorted({state for count in counts for state in count}):
            live, ours, final = (count[state] for count in counts)
            grid.add_row(shown, state, *side_by_side(live, ours), number(final))
            shown = ""
    return grid


def failures(answers: dict[str, Any], then: dict[str, list[dict[str, Any]]]) -> Table:
    grid = table(("Failed task attempts", ""), "Ray, then", "history, then")
    live, ours = (
        # not by name: where a task was killed, no event tells its options(name=)
        Counter((row["func_or_class_name"], row["error_type"]) for row in rows["tasks"] if row["state"] == "FAILED")
        for rows in (answers, then)
    )
    for kind in sorted(live | ours, key=str):
        grid.add_row(*map(str, kind), *side_by_side(live[kind], ours[kind]))
    return grid


def fields(scores: list[Score]) -> Table:
    grid = table(("Field by field",), "rows", "more rows", "fields", "values equal")
    for score in scores:
        given = [field for field in score.fields.values() if not field.cannot]
        equal = sum(field.equal for field in given)
        total = equal + sum(field.different + field.missing for field in given)
        both = score.live_rows - len(score.missing_rows)
        grid.add_row(
            score.resource, of(both, score.live_rows), bad(len(score.extra_rows)), str(len(given)), of(equal, total)
        )
    return grid


def completeness(ledger: list[dict[str, Any]]) -> Table:
    grid = table(("What Ray wrote, in bytes",), "written", "stored", "missing", "events", "inferred rows")
    for row in ledger:
        grid.add_row(
            row["event_type"],
            number(row["written_bytes"]),
            number(row["stored_bytes"]),
            bad(row["missing_bytes"]),
            number(row["stored_events"]),
            number(row["inferred"]),
        )
    return grid


def untold(scores: list[Score]) -> Iterator[str]:
    for score in scores:
        never = [name for name, field in score.fields.items() if field.cannot]
        if never:
            yield f"{score.resource} {', '.join(never)}"
        some = {name: field.excused for name, field in score.fields.items() if field.excused}
        if some:
            yield f"{', '.join(some)} of some {score.resource} (docs/why/fidelity.md says which)"


def table(labels: tuple[str, ...], *numbers: str) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="")
    for column in labels:
        grid.add_column(f"[bold]{column}[/]", min_width=24, no_wrap=True)
    for column in numbers:
        grid.add_column(f"[dim]{column}[/]", justify="right", no_wrap=True)
    return grid


def side_by_side(live: int, ours: int) -> tuple[str, str]:
    return number(live), number(ours) if live == ours else f"[bold red]{number(ours)}[/]"


def of(part: int, whole: int) -> str:
    text = f"{part:,} of {whole:,}"
    return text if part == whole else f"[bold red]{text}[/]"


def count(value: int, plural: str) -> str:
    return f"{value:,} {plural if value != 1 else plural[:-1]}"


def bad(value: int) -> str:
    return f"[bold red]{value:,}[/]" if value else "-"


def number(value: int) -> str:
    return f"{value:,}" if value else "-"


def serve(up: Up, session: str, moment: int) -> None:
    """Leave the server up until somebody stops it."""
    bin_dir = BIN.relative_to(Path.cwd()) if BIN.is_relative_to(Path.cwd()) else BIN
    address = f"{up.url}/clusters/demo"
    console.print(f"\nServing [bold]{up.url}[/] until Ctrl-C. Open it, or try in another terminal:\n")
    for command in (
        f"ray list tasks --address {address} --filter state=FAILED",
        f"ray summary tasks --address {address}",
        f"ray list actors --address {address}/at/{moment}",
        f"raytrail list tasks --store {up.store} --filter state=FAILED",
        f"raytrail ledger --store {up.store}",
    ):
        console.print(f"  {bin_dir}/{command}", soft_wrap=True)
    console.print()
    with contextlib.suppress(KeyboardInterrupt):
        while up.process.poll() is None:
            time.sleep(0.5)
        raise RaytrailError(f"raytrail up ended with {up.process.returncode}; it said:\n{tail(up.log)}")


def tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process of ours that leads a group of its own, and all of that group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)


if __name__ == "__main__":
    sys.exit(main())
