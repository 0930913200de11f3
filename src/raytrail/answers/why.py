"""Why a run ended as it did: one sentence, and the evidence that it is drawn from."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from raytrail import times
from raytrail.answers import snapshots
from raytrail.answers.failures import FailureGroup, Failures
from raytrail.answers.scope import Scope

MESSAGE_CHARACTERS = 200
"""How much of a text of Ray's stands in a sentence."""
MOST_EVIDENCE = 8
"""How many things a sentence is drawn from."""
_EXCEPTION = re.compile(
    r"(?m)^(?:[\w.]+\.)?([A-Za-z_]\w*(?:Error|Exception|Exit|Interrupt|Warning)(?:\(\w+\))?)(?:: (.*))?$"
)
"""A line that ends a traceback."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job, as its entity has it."""

    job_id: str | None
    submission_id: str | None
    status: str | None
    entrypoint: str | None
    message: str | None
    error_type: str | None
    start_time_ms: int | None
    end_time_ms: int | None
    metadata: dict[str, Any] | None
    driver_exit_code: int | None
    inferred: str | None

    @property
    def id(self) -> str:
        """Its submission's id, or its own where it was not submitted."""
        return self.submission_id or self.job_id or ""

    @property
    def name(self) -> str:
        """The name that its user gave it, or its command."""
        given = (self.metadata or {}).get("job_name")
        return str(given) if given else command(self.entrypoint or "") or self.id


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a sentence is drawn from."""

    kind: str
    """``status``, ``message``, ``log``, ``failure``, ``node``, ``actor``, ``job`` or ``ledger``."""
    text: str
    """What it says."""
    at_ms: int | None = None
    """When it was, in milliseconds since the epoch."""
    id: str = ""
    """What it is about: the id of a job, task, actor or node, or the hash of a signature for ``failure``."""


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended, and why."""

    status: str
    """Ray's word for a job, such as FAILED. Of a whole session: RUNNING, FAILED where a job failed, else ENDED."""
    sentence: str
    """How it ended and why, in one sentence."""
    evidence: tuple[Evidence, ...]
    """What the sentence is drawn from, the strongest first."""


def explain(
    scope: Scope, job: Job | None, jobs: Sequence[Job], failures: Failures, log_lines: Sequence[str] = ()
) -> Why:
    """
    Return how a run ended, and why.

    Args:
        scope: The session.
        job: The job. None means the whole session.
        jobs: The jobs of the session.
        failures: What failed in the run.
        log_lines: The last lines of the driver's log.
    """
    if job is None:
        return _explain_session(scope, jobs, failures)
    status = job.status or "UNKNOWN"
    cause = _cause(job, failures, log_lines)
    evidence = [
        *_evidence_of_snapshot(scope),
        *_evidence_of_job(job),
        *_evidence_of_log(job, log_lines),
        *_evidence_of_groups(failures),
    ]
    sentence = {
        "FAILED": lambda: f"It failed{_after(job)}{_because(cause)}.",
        "STOPPED": lambda: f"Its user stopped it{_after(job)}{_though(failures)}.",
        "SUCCEEDED": lambda: _succeeded(job, failures),
        "PENDING": lambda: f"It has not begun{_pending(job)}.",
    }.get(status, lambda: _running(scope, job, failures))()
    return Why(status=status, sentence=sentence, evidence=tuple(evidence[:MOST_EVIDENCE]))


def _explain_session(scope: Scope, jobs: Sequence[Job], failures: Failures) -> Why:
    """Return how a whole session ended: by its jobs that failed, else by what failed in it."""
    failed = [job for job in jobs if job.status == "FAILED"]
    evidence = [
        *_evidence_of_snapshot(scope),
        *(
            Evidence(
                kind="job", text=f"{job.name} failed{_because(_message_cause(job))}", at_ms=job.end_time_ms, id=job.id
            )
            for job in failed
        ),
        *_evidence_of_groups(failures),
    ]
    alive = is_alive(scope)
    now = scope.snapshot.at_ms is None and scope.cluster.snapshot_ms is None
    state = ("It is running" if now else "It was running") if alive else "It has ended"
    if failed:
        status = "FAILED"
        names = _listed([job.name for job in failed])
        # the cause of one job is no cause of another
        cause = f": {names}{_because(_cause(failed[0], failures, ()))}" if len(failed) == 1 else f": {names}"
        sentence = f"{state}. {_of(len(failed), len(jobs), 'job')} failed{cause}."
    else:
        status = "RUNNING" if alive else "ENDED"
        outcome = _of_all(jobs) if jobs else "No job is known"
        sentence = f"{state}. {outcome}{_though(failures)}."
    return Why(status=status, sentence=sentence, evidence=tuple(evidence[:MOST_EVIDENCE]))


def is_alive(scope: Scope) -> bool:
    """Return whether a session was alive at its moment: its shutdown had not begun."""
    cluster, at_ms = scope.cluster, scope.snapshot.at_ms
    if at_ms is None:
        return cluster.alive
    over_ms = cluster.before_shutdown_ms or cluster.ended_ms
    return over_ms is None or at_ms < over_ms


def _of_all(jobs: Sequence[Job]) -> str:
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job.status or "UNKNOWN"] = counts.get(job.status or "UNKNOWN", 0) + 1
    return " and ".join(f"{_counted(count, 'job')} {_WORDS.get(state, state)}" for state, count in counts.items())


_WORDS = {"SUCCEEDED": "succeeded", "STOPPED": "was stopped", "RUNNING": "was running", "PENDING": "had not begun"}


def _succeeded(job: Job, failures: Failures) -> str:
    if job.submission_id is None:
        # Ray tells of a driver's end, and not how it ended
        return f"Its driver ended{_after(job)}, and Ray does not tell with which exit code{_though(failures)}."
    return f"It succeeded{_after(job)}{_though(failures)}."


def _running(scope: Scope, job: Job, failures: Failures) -> str:
    if scope.cluster.alive or scope.snapshot.at_ms is not None:
        until_ms = scope.snapshot.at_ms or scope.cluster.last_event_ms
        since = ""
        if job.start_time_ms is not None and until_ms is not None:
            since = f" for {times.show_span(max(0, until_ms - job.start_time_ms))}"
        return f"It was running{since}{_though(failures)}."
    return f"No event tells of its end: it was running when the history of its cluster ended{_though(failures)}."


def _pending(job: Job) -> str:
    return f": {_first_line(job.message)}" if job.message else ""


def _after(job: Job) -> str:
    if job.start_time_ms is None or job.end_time_ms is None:
        return ""
    return f" after {times.show_span(max(0, job.end_time_ms - job.start_time_ms))}"


def _because(cause: str) -> str:
    return f" because {cause}" if cause else ""


def _though(failures: Failures) -> str:
    """Return what failed beside it, for what did not fail itself."""
    lasting = [group for group in failures.groups if not group.ended and group.recovered < group.own]
    if lasting:
        first = lasting[0]
        more = sum(group.count for group in lasting[1:])
        return f", though {_phrase(first)}" + (f", and {more:,} more failed" if more else "")
    if failures.recovered:
        return f", after {_counted(failures.recovered, 'attempt')} that failed, of tasks that a later attempt made good"
    return ""


def _cause(job: Job, failures: Failures, log_lines: Sequence[str]) -> str:
    """Return what a failed job failed of: the group of failures that its own last words name, else those words."""
    raised = _exception(job.message or "") or _exception("\n".join(log_lines))
    groups = [group for group in failures.groups if not group.ended and group.kind != "job"]
    if raised is not None:
        named = raised[0]
        for group in groups:
            if group.error and (group.error in named or named in group.error):
                return _phrase(group)
    if raised is None and not job.message:
        lasting = [group for group in groups if group.recovered < group.own]
        if lasting:
            return _phrase(lasting[0])
    return _message_cause(job, log_lines)


def _message_cause(job: Job, log_lines: Sequence[str] = ()) -> str:
    """Return a failed job's last words: the exception that ends its log, else Ray's message."""
    exit_code = f" (exit code {job.driver_exit_code})" if job.driver_exit_code is not None else ""
    raised = _exception(job.message or "") or _exception("\n".join(log_lines))
    if raised is not None:
        name, text = raised
        return f"its driver raised {name}{f': {text}' if text else ''}{exit_code}"
    if job.message:
        return f"Ray says: {_first_line(job.message)}"
    return f"its driver ended{exit_code}" if exit_code else ""


def _exception(text: str) -> tuple[str, str] | None:
    """Return the last exception of a text, its type and what it says. Ray's own wrapper is not meant."""
    raised = _EXCEPTION.findall(text)
    return (raised[-1][0], _cut(raised[-1][1])) if raised else None


def _phrase(group: FailureGroup) -> str:
    """Return a group of failures in words."""
    what = _cut(f"{group.error}: {group.text}" if group.text and group.error not in group.text else group.text)
    what = what or group.error or "an error that Ray did not tell"
    where = f" in {group.frame}" if group.frame else ""
    if group.kind == "node":
        return _node_phrase(group, what)
    names = [part.name for part in group.functions if "/" not in part.name and " " not in part.name]
    if group.kind == "actor":
        classes = _listed([name.split(".")[0] for name in names])
        if not group.own:  # somebody wanted its end
            return f"{_counted(group.count, 'failure')} followed from the end of an actor {classes} ({what}{where})"
        return f"{'an actor' if group.own == 1 else f'{group.own:,} actors'} {classes} died of {what}{where}"
    count = group.own or group.count
    times_failed = f" {count:,} times" if count > 1 else ""
    return f"{_listed(names) or 'a task'} failed{times_failed} with {what}{where}"


def _node_phrase(group: FailureGroup, what: str) -> str:
    followed = group.count - group.own
    if not group.own:
        return f"{_counted(followed, 'failure')} followed from the end of a node ({what})"
    lost = f", and {_counted(followed, 'failure')} followed from it" if followed else ""
    return f"{'a node' if group.own == 1 else f'{group.own:,} nodes'} died ({what}){lost}"


def _evidence_of_snapshot(scope: Scope) -> Iterator[Evidence]:
    """Yield what a snapshot lacks, so that nobody takes it for all."""
    cluster = scope.cluster
    if cluster.snapshot_ms is not None:
        yield Evidence(kind="ledger", text=snapshots.remark(cluster), at_ms=cluster.snapshot_ms)
        for text in filter(None, map(snapshots.lacking, snapshots.asked(scope.store, cluster).values())):
            yield Evidence(kind="ledger", text=text, at_ms=cluster.snapshot_ms)


def _evidence_of_job(job: Job) -> Iterator[Evidence]:
    if job.message:
        yield Evidence(kind="message", text=_cut(_last_words(job.message)), at_ms=job.end_time_ms, id=job.id)
    if job.driver_exit_code is not None:
        yield Evidence(kind="status", text=f"exit code {job.driver_exit_code}", at_ms=job.end_time_ms, id=job.id)
    if job.inferred:
        yield Evidence(kind="status", text=f"its end is concluded: {job.inferred}", at_ms=job.end_time_ms, id=job.id)


def _evidence_of_log(job: Job, lines: Sequence[str]) -> Iterator[Evidence]:
    if (raised := _exception("\n".join(lines))) is not None:
        name, text = raised
        yield Evidence(kind="log", text=f"{name}: {text}" if text else name, at_ms=job.end_time_ms, id=job.id)


def _evidence_of_groups(failures: Failures) -> Iterator[Evidence]:
    for group in failures.groups:
        if not group.ended:
            kind = group.kind if group.kind in ("node", "actor") else "failure"
            yield Evidence(kind=kind, text=_phrase(group), at_ms=group.first_ms, id=group.hash)


def command(entrypoint: str) -> str:
    """Return a command as people call it: its script without the interpreter and the directories."""
    if "/" not in entrypoint and " " not in entrypoint:
        return entrypoint
    try:
        words = shlex.split(entrypoint)
    except ValueError:  # a quote that nothing ends
        return entrypoint
    if words and re.fullmatch(r"python[\d.]*", words[0].rsplit("/", 1)[-1]) and len(words) > 1:
        words = words[1:]
    return " ".join([words[0].rsplit("/", 1)[-1], *words[1:]]) if words else ""


def _last_words(message: str) -> str:
    raised = _exception(message)
    return _first_line(message) if raised is None else f"{raised[0]}: {raised[1]}" if raised[1] else raised[0]


def _first_line(text: str) -> str:
    return _cut(next((line.strip() for line in text.splitlines() if line.strip()), "")).rstrip(".")


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_CHARACTERS else f"{text[: MESSAGE_CHARACTERS - 1]}…"


def _counted(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count:,} {noun}s"


def _of(count: int, every: int, noun: str) -> str:
    return f"Its {noun}" if count == every == 1 else f"{count:,} of {_counted(every, noun)}"


def _listed(names: Sequence[str]) -> str:
    shown = [f"`{name}`" for name in dict.fromkeys(names)][:3]
    return ", ".join(shown) + (" and others" if len(dict.fromkeys(names)) > 3 else "")
