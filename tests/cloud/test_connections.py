"""Kept connections over real sockets: used again, the last one first, given up when they are old, bounded, closed."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpcore
import pytest

from sentinel_sync.cloud.transport import KeptConnections

HOST: dict[bytes | str, bytes | str] = {"Host": "127.0.0.1"}


class Server:
    """Answers each request with the number of its connection, once it may."""

    def __init__(self) -> None:
        self.opened = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = asyncio.Semaphore(0)
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        number = self.opened
        self.writers.append(writer)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.asked.release()
                await self.may_answer.wait()
                body = str(number).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
    yield made
    made.may_answer.set()
    for writer in made.writers:
        writer.close()
    listening.close()
    await listening.wait_closed()


@asynccontextmanager
async def kept(keep: int = 4, connections: int = 8, expiry: float = 60.0) -> AsyncIterator[KeptConnections]:
    made = KeptConnections(ssl.create_default_context(), connections=connections, keep=keep, keepalive_expiry=expiry)
    yield made
    await made.aclose()


async def get(pool: KeptConnections, server: Server, within: float | None = None) -> bytes:
    """One request, read to its end; returns the number of its connection."""
    response = await pool.handle_async_request(
        httpcore.Request("GET", server.url, headers=HOST, extensions={"timeout": {"pool": within}})
    )
    try:
        return b"".join([piece async for piece in response.aiter_stream()])
    finally:
        await response.aclose()


async def at_once(pool: KeptConnections, server: Server, count: int) -> set[bytes]:
    """So many requests beside each other."""
    server.may_answer.clear()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(get(pool, server)) for _ in range(count)]
        for _ in range(count):
            await server.asked.acquire()
        server.may_answer.set()
    return {task.result() for task in tasks}


async def test_the_one_used_last_is_used_next_and_only_so_many_are_kept(server: Server) -> None:
    async with kept(keep=2) as pool:
        assert await at_once(pool, server, 3) == {b"1", b"2", b"3"}
        last = await get(pool, server)
        assert [await get(pool, server) for _ in range(3)] == [last] * 3
        assert server.opened == 3
        assert await at_once(pool, server, 3) > {last}
        assert server.opened == 4, "two were kept"


async def test_what_the_server_has_ended_is_not_used_and_does_not_pile_up(server: Server) -> None:
    async with kept() as pool:
        await at_once(pool, server, 3)
        idle = next(iter(pool._idle.values()))
        for writer in server.writers:
            writer.close()
        async with asyncio.timeout(20.0):
            while not all(connection.has_expired() for connection in idle):  # noqa: ASYNC110 - a socket sets no event
                await asyncio.sleep(0)
        assert await get(pool, server) == b"4"
        assert len(idle) == 1


async def test_an_idle_one_is_given_up_in_time(server: Server) -> None:
    async with kept(expiry=0.0) as pool:
        assert [await get(pool, server) for _ in range(3)] == [b"1", b"2", b"3"]


async def test_none_is_kept_where_none_is_to_be(server: Server) -> None:
    async with kept(keep=0) as pool:
        assert [await get(pool, server) for _ in range(2)] == [b"1", b"2"]
        assert not any(pool._idle.values())


async def test_who_finds_no_place_within_his_time_is_told_so_and_takes_none(server: Server) -> None:
    async with kept(connections=1) as pool:
        server.may_answer.clear()
        first = asyncio.create_task(get(pool, server))
        await server.asked.acquire()
        with pytest.raises(httpcore.PoolTimeout):
            await get(pool, server, within=0.01)
        server.may_answer.set()
        assert await first == b"1"
        assert await get(pool, server, within=5.0) == b"1"


async def test_a_cancelled_request_takes_its_connection_with_it_and_frees_its_place(server: Server) -> None:
    async with kept(connections=1) as pool:
        server.may_answer.clear()
        cancelled = asyncio.create_task(get(pool, server))
        await server.asked.acquire()
        cancelled.cancel()
        await asyncio.wait({cancelled})
        server.may_answer.set()
        assert await get(pool, server, within=5.0) == b"2"


async def test_one_that_cannot_be_opened_frees_its_place(server: Server) -> None:
    nowhere = Server()
    nowhere.url = "http://127.0.0.1:9/"
    async with kept(connections=1) as pool:
        for _ in range(3):
            with pytest.raises(httpcore.ConnectError):
                await get(pool, nowhere, within=5.0)
        assert await get(pool, server, within=5.0) == b"1"


async def test_closing_ends_what_is_under_way(server: Server) -> None:
    async with kept() as pool:
        server.may_answer.clear()
        under_way = asyncio.create_task(get(pool, server))
        await server.asked.acquire()
        await pool.aclose()
        with pytest.raises((httpcore.NetworkError, httpcore.ProtocolError)):
            await under_way


async def test_a_body_that_is_not_read_costs_its_connection(server: Server) -> None:
    async with kept() as pool:
        response = await pool.handle_async_request(httpcore.Request("GET", server.url, headers=HOST))
        await response.aclose()
        await response.aclose()
        assert await get(pool, server) == b"2"
