"""Pages of a living cluster, which are told that there is something new."""

import asyncio

import anyio
import httpx
import pytest
from tests.serving import listening

pytestmark = pytest.mark.anyio


async def test_who_follows_a_cluster_hears_of_what_is_folded_and_of_its_end(made, add, task):
    add(task(1))
    with listening(made) as url:
        begun = asyncio.Event()
        names: list[str] = []
        heard = asyncio.Event()

        async def follow():
            async with (
                httpx.AsyncClient(timeout=60) as client,
                client.stream("GET", f"{url}/api/clusters/latest/live") as answer,
            ):
                async for line in answer.aiter_lines():
                    begun.set()
                    if line.startswith("event: "):
                        names.append(line.removeprefix("event: "))
                        heard.set()

        following = asyncio.create_task(follow())
        with anyio.fail_after(60):
            await begun.wait()
            await asyncio.to_thread(add, task(2))
            await heard.wait()
            [session] = [cluster.session for cluster in made.clusters()]
            await asyncio.to_thread(made.seal, session)
            await following
    assert names == ["changed", "changed", "ended"]


async def test_a_server_that_stops_ends_what_is_followed(made, add, task):
    add(task(1))
    async with httpx.AsyncClient(timeout=60) as client:
        with listening(made) as url:
            asked = client.build_request("GET", f"{url}/api/clusters/latest/live")
            answer = await client.send(asked, stream=True)
            lines = answer.aiter_lines()
            assert (await anext(lines)).startswith("retry")
        # the server has ended by now, and in less than it would have waited for answers that do not end
        assert not [line async for line in lines if line]
