"""Which clusters there are, how they fared, and which of them mention what somebody looks for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from operator import itemgetter
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import msgspec

from raytrail.errors import ConfigError
from raytrail.store import Store
from raytrail.store.overview import SessionJob, SessionOverview, Text
from raytrail.store.overviews import SORTS, Brief, JobRun, Look
from raytrail.words import instead

EVERY = 1_000_000_000
"""As many rows as there are."""
PAGE_ROWS = 200
"""How many rows a page has."""
MOST_WORDS = 10
"""More words are not looked for: each is one look through all texts."""
MOST_VALUES = 12
"""How many values a facet names: those that most clusters have, or the newest days."""
ROW_RUNS = 12
"""How many jobs of a session a row shows."""
JOBS = 8
"""How many jobs the landing page shows the runs of: those that ran last."""
JOBS_OF = 300
"""In how many sessions these are looked for, the newest of all that are found."""
JOB_RUNS = 20
"""How many runs of a job are shown."""
STATES = ("running", "failed", "ended")


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """A text of a session that a word was found in."""

    kind: str
    """``job``, ``id``, ``function``, ``class``, ``error`` or ``metadata``."""
    text: str


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One session of a cluster, or the newest of those of its name."""

    cluster: str
    """The name its operator gave it. It may be empty."""
    session: str
    state: str
    """``running`` while a node is alive, ``failed`` where a job failed, else ``ended``."""
    began_ms: int | None
    """When its first node joined."""
    ended_ms: int | None
    """When its last node died. None while one is alive, or where no event says."""
    last_event_ms: int | None
    before_shutdown_ms: int | None
    """The last moment before its shutdown began. None while a node is alive."""
    lasted_ms: int | None
    """How long it lived, or has lived so far."""
    users: tuple[str, ...]
    """Who ran its jobs, where their metadata say so."""
    jobs: int
    failed_jobs: int | None
    """None where an older version sealed it, and nothing was written to the history since."""
    runs: tuple[SessionJob, ...]
    """Its newest jobs, the newest first."""
    tasks: int
    """Task attempts that Ray's own list counts."""
    failed_tasks: int | None
    """Those of them that failed, retried ones among them. None as for ``failed_jobs``."""
    actors: int
    nodes: int
    lost_nodes: int | None
    """Nodes that died without being told to, before the shutdown of all began. None as for ``failed_jobs``."""
    events: int
    stored_bytes: int
    """Bytes of its events."""
    log_bytes: int
    """Bytes of its logs."""
    missing_bytes: int
    """Bytes that were written and are not here."""
    rejected: int
    """Lines and files that cannot be read."""
    inferred: int
    """States that no event ended, so that Raytrail closed them."""
    snapshot_ms: int | None
    """The moment of the last snapshot that it was taken from. None where it is of the cluster's own events."""
    alive: bool
    """Whether a node is alive, as far as the events say, and the session is not sealed."""
    sealed: bool
    held: bool
    """Whether somebody keeps it from being deleted (``raytrail hold``)."""
    damaged: str
    """The file that is not what was written. Empty where none is."""
    others: int
    """How many more sessions of its name were found. They have a row each where they are not folded."""
    matched: tuple[Match, ...]
    """What the words of the search were found in, where that is not its name."""


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A value that some sessions have, by which they are narrowed down."""

    value: str
    count: int
    """How many sessions have it, of those that the search and the other facets leave."""
    chosen: bool


class Facet(msgspec.Struct, frozen=True, kw_only=True):
    """Something by which sessions are narrowed down."""

    name: str
    """``state``, ``incomplete``, ``name`` or ``day``, as the parameter."""
    values: tuple[Value, ...]
    left_out: int
    """How many more values there are."""


class JobRuns(msgspec.Struct, frozen=True, kw_only=True):
    """The last runs of one job, in whichever cluster."""

    name: str
    """The name that its user gave it, else the command that was run."""
    runs: tuple[JobRun, ...]
    """The newest first."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for. An address says all of it."""

    q: str
    """The words that are looked for."""
    state: str | None
    incomplete: str | None
    """``yes`` or ``no``."""
    name: str | None
    day: str | None
    sort: str
    page: int
    fold: str
    """``yes``: sessions of one name are one row."""

    def query(self, **changes: object) -> str:
        """Return the query of an address that asks for the same, but for some changes, and begins at the first page."""
        asked = {**msgspec.structs.asdict(self), "page": 1, **changes}
        given = {name: value for name, value in asked.items() if value is not None and value != _DEFAULTS.get(name)}
        return f"?{urlencode(given, quote_via=quote)}" if given else ""

    @property
    def narrowed(self) -> bool:
        """Whether it leaves some sessions out."""
        return bool(self.q) or any(value is not None for value in (self.state, self.incomplete, self.name, self.day))


_DEFAULTS = {"q": "", "sort": "-began", "page": 1, "fold": "yes"}


class Landing(msgspec.Struct, frozen=True, kw_only=True):
    """The clusters of a history that a search and facets leave, a page of them."""

    asked: Asked
    rows: tuple[Listed, ...]
    total: int
    """How many rows there are on all pages."""
    sessions: int
    """How many sessions these rows stand for."""
    page: int
    """The number of this page, from 1."""
    pages: int
    facets: tuple[Facet, ...]
    jobs: tuple[JobRuns, ...]
    """The jobs that ran last in these sessions, the newest first."""


def landing(
    store: Store,
    *,
    search: str = "",
    state: str | None = None,
    incomplete: bool | None = None,
    name: str | None = None,
    day: str | None = None,
    sort: str = "-began",
    page: int = 1,
    rows: int | None = None,
    fold: bool = False,
) -> Landing:
    """
    Return the clusters of a history, a page of them.

    Args:
        store: The history.
        search: Words that are all to be found in a session's name, jobs, functions, classes or errors, in any case.
            Quotes keep words together.
        state: Only those of that state: one of `STATES`.
        incomplete: Only those of which something is missing, or cannot be read, or only the others.
        name: Only those of that cluster's name. Empty is for those without one.
        day: Only those that began on that day, in UTC: ``2026-11-29``.
        sort: The figure to sort by: ``name``, or one of `SORTS`, with ``-`` before it to begin with the largest.
        page: The number of the page.
        rows: How many rows a page has. None is 200.
        fold: Whether those of one name are one row, unless a name is asked for.

    Raises:
        ConfigError: There is no such state, figure or day, or a page is no number from 1 on.
    """
    words, rows = _read_words(search), rows or PAGE_ROWS
    figure = _check(state, day, sort, page)
    chosen: dict[str, Any] = {"state": state, "incomplete": incomplete, "name": name, "day": day and _to_number(day)}
    look = store.overviews.look()
    briefs = look.briefs(words, "began" if figure == "name" else figure)
    briefs.sort(key=itemgetter(SEEN, SESSION), reverse=True)
    matching = _narrow(briefs, chosen)
    groups = _fold(matching) if fold and name is None else [_Group(brief, 0) for brief in matching]
    if sort != "-began":
        _sort(groups, by_name=figure == "name", descending=sort.startswith("-"))
    runs = look.runs([brief.session for brief in matching[:JOBS_OF]], JOBS, JOB_RUNS)
    asked = Asked(
        q=search,
        state=state,
        incomplete=None if incomplete is None else _say_yes(incomplete),
        name=name,
        day=day,
        sort=sort,
        page=page,
        fold=_say_yes(fold),
    )
    return Landing(
        asked=asked,
        rows=tuple(_list(look, groups[(page - 1) * rows : page * rows], words)),
        total=len(groups),
        sessions=len(matching),
        page=page,
        pages=max(1, -(-len(groups) // rows)),
        facets=tuple(_make_facet(facet, briefs, chosen) for facet in _FACETS),
        jobs=tuple(JobRuns(name=job, runs=tuple(of_job)) for job, of_job in runs.items()),
    )


class _Group(NamedTuple):
    """The session of a row."""

    newest: Brief
    others: int
    """How many older ones of its name it stands for."""


class _Facet(NamedTuple):
    """How sessions are narrowed down by a figure of theirs."""

    column: int
    """Which of a brief's it is."""
    show: Callable[[Any], str]
    """Returns a value as text."""


def _name_day(number: int) -> str:
    return date.fromordinal(_EPOCH + number).isoformat() if number else ""


def _to_number(day: str) -> int:
    return date.fromisoformat(day).toordinal() - _EPOCH


def _say_yes(is_so: object) -> str:
    return "yes" if is_so else "no"


_EPOCH = date(1970, 1, 1).toordinal()
SESSION, SEEN, CLUSTER = map(Brief._fields.index, ("session", "seen_ms", "cluster"))
_FACETS: Mapping[str, _Facet] = {
    "state": _Facet(Brief._fields.index("state"), str),
    "incomplete": _Facet(Brief._fields.index("incomplete"), _say_yes),
    "name": _Facet(CLUSTER, str),
    "day": _Facet(Brief._fields.index("day"), _name_day),
}


def _read_words(search: str) -> list[str]:
    """Return the words that are looked for. Quotes keep some together, unless one is left open."""
    quoted = re.findall(r'"([^"]+)"|(\S+)', search)
    words = [together or word for together, word in quoted]
    if len(words) > MOST_WORDS:
        raise ConfigError(f"search for {len(words)} words: {search!r}; give {MOST_WORDS} at most, or quote a text")
    return words


def _check(state: str | None, day: str | None, sort: str, page: int) -> str:
    """Return the figure that is sorted by."""
    figure, figures = sort.removeprefix("-"), ["name", *SORTS]
    if figure not in figures:
        raise ConfigError(f"sort by {figure!r}{instead(figure, figures, 'it is one of')}")
    if state is not None and state not in STATES:
        raise ConfigError(f"state {state!r}{instead(state, STATES, 'it is one of')}")
    if day is not None and not _is_day(day):
        raise ConfigError(f"day {day!r}: there is none; write it as 2026-11-29")
    if page < 1:
        raise ConfigError(f"page {page}: the first is 1")
    return figure


def _is_day(text: str) -> bool:
    try:
        _to_number(text)
    except ValueError:
        return False
    return True


def _narrow(briefs: list[Brief], chosen: Mapping[str, Any], facet: str = "") -> list[Brief]:
    """Return the sessions that have what is chosen of each facet, but for one."""
    for name, value in chosen.items():
        if value is not None and name != facet:
            column = _FACETS[name].column
            briefs = [brief for brief in briefs if brief[column] == value]
    return briefs


def _make_facet(name: str, briefs: list[Brief], chosen: Mapping[str, Any]) -> Facet:
    """Return a facet, counted under what is chosen of the others."""
    column, show = _FACETS[name]
    counts = Counter(map(itemgetter(column), _narrow(briefs, chosen, name)))
    values = sorted(counts, reverse=True) if name == "day" else [value for value, _ in counts.most_common()]
    shown = values[:MOST_VALUES]
    if chosen[name] is not None and chosen[name] not in shown:
        shown.append(chosen[name])
    return Facet(
        name=name,
        values=tuple(Value(value=show(value), count=counts[value], chosen=value == chosen[name]) for value in shown),
        left_out=max(0, len(values) - MOST_VALUES),
    )


def _fold(briefs: Sequence[Brief]) -> list[_Group]:
    """Return one group for each name, and one for each session without a name. The newest come first, as they came."""
    newest: dict[str, Brief] = {}
    for brief in briefs:
        newest.setdefault(brief.cluster or f"\0{brief.session}", brief)
    counts = Counter(map(itemgetter(CLUSTER), briefs))
    return [_Group(brief, counts[brief.cluster] - 1 if brief.cluster else 0) for brief in newest.values()]


def _sort(groups: list[_Group], *, by_name: bool, descending: bool) -> None:
    """Sort the groups, which are the newest first. Those whose figure is not known are last."""
    if by_name:
        groups.sort(key=lambda group: (group.newest.cluster or group.newest.session).lower(), reverse=descending)
        return
    groups.sort(key=lambda group: group.newest.value or 0, reverse=descending)
    groups.sort(key=lambda group: group.newest.value is None)


def _list(look: Look, groups: Sequence[_Group], words: Sequence[str]) -> Iterator[Listed]:
    """Yield the rows of a page."""
    others = {group.newest.session: group.others for group in groups}
    matches = look.matches([*others], words)
    for overview in look.of([*others]):
        session = overview.figures.session
        yield _row(overview, others[session], matches.get(session, []))


def _row(overview: SessionOverview, others: int, matches: Iterable[Text]) -> Listed:
    return Listed(
        **msgspec.structs.asdict(overview.figures),
        state=overview.state,
        lasted_ms=overview.lasted_ms,
        users=tuple(dict.fromkeys(run.user for run in overview.runs if run.user)),
        failed_jobs=overview.failed_jobs,
        runs=overview.runs[:ROW_RUNS],
        failed_tasks=overview.failed_tasks,
        lost_nodes=overview.lost_nodes,
        others=others,
        matched=tuple(Match(kind=kind, text=text) for kind, text in dict.fromkeys(matches)),
    )
