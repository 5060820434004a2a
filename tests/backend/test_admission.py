"""Beyond a number of requests under way, 429 at once; probes and large bodies are not counted."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from sentinel_sync.backend.admission import RETRY_AFTER, SMALL_BODY, Admission


class Work:
    """An application that works until it is told to end."""

    def __init__(self) -> None:
        self.begun = 0
        self.has_begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun += 1
        self.has_begun.set()
        await self.may_end.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def ask(app: Any, path: str = "/trips", headers: dict[str, str] | None = None) -> tuple[int, dict[bytes, bytes]]:
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    await app({"type": "http", "path": path, "method": "POST", "headers": raw}, None, send)
    return sent[0]["status"], dict(sent[0]["headers"])


async def test_what_is_let_in_is_bounded_and_the_rest_is_told_when() -> None:
    work = Work()
    app = Admission(work, most=3)
    under_way = [asyncio.create_task(ask(app)) for _ in range(3)]
    while work.begun < 3:
        work.has_begun.clear()
        await work.has_begun.wait()
    waits = set()
    for _ in range(200):
        status, headers = await ask(app)
        assert status == 429
        waits.add(int(headers[b"retry-after"]))
    assert waits == set(range(RETRY_AFTER[0], RETRY_AFTER[1] + 1))
    not_counted = [
        asyncio.create_task(ask(app, "/health")),
        asyncio.create_task(ask(app, headers={"content-length": str(SMALL_BODY + 1)})),
        asyncio.create_task(ask(app, headers={"transfer-encoding": "chunked"})),
    ]
    while work.begun < 6:
        work.has_begun.clear()
        await work.has_begun.wait()
    work.may_end.set()
    answers = await asyncio.gather(*under_way, *not_counted)
    assert [status for status, _ in answers] == [200] * 6
    assert (await ask(app))[0] == 200


async def test_who_fails_or_goes_away_makes_room() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError

    app = Admission(broken, most=1)
    for _ in range(3):
        with pytest.raises(LookupError):
            await ask(app)
    work = Work()
    app = Admission(work, most=1)
    gone = asyncio.create_task(ask(app))
    await work.has_begun.wait()
    gone.cancel()
    await asyncio.wait([gone])
    work.may_end.set()
    assert (await ask(app))[0] == 200
