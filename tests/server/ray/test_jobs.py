"""Ray's Jobs API over HTTP, on a real session."""

import pytest

pytestmark = pytest.mark.anyio

MOMENT = 1795420011999


@pytest.mark.parametrize("path", ["/api/version", "/api/ray/version"])
async def test_clients_learn_a_version_that_they_accept(path, client):
    answer = (await client.get(f"/clusters/varied{path}")).json()
    assert answer == {
        "version": "4",
        "ray_version": "2.60.0",
        "ray_commit": "",
        "session_name": "session_2026-11-23_07-40-30_867494_13129",
    }


async def test_jobs_are_those_of_the_live_cluster_submissions_first(client, ground_truth):
    jobs = (await client.get(f"/clusters/varied/at/{MOMENT}/api/jobs/")).json()
    types = [job["type"] for job in jobs]
    assert types == sorted(types, reverse=True)
    assert len(jobs) == 11
    assert all(job in ground_truth["jobs"] for job in jobs)


async def test_a_driver_that_runs_has_not_ended_at_0(client):
    job = (await client.get(f"/clusters/varied/at/{MOMENT}/api/jobs/0a000000")).json()
    assert (job["status"], job["end_time"]) == ("RUNNING", 0)
    then = (await client.get("/clusters/varied/at/1795419806000/api/jobs/my_stopped_job")).json()
    assert (then["status"], then["end_time"]) == ("PENDING", None)


@pytest.mark.parametrize("id", ["raysubmit_bEeMngkA3HeNFYCe", "05000000"])
async def test_a_job_is_found_by_its_submission_and_by_its_driver(id, client):
    job = (await client.get(f"/clusters/varied/api/jobs/{id}")).json()
    assert (job["submission_id"], job["job_id"]) == ("raysubmit_bEeMngkA3HeNFYCe", "05000000")
    assert job["driver_info"] == {"id": "05000000", "node_ip_address": "192.0.2.2", "pid": "17338"}
    assert job["runtime_env"] == {"env_vars": {"X": "1"}}


async def test_a_job_that_was_not_there_is_not_found(client):
    answer = await client.get("/clusters/varied/api/jobs/raysubmit_beemngka3henfyce")
    assert (answer.status_code, answer.text) == (404, "Job raysubmit_beemngka3henfyce does not exist")


class TestASlashInAName:
    """A submission's id may hold one; then its address has it encoded."""

    @pytest.fixture
    def slashed(self, add):
        add(
            *(
                ("EXPORT_SUBMISSION_JOB", {"submission_job_id": id, "status": "SUCCEEDED", "driver_node_id": "01" * 28})
                for id in ("team/job-1", "team%2Fjob-2", "a b/ü", "x", "x/logs")
            ),
        )

    @pytest.mark.parametrize(
        ("path", "id"),
        [
            ("team%2Fjob-1", "team/job-1"),
            ("team%2fjob-1", "team/job-1"),
            ("t%65am%2Fjob%2D1", "team/job-1"),
            ("team%252Fjob-2", "team%2Fjob-2"),
            ("a%20b%2F%C3%BC", "a b/ü"),
            ("x", "x"),
            ("x%2Flogs", "x/logs"),
        ],
    )
    async def test_is_part_of_it(self, path, id, slashed, made_client):
        for moment in ("", "final/"):
            answer = await made_client.get(f"/clusters/latest/{moment}api/jobs/{path}")
            assert (answer.status_code, answer.json()["submission_id"]) == (200, id)

    async def test_separates_where_it_is_not_encoded(self, slashed, made_client):
        assert (await made_client.get("/clusters/latest/api/jobs/team/job-1")).status_code == 501
        assert (await made_client.get("/clusters/latest/api/jobs/x/logs")).json() == {"logs": ""}

    async def test_does_not_lead_to_another_answer_that_is_kept(self, slashed, made, made_client):
        made.seal("session_2026-01-01_00-00-00_000000_1")
        job = await made_client.get("/clusters/latest/api/jobs/x%2Flogs")
        logs = await made_client.get("/clusters/latest/api/jobs/x/logs")
        again = await made_client.get("/clusters/latest/api/jobs/x%2Flogs")
        assert job.json() == again.json() != logs.json()
        assert job.headers["etag"] != logs.headers.get("etag")

    async def test_leads_to_nothing_where_no_job_is_called_so(self, slashed, made_client):
        answer = await made_client.get("/clusters/latest/api/jobs/no%2Fsuch")
        assert (answer.status_code, answer.text) == (404, "Job no/such does not exist")
        assert (await made_client.get("/clusters/latest/api/jobs%2Fx")).status_code == 501
