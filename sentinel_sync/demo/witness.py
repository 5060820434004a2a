"""Asks the backend what it has: what arrived is what the backend says, not what the agent says it sent."""

import asyncio
from types import TracebackType
from typing import Any, Self

from sentinel_sync.base.http_library import httpx
from sentinel_sync.demo.processes import PATIENCE, DemoError

#: Seconds between two questions while something is awaited from another process.
_POLL = 0.1
#: Trips per answer.
_PAGE = 1000


class Witness:
    """A reader of the backend's own routes. An async context manager.

    Args:
        url: The backend's address.
        key: A key that it accepts.
        fleet_id: Whose statistics are asked for.
    """

    def __init__(self, url: str, key: str, fleet_id: str) -> None:
        headers = {
            "Authorization": f"Bearer {key}",
            "User-Agent": "sentinel-sync-witness",
            "X-Fleet-ID": fleet_id,
            "X-Vehicle-ID": "witness",
            "X-Request-ID": "00000000-0000-4000-8000-000000000000",
        }
        self._fleet_id = fleet_id
        self._http = httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=PATIENCE)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def trips(self) -> list[dict[str, Any]]:
        """All trips, in the order of the backend's listing."""
        trips: list[dict[str, Any]] = []
        after: str | None = ""
        while after is not None:
            page = await self._get("/trips", limit=_PAGE, after=after)
            trips += page["trips"]
            after = page["next"]
        return trips

    async def count(self, name: str) -> int:
        """How many trips there are ("total"), or how often one was sent again ("repeats")."""
        return int((await self._get("/trips", limit=1))[name])

    async def wait_for(self, name: str, least: int) -> int:
        """Wait until a count is reached; returns it as it is then, or when patience ended."""
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while (found := await self.count(name)) < least and loop.time() < end:  # noqa: ASYNC110  # another process
            await asyncio.sleep(_POLL)
        return found

    async def scenarios(self) -> list[dict[str, Any]]:
        """The recordings of which something has arrived."""
        scenarios: list[dict[str, Any]] = (await self._get("/scenarios", limit=_PAGE))["scenarios"]
        return scenarios

    async def wait_for_scenario(self, scenario_id: str) -> dict[str, Any]:
        """Wait until a recording has arrived whole; returns it as it is then, or when patience ended.

        Raises:
            DemoError: Nothing of it has arrived.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while True:
            found = next((one for one in await self.scenarios() if one["scenario_id"] == scenario_id), None)
            if (found is not None and found["complete"]) or loop.time() >= end:
                break
            await asyncio.sleep(_POLL)
        if found is None:
            raise DemoError("nothing of the recording has arrived")
        return found

    async def strikes(self) -> dict[str, int]:
        """How often each kind of fault has struck."""
        strikes: dict[str, int] = (await self._get("/_faults"))["strikes"]
        return strikes

    async def end_faults(self) -> None:
        """Let nothing fail on purpose any more."""
        response = await self._http.put("/_faults", json={"faults": []})
        response.raise_for_status()

    async def statistics(self) -> dict[str, Any]:
        """The fleet's statistics."""
        return await self._get(f"/fleet/{self._fleet_id}/statistics")

    async def _get(self, path: str, **query: int | str) -> dict[str, Any]:
        try:
            response = await self._http.get(path, params=query)
        except httpx.HTTPError as error:
            raise DemoError(f"{path}: the backend cannot be asked: {type(error).__name__}") from None
        if not response.is_success:
            raise DemoError(f"{path}: the backend answered {response.status_code}")
        answer: dict[str, Any] = response.json()
        return answer
