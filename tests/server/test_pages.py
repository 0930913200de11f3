"""The pages for people."""

import base64
import hashlib
import re
import time
from datetime import datetime
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest
from msgspec.structs import fields

from raytrail.answers.failures import FailureGroup, Failures, Part
from raytrail.answers.overview import Counts, Overview, StateCount
from raytrail.answers.progress import Progress
from raytrail.answers.run import ApplicationRow, DatasetRow, JobRow, LogTail, Run
from raytrail.answers.steps import Mark
from raytrail.answers.why import Evidence, Why
from raytrail.server import pages
from raytrail.server.pages.page import Frame, Tab
from raytrail.store import Cluster, LedgerRow
from raytrail.store.ledger import Missing, Rejected, Unread

pytestmark = pytest.mark.anyio

SESSION = "session_2026-11-23_07-40-30_867494_13129"


def text(page):
    """What a reader sees of a page."""
    body = re.sub(r"<style>.*?</style>", "", page.text, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


class Attributes(HTMLParser):
    """Collects the names of all attributes: a quote that ends one too early makes others of what stands behind it."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def handle_starttag(self, tag, attrs):
        self.names.update(name for name, _ in attrs)


async def test_the_first_page_lists_the_clusters_with_how_complete_they_are(client):
    page = await client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    seen = text(page)
    assert re.search(rf"varied {SESSION} failed \S.* 39 2,398 2 1 \S+ d ago 6m 14s lab complete", seen)
    assert "train_wl.py SUCCEEDED" in seen
    for link in (f"clusters/{SESSION}/about", f"clusters/{SESSION}/jobs/raysubmit_ZiX32v3kj5UuyuVi"):
        assert f'href="/{link}"' in page.text


async def test_a_search_says_what_it_found_and_every_link_of_it_keeps_it(client):
    page = await client.get("/?q=boom&sort=tasks")
    assert "1 session with boom in a name" in text(page)
    assert "error ValueError: boom 0" in text(page)
    assert 'href="/?q=boom&amp;sort=-tasks"' in page.text
    assert 'value="boom"' in page.text
    [row] = (await client.get("/clusters.json?q=boom")).json()["rows"]
    assert (row["session"], row["failed_tasks"]) == (SESSION, 39)
    lines = (await client.get("/clusters.csv?q=boom")).text.splitlines()
    assert lines[0].startswith("cluster,session,state,")
    assert lines[1].startswith(f"varied,{SESSION},failed,")
    assert "Nothing here is like that" in text(await client.get("/?q=boom+nowhere&state=failed"))
    for wrong in ("sort=x", "state=x", "day=x", "page=x", "page=-1", "fold=x", "incomplete=x"):
        assert (await client.get(f"/?{wrong}")).status_code == 400


async def test_an_empty_history_says_how_to_fill_it(made_client):
    page = await made_client.get("/")
    assert "No clusters yet" in text(page)
    assert "raytrail import /tmp/ray/session_latest" in text(page)


async def test_the_page_of_a_cluster_shows_its_states_commands_and_ledger(client):
    seen = text(await client.get("/clusters/varied/about"))
    address = f"http://history/clusters/{SESSION}"
    assert "Tasks 2,398 2,359 FINISHED 39 FAILED Actors 58" in seen
    assert "Jobs 11 9 SUCCEEDED 1 STOPPED 1 FAILED" in seen
    assert f"ray list tasks --address {address} --filter state=FAILED --detail" in seen
    assert f"export RAY_API_SERVER_ADDRESS={address}" in seen
    assert "DRIVER_JOB 1 9.8 kB 9.8 kB 9.8 kB 0 B 18 0 0 0" in seen


@pytest.mark.slow
async def test_the_links_of_a_page_lead_somewhere(client):
    followed: set[str] = set()
    for start in ("/", "/clusters/varied/about", "/clusters/varied/at/1795419650000/about"):
        page = await client.get(start)
        links = {str(page.url.join(unescape(link))) for link in re.findall(r'href=["\']([^"\']+)', page.text)}
        assert links
        # a chart leads to a hundred moments, each of which is the same page
        moments = sorted(link for link in links if "/at/2026" in link)
        for link in links - followed - set(moments[3:]):
            asked = await client.get(link, headers={"accept": "text/html,*/*"})  # as a browser does
            assert asked.status_code == 200, link
        followed |= links


async def test_a_job_whose_id_has_a_slash_is_found_from_every_page(add, made_client):
    add(
        (
            "EXPORT_SUBMISSION_JOB",
            {"submission_job_id": "team/job 1", "status": "FAILED", "entrypoint": "python x.py", "start_time": "5"},
        )
    )
    for page in ("/", "/clusters/latest/about", "/clusters/latest/jobs/team%2Fjob%201"):
        shown = await made_client.get(page)
        links = {link for link in re.findall(r'href="([^"]+)', shown.text) if "team" in link and "/jobs/" in link}
        assert links, page
        for link in links:
            assert (await made_client.get(unescape(link))).status_code in (200, 404), link
            assert "team%2Fjob%201" in link


async def test_the_sql_of_a_page_is_asked_where_it_is_taken_and_else_shown(store, client):
    for path in ("functions", "nodes", "failures", "timeline/selection"):
        page = await client.get(f"/clusters/varied/{path}", headers={"accept": "text/html"})
        [link] = re.findall(r'<a href="([^"]+)">its SQL</a>', page.text)
        assert (await client.get(unescape(link))).status_code == 200, path
    statement = (await client.get("/clusters/varied/failures.sql")).text
    [(count,)] = store.sql(f"SELECT count(*) FROM ({statement}) WHERE counted").rows
    assert count == (await client.get("/clusters/varied/failures.json")).json()["count"] > 0


async def test_json_of_ours_is_worked_out_anew_each_minute(client, monkeypatch):
    # it tells of other sessions, too
    first = await client.get("/clusters/varied/failures.json")
    known = {"if-none-match": first.headers["etag"]}
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns + 61_000_000_000)
    assert (await client.get("/clusters/varied/failures.json", headers=known)).status_code == 200


async def test_the_page_of_a_moment_says_which(client):
    page = await client.get("/clusters/varied/at/1795419650000/about")
    seen = text(page)
    assert 'value="2026-11-23 07:40:50"' in page.text
    assert "as it was at this time" in seen
    assert "265 FINISHED" in seen
    assert f"ray job list --address http://history/clusters/{SESSION}/at/1795419650000" in seen
    assert "at its very end" in text(await client.get("/clusters/varied/at/999999999999999/about"))


async def test_a_moment_that_no_calendar_knows_is_shown_as_it_was_written(add, task, made_client):
    add(task(1))  # it lives, so that no moment is after its end
    page = await made_client.get("/clusters/latest/at/999999999999999/about")
    assert 'value="999999999999999"' in page.text


async def test_a_moment_in_an_address_may_be_a_time(client):
    by_number = await client.get("/clusters/varied/at/1795419650000/api/v0/tasks")
    for moment in ("2026-11-23T07:40:50Z", "2026-11-23T08:40:50+01:00", "2026-11-23T07:40:50"):
        by_time = await client.get(f"/clusters/varied/at/{moment}/api/v0/tasks")
        assert by_time.json() == by_number.json()


@pytest.mark.parametrize(
    ("asked", "leads"),
    [
        ("when=07:40:50&page=about", "at/2026-11-23T07:40:50Z/about"),
        ("when=08:40:50&zone=Europe/Berlin&page=about", "at/2026-11-23T07:40:50Z/about"),
        ("when=07:40:50Z&zone=Europe/Berlin&page=jobs/1&query=?a=b%26c=d", "at/2026-11-23T07:40:50Z/jobs/1?a=b&c=d"),
        ("when=end&page=about", "final/about"),
        ("when=&page=about", "about"),
        ("when=end&page=//evil.example/", "final/evil.example/"),
    ],
)
async def test_the_form_of_the_bar_leads_to_the_page_at_that_time(asked, leads, client):
    answer = await client.get(f"/clusters/varied/go?{asked}")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/clusters/{SESSION}/{leads}")


async def test_steps_lead_from_failure_to_failure(client):
    rows = (await client.get("/clusters/varied/api/v0/tasks?detail=1&filter_keys=state&filter_predicates=%3D"
                             "&filter_values=FAILED&limit=1000")).json()["data"]["result"]["result"]  # fmt: skip
    ends = sorted({int(row["end_time_ms"]) for row in rows})

    async def step(to, from_ms):
        answer = await client.get(f"/clusters/varied/go?step={to}&from={from_ms}&page=about")
        return read_moment(answer.headers["location"])

    moments = [await step("after", ends[0] - 1)]
    for _ in range(4):
        moments.append(await step("after", moments[-1]))
    assert moments[0] == ends[0]
    assert moments == sorted(set(moments))
    assert [await step("before", moment) for moment in moments[1:]] == moments[:-1]
    far = await client.get("/clusters/varied/go?step=after&from=999999999999999&page=about")
    assert far.headers["location"].endswith("/at/999999999999999/about")
    same = (await client.get(f"/clusters/varied/go?step=before&from={ends[0] - 60_000}&page=about")).headers["location"]
    assert same.endswith(f"/at/{ends[0] - 60_000}/about")


def read_moment(location):
    moment = re.fullmatch(r".*/at/([^/]+)/about", location)
    assert moment
    return round(datetime.fromisoformat(moment[1].replace("Z", "+00:00")).timestamp() * 1000)


async def test_holes_are_shown_with_their_place(made, chunk, add, task, made_client):
    add(task(1), cluster="night <b>& day")
    made.append([chunk("NODE", b"<script>alert(1)</script>\n")])
    made.fold()
    assert "1 unreadable" in text(await made_client.get("/"))
    page = await made_client.get("/clusters/latest/about")
    assert "1 unreadable lines" in text(page)
    assert re.search(r"0000000001-[0-9a-f]{32} at 0: \S+", text(page))


async def test_what_others_wrote_is_only_text(made, chunk, add, task, made_client):
    hostile = "<script>alert(1)</script>'\"&{name}"
    add(task(1), cluster=hostile)
    for path in ("/", "/clusters/latest/about", "/clusters/<script>alert(1)<%2Fscript>/"):
        page = await made_client.get(path, headers={"accept": "text/html"})
        assert not strange_scripts(page.text)
    assert hostile in text(await made_client.get("/clusters/latest/about"))


def test_every_name_on_a_page_of_a_cluster_is_only_text():
    hostile = "<script>alert(1)</script>'\"&{name}"
    figures: dict[str, Any] = dict.fromkeys((field.name for field in fields(Cluster)), 1)
    known = Cluster(**figures | dict.fromkeys(("session", "cluster", "damaged"), hostile))
    place: dict[str, Any] = {"file": hostile, "generation": 0}
    missing = Missing(**place, name=hostile, start=0, end=5)
    rejected = Rejected(**place, offset=0, length=5, reason=hostile)
    unread = Unread(**place, name=hostile, start=0, end=5, reason=hostile)
    row: dict[str, Any] = dict.fromkeys((field.name for field in fields(LedgerRow)), 1) | {"event_type": hostile}
    ledger = (LedgerRow(**row | {"missing": (missing,), "rejected": (rejected,), "unread": (unread,)}),)
    counts = (Counts(noun=hostile, column=hostile, total=1, states=(StateCount(state=hostile, count=1),)),)
    texts = ("title", "root", "here", "home", "address", "name", "query", "json", "csv", "search", "sql", "user")
    tabs = (Tab(hostile, hostile, current=True),)
    more: dict[str, Any] = {"tabs": tabs, "store_tabs": tabs, "scripts": (), "cluster": known, "at_ms": 5}
    more |= dict.fromkeys(texts, hostile) | {"live_link": lambda *_: hostile}
    frame = Frame(**more, dashboard=True, live=True)
    answer = Overview(cluster=known, at_ms=5, counts=counts, ledger=ledger, run=run_with(hostile))
    shown = (("about.html", answer), ("run.html", answer.run))
    page = "".join(pages.render(template, frame=frame, answer=of) for template, of in shown)
    assert not strange_scripts(page)
    parser = Attributes()
    parser.feed(page)
    parser.close()
    assert parser.names <= NAMES


NAMES = {
    *("lang", "charset", "name", "content", "href", "class", "title", "datetime", "data-absolute", "rel", "type"),
    *(
        "defer",
        "src",
        "role",
        "action",
        "method",
        "id",
        "value",
        "aria-label",
        "aria-current",
        "aria-hidden",
        "placeholder",
    ),
    *(
        "tabindex",
        "data-live",
        "size",
        "autocomplete",
        "scope",
        "open",
        "viewbox",
        "preserveaspectratio",
        "d",
        "x",
        "y",
    ),
    *("width", "height"),
}
"""The attributes that templates give: a text that ends a quote makes others."""


def strange_scripts(page):
    """The scripts in a page that are not files of ours, and what looks like one."""
    return [
        tag for tag in re.findall(r"<script[^>]*>?", page) if not re.fullmatch(r'<script defer src="[^"<>]*">', tag)
    ]


def run_with(text):
    """A run in which every text is the same."""
    part, mark = Part(name=text, count=1), Mark(at_ms=5, kind=text, count=2)
    times: dict[str, Any] = dict.fromkeys(("at_ms", "began_ms", "ended_ms"), 5)
    names = ("count", "own", "recovered", "functions_count", "nodes_count", "first_ms", "last_ms", "runs_seen")
    numbers: dict[str, Any] = dict.fromkeys((*names, "share", "example_attempt"), 1)
    group = FailureGroup(
        **dict.fromkeys(("hash", "kind", "error", "text", "frame", "example_id", "example_job_id", "traceback"), text),
        **numbers,
        bins=(1, 2),
        functions=(part,),
        nodes=(part,),
        consequences=(),
        ended=True,
        new=True,
    )
    counts: dict[str, Any] = dict.fromkeys(("count", "tasks", "recovered", "ended", "consequences", "groups_count"), 2)
    failures = Failures(
        session=text,
        job=text,
        at_ms=5,
        began_ms=1,
        ended_ms=9,
        **counts,
        groups=(group,),
        marks=(mark,),
        runs=1,
        sql=text,
    )
    job = JobRow(id=text, name=text, status=text, start_time_ms=1, end_time_ms=2)
    row: dict[str, Any] = dict.fromkeys(("waiting", "running", "finished", "failed"), (1, 2))
    why = Why(
        status=text,
        sentence=f"{text} `{text}`",
        evidence=tuple(Evidence(kind=kind, text=text, at_ms=5, id=text) for kind in ("job", "failure", text)),
    )
    return Run(
        **dict.fromkeys(("session", "cluster", "entrypoint"), text),
        **times,
        job=job,
        job_ids=(text,),
        metadata={text: text},
        why=why,
        progress=Progress(began_ms=1, step_ms=5, **row),
        failures=failures,
        log=LogTail(name=text, node_id=text, lines=(text,), more=True),
        jobs=(job,),
        datasets=(DatasetRow(dataset_id=text, state=text, start_time_ms=1, end_time_ms=2),),
        applications=(ApplicationRow(name=text, status=text, message=text),),
    )


async def test_a_page_may_fetch_nothing_and_carries_its_one_style(client, made_client):
    for page in (
        await client.get("/"),
        await client.get("/clusters/varied/about"),
        await made_client.get("/clusters/gone/", headers={"accept": "text/html"}),
    ):
        [style] = re.findall(r"<style>(.*?)</style>", page.text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        scripted = "<form" in page.text
        ours = "script-src 'self'; connect-src 'self'; img-src 'self'; " if scripted else ""
        assert page.headers["content-security-policy"] == (
            f"default-src 'none'; style-src 'sha256-{digest}'; {ours}"
            f"base-uri 'none'; form-action '{'self' if scripted else 'none'}'; frame-ancestors 'none'"
        )
        assert page.headers["referrer-policy"] == "no-referrer"
        assert not re.search(r"<img|style=", page.text)
        assert not strange_scripts(page.text)
        for link in re.findall(r"(?:src|<link rel=\"icon\" href)=\"([^\"]*)", page.text):
            assert link.startswith("/scripts/")
            assert (await client.get(link)).status_code == 200


async def test_clusters_of_many_names_come_in_pages(made, add, task, made_client, monkeypatch):
    monkeypatch.setattr("raytrail.answers.landing.PAGE_ROWS", 1)
    for n in range(3):
        add(task(n), session=f"session_2026-01-0{n + 1}")
    page = await made_client.get("/?page=2")
    assert "page 2 of 3" in text(page)
    assert re.findall(r'<a rel="(\w+)" href="([^"]*)"', page.text) == [("prev", "/"), ("next", "/?page=3")]
