"""A page on another port of the same machine, in a real browser that has the cookie of whoever reads."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.browser import browser
from tests.serving import listening

from raytrail.config import ServerConfig

pytestmark = pytest.mark.slow

TOKEN = "a long secret"
FOLLOW = """
url => new Promise(done => {
    const socket = new WebSocket(url);
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
})
"""
POST = """
([url, mode]) => fetch(url, {method: "POST", mode, credentials: "include", body: "lines"})
    .then(answer => answer.type + " " + answer.status, () => "failed")
"""
READ = 'url => fetch(url, {credentials: "include"}).then(answer => answer.text(), () => "failed")'


@pytest.fixture
def taken():
    return []


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<p>a page of somebody's")

    def log_message(self, *_):
        pass


@pytest.fixture
def elsewhere():
    """The URL of a page of another origin, which is of the same site: cookies are sent."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def follow(page, url):
    return page.evaluate(FOLLOW, f"{url.replace('http', 'ws', 1)}/clusters/varied/api/jobs/{JOB}/logs/tail")


JOB = "raysubmit_1"


@pytest.fixture
def followed(made, add):
    """A store with a job whose log may be followed."""
    add(
        ("EXPORT_SUBMISSION_JOB", {"submission_job_id": JOB, "status": "SUCCEEDED", "driver_node_id": "ab"}),
        cluster="varied",
    )
    return made


@pytest.mark.parametrize("token", ["", TOKEN])
def test_a_page_elsewhere_reads_nothing_and_posts_nothing(followed, taken, elsewhere, token):
    async def take(_, body):
        taken.append(body)

    with listening(followed, ServerConfig(port=0, token=token), take) as url, browser() as chromium:
        page = chromium.page
        page.goto(url)
        if token:
            # by the form, as people do: what its page says of referrers must not hide where it comes from
            page.fill("input[name=token]", token)
            page.press("input[name=token]", "Enter")
        chromium.wait("varied")
        page.goto(f"{url}/healthz")  # of the same origin, with no policy that forbids scripts to ask
        assert page.evaluate(READ, f"{url}/api/clusters").startswith('{"clusters":')
        ours = follow(page, url)
        # without a token its own pages may post, with one a cookie is none to post with
        assert page.evaluate(POST, [f"{url}/ingest", "cors"]) == f"basic {401 if token else 204}"
        assert taken == ([] if token else [b"lines"])
        page.goto(elsewhere)
        assert page.evaluate(READ, f"{url}/api/clusters") == "failed"
        assert (ours, follow(page, url)) == ("open", "refused")
        for mode in ("cors", "no-cors"):
            assert page.evaluate(POST, [f"{url}/ingest", mode]) == "failed"
    assert taken == ([] if token else [b"lines"])
