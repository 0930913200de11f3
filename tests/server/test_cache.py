"""Answers that are kept for who asks next."""

import pytest
from starlette.responses import HTMLResponse, Response, StreamingResponse

from raytrail.server.cache import Kept

pytestmark = pytest.mark.anyio


def test_what_was_asked_for_longest_ago_goes_first():
    kept = Kept(800)
    for name in "abcdefgh":
        kept.put(name, Response(b"x" * 100))
    assert kept.get("a")
    kept.put("i", Response(b"x" * 100))
    assert [name for name in "abcdefghi" if kept.get(name)] == list("acdefghi")
    kept.put("a", Response(b"y" * 100))
    assert kept.get("a").body == b"x" * 100


@pytest.mark.parametrize(
    "response",
    [
        Response(b"x" * 101),
        Response(b"no", 404),
        Response(b"no", headers={"Content-Disposition": "attachment"}),
        HTMLResponse("page", headers={"Content-Security-Policy": "default-src 'none'"}),
        StreamingResponse(iter([b"x"])),
    ],
)
def test_what_is_large_or_more_than_its_body_is_not_kept(response):
    kept = Kept(800)
    kept.put("a", response)
    assert kept.get("a") is None


async def test_who_asks_next_is_answered_without_the_store(client, store, monkeypatch):
    path = "/clusters/varied/api/v0/tasks?limit=7&detail=1"
    first = await client.get(path)
    monkeypatch.delattr(type(store), "snapshot")
    second = await client.get(path)
    assert (second.status_code, second.content) == (200, first.content)
    assert second.headers == first.headers
