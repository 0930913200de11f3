"""Answers that are kept for who asks next."""

import pytest
from starlette.responses import HTMLResponse, Response, StreamingResponse

from raytrail.server.cache import AnswerCache

pytestmark = pytest.mark.anyio


def test_what_was_asked_for_longest_ago_goes_first():
    cache = AnswerCache(800)
    for name in "abcdefgh":
        cache.put(name, Response(b"x" * 100))
    assert cache.get("a")
    cache.put("i", Response(b"x" * 100))
    assert [name for name in "abcdefghi" if cache.get(name)] == list("acdefghi")
    cache.put("a", Response(b"y" * 100))
    first = cache.get("a")
    assert first
    assert first.body == b"x" * 100


@pytest.mark.parametrize(
    "response",
    [
        Response(b"x" * 101),
        Response(b"no", 404),
        Response(b"no", headers={"Content-Disposition": "attachment"}),
        HTMLResponse("page", headers={"Set-Cookie": "raytrail=1"}),
        StreamingResponse(iter([b"x"])),
    ],
)
def test_what_is_large_or_more_than_its_body_is_not_kept(response):
    cache = AnswerCache(800)
    cache.put("a", response)
    assert cache.get("a") is None


async def test_who_asks_next_is_answered_without_the_store(client, store, monkeypatch):
    path = "/clusters/varied/api/v0/tasks?limit=7&detail=1"
    first = await client.get(path)
    monkeypatch.delattr(type(store), "snapshot")
    second = await client.get(path)
    assert (second.status_code, second.content) == (200, first.content)
    assert second.headers == first.headers
