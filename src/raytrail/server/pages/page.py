"""
What a page is: a question with its address, its template and its table, declared once.

Of a declaration the server makes its routes: the page, the same as JSON, its table as CSV, and the statement that made
it. The docs and the OpenAPI description are made of it, too.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, get_type_hints
from urllib.parse import quote, urlencode

import msgspec
from starlette.responses import Response

from raytrail import times
from raytrail.answers import Scope
from raytrail.answers.question import MOST_BYTES
from raytrail.server import pages
from raytrail.server.context import StoreView, View, encode
from raytrail.server.routing import Route
from raytrail.store import Cluster

Asked = Callable[[Any], msgspec.Struct]
"""Answers a question of a `View`, or of an `StoreView` where it is over all clusters."""


_SQL = "sql"
"""The field of an answer that is the statement that made it."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """The declaration of a page."""

    path: str
    """Below the server, or below each cluster and each of its moments, without a suffix. Names are in braces."""
    table: str = ""
    """Where its JSON and CSV are, without their suffixes. Empty: where it is itself."""
    title: str
    """What its tab and the browser's title say."""
    answer: Asked
    """Answers the question. Its docstring is the documentation, and its annotation the schema."""
    template: str
    """The template, which has the answer as ``answer``."""
    rows: str = ""
    """The field of the answer that is its table, for CSV. Empty: it has none."""
    parameters: Mapping[str, str] = {}
    """What each name in the query means."""
    over_store: bool = False
    """Whether it is about all clusters, and answers an `StoreView`."""
    for_browsers: bool = False
    """Whether Ray's own API has that path, so that only a browser is shown the page there."""
    tab: bool = True
    """Whether the bar of every page leads to it."""
    scripts: tuple[str, ...] = ()
    """Scripts of its own, of ``scripts/`` beside this file."""
    large: bool = False
    """Whether it is a large question, of which few are answered at a time."""

    @property
    def name(self) -> str:
        """Its path without the slash before it."""
        return self.path.removeprefix("/")

    def routes(self) -> tuple[Route[Any], ...]:
        """Return its routes: the page, its JSON, its CSV and its SQL."""
        routes = [Route(self.json_path, _documented(self, self._json, "as JSON"), "ours", "GET", self.parameters)]
        if self.rows:
            csv_doc = "as CSV"
            routes.append(
                Route(self._suffixed(".csv"), _documented(self, self._csv, csv_doc), "ours", "GET", self.parameters)
            )
        if self.has_sql:
            sql_doc = "as the statement that `raytrail sql` takes"
            routes.append(
                Route(self._suffixed(".sql"), _documented(self, self._sql, sql_doc), "ours", "GET", self.parameters)
            )
        html = Route(
            self.path,
            _documented(self, self._html, ""),
            "ours",
            "GET",
            self.parameters,
            for_browsers=self.for_browsers,
        )
        return (*routes, html)

    @property
    def json_path(self) -> str:
        """Where its JSON is."""
        return self._suffixed(".json")

    @property
    def has_sql(self) -> bool:
        """Whether its answer has the statement that made it."""
        return _SQL in self.schema().__struct_fields__

    def _suffixed(self, suffix: str) -> str:
        return f"{self.table or self.path}{suffix}"

    def schema(self) -> type[msgspec.Struct]:
        """Return the struct that it answers with."""
        kind: type[msgspec.Struct] = get_type_hints(self.answer)["return"]
        return kind

    def _html(self, view: View | StoreView) -> Response:
        answer = self.answer(view)
        return pages.answer(pages.render(self.template, frame=frame(self, view, answer), answer=answer), scripts=True)

    def _json(self, view: View | StoreView) -> Response:
        return encode(self.answer(view))

    def _csv(self, view: View | StoreView) -> Response:
        rows: Sequence[msgspec.Struct] = getattr(self.answer(view), self.rows)
        return Response(to_csv(_row_type(self.schema(), self.rows), rows), media_type="text/csv; charset=utf-8")

    def _sql(self, view: View | StoreView) -> Response:
        return Response(f"{getattr(self.answer(view), _SQL)}\n", media_type="text/plain; charset=utf-8")


class Tab(NamedTuple):
    """A link in the bar of every page."""

    title: str
    href: str
    current: bool


class Frame(NamedTuple):
    """What surrounds a page: the bar, the way home, and the other forms of the page."""

    title: str
    root: str
    """The path where all begins."""
    here: str
    """The path of the cluster at this moment, with a slash at its end; of a page over all clusters, `root`."""
    home: str
    """The same without the moment."""
    address: str
    """`here` with the server's own name, for commands."""
    name: str
    """The page's path below `here`."""
    query: str
    """The page's query with its question mark, or nothing."""
    tabs: tuple[Tab, ...]
    """The pages about this cluster."""
    store_tabs: tuple[Tab, ...]
    """The pages over all clusters."""
    dashboard: bool
    """Whether Ray's dashboard is served there."""
    live: bool
    """Whether the page changes, as the cluster lives and no moment is asked for."""
    cluster: Cluster | None
    at_ms: int | None
    """The moment that is shown; None at last, or where there is no cluster."""
    json: str
    """Where the same is JSON."""
    csv: str
    """Where its table is CSV; empty where it has none."""
    scripts: tuple[str, ...]
    search: str
    """What was searched for."""
    sql: str
    """Where the table is asked in SQL, or where the statement is that asks it. Empty where there is none."""
    user: str
    """The name of who looks. Empty where the server knows one token or none."""
    live_link: Callable[[str, str], str]
    """Returns where Ray's own dashboard of a living session is, of its name and its cluster's, or nothing."""

    def now(self, name: str, **params: object) -> str:
        """Return the address of another page of this cluster at this moment."""
        return f"{self.here}{name}{query_of(params)}"

    def at(self, ms: int | None) -> str:
        """Return the address of this page at another moment; None: at last."""
        moment = "" if ms is None else f"at/{iso(ms)}/"
        return f"{self.home}{moment}{self.name}{self.query}"


def query_of(params: Mapping[str, object]) -> str:
    """Return a query with its question mark, of the parameters that have a value; nothing where none has."""
    given = {name: value for name, value in params.items() if value not in (None, "")}
    return f"?{urlencode(given, quote_via=quote)}" if given else ""


def iso(ms: int) -> str:
    """Return a moment as it stands in addresses: ``2026-11-29T03:12:00Z``, with milliseconds where it has some."""
    return times.show(ms, digits=3 * (ms % 1000 != 0)).replace(" ", "T")


def to_csv(kind: type[msgspec.Struct], rows: Iterable[msgspec.Struct]) -> str:
    """Return structs as CSV, a line each, with a heading. Lists and objects are JSON."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(kind.__struct_fields__)
    for row in rows:
        writer.writerow([_cell(getattr(row, name)) for name in kind.__struct_fields__])
    return text.getvalue()


def _cell(value: object) -> object:
    if value is None or isinstance(value, str | int | float):
        return value
    return msgspec.json.encode(value).decode()


def _row_type(kind: type[msgspec.Struct], field: str) -> type[msgspec.Struct]:
    """Return the struct of the rows of a field that is annotated as ``tuple[Row, ...]``."""
    row: type[msgspec.Struct] = get_type_hints(kind)[field].__args__[0]
    return row


def scope(view: View) -> Scope:
    """Return what a question about a cluster is asked of."""
    return Scope(view.store, view.cluster, view.snapshot)


def frame(page: Page, view: View | StoreView, answer: msgspec.Struct | None) -> Frame:
    """Return what surrounds a page that shows an answer."""
    from raytrail.server.pages.declared import PAGES  # which are made of this module

    query = urlencode([(name, value) for name, values in view.params.items() for value in values], quote_via=quote)
    query = f"?{query}" if query else ""
    name, cluster, at_ms = page.name, None, None
    here = home = view.base
    if isinstance(view, View):
        here, home = view.here, view.here_at_last
        name = name.format(**{key: quote(str(value), safe="") for key, value in view.path.items()})
        cluster, at_ms = view.cluster, view.snapshot.at_ms
    base = f"{here}{page.table.removeprefix('/') or name}"
    sql = getattr(answer, _SQL, "")
    return Frame(
        title=page.title,
        root=view.base,
        here=here,
        home=home,
        address=view.url if isinstance(view, View) else view.root,
        name=name,
        query=query,
        tabs=tuple(Tab(p.title, f"{here}{p.name}", p is page) for p in PAGES if p.tab and not p.over_store),
        store_tabs=tuple(Tab(p.title, f"{view.base}{p.name}", p is page) for p in PAGES if p.tab and p.over_store),
        dashboard=isinstance(view, View) and view.dashboard,
        live=cluster is not None and cluster.alive and at_ms is None,
        cluster=cluster,
        at_ms=at_ms,
        json=f"{base}.json{query}",
        csv=f"{base}.csv{query}" if page.rows else "",
        scripts=page.scripts,
        search=view.param("q"),
        sql=_sql_link(view.base, sql, f"{base}.sql{query}"),
        user=view.user,
        live_link=partial(view.live_link, view.store),
    )


def _sql_link(base: str, sql: str, text: str) -> str:
    """Return where a statement can be asked; where it is longer than an address may be, where it can be read."""
    if not sql:
        return ""
    return f"{base}sql{query_of({'q': sql})}" if len(sql.encode()) <= MOST_BYTES else text


def _documented(page: Page, handler: Callable[[Any], Response], form: str) -> Callable[[Any], Response]:
    def answer(view: Any) -> Response:
        return handler(view)

    doc = " ".join((page.answer.__doc__ or "").split())
    answer.__doc__ = f"{doc.split('. ')[0].rstrip('.')}, {form}." if form else doc
    return answer
