"""The whole contract against one backend."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from sentinel_sync.base.errors import UnreachableError
from sentinel_sync.base.http_library import httpx
from sentinel_sync.conformance import fleet, recordings, work
from sentinel_sync.conformance.run import CHECKS, Finding, MissedError, Run, client_for, run_checks

#: Named, so that they are imported: each enters its checks, in this order.
_PARTS = (work, recordings, fleet)


async def judge(
    url: str,
    api_key: str,
    *,
    only: str = "",
    own_ids: tuple[str, str] | None = None,
    patience_seconds: float = 5.0,
    heard: Callable[[Finding], None] = lambda _: None,
    verify: Any = True,
    transport: httpx.AsyncBaseTransport | None = None,
) -> list[Finding]:
    """Try every row of the contract.

    Args:
        url: The backend's base address.
        api_key: One that a vehicle may use.
        only: Tell only of checks whose name has this in it; those before them are made too, as they stand on them.
        own_ids: The fleet and the vehicle that the key is good for, where it is for no other.
        patience_seconds: So long figures may be others than they should be, because they are computed later.
        heard: Told of each finding as it comes.
        verify: As httpx takes it: an SSL context for a private authority.
        transport: Instead of the network.

    Raises:
        UnreachableError: Nobody can be connected to at the address, it answers 404 to everything, or it does
            not accept the key: there is nothing to judge.
    """
    asked_for = {one.name for one in CHECKS if only in one.name}
    last = max((number for number, one in enumerate(CHECKS) if one.name in asked_for), default=-1)

    def tell(finding: Finding) -> None:
        if finding.name in asked_for:
            heard(finding)

    async with client_for(url, verify=verify, transport=transport) as client:
        run = Run(client, api_key, patience_seconds, own_ids)
        await _find_backend(run, url)
        try:
            findings = await run_checks(run, CHECKS[: last + 1], tell)
            return [finding for finding in findings if finding.name in asked_for]
        finally:
            try:
                await work.clean_up(run)
            except MissedError:
                run.exchanges.clear()


async def _find_backend(run: Run, url: str) -> None:
    statuses: set[int] = set()
    try:
        statuses.add((await run.client.get("/health")).status_code)
    except httpx.ConnectError as error:
        raise UnreachableError(f"no backend answers at {url}: {error}") from None
    except httpx.TransportError:
        return  # somebody is there: what is wrong with the answer is for the checks to say
    try:
        asked = {(await run.send("GET", path)).status_code for path in ("/models", f"/fleet/{run.fleet_id}/statistics")}
    except MissedError:
        return
    if statuses | asked == {HTTPStatus.NOT_FOUND}:
        raise UnreachableError(f"{url} answers 404 to everything, /health and /models too: is the path right?")
    if asked == {HTTPStatus.UNAUTHORIZED}:
        raise UnreachableError(f"{url} does not accept the key (401): is it one that a vehicle may use, and whole?")
