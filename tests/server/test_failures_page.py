"""The pages of failures: of a cluster, of one group, and of all clusters."""

import csv
import io

from tests.server.conftest import SESSION

from raytrail.answers import Scope
from raytrail.answers.failures import failures_of

AT_LAST = f"/clusters/{SESSION}/final"


async def test_failures_are_shown_by_group_as_html_json_and_csv(store, client):
    answer = failures_of(Scope(store, store.find(SESSION), store.snapshot(SESSION)))
    as_json = (await client.get(f"{AT_LAST}/failures.json")).json()
    assert as_json["count"] == answer.count == 43
    assert [group["hash"] for group in as_json["groups"]] == [group.hash for group in answer.groups]
    as_csv = csv.DictReader(io.StringIO((await client.get(f"{AT_LAST}/failures.csv")).text))
    assert [row["count"] for row in as_csv] == [str(group.count) for group in answer.groups]
    page = (await client.get(f"{AT_LAST}/failures")).text
    assert all(f'id="{group.hash}"' in page for group in answer.groups)
    for text in ("43 failures in 14", "boom &lt;n&gt;", "core_wl.py:boom", "made good", "its stderr"):
        assert text in page


async def test_a_group_leads_to_its_failures_and_those_to_their_rows_and_logs(store, client):
    group = failures_of(Scope(store, store.find(SESSION), store.snapshot(SESSION))).groups[0]
    rows = (await client.get(f"{AT_LAST}/failures/{group.hash}.json")).json()
    assert (rows["count"], len(rows["failures"])) == (20, 20)
    page = (await client.get(f"{AT_LAST}/failures/{group.hash}")).text
    first = rows["failures"][0]["id"]
    assert f"filter_values={first}" in page
    assert f"task_id={first}&amp;attempt_number=0&amp;suffix=err" in page
    missing = await client.get(f"{AT_LAST}/failures/{'0' * 16}")
    assert (missing.status_code, "failed so" in missing.text) == (404, True)


async def test_the_failures_of_one_job_are_asked_for_in_the_address(client):
    page = (await client.get(f"{AT_LAST}/failures.json?job=02000000")).json()
    assert [group["error"] for group in page["groups"]] == ["ray.exceptions.UserCodeException"]
    assert (await client.get(f"{AT_LAST}/failures?job=0b000000")).status_code == 404
    wrong = await client.get(f"{AT_LAST}/failures?limit=many")
    assert (wrong.status_code, "is no number; give one from 1 to 500" in wrong.text) == (400, True)


async def test_failures_of_all_clusters_lead_to_the_last_session_that_has_them(store, client):
    answer = (await client.get("/failures.json")).json()
    assert (answer["sessions_count"], answer["sessions_failed"], answer["sessions_left"]) == (1, 1, 0)
    assert answer["groups"][0]["text"] == "boom <n>"
    page = (await client.get("/failures?name=varied")).text
    assert f"/clusters/{SESSION}/failures#{answer['groups'][0]['hash']}" in page
    assert (await client.get("/failures?name=nobody")).status_code == 404
