"""The pages for people: HTML made here, with nothing fetched from elsewhere and no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from typing import Any
from urllib.parse import urlencode

from raytrail.server.ray.state import ACTORS, JOBS, NODES, TASKS
from raytrail.store import Cluster, Filter, LedgerRow

SHOWN = 500
"""Most clusters on the first page, and most ranges or lines in a list."""

COUNTED = (
    (TASKS, "state", (Filter("type", "!=", None), Filter("type", "!=", "DRIVER_TASK"))),
    (ACTORS, "state", ()),
    (JOBS, "status", ()),
    (NODES, "state", ()),
)
"""What a cluster's page counts, by which column: the rows that Ray's clients list."""

_BAD = ("FAILED", "DEAD")
_GOOD = ("FINISHED", "SUCCEEDED", "ALIVE")

_STYLE = """
:root { color-scheme: light dark;
  --ink: #1c2330; --soft: #5d6778; --line: #dfe3ea; --page: #f6f7f9; --card: #fff; --link: #0b5cad;
  --code: #f1f3f6; --good: #18794e; --good-bg: #e6f5ec; --bad: #b3261e; --bad-bg: #fdecea;
  --warn: #8a5a00; --warn-bg: #fdf3dc; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e4e8ef; --soft: #97a1b3; --line: #2c3440; --page: #12161c; --card: #1a2028; --link: #77b4f5;
  --code: #10141a; --good: #6fd3a0; --good-bg: #15352a; --bad: #ff9b92; --bad-bg: #40201e;
  --warn: #f0c265; --warn-bg: #3a2e12; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header { border-bottom: 1px solid var(--line); background: var(--card); }
header div, main { max-width: 78rem; margin: 0 auto; padding: .8rem 1.5rem; }
header a { font-weight: 650; color: var(--ink); text-decoration: none; }
header span { color: var(--soft); margin-left: .6rem; }
main { padding-top: 1.2rem; padding-bottom: 4rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .4rem 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .6rem; }
p { margin: .5rem 0; max-width: 56rem; overflow-wrap: anywhere; }
a { color: var(--link); }
.soft { color: var(--soft); }
.small { font-size: .86em; }
.card { margin-top: .8rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .5rem .8rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; }
th { font-size: .8rem; font-weight: 600; color: var(--soft); white-space: nowrap; }
.n { text-align: right; }
.n, .when { font-variant-numeric: tabular-nums; white-space: nowrap; }
.name, .chip { white-space: nowrap; }
@media (max-width: 44rem) { .name { white-space: normal; min-width: 14rem; overflow-wrap: anywhere; } }
code, pre { font: .88em/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { margin: .6rem 0; padding: .8rem 1rem; background: var(--code); border: 1px solid var(--line);
  border-radius: 8px; overflow-x: auto; }
pre b { font-weight: 400; color: var(--soft); }
.chip { display: inline-block; padding: .05rem .5rem; border-radius: .75rem; font-size: .82rem;
  font-weight: 550; text-decoration: none; background: var(--code); color: var(--soft); }
a.chip:hover { text-decoration: underline; }
.good { background: var(--good-bg); color: var(--good); }
.bad { background: var(--bad-bg); color: var(--bad); }
.warn { background: var(--warn-bg); color: var(--warn); }
.four { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1rem; }
.four .card { padding: .7rem .9rem; }
.four h3 { margin: 0; font-size: .8rem; font-weight: 600; color: var(--soft); }
.four .total { margin: 0 0 .3rem; font-size: 1.6rem; line-height: 1.2; }
.four td { padding: .15rem .6rem .15rem 0; border: 0; overflow-wrap: anywhere; }
.four td.n { width: 1%; }
.four .chip { font-size: .76rem; white-space: normal; }
summary { cursor: pointer; color: var(--link); }
"""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'sha256-"
        + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
        + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}
"""What goes with each page: the browser may show it, with this one style, and fetch nothing."""

LOGIN_HEADERS = {
    **HEADERS,
    "Content-Security-Policy": HEADERS["Content-Security-Policy"].replace("form-action 'none'", "form-action 'self'"),
    # without a referrer, browsers hide the origin of a form that is posted
    "Referrer-Policy": "same-origin",
}
"""The same for the page that asks for the token, which may be sent to us."""


class Html(str):
    """Text that is HTML already; all other text is escaped where it is filled in."""

    __slots__ = ()


def home(clusters: Sequence[Cluster], root: str) -> Html:
    """Return the page of all clusters."""
    if not clusters:
        body = _fill(
            "<h1>No clusters yet</h1><p>This history is empty. Bring in a session that Ray left on disk, or "
            "follow this machine's clusters while they run:</p>"
            "<pre>raytrail import /tmp/ray/session_latest\nraytrail up</pre>"
        )
        return _document("Raytrail", body, root)
    rows = _join(
        _fill(
            '<tr><td class="name"><a href="clusters/{name}/">{title}</a>{session}</td>'
            '<td>{state} {complete}</td><td class="when">{began}</td><td class="n">{lasted}</td>'
            '<td class="n">{tasks}</td>'
            '<td class="n">{actors}</td><td class="n">{jobs}</td><td class="n">{nodes}</td></tr>',
            name=cluster.session,
            title=cluster.cluster or cluster.session,
            session=_fill('<br><code class="soft">{}</code>', cluster.session) if cluster.cluster else "",
            state=_state(cluster),
            began=_time(cluster.began_ms),
            lasted=_lasted(cluster),
            tasks=_number(cluster.tasks),
            actors=_number(cluster.actors),
            jobs=_number(cluster.jobs),
            nodes=_number(cluster.nodes),
            complete=_complete(cluster),
        )
        for cluster in clusters[:SHOWN]
    )
    older = len(clusters) - SHOWN
    body = _fill(
        '<h1>Clusters</h1><p class="soft">{count}, newest first. Each answers Ray\'s own commands, also when '
        "it has long gone: open one to see how.</p>"
        '<div class="card"><table><thead><tr><th>Cluster</th><th>History</th><th>Began (UTC)</th>'
        '<th class="n">Lasted</th><th class="n">Tasks</th><th class="n">Actors</th><th class="n">Jobs</th>'
        '<th class="n">Nodes</th></tr></thead><tbody>{rows}</tbody></table></div>{older}'
        '<p class="soft small">As JSON: <a href="api/clusters">{root}api/clusters</a></p>',
        count="1 cluster" if len(clusters) == 1 else f"{_number(len(clusters))} clusters",
        rows=rows,
        older=_fill('<p class="soft">{} older ones are not shown here.</p>', _number(older)) if older > 0 else "",
        root=root,
    )
    return _document("Raytrail", body, root)


def cluster(
    cluster: Cluster,
    at_ms: int | None,
    counts: Mapping[str, Iterable[Mapping[str, Any]]],
    ledger: Sequence[LedgerRow],
    *,
    url: str,
    home: str,
    root: str,
    dashboard: bool,
) -> Html:
    """
    Return the page of one cluster, as it ended or as it was at a moment.

    Args:
        cluster: The cluster.
        at_ms: The moment; None shows the end.
        counts: For each resource, the rows in each state, as `Snapshot.group` returns them.
        ledger: How complete its history is, by event type.
        url: Where the view of that moment begins; Ray's clients are given it as address.
        home: Where the cluster's own page is.
        root: Where the page of all clusters is.
        dashboard: Whether Ray's dashboard is served there.
    """
    body = _fill(
        "<h1>{title}</h1><p><code>{session}</code></p>{moment}<p>{state} {complete}</p>{dashboard}"
        '<p class="soft">{life}</p>'
        '<div class="four">{counts}</div>'
        "<h2>Ask it with Ray's own commands</h2>{commands}"
        "<h2>How complete this history is</h2>{ledger}",
        title=cluster.cluster or cluster.session,
        session=cluster.session,
        moment=_moment(cluster, at_ms, home),
        dashboard=_fill('<p><a href="{}">Open it in Ray\'s dashboard</a></p>', url) if dashboard else "",
        state=_state(cluster),
        complete=_complete(cluster),
        life=_life(cluster),
        counts=_join(_counts(resource.noun, state, counts[resource.noun]) for resource, state, _ in COUNTED),
        commands=_commands(cluster, url, home, at_ms),
        ledger=_ledger(cluster, ledger),
    )
    return _document(f"{cluster.cluster or cluster.session} · Raytrail", body, root)


def login(root: str, *, wrong: bool) -> Html:
    """Return the page that asks for the token."""
    body = _fill(
        "<h1>This history asks for a token</h1>{wrong}"
        '<form method="post" action="{root}login"><p><label>Token '
        '<input type="password" name="token" autocomplete="current-password" required autofocus></label> '
        "<button>Open</button></p></form>"
        "<p class='soft small'>It is server.token of whoever runs this server. Scripts send it as "
        "<code>Authorization: Bearer TOKEN</code>, Ray's own clients with <code>RAY_AUTH_MODE=token</code> and "
        "<code>RAY_AUTH_TOKEN</code>.</p>",
        root=root,
        wrong=Html('<p><span class="chip bad">that is not the token</span></p>') if wrong else "",
    )
    return _document("Raytrail", body, root)


def error(status: int, message: str, root: str) -> Html:
    """Return the page that says what went wrong."""
    body = _fill("<h1>{}</h1><p>{}</p><p><a href='{}'>All clusters</a></p>", status, message, root)
    return _document(f"{status} · Raytrail", body, root)


def _document(title: str, body: Html, root: str) -> Html:
    return _fill(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>'
        '<body><header><div><a href="{root}">Raytrail</a><span>history of Ray clusters</span></div></header>'
        "<main>{body}</main></body></html>\n",
        title=title,
        style=Html(_STYLE),
        root=root,
        body=body,
    )


def _counts(noun: str, state: str, groups: Iterable[Mapping[str, Any]]) -> Html:
    counts = sorted(((group["count"], group[state] or "not known") for group in groups), reverse=True)
    return _fill(
        '<div class="card"><h3>{noun}</h3><p class="total">{total}</p><table><tbody>{rows}</tbody></table></div>',
        noun=noun.capitalize(),
        total=_number(sum(count for count, _ in counts)),
        rows=_join(
            _fill(
                '<tr><td class="n">{count}</td>'
                '<td><a class="chip {kind}" href="api/v0/{noun}?{query}">{name}</a></td></tr>',
                count=_number(count),
                kind="bad" if name in _BAD else "good" if name in _GOOD else "",
                noun=noun,
                query=urlencode(
                    {
                        "detail": 1,
                        "limit": 1000,
                        "filter_keys": state,
                        "filter_predicates": "=",
                        "filter_values": name,
                    }
                ),
                name=name,
            )
            for count, name in counts
        ),
    )


def _moment(cluster: Cluster, at_ms: int | None, home: str) -> Html:
    end = _fill('<a href="{}final/about">see its very end</a>', home)
    if at_ms is None:
        if cluster.before_shutdown_ms is None:
            return Html()
        return _fill(
            '<p><span class="chip warn">at its very end</span> '
            '<a href="{}about">see it just before its shutdown began</a></p>',
            home,
        )
    if at_ms == cluster.before_shutdown_ms:
        return _fill('<p><span class="chip">just before its shutdown began, at {} UTC</span> {}</p>', _time(at_ms), end)
    if cluster.alive:
        end = _fill('<a href="{}about">see how it is now</a>', home)
    return _fill('<p><span class="chip warn">as it was at {} UTC</span> {}</p>', _time(at_ms), end)


def _commands(cluster: Cluster, url: str, home: str, at_ms: int | None) -> Html:
    address = url.rstrip("/")
    earlier = ""
    if at_ms is None or at_ms == cluster.before_shutdown_ms:
        earlier = _fill(
            "<p>Any moment has an address, too: <code>{home}at/&lt;milliseconds since 1970&gt;</code>; "
            "its very end is <code>{home}final</code>.</p>",
            home=home,
        )
    return _fill(
        "<pre>ray list tasks --address {address}\n"
        "ray list tasks --address {address} --filter state=FAILED --detail\n"
        "ray get tasks <b>TASK_ID</b> --address {address}\n"
        "ray summary tasks --address {address}\n"
        "ray list actors --address {address}\n"
        "ray job list --address {address}</pre>"
        "<p>Where <code>RAY_ADDRESS</code> is set, as in most Ray pods, it wins over <code>--address</code>. "
        "This wins over both:</p><pre>export RAY_API_SERVER_ADDRESS={address}</pre>"
        '<p>In Python: <code>ray.util.state.list_tasks(address="{address}")</code></p>{earlier}',
        address=address,
        earlier=earlier,
    )


def _ledger(cluster: Cluster, ledger: Sequence[LedgerRow]) -> Html:
    if not ledger:
        return _fill('<p class="soft">Nothing has arrived of this cluster.</p>')
    rows = _join(
        _fill(
            '<tr><td><code>{type}</code></td><td class="n">{files}</td><td class="n">{written}</td>'
            '<td class="n">{published}</td><td class="n">{stored}</td><td class="n">{missing}</td>'
            '<td class="n">{events}</td><td class="n">{rejected}</td><td class="n">{unknown}</td>'
            '<td class="n">{inferred}</td></tr>',
            type=row.event_type,
            files=_number(row.files),
            written=_bytes(row.written_bytes),
            published=_bytes(row.published_bytes),
            stored=_bytes(row.stored_bytes),
            missing=_some(row.missing_bytes + row.skipped_bytes + row.lost_bytes, _bytes, "chip bad"),
            events=_number(row.stored_events),
            rejected=_some(row.rejected_events + len(row.unread), _number, "chip warn"),
            unknown=_some(row.unknown_events, _number),
            inferred=_some(row.inferred, _number),
        )
        for row in ledger
    )
    missing = [gap for row in ledger for gap in row.missing]
    rejected = [f"{line.file} at {_number(line.offset)}: {line.reason}" for row in ledger for line in row.rejected]
    rejected += [
        f"{end.name} ({end.file}) from {_number(end.start)} to {_number(end.end)}: {end.reason}"
        for row in ledger
        for end in row.unread
    ]
    return _fill(
        '<div class="card"><table><thead><tr><th>Event type</th><th class="n">Files</th>'
        '<th class="n">Written</th><th class="n">Published</th><th class="n">Stored</th>'
        '<th class="n">Missing</th><th class="n">Events</th><th class="n">Unreadable</th>'
        '<th class="n">Unknown</th><th class="n">Inferred</th></tr></thead><tbody>{rows}</tbody>'
        "</table></div>"
        "<p class='soft small'>Written: seen on the nodes' disks. Missing: never arrived, or gone before it "
        "was read. Unreadable: lines that were set aside, not lost, and files that cannot be read to their end. "
        "Unknown: of a type that this version does not know, and kept. Inferred: left open by the events and closed "
        "by Raytrail, as Ray does when a job, a worker or "
        "a node dies.</p>{missing}{rejected}",
        rows=rows,
        missing=_listed(
            f"{_number(len(missing))} missing ranges",
            (f"{gap.name} ({gap.file}): bytes {_number(gap.start)} to {_number(gap.end)}" for gap in missing[:SHOWN]),
            len(missing),
        ),
        rejected=_listed(
            f"{_number(len(rejected))} unreadable lines and files",
            rejected[:SHOWN],
            len(rejected),
        ),
    )


def _listed(title: str, lines: Iterable[str], count: int) -> Html:
    if not count:
        return Html()
    rest = f"\n... and {_number(count - SHOWN)} more" if count > SHOWN else ""
    return _fill("<details><summary>{}</summary><pre>{}{}</pre></details>", title, "\n".join(lines), rest)


def _state(cluster: Cluster) -> Html:
    return _fill('<span class="chip {}">{}</span>', *(("good", "running") if cluster.alive else ("", "ended")))


def _complete(cluster: Cluster) -> Html:
    if cluster.damaged:
        return _fill('<span class="chip bad" title="{}">damaged</span>', cluster.damaged)
    chips = []
    if cluster.missing_bytes:
        chips.append(_fill('<span class="chip bad">{} missing</span>', _bytes(cluster.missing_bytes)))
    if cluster.rejected:
        chips.append(_fill('<span class="chip warn">{} unreadable</span>', _number(cluster.rejected)))
    if not chips:
        chips.append(_fill('<span class="chip good">{}</span>', "complete" if cluster.sealed else "complete so far"))
    if cluster.inferred:
        chips.append(_fill('<span class="chip">{} inferred</span>', _number(cluster.inferred)))
    return Html(" ".join(chips))


def _life(cluster: Cluster) -> Html:
    end = _fill(" until {}", _time(cluster.ended_ms)) if cluster.ended_ms is not None and not cluster.alive else ""
    return _fill(
        "{}{} UTC{} · {} events · {} stored",
        _time(cluster.began_ms),
        end,
        f" ({_lasted(cluster)})" if end else "",
        _number(cluster.events),
        _bytes(cluster.stored_bytes),
    )


def _lasted(cluster: Cluster) -> str:
    until = cluster.last_event_ms if cluster.alive else cluster.ended_ms
    if cluster.began_ms is None or until is None:
        return ""
    seconds = max(0, until - cluster.began_ms) // 1000
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def _time(ms: int | None) -> Html:
    if ms is None:
        return Html()
    try:
        moment = datetime.fromtimestamp(ms / 1000, timezone.utc)
    except (OverflowError, ValueError, OSError):
        # beyond the year 9999: a moment that someone wrote into the address
        return Html(ms)
    return _fill('<time datetime="{}">{}</time>', moment.isoformat(), f"{moment:%Y-%m-%d %H:%M:%S}")


def _number(number: int) -> str:
    return f"{number:,}"


def _bytes(count: int) -> str:
    size, units = float(count), iter(("KB", "MB", "GB", "TB"))
    unit = "B"
    while size >= 1000 and unit != "TB":
        size, unit = size / 1000, next(units)
    return f"{count:,} B" if unit == "B" else f"{size:.1f} {unit}"


def _some(count: int, show: Callable[[int], str], kind: str = "") -> Html:
    return _fill('<span class="{}">{}</span>', kind if count else "soft", show(count))


def _join(parts: Iterable[Html]) -> Html:
    return Html("".join(parts))


def _fill(template: str, *args: object, **values: object) -> Html:
    """Fill in a template; what is not `Html` is escaped."""

    def safe(value: object) -> str:
        return value if isinstance(value, Html) else escape(str(value))

    return Html(template.format(*map(safe, args), **{name: safe(value) for name, value in values.items()}))
