"""Connections straight on asyncio's transports, under its own loop and under uvloop."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any

import httpcore
import pytest
import uvloop

from sentinel_sync.cloud.transport import SocketBackend
from tests.fakes.cloud import PrivateCA, closed_port

PATIENCE = 10.0
SHORT = 0.2
Loop = Callable[[], asyncio.AbstractEventLoop]
Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a coroutine in a loop of the kind."""

    def running(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(work, PATIENCE))

    return running


Run = Callable[[Coroutine[Any, Any, None]], None]


@asynccontextmanager
async def connected(conversation: Conversation, tls: ssl.SSLContext | None = None) -> Any:
    """A stream to a server that converses so; it need not end by itself."""
    tasks: list[asyncio.Task[None]] = []
    writers: list[asyncio.StreamWriter] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        tasks.append(asyncio.create_task(conversation(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    stream = await SocketBackend().connect_tcp("127.0.0.1", server.sockets[0].getsockname()[1], PATIENCE)
    try:
        yield stream
    finally:
        await stream.aclose()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0)  # uvloop lets go of a handle a turn later


@contextmanager
def nobody_accepts() -> Iterator[int]:
    """A port whose queue is full: to connect takes for ever."""
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        waiting = []
        for _ in range(8):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(address)
            waiting.append(one)
        yield address[1]
        for one in waiting:
            one.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1 << 16):
        writer.write(piece)
        await writer.drain()
    writer.close()


async def _silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()
    del reader


class TestConnecting:
    def test_a_names_addresses_are_tried_until_one_answers(self, run: Run) -> None:
        """Where `localhost` is ::1, too, nobody listens there."""

        async def work() -> None:
            async with await asyncio.start_server(_echo, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                stream = await SocketBackend().connect_tcp("localhost", port, PATIENCE)
                assert stream.get_extra_info("server_addr") == ("127.0.0.1", port)
                await stream.aclose()

        run(work())

    def test_nobody_there(self, run: Run) -> None:
        async def work() -> None:
            with pytest.raises(httpcore.ConnectError, match=r"refused|Connect call failed"):
                await SocketBackend().connect_tcp("127.0.0.1", closed_port(), PATIENCE)
            for name in ("no-such-host.invalid", "a..b", "x" * 64 + ".example"):
                with pytest.raises(httpcore.ConnectError):
                    await SocketBackend().connect_tcp(name, 80, PATIENCE)

        run(work())

    def test_nobody_who_answers(self, run: Run) -> None:
        async def work() -> None:
            with nobody_accepts() as port, pytest.raises(httpcore.ConnectTimeout):
                await SocketBackend().connect_tcp("127.0.0.1", port, SHORT)

        run(work())

    def test_options_and_the_own_address_are_taken(self, run: Run) -> None:
        async def work() -> None:
            async with await asyncio.start_server(_echo, "127.0.0.1", 0) as server:
                option = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                port = server.sockets[0].getsockname()[1]
                stream = await SocketBackend().connect_tcp("127.0.0.1", port, PATIENCE, "127.0.0.5", [option])
                assert stream.get_extra_info("socket").getsockopt(*option[:2]) == 1
                assert stream.get_extra_info("client_addr")[0] == "127.0.0.5"
                assert stream.get_extra_info("ssl_object") is None
                assert stream.get_extra_info("weather") is None
                await stream.aclose()

        run(work())


class TestReading:
    def test_what_comes_is_read_in_order_and_in_pieces(self, run: Run) -> None:
        async def work() -> None:
            async with connected(_echo) as stream:
                sent = bytes(range(256)) * 4096  # more than is held
                writing = asyncio.create_task(stream.write(sent, PATIENCE))
                got = b""
                while len(got) < len(sent):
                    piece = await stream.read(1000, PATIENCE)
                    assert 0 < len(piece) <= 1000
                    got += piece
                await writing
                assert got == sent
                assert not stream.get_extra_info("is_readable")

        run(work())

    def test_nothing_comes(self, run: Run) -> None:
        async def work() -> None:
            async with connected(_silence) as stream:
                with pytest.raises(httpcore.ReadTimeout):
                    await stream.read(10, SHORT)

        run(work())

    def test_the_end_is_no_error_and_what_came_before_it_is_not_lost(self, run: Run) -> None:
        async def last_words(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"last words")
            writer.close()

        async def work() -> None:
            async with connected(last_words) as stream:
                assert await stream.read(4, PATIENCE) == b"last"
                assert await stream.read(100, PATIENCE) == b" words"
                assert await stream.read(100, PATIENCE) == b""
                assert stream.get_extra_info("is_readable"), "so nobody uses it again"

        run(work())

    def test_one_that_breaks(self, run: Run) -> None:
        async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

        async def work() -> None:
            async with connected(reset) as stream:
                await stream.write(b"xx", PATIENCE)
                with pytest.raises(httpcore.ReadError):
                    await stream.read(10, PATIENCE)
                with pytest.raises(httpcore.WriteError):
                    await stream.write(b"x", PATIENCE)

        run(work())

    def test_of_a_flood_a_bounded_part_is_held(self, run: Run) -> None:
        poured_bytes = 0

        async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal poured_bytes
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()
                poured_bytes += 1 << 16

        async def work() -> None:
            async with connected(flood) as stream:
                before = -1
                while poured_bytes != before:  # until nothing more is taken
                    before = poured_bytes
                    await asyncio.sleep(SHORT)
                assert len(stream._held) < 1 << 20
                assert len(await stream.read(1 << 16, PATIENCE)) == 1 << 16

        run(work())


class TestWriting:
    def test_one_that_is_not_read_waits_and_is_given_up(self, run: Run) -> None:
        async def work() -> None:
            async with connected(_silence) as stream:
                with pytest.raises(httpcore.WriteTimeout):
                    await stream.write(bytes(1 << 26), SHORT)

        run(work())

    def test_nothing_is_written_without_a_word(self, run: Run) -> None:
        async def work() -> None:
            async with connected(_echo) as stream:
                await stream.aclose()
                await stream.write(b"")
                with pytest.raises(httpcore.WriteError, match="closed"):
                    await stream.write(b"x")

        run(work())

    def test_what_waits_for_room_hears_of_the_end(self, run: Run) -> None:
        async def work() -> None:
            async with connected(_silence) as stream:
                writing = asyncio.create_task(stream.write(bytes(1 << 26)))
                await asyncio.sleep(0)  # it has begun
                assert not stream._may_write.is_set()
                await stream.aclose()
                with pytest.raises(httpcore.WriteError):
                    await writing

        run(work())


class TestTls:
    def test_it_goes_on_under_tls(self, run: Run, private_ca: PrivateCA) -> None:
        async def work() -> None:
            async with connected(_echo, private_ca.server("localhost")) as plain:
                context = ssl.create_default_context(cafile=str(private_ca.ca_file))
                stream = await plain.start_tls(context, "localhost", PATIENCE)
                sent = bytes(range(256)) * 8192
                writing = asyncio.create_task(stream.write(sent, PATIENCE))
                got = b""
                while len(got) < len(sent):
                    got += await stream.read(1 << 16, PATIENCE)
                await writing
                assert got == sent
                assert stream.get_extra_info("ssl_object").version().startswith("TLS")
                for _ in range(3):
                    await stream.write(b"again", PATIENCE)
                    assert await stream.read(100, PATIENCE) == b"again"

        run(work())

    def test_a_certificate_that_nobody_knows(self, run: Run, private_ca: PrivateCA) -> None:
        async def work() -> None:
            async with connected(_echo, private_ca.server("localhost")) as stream:
                with pytest.raises(httpcore.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                    await stream.start_tls(ssl.create_default_context(), "localhost", PATIENCE)

        run(work())

    def test_a_handshake_that_does_not_end(self, run: Run) -> None:
        async def work() -> None:
            async with connected(_silence) as stream:
                with pytest.raises(httpcore.ConnectTimeout):
                    await stream.start_tls(ssl.create_default_context(), "localhost", SHORT)

        run(work())


def test_it_can_wait(run: Run) -> None:
    run(SocketBackend().sleep(0.0))
