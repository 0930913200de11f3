"""The timeline's page: its forms, its trace file, and the script in a real browser."""

import json
import re

import pytest
from tests.browser import browser

from .conftest import SESSION

BASE = "/clusters/varied/timeline"


async def test_the_page_draws_its_window_without_a_script(client):
    page = await client.get(BASE, headers={"accept": "text/html"})
    answer = (await client.get(f"{BASE}.json")).json()
    assert page.status_code == 200
    [drawing] = re.findall(r"<svg viewBox.*?</svg>", page.text, flags=re.DOTALL)
    assert len(re.findall(r"<path class=\"f\d+\" d=\"M", drawing)) > 1
    assert '<path class="failed" d="M' in drawing
    for label in answer["rows"]["label"]:
        assert f">{label}</text>" in drawing
    assert f"{answer['attempts']:,} attempts, {answer['failed']:,} failed" in page.text
    assert 0 < answer["failed"] < answer["attempts"]


async def test_statistics_of_a_window_are_a_table(client):
    answer = (await client.get(f"{BASE}/selection.json")).json()
    lines = (await client.get(f"{BASE}/selection.csv")).text.splitlines()
    assert len(lines) == 1 + len(answer["functions"])
    assert len(answer["functions"]) == min(answer["functions_in_all"], 40)
    assert 0 < sum(row["attempts"] for row in answer["functions"]) <= answer["total"]["attempts"]
    page = await client.get(f"{BASE}/selection", headers={"accept": "text/html"})
    assert answer["functions"][0]["function"] in page.text


async def test_a_window_is_asked_for_by_times_and_ids(client):
    whole = (await client.get(f"{BASE}.json")).json()
    from_ms, to_ms = whole["from_ms"] + 500, whole["from_ms"] + 4000
    some = (await client.get(f"{BASE}.json?from={from_ms}&to={to_ms}")).json()
    assert (some["from_ms"], some["to_ms"]) == (from_ms, to_ms)
    assert 0 < some["attempts"] < whole["attempts"]
    node = next(node["node_id"] for node in whole["nodes"] if node["node_id"])
    of_node = (await client.get(f"{BASE}.json?node={node}")).json()
    assert {n["node_id"] for n in of_node["nodes"]} == {node}
    for wrong, status in (("from=soon", 400), ("width=x", 400), ("node=zz", 400), ("job=ff000000", 404)):
        assert (await client.get(f"{BASE}.json?{wrong}")).status_code == status


async def test_the_trace_file_of_a_window_has_what_ran_in_it(client):
    path = "/clusters/varied/api/v0/tasks/timeline"
    every = (await client.get(path)).json()
    whole = (await client.get(f"{BASE}.json")).json()
    from_ms, to_ms = whole["from_ms"] + 500, whole["from_ms"] + 4000
    some = (await client.get(f"{path}?from={from_ms}&to={to_ms}")).json()
    tasks = {event["args"]["task_id"] for event in some if event["ph"] == "X"}
    assert tasks < {event["args"]["task_id"] for event in every if event["ph"] == "X"}
    rows = (await client.get("/clusters/varied/api/v0/tasks?detail=1&limit=10000")).json()["data"]["result"]["result"]
    times = {row["task_id"]: (row["start_time_ms"], row["end_time_ms"]) for row in rows}
    assert tasks
    assert all(int(times[task][0]) < to_ms and int(times[task][1]) >= from_ms for task in tasks)
    assert (await client.get(f"{path}?from=soon")).status_code == 500  # as for all that is wrong there


@pytest.mark.slow
def test_the_script_zooms_and_tells_what_is_under_the_pointer(address):
    with browser() as window:
        page = window.page
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        window.open(f"{address}/timeline", "What ran in this window", name="timeline")
        page.wait_for_selector("#statistics table")
        assert page.locator("#timeline svg").count() == 0
        whole = json.loads(page.evaluate("fetch(document.querySelector('footer a').href).then((a) => a.text())"))
        canvas = page.locator("#timeline canvas")
        canvas.focus()
        for _ in range(3):
            before = page.url
            with page.expect_response(lambda answer: "/timeline.json?from=" in answer.url) as zoomed:
                page.keyboard.press("+")
            shown = zoomed.value.json()
            page.wait_for_function("(before) => location.href !== before", arg=before)
        assert shown["to_ms"] - shown["from_ms"] < (whole["to_ms"] - whole["from_ms"]) / 3
        assert f"from={shown['from_ms']}&to={shown['to_ms']}" in page.url
        assert f"from={shown['from_ms']}&to={shown['to_ms']}" in page.locator("#trace").get_attribute("href")
        with page.expect_response(lambda answer: "/timeline.json?width=" in answer.url):
            page.keyboard.press("Home")
        # a worker alone, whose attempts are few
        worker = whole["rows"]["worker_id"][0]
        window.open(f"{address}/timeline?worker={worker}", "What ran in this window", name="timeline-of-a-worker")
        page.wait_for_selector("#statistics table")
        alone = json.loads(page.evaluate("fetch(document.querySelector('footer a').href).then((a) => a.text())"))
        longest = max(range(len(alone["slices"]["run_us"])), key=lambda number: alone["slices"]["run_us"][number])
        middle_us = alone["slices"]["start_us"][longest] + alone["slices"]["run_us"][longest] / 2
        share = middle_us / 1000 / (alone["to_ms"] - alone["from_ms"])
        box = canvas.bounding_box()
        assert box
        page.mouse.move(box["x"] + 150 + share * (box["width"] - 150), box["y"] + 22 + 15 + 8)
        tip = page.locator("#timeline .tip").text_content() or ""
        assert tip.splitlines()[0] == alone["functions"][alone["slices"]["function"][longest]]
        assert alone["slices"]["task"][longest] in tip
        assert f"worker {alone['rows']['pid'][0]}" in tip
        # dragging selects, and tells statistics of what is selected
        page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 30)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 30, steps=4)
        page.mouse.up()
        window.wait("that are selected", name="timeline-selected")
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": 360, "height": 800})
        window.wait("Timeline", name="timeline-dark-narrow")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert not window.errors
        assert all(SESSION in url or "/scripts/" in url for url in asked if not url.startswith("about:"))
