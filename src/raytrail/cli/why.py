"""``raytrail why``: how a run ended, and why."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import click

from raytrail import times
from raytrail.answers import Scope
from raytrail.answers.failures import FailureGroup
from raytrail.answers.run import Run, lasted, run_of
from raytrail.config import Config
from raytrail.terminal import options, printing, stores

GROUPS = 3
"""How many groups of failures are named."""
LOG_LINES = 10
"""How many of the last lines of the driver's log are printed."""


@click.command(cls=options.Command)
@click.argument("job", default="")
@options.cluster
@options.at
@options.output_format("text", "json", "markdown")
@click.option("--url", metavar="URL", default="", help="Address of a server, e.g. https://history.example. Adds links.")
@options.settings("store.dir", "store.threads", "store.memory_bytes")
def why(job: str, cluster_id: str, at: str | None, form: str, url: str, config: Config) -> None:
    """
    Say how a job or a cluster ended, and why.

    JOB is the id of a job or of its submission. Without it, the whole cluster is meant. One sentence says how it ended
    and why. What follows is what says so, the failures by what they have in common, and the end of the driver's log.
    Markdown is short enough for a message to people.

    \b
    raytrail why
    raytrail why raysubmit_EFsA7rn2vm3Gq2J9 --format markdown --url https://history.example
    """
    with stores.reading(config) as store:
        cluster = stores.chosen(store, cluster_id)
        run = run_of(Scope(store, cluster, stores.snapshot(store, cluster, at)), job)
    if form == "json":
        printing.write_object(run)
    else:
        lines = _markdown(run, url.rstrip("/")) if form == "markdown" else _text(run)
        click.echo(printing.plain("\n".join(lines)))


def _title(run: Run) -> str:
    what = run.job.name if run.job else run.cluster or run.session
    took = lasted(run)
    return f"{what}: {run.why.status}" + (f" after {took}" if took else "")


def _text(run: Run) -> Iterator[str]:
    yield _title(run)
    yield run.why.sentence
    if run.why.evidence:
        yield ""
    for item in run.why.evidence:
        when = f" ({times.show(item.at_ms, digits=0)})" if item.at_ms is not None else ""
        yield f"  {item.kind}: {item.text}{when}"
    if run.log:
        yield ""
        yield f"{run.log.name}:"
        yield from (f"  {line}" for line in run.log.lines[-LOG_LINES:])


def _markdown(run: Run, url: str) -> Iterator[str]:
    yield f"**{_plain(_title(run))}**"
    yield f"> {_plain(run.why.sentence)}"
    for group in run.failures.groups[:GROUPS]:
        yield f"- {_group(group)}"
    if url:
        page = f"jobs/{quote(run.job.id, safe='')}" if run.job else "about"
        yield f"[Open it]({url}/clusters/{run.session}/{page})"


def _group(group: FailureGroup) -> str:
    where = f" in `{_code(group.frame)}`" if group.frame else ""
    return f"{group.count:,} times `{_code(group.error)}`{where}: {_plain(group.text)}"


def _code(text: str) -> str:
    return text.replace("`", "'")


def _plain(text: str) -> str:
    """Return text as Markdown shows it: what stands between backticks is code, and nothing of the rest is markup."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # one of them ends nothing
        return _escaped(text)
    return "".join(f"`{part}`" if at % 2 else _escaped(part) for at, part in enumerate(parts))


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#|~!" else letter for letter in text)
