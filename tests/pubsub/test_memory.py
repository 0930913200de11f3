import asyncio
import threading
from contextlib import aclosing
from uuid import uuid4

import pytest

from raytrail.errors import ConfigError
from raytrail.event import Chunk
from raytrail.pubsub import connect

pytestmark = pytest.mark.anyio


def report(text):
    return Chunk(cluster="", session="s", node_id="", event_type="FILE", segments=(), data=text)


@pytest.mark.parametrize("url", ["memory://", "memory://a/b", "memory://a?size=3", "memory:a"])
def test_a_url_without_a_plain_name_is_refused(url):
    with pytest.raises(ConfigError) as caught:
        connect(url)
    assert str(caught.value) == (f"{url!r} names no log; write memory://name, without '/', '?' and '#' in the name")


async def test_names_are_separate():
    first, second = f"memory://{uuid4().hex}", f"memory://{uuid4().hex}"
    await connect(first).publish(report(b"1\n"))
    await connect(second).publish(report(b"2\n"))
    async with aclosing(connect(second).subscribe("g")) as deliveries:
        assert (await anext(deliveries)).chunk == report(b"2\n")


async def test_a_second_reader_of_a_group_is_refused():
    pubsub = connect("memory://taken")
    await pubsub.publish(report(b"1\n"))
    async with aclosing(pubsub.subscribe("g")) as deliveries:
        await anext(deliveries)
        with pytest.raises(ConfigError) as caught:
            await anext(connect("memory://taken").subscribe("g"))
    assert str(caught.value) == (
        "group 'g' of memory://taken is being read, and has one reader at a time; "
        "close that one, or read as another group"
    )


async def test_a_reader_is_woken_from_another_event_loop():
    url = f"memory://{uuid4().hex}"
    async with aclosing(connect(url).subscribe("g")) as deliveries:
        waiting = asyncio.ensure_future(anext(deliveries))
        await asyncio.sleep(0)
        thread = threading.Thread(target=lambda: asyncio.run(connect(url).publish(report(b"1\n"))))
        thread.start()
        delivery = await asyncio.wait_for(waiting, 5)
        thread.join()
    assert delivery.chunk == report(b"1\n")
