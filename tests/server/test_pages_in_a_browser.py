"""Our own pages in a real browser: whether everybody can read and use them, and how many clicks an answer takes."""

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from tests.browser import browser
from tests.serving import listening

from raytrail.answers import Scope
from raytrail.answers.failures import failures_of
from raytrail.config import ServerConfig
from raytrail.server.pages.declared import PAGES

from .conftest import SESSION, b64

pytestmark = pytest.mark.slow

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}


@pytest.fixture(scope="module")
def window():
    with browser() as window:
        yield window


@pytest.fixture(scope="module")
def history(store):
    """The address of the captured cluster's history, and its requests to anybody else."""
    with listening(store) as url:
        yield url


def places(store):
    """The path of every page, with a job and a node of the captured cluster."""
    snapshot = store.snapshot(SESSION)
    [failed] = [row for row in snapshot.rows("job") if row["status"] == "FAILED"]
    group = failures_of(Scope(store, store.find(SESSION), snapshot)).groups[0]
    names = {"job": failed["submission_id"], "node": snapshot.rows("node")[0]["node_id"], "hash": group.hash}
    for page in PAGES:
        yield page.path.format(**names) if page.over_store else f"/clusters/{SESSION}{page.path.format(**names)}"


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (1400, "dark"), (360, "light")])
def test_every_page_can_be_read_by_everybody(width, scheme, history, store, window):
    foreign = []
    page = window.page
    page.on("request", lambda request: foreign.append(request.url) if not request.url.startswith(history) else None)
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    for path in places(store):
        page.goto(f"{history}{path}")
        assert page.locator("h1").count() == 1, path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        violations = Axe().run(page, options=RULES).response["violations"]
        assert not violations, (path, [(rule["id"], rule["nodes"][0]["html"]) for rule in violations])
    assert not foreign
    assert not window.errors


OF_CLUSTER = "nav[aria-label='This cluster'] >> text="
OF_ALL = "nav[aria-label='All clusters'] >> text="
CLUSTER = "main >> text=varied"
WALKS = {
    "why did a job fail": (["[aria-label^='FAILED']"], "It failed"),
    "which tasks failed, with tracebacks": ([CLUSTER, f"{OF_CLUSTER}Failures"], "What the first one said"),
    "what failed in all clusters": ([f"{OF_ALL}Failures"], "last in varied"),
    "what ran at a time": ([CLUSTER], "Tasks over time"),
    "what is different from the run before": (
        ["[aria-label^='SUCCEEDED, 2026-11-23 07:44:24']", "text=Compare with the run before"],
        "Functions, by what they add to the change",
    ),
    "which node died, and what ran on it": ([CLUSTER, f"{OF_CLUSTER}Nodes"], "Lost tasks"),
    "the slowest function": ([CLUSTER, f"{OF_CLUSTER}Functions"], "p99"),
    "a timeline": ([CLUSTER, f"{OF_CLUSTER}Timeline"], "What ran in this window"),
    "is anything missing": ([], "complete"),
}
"""The questions that people come with: what they click from the first page on, and what they read then."""


@pytest.mark.parametrize("question", WALKS)
def test_an_answer_is_two_clicks_away(question, history, window):
    clicks, answer = WALKS[question]
    assert len(clicks) <= 2
    page = window.page
    page.set_viewport_size({"width": 1400, "height": 900})
    page.goto(history)
    for link in clicks:
        page.locator(link).first.click()
        page.wait_for_load_state()
    assert answer in page.inner_text("main")


def test_keys_lead_from_page_to_page(history, window):
    page = window.page
    page.set_viewport_size({"width": 1400, "height": 900})
    page.goto(f"{history}/clusters/{SESSION}/about")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.locator("dialog.keys").wait_for(state="visible")
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("f")
    page.wait_for_url("**/failures")
    page.keyboard.press("[")
    page.wait_for_url("**/at/*/failures")
    page.keyboard.press("t")
    page.keyboard.type("07:41")
    page.keyboard.press("Enter")
    page.wait_for_url("**/at/2026-11-23T07:41:00Z/failures")
    assert not window.errors


def test_times_are_in_the_readers_own_zone_if_that_is_chosen(history, window):
    context = window.page.context.browser.new_context(timezone_id="Europe/Berlin")
    page = context.new_page()
    page.goto(f"{history}/clusters/{SESSION}/at/2026-11-23T07:41:00Z/about")
    assert page.locator("main time").first.inner_text() == "2026-11-23 07:40:39"
    page.locator("select[name=zone]").select_option("Europe/Berlin")
    assert page.locator("main time").first.inner_text() == "2026-11-23 08:40:39"
    assert page.locator("input[name=when]").input_value() == "2026-11-23 08:41:00"
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**/at/2026-11-23T07:41:00Z/about")
    assert page.locator("main time").first.inner_text() == "2026-11-23 08:40:39"  # it is remembered
    context.close()


def test_a_page_of_a_living_cluster_brings_itself_up_to_date(made, add, task, window):
    node = {"node_id": b64("01" * 28), "state": "ALIVE", "is_head_node": True, "start_time_ms": "1"}
    add(("EXPORT_NODE", node), task(1))
    with listening(made) as url:
        page = window.page
        page.goto(f"{url}/clusters/latest/about")
        page.evaluate("window.stays = true")
        page.locator(".four .total").first.get_by_text("1", exact=True).wait_for()
        add(task(2), task(3))
        page.locator(".four .total").first.get_by_text("3", exact=True).wait_for(timeout=60_000)
        assert page.evaluate("window.stays")
        page.goto("about:blank")
    assert not window.errors


def test_somebody_logs_in_and_is_known_by_a_name_and_then_by_another(made, add, task, window, tmp_path):
    head = {"node_id": b64("11" * 28), "node_manager_address": "10.0.0.5", "is_head_node": True, "state": "ALIVE"}
    add(("EXPORT_NODE", {**head, "start_time_ms": "1767225600000"}), task(1), cluster="team-a-train")
    users = tmp_path / "users.toml"
    users.write_text(
        "".join(
            f'[[token]]\nname = "{name}@example.com"\ntoken = "token-of-{name}"\nread = ["{pattern}"]\n'
            for name, pattern in (("ada", "team-a-*"), ("bob", "team-b-*"))
        )
    )
    page = window.page
    page.set_viewport_size({"width": 360, "height": 900})
    with listening(made, ServerConfig(port=0, users_file=str(users), live_links=True)) as url:
        for name, clusters in (("ada", 1), ("bob", 0)):
            page.goto(url if name == "ada" else f"{url}/login")
            page.fill("input[name=token]", f"token-of-{name}")
            page.click("text=Open")
            assert page.text_content("header .user") == f"{name}@example.com"
            assert page.get_by_text("team-a-train").count() == clusters
            assert page.locator("a[href='http://10.0.0.5:8265/']").count() == clusters
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            violations = Axe().run(page, options=RULES).response["violations"]
            assert not violations, [(rule["id"], rule["nodes"][0]["html"]) for rule in violations]
    window.errors.clear()  # the first page was refused, as it asks for a token
