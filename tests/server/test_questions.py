"""The pages of functions, nodes, two runs and SQL, as a browser and a program ask for them."""

import csv
import io
import re
from html import unescape

import pytest
from tests.browser import browser
from tests.server.conftest import SESSION

BROWSER = {"accept": "text/html"}
CLUSTER = f"/clusters/{SESSION}"
NODE = "6cf6cd663f6a53181a32f0dfe2485e7e48aafe1bebd68e32c4d62daa"


async def test_functions_are_a_page_json_and_csv_that_say_the_same(client):
    answered = (await client.get(f"{CLUSTER}/functions.json?order=-tasks")).json()
    rows = list(csv.DictReader(io.StringIO((await client.get(f"{CLUSTER}/functions.csv?order=-tasks")).text)))
    page = (await client.get(f"{CLUSTER}/functions?order=-tasks", headers=BROWSER)).text
    assert [row["function"] for row in rows] == [row["function"] for row in answered["functions"]]
    assert [unescape(name) for name in re.findall(r'class="fn"><code>([^<]+)', page)] == [
        row["function"] for row in answered["functions"]
    ]
    [query] = re.findall(r'sql\?q=([^"]+)">its SQL', page)
    asked = (await client.get(f"/sql.json?q={unescape(query)}")).json()
    assert [row[0] for row in asked["rows"]] == [row["function"] for row in answered["functions"]]
    assert (await client.get(f"{CLUSTER}/functions?order=wrong", headers=BROWSER)).status_code == 400


async def test_a_browser_sees_nodes_where_rays_clients_get_their_json(client):
    page = await client.get(f"{CLUSTER}/final/nodes", headers=BROWSER)
    assert page.headers["content-type"].startswith("text/html")
    assert "health check failed due to missing too many heartbeats" in page.text
    assert "summary" in (await client.get(f"{CLUSTER}/final/nodes?view=summary")).json()["data"]
    page_of_node = await client.get(f"{CLUSTER}/final/nodes/{NODE}", headers=BROWSER)
    assert "What ran on it" in page_of_node.text
    assert (await client.get(f"{CLUSTER}/final/nodes/{NODE}")).json()["result"] is True
    rows = (await client.get(f"{CLUSTER}/final/nodes.json")).json()["nodes"]
    assert [(row["node_id"] == NODE, row["death_reason"]) for row in rows] == [
        (True, "UNEXPECTED_TERMINATION"),
        (False, "EXPECTED_TERMINATION"),
    ]


async def test_two_runs_are_compared_by_a_link(client):
    answered = (await client.get(f"/diff.json?a={SESSION}/01000000&b={SESSION}/02000000")).json()
    assert (answered["a"]["job"], answered["b"]["session"]) == ("01000000", SESSION)
    page = await client.get(f"/diff?a={SESSION}/01000000&b={SESSION}/02000000", headers=BROWSER)
    assert (page.status_code, page.text.count('scope="row" class="fn"') > 5) == (200, True)
    nothing = await client.get("/diff", headers=BROWSER)
    assert (nothing.status_code, "name both runs" in nothing.text) == (200, True)
    wrong = await client.get(f"/diff?b={SESSION}/nothing", headers=BROWSER)
    assert (wrong.status_code, f'value="{SESSION}/nothing"' in wrong.text) == (404, True)


async def test_a_question_in_sql_is_a_link_and_what_is_wrong_with_it_stands_beside_it(client):
    page = await client.get("/sql", params={"q": "SELECT state, count(*) AS n FROM task GROUP BY ALL", "chart": "bar"})
    assert page.status_code == 200
    assert "n by state" in page.text
    wrong = await client.get("/sql", params={"q": "SELECT <b> FROM tasks"})
    assert wrong.status_code == 400
    assert 'role="alert"' in wrong.text
    assert "SELECT &lt;b&gt; FROM tasks</textarea>" in wrong.text
    assert (await client.get("/sql.json", params={"q": "SELECT * FROM tasks"})).text == (
        "SQL: no table 'tasks'; did you mean task?"
    )
    got = await client.get("/sql.csv", params={"q": "SELECT 1 AS a, 'x,y' AS b, NULL AS c"})
    assert got.text == 'a,b,c\n1,"x,y",\n'


async def test_a_page_shows_a_thousand_rows_and_csv_all_up_to_its_bound(client):
    page = (await client.get("/sql", params={"q": "SELECT * FROM range(1500)"})).text
    assert (page.count("<tr>"), "1,000 rows of more" in page) == (1001, True)
    assert (await client.get("/sql.csv", params={"q": "SELECT * FROM range(1500)"})).text.count("\n") == 1501
    refused = await client.get("/sql.csv", params={"q": "SELECT * FROM range(100001)"})
    assert (refused.status_code, "more than 100,000 rows; give a LIMIT" in refused.text) == (400, True)


@pytest.mark.slow
def test_a_browser_sorts_asks_and_meets_no_error(address):
    with browser() as window:
        window.open(f"{address}/functions", "Functions", "Waiting")
        window.page.click("a.sort:has-text('Attempts')")
        window.wait("Attempts ▾")
        window.open(f"{address.partition('/clusters')[0]}/sql", "Ask all clusters in SQL")
        window.page.fill("#q", "SELECT state, count(*) AS n FROM task GROUP BY ALL")
        window.page.select_option("select[name=chart]", "bar")
        window.page.press("#q", "Control+Enter")
        window.wait("n by state", "FINISHED")
        window.page.set_viewport_size({"width": 360, "height": 800})
        assert window.page.evaluate("document.documentElement.scrollWidth") <= 360
        assert window.errors == []
