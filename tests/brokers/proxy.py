"""A bad network between a client and a server: slow, lossy, frozen, or gone just before the answer."""

import asyncio
import random
from contextlib import suppress


class Proxy:
    """
    Forwards what comes to one port to another, as badly as it is told to. What is told may change at any time.

    Args:
        port: Where it listens.
        to: The server's port.
        delay_seconds: How long each byte takes, each way.
        life_seconds: After how long a connection is cut, on average, at random; 0: never.
        seed: Of the chance.
    """

    def __init__(self, port, to, *, delay_seconds=0.0, life_seconds=0.0, seed=0):
        self.port, self.to = port, to
        self.request_delay_seconds = self.answer_delay_seconds = delay_seconds
        self.life_seconds = life_seconds
        self.lose_answer_to = lambda _: False
        """Called with the bytes of a request: whether it reaches the server, but the answer does not come back, and
        the connection is cut in its place."""
        self.change_request = self.change_answer = lambda data: data
        """Called with the bytes of a request, or of an answer: what is forwarded in their place."""
        self.cuts = self.lost = 0
        self._random = random.Random(seed)
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._connections = set()
        self._server: asyncio.Server | None = None
        self._closed = False

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_):
        self._closed = True
        assert self._server
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def freeze(self):
        """Let nothing through, and say nothing of it."""
        self._thawed.clear()

    def thaw(self):
        self._thawed.set()

    def _accept(self, reader, writer):
        if self._closed:  # it was let in just before
            writer.transport.abort()
            return
        connection = asyncio.create_task(self._forward(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        connection.add_done_callback(lambda _: writer.transport.abort())  # also where it was cancelled before it began

    async def _forward(self, client_reader, client_writer):
        pumps, server_writer = [], None
        try:
            with suppress(OSError):
                server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.to)
                loses = asyncio.Event()

                def request(data):
                    if self.lose_answer_to(data):
                        loses.set()
                    server_writer.write(self.change_request(data))
                    return True

                def answer(data):
                    if loses.is_set():
                        self.lost += 1
                        return False
                    client_writer.write(self.change_answer(data))
                    return True

                pumps = [
                    asyncio.create_task(self._pump(client_reader, lambda: self.request_delay_seconds, request)),
                    asyncio.create_task(self._pump(server_reader, lambda: self.answer_delay_seconds, answer)),
                ]
                life = self._random.uniform(0, 2 * self.life_seconds) if self.life_seconds else None
                done, _ = await asyncio.wait(pumps, timeout=life, return_when=asyncio.FIRST_COMPLETED)
                self.cuts += not done
        finally:
            if server_writer:
                server_writer.transport.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader, delay, forward):
        """Forward what is read, so much later, until the end or until `forward` says that it is enough."""
        clock = asyncio.get_running_loop().time
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def read():
            data = b"-"
            while data:
                try:
                    data = await reader.read(65536)
                except OSError:
                    data = b""
                under_way.put_nowait((clock() + delay(), data))

        reading = asyncio.create_task(read())
        try:
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(due - clock())
                await self._thawed.wait()
                if not data or not forward(data):
                    return
        finally:
            reading.cancel()
