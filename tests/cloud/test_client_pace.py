"""How fast, how many at once, how long, and how it all ends at a word."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from http import HTTPMethod

import httpx
import pytest

from sentinel_sync.base.errors import HeldError, UnreachableError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.settings import CloudSettings
from tests.fakes.cloud import Answer, FakeCloud, json_answer, problem, settings_for
from tests.fakes.recording_clock import RecordingClock
from tests.fakes.virtual_loop import run_virtually


class Arrivals(httpx.AsyncBaseTransport):
    """Notes when each request comes, by the loop's time."""

    def __init__(self, takes: float = 0.0, status: Callable[[int], int] = lambda _: 200) -> None:
        self.at: list[float] = []
        self.received = 0
        self._takes = takes
        self._status = status

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.at.append(asyncio.get_running_loop().time())
        if isinstance(request.stream, httpx.AsyncByteStream):
            self.received += sum([len(piece) async for piece in request.stream])
        if self._takes:
            await asyncio.sleep(self._takes)
        return httpx.Response(self._status(len(self.at)), json={})


def paced(**settings: object) -> CloudSettings:
    return CloudSettings.model_validate({"api_key": "k", **settings})


def most_within(second: float, times: list[float]) -> int:
    """The most of `times` that lie within any span of so many seconds."""
    return max(sum(start <= time < start + second for time in times) for start in times)


class TestRateLimit:
    @pytest.mark.parametrize("rate", [0.5, 3.0, 10.0, 200.0])
    def test_holds_in_requests_per_second(self, rate: float) -> None:
        arrivals = Arrivals()

        async def main() -> None:
            async with (
                httpx.AsyncClient(transport=arrivals) as http,
                CloudAPIClient(settings=paced(rate_limit=rate), http=http) as client,
            ):
                await asyncio.gather(*(client.request(HTTPMethod.GET, f"/{n}") for n in range(60)))

        run_virtually(main())
        assert len(arrivals.at) == 60
        burst = max(1.0, rate * 0.1)
        assert arrivals.at[-1] - arrivals.at[0] == pytest.approx((60 - burst) / rate, rel=0.02, abs=0.01)
        # However it is sliced: a second's worth, and the small burst.
        assert most_within(1.0, arrivals.at) <= rate + burst + 1

    def test_its_wait_is_no_time_out(self) -> None:
        """Twenty requests wait up to 19 s for their turn, with a time-out of half a second."""
        arrivals = Arrivals()

        async def main() -> list[bool]:
            async with (
                httpx.AsyncClient(transport=arrivals) as http,
                CloudAPIClient(settings=paced(rate_limit=1, timeout=0.5, max_retries=0), http=http) as client,
            ):
                return [response.success for response in await asyncio.gather(*(client.get("/x") for _ in range(20)))]

        assert run_virtually(main()) == [True] * 20
        assert arrivals.at[-1] - arrivals.at[0] == pytest.approx(19.0, abs=0.1)

    def test_retries_count_too(self) -> None:
        arrivals = Arrivals(status=lambda number: 500 if number % 2 else 200)

        async def main() -> None:
            async with (
                httpx.AsyncClient(transport=arrivals) as http,
                CloudAPIClient(settings=paced(rate_limit=2), http=http, clock=RecordingClock()) as client,
            ):
                for _ in range(5):
                    assert (await client.get("/x")).success

        run_virtually(main())
        assert len(arrivals.at) == 10
        assert arrivals.at[-1] - arrivals.at[0] >= 4.5 - 0.01

    def test_zero_is_none(self) -> None:
        arrivals = Arrivals()

        async def main() -> None:
            async with (
                httpx.AsyncClient(transport=arrivals) as http,
                CloudAPIClient(settings=paced(rate_limit=0), http=http) as client,
            ):
                await asyncio.gather(*(client.get("/x") for _ in range(500)))

        run_virtually(main())
        assert arrivals.at[-1] - arrivals.at[0] < 0.1

    def test_who_waits_for_a_turn_is_let_go_by_a_halt(self) -> None:
        arrivals = Arrivals()

        async def main() -> tuple[list[object], float]:
            async with (
                httpx.AsyncClient(transport=arrivals) as http,
                CloudAPIClient(settings=paced(rate_limit=0.01), http=http) as client,
            ):
                waiting = [asyncio.create_task(client.request(HTTPMethod.GET, "/x")) for _ in range(20)]
                await asyncio.sleep(1.0)
                client.halt("power", "the battery is low")
                results = await asyncio.gather(*waiting, return_exceptions=True)
                return list(results), asyncio.get_running_loop().time()

        results, at = run_virtually(main())
        assert at == pytest.approx(1.0, abs=0.01)
        assert sum(isinstance(result, HeldError) for result in results) == 19
        assert len(arrivals.at) == 1

    @pytest.mark.parametrize("asked", ["places", "rate"])
    def test_who_waits_for_a_turn_does_not_go_once_the_backend_has_said_not_now(self, asked: str) -> None:
        """The gate is asked again after the wait: seven further requests went out after a `Retry-After`."""
        limits = {"places": {"max_in_flight": 1, "rate_limit": 0.0}, "rate": {"rate_limit": 1.0}}[asked]
        arrivals = Arrivals(takes=0.5, status=lambda _: 429)

        async def main() -> list[object]:
            async with (
                httpx.AsyncClient(transport=arrivals) as http,
                CloudAPIClient(settings=paced(**limits), http=http) as client,
            ):
                waiting = [client.request(HTTPMethod.POST, "/x", idempotency_key=str(n)) for n in range(8)]
                return list(await asyncio.gather(*waiting, return_exceptions=True))

        results = run_virtually(main())
        assert len(arrivals.at) == 1
        assert sum(isinstance(result, HeldError) for result in results) == 7


class TestTimeOuts:
    async def test_a_server_that_never_answers(self, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", Answer(silent=True))
        async with CloudAPIClient(settings=settings_for(cloud, timeout=0.1)) as client:
            with pytest.raises(UnreachableError, match="no answer within the time-out"):
                await client.request(HTTPMethod.GET, "/x")

    async def test_a_server_that_drips_a_byte_before_each_time_out(self, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", Answer(200, b" " * 10_000 + b"{}", drip=0.02))
        begun = asyncio.get_running_loop().time()
        async with CloudAPIClient(settings=settings_for(cloud, timeout=0.1)) as client:
            with pytest.raises(UnreachableError, match=r"no whole answer within 0\.3 s"):
                await client.request(HTTPMethod.GET, "/x")
        assert asyncio.get_running_loop().time() - begun < 5.0

    async def test_a_host_that_takes_no_connection(self) -> None:
        # A listener with a full backlog, as a host behind a dead link: connections hang.
        listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        address = listener.getsockname()
        fillers = [asyncio.create_task(asyncio.open_connection(*address)) for _ in range(4)]
        await asyncio.wait(fillers, timeout=0.2)
        url = f"http://127.0.0.1:{address[1]}"
        async with CloudAPIClient(settings=paced(api_url=url, timeout=0.2)) as client:
            with pytest.raises(UnreachableError, match="no connection within the time-out"):
                await client.request(HTTPMethod.GET, "/x")
        for filler in fillers:
            filler.cancel()
        for result in await asyncio.gather(*fillers, return_exceptions=True):
            if isinstance(result, tuple):
                result[1].close()
        listener.close()

    def test_a_long_body_moves_the_deadline_along(self) -> None:
        """Pieces come for four deadlines long, each in time."""
        arrivals = Arrivals()

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(12):
                await asyncio.sleep(1.0)
                yield b"x" * 1000

        async def main() -> int:
            async with (
                httpx.AsyncClient(transport=arrivals) as http,
                CloudAPIClient(settings=paced(timeout=1.0), http=http) as client,
            ):
                reply = await client.request(
                    HTTPMethod.POST, "/scenarios/s/videos", content=pieces(), idempotency_key="k"
                )
                return reply.status

        assert run_virtually(main()) == 200
        assert arrivals.received == 12_000

    async def test_a_fault_of_the_bodys_own_is_the_callers(self, cloud: FakeCloud) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"x"
            raise FileNotFoundError("the video is gone")

        async with CloudAPIClient(settings=settings_for(cloud)) as client:
            with pytest.raises(FileNotFoundError):
                await client.request(HTTPMethod.POST, "/v", content=pieces(), idempotency_key="k")
            assert (await client.get("/x")).success


class TestInFlight:
    async def test_is_bounded(self, cloud: FakeCloud) -> None:
        gate = asyncio.Event()
        cloud.handler = lambda _: Answer(200, b"{}", after=gate)
        async with CloudAPIClient(settings=settings_for(cloud, max_in_flight=3)) as client:
            calls = [asyncio.create_task(client.get("/x")) for _ in range(20)]
            await cloud.received(3)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(cloud.requests) == 3
            gate.set()
            assert all(response.success for response in await asyncio.gather(*calls))
        assert cloud.most_open == 3
        assert cloud.connections == 3

    async def test_a_full_pool_does_not_starve_the_probe(self, cloud: FakeCloud) -> None:
        gate = asyncio.Event()
        cloud.handler = lambda seen: json_answer() if seen.path == "/health" else Answer(200, b"{}", after=gate)
        async with CloudAPIClient(settings=settings_for(cloud, max_in_flight=2, rate_limit=0.001)) as client:
            calls = [asyncio.create_task(client.get("/x")) for _ in range(10)]
            await cloud.received(1)
            async with asyncio.timeout(5.0):
                assert await client.check_connectivity()
            for call in calls:
                call.cancel()
            gate.set()
            await asyncio.gather(*calls, return_exceptions=True)

    async def test_connections_are_kept(self, cloud: FakeCloud) -> None:
        async with CloudAPIClient(settings=settings_for(cloud)) as client:
            for _ in range(10):
                await client.get("/x")
            cloud.script("GET", "/x", problem(500), problem(404))
            for _ in range(2):
                with pytest.raises(Exception, match="answered"):
                    await client.request(HTTPMethod.GET, "/x")
        assert cloud.connections == 1

    async def test_many_at_first_open_one_client(self, cloud: FakeCloud) -> None:
        async with CloudAPIClient(settings=settings_for(cloud)) as client:
            responses = await asyncio.gather(*(client.get(f"/{n}") for n in range(50)))
        assert all(response.success for response in responses)
        assert cloud.connections <= client.settings.max_in_flight


class TestHalt:
    async def test_cuts_what_is_under_way_at_once(self, cloud: FakeCloud) -> None:
        cloud.handler = lambda _: Answer(silent=True)
        async with CloudAPIClient(settings=settings_for(cloud)) as client:
            calls = [
                asyncio.create_task(client.request(HTTPMethod.POST, "/trips", content=b"{}", idempotency_key="k"))
                for _ in range(5)
            ]
            probing = asyncio.create_task(client.probe())
            await cloud.received(6)
            client.halt("power", "the battery is low")
            async with asyncio.timeout(5.0):
                results = await asyncio.gather(*calls, probing, return_exceptions=True)
        assert all(isinstance(result, HeldError) for result in results)
        assert {str(result).partition(": ")[2] for result in results} == {"cut off: the battery is low"}

    async def test_is_no_failure_of_the_backend(self, cloud: FakeCloud) -> None:
        told: list[object] = []
        cloud.script("GET", "/x", Answer(silent=True))
        clock = RecordingClock()
        async with CloudAPIClient(settings=settings_for(cloud), clock=clock) as client:
            client.subscribe(lambda contact, _: told.append(contact))
            getting = asyncio.create_task(client.request(HTTPMethod.GET, "/x"))
            await cloud.received()
            client.halt("power", "low")
            client.resume("power")  # at once: what was cut stays cut, and nothing is paused
            with pytest.raises(HeldError):
                await getting
            assert client.gate.passage(clock.monotonic()).open
            assert (await client.get("/x")).success
        assert len(told) == 1

    async def test_twice_and_for_two_causes(self, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", Answer(silent=True))
        async with CloudAPIClient(settings=settings_for(cloud)) as client:
            getting = asyncio.create_task(client.get("/x"))
            await cloud.received()
            client.halt("power", "low")
            await asyncio.sleep(0)
            client.halt("power", "low")
            client.halt("stopping", "the agent is stopping")
            assert not (await getting).success
            client.resume("power")
            assert not (await client.get("/x")).success
            client.resume("stopping")
            client.resume("never halted")
            assert (await client.get("/x")).success

    async def test_frees_the_places_of_those_it_cut(self, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", *[Answer(silent=True)] * 2)
        async with CloudAPIClient(settings=settings_for(cloud, max_in_flight=2)) as client:
            calls = [asyncio.create_task(client.get("/x")) for _ in range(6)]
            await cloud.received(2)
            client.halt("power", "low")
            await asyncio.gather(*calls)
            client.resume("power")
            assert all(response.success for response in await asyncio.gather(*(client.get("/y") for _ in range(4))))

    async def test_cuts_a_body_that_is_on_its_way(self, cloud: FakeCloud) -> None:
        begun = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield bytes(1000)
                begun.set()
                await asyncio.sleep(0)

        async with CloudAPIClient(settings=settings_for(cloud)) as client:
            sending = asyncio.create_task(client.request(HTTPMethod.POST, "/v", content=endless(), idempotency_key="k"))
            await begun.wait()
            client.halt("power", "low")
            async with asyncio.timeout(5.0):
                with pytest.raises(HeldError):
                    await sending

    async def test_a_cancellation_from_outside_is_not_mistaken_for_it(self, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", Answer(silent=True))
        async with CloudAPIClient(settings=settings_for(cloud)) as client:
            getting = asyncio.create_task(client.get("/x"))
            await cloud.received()
            client.halt("power", "low")
            getting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await getting
