"""C: what a minute and a day cost at worst with nothing won, against hosts that each go wrong in their own way."""

import json
from collections.abc import Callable

import pytest

from sentinel_sync.base.transfer import WASTE_BYTES_PER_DAY
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import Answer
from tests.fakes.wire_rules import Seen
from tests.models.vehicle import NAME, Build, ModelHost, content_of, listed

SIZE = 2_000_000
WHOLE = content_of("v2.1.0", SIZE)
QUARTER = WHOLE[: SIZE // 4]
DAY = 86_400.0
PAGE = b"<html><title>Log in</title>" + b"x" * 100_000
Behaviour = Callable[[Seen, int], Answer]


def offset(seen: Seen) -> int:
    return int(seen.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))


def part(start: int, body: bytes, total: int = SIZE, says: int | None = None) -> Answer:
    says = start if says is None else says
    return Answer(206, body, {"Content-Range": f"bytes {says}-{says + len(body) - 1}/{total}"})


def crawling(seen: Seen, number: int) -> Answer:
    """Each answer is a hundred bytes longer than what came before."""
    if start := offset(seen):
        return Answer(206, WHOLE[start:], {"Content-Range": f"bytes {start}-{SIZE - 1}/{SIZE}"}, cut=400)
    return Answer(200, WHOLE, cut=400)


#: What a file's host does, each time: the answer to the request, and to the how manieth it is.
HOSTS: dict[str, Behaviour] = {
    "ends cleanly after a quarter, and knows no ranges": lambda *_: Answer(200, QUARTER),
    "breaks off after a quarter, and knows no ranges": lambda *_: Answer(200, WHOLE, cut=SIZE // 4),
    "resets after a quarter, and knows no ranges": lambda *_: Answer(200, WHOLE, cut=SIZE // 4, reset=True),
    "ends at once": lambda *_: Answer(cut=0),
    "sends no byte of the body": lambda *_: Answer(200, b"", declared=SIZE),
    "500": lambda *_: Answer(500, b"x" * 5000),
    "503 with Retry-After: 0": lambda *_: Answer(503, headers={"Retry-After": "0"}),
    "503 with Retry-After: 600": lambda *_: Answer(503, headers={"Retry-After": "600"}),
    "429": lambda *_: Answer(429),
    "404": lambda *_: Answer(404),
    "403, whatever the address": lambda *_: Answer(403),
    "410, whatever the address": lambda *_: Answer(410),
    "416, whatever the range": lambda *_: Answer(416, headers={"Content-Range": f"bytes */{SIZE}"}),
    "a login page": lambda *_: Answer(200, PAGE, {"Content-Type": "text/html"}),
    "JSON": lambda *_: Answer(200, json.dumps({"error": "busy"}).encode(), {"Content-Type": "application/json"}),
    "another file, whole": lambda *_: Answer(200, content_of("v6.6.6", SIZE)),
    "one bit flipped": lambda *_: Answer(200, bytes([WHOLE[0] ^ 1]) + WHOLE[1:]),
    "a longer file": lambda *_: Answer(200, WHOLE + b"x"),
    "the first part again, whatever is asked for": lambda *_: part(0, QUARTER),
    "the wrong part": lambda seen, _: part(offset(seen), QUARTER, says=offset(seen) + 7),
    "another total": lambda seen, _: part(offset(seen), QUARTER, total=SIZE + 1),
    "a quarter by turns with an error": lambda _, number: Answer(200, QUARTER) if number % 2 else Answer(502),
    "a few bytes more each time": crawling,
    "the same redirect, round and round": lambda seen, _: Answer(302, headers={"Location": seen.path}),
    "nonsense instead of HTTP": lambda *_: Answer(raw=b"\x00\x01\x02" * 1000),
}


@pytest.mark.parametrize("kind", HOSTS)
async def test_what_a_host_costs_that_never_delivers(
    host: ModelHost, build: Build, clock: FakeClock, kind: str
) -> None:
    host.entries = [listed("v2.1.0", content=WHOLE)]
    requests: list[float] = []
    spent: list[tuple[float, int]] = []
    began = clock.monotonic()

    def answer(seen: Seen) -> Answer | None:
        if "/files/" not in seen.path:
            return None
        requests.append(clock.monotonic() - began)
        return HOSTS[kind](seen, len(requests))

    host.spoil = answer
    downloader = build(auto_install=True)
    downloader._client.on_traffic(lambda _, received: spent.append((clock.monotonic() - began, received)))
    while (passed := clock.monotonic() - began) < DAY:
        clock.tick(max(await downloader.step(), 1.0 if passed < 600.0 else 1800.0))
    assert sum(size for at, size in spent if at < 60.0) <= 2 * SIZE
    # The window touches two calendar days, and the bound holds for each of them.
    assert sum(size for _, size in spent) <= 2 * (WASTE_BYTES_PER_DAY + SIZE)
    assert len({at for at in requests if at < 60.0}) <= 8
    assert 0 < len(set(requests)) <= 120
    status = await downloader.get_download_status(NAME)
    assert status["reason"], "and why it is not here is shown"


async def test_a_restart_forgives_nothing(host: ModelHost, build: Build, clock: FakeClock) -> None:
    host.entries = [listed("v2.1.0", content=WHOLE)]
    asked: list[float] = []

    def answer(seen: Seen) -> Answer | None:
        if "/files/" not in seen.path:
            return None
        asked.append(clock.monotonic())
        return Answer(200, QUARTER)

    host.spoil = answer
    for _ in range(60):
        await build(auto_install=True).step()
        clock.tick(20.0)
    assert len(asked) <= 12, "sixty starts in twenty minutes"


async def test_once_it_delivers_it_is_installed(host: ModelHost, build: Build, clock: FakeClock) -> None:
    host.entries = [listed("v2.1.0")]
    host.spoil = lambda seen: Answer(500) if "/files/" in seen.path else None
    downloader = build(auto_install=True)
    for _ in range(20):
        clock.tick(await downloader.step())
    host.spoil = lambda _: None
    for _ in range(300):
        clock.tick(await downloader.step())
        if (await downloader.get_installed_models())[NAME]["version"] == "v2.1.0":
            break
    else:
        pytest.fail("it is never asked for again")
