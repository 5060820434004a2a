"""The doctor's checks of the way to the backend: name, connection, TLS, health, clock, credential."""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator
from http import HTTPMethod, HTTPStatus
from urllib.parse import urlsplit

from sentinel_sync.base.clock import TOLERANCE, Clock, ClockStamp, SystemClock, clock_observation, rfc3339, skew
from sentinel_sync.base.errors import (
    CloudError,
    ConfigurationError,
    CredentialError,
    NotNowError,
    RejectedError,
    UnreachableError,
)
from sentinel_sync.cli.findings import Finding, Level, fail, ok, warn
from sentinel_sync.cli.machine_checks import expiry
from sentinel_sync.cli.ui.text import duration
from sentinel_sync.cloud.client import CloudAPIClient, Probe, quote_id
from sentinel_sync.cloud.http import CONNECT_TIMEOUT, tls_context
from sentinel_sync.settings import CloudSettings

#: A person waits: so many seconds for each answer, however patient the agent is.
_PATIENCE = 10.0
_PORTS = {"http": 80, "https": 443}
#: A `Date` header counts whole seconds; the middle of the second is the best guess.
_DATE_UNCERTAINTY = 0.5


async def check_network(cloud: CloudSettings) -> AsyncIterator[Finding]:
    """Go the way of a request, step by step; ends where it ends."""
    url = urlsplit(cloud.api_url)
    target = url if cloud.proxy is None else urlsplit(cloud.proxy.get_secret_value())
    host, port = target.hostname or "", target.port or _PORTS.get(target.scheme, 0)
    what = "the proxy" if cloud.proxy is not None else host
    for step in (_check_name(host, port, what), _check_connection(host, port, what)):
        finding = await step
        yield finding
        if finding.level is Level.FAIL:
            return
    if cloud.proxy is None:
        finding = await _check_tls(cloud, url.scheme, host, port)
        yield finding
        if finding.level is Level.FAIL:
            return
    async for finding in _check_backend(cloud):
        yield finding


async def _check_name(host: str, port: int, what: str) -> Finding:
    try:
        async with asyncio.timeout(_PATIENCE):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "no answer from the name server"
        return fail("name", f"{what}: {why}", "check the network and its name server, and the host in cloud.api_url")
    addresses = list(dict.fromkeys(str(address[4][0]) for address in found))
    return ok("name", f"{what} is {', '.join(addresses[:4])}")


async def _check_connection(host: str, port: int, what: str) -> Finding:
    began = time.monotonic()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as error:
        return fail(
            "connection",
            f"{what}, port {port}: {_why(error)}",
            "check that the backend runs, that a firewall lets this port through, and cloud.api_url",
        )
    took = time.monotonic() - began
    await _close(writer)
    return ok("connection", f"{what}, port {port}, within {took * 1000:.0f} ms")


async def _check_tls(cloud: CloudSettings, scheme: str, host: str, port: int) -> Finding:
    if scheme == "http":
        return ok("TLS", "none, as the backend is this machine itself")
    try:
        context = await asyncio.to_thread(tls_context, cloud)
        async with asyncio.timeout(_PATIENCE):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    except ConfigurationError as error:
        return fail("TLS", str(error), "check ca_file, client_cert_file and client_key_file")
    except ssl.SSLCertVerificationError as error:
        return fail("TLS", f"the certificate is refused: {error.verify_message}", _certificate_advice(error))
    except (OSError, TimeoutError) as error:
        return fail("TLS", f"no TLS: {_why(error)}", "check that cloud.api_url names the port that speaks https")
    facts: ssl.SSLObject = writer.get_extra_info("ssl_object")
    version = facts.version() or "TLS"
    certificate = facts.getpeercert() or {}
    await _close(writer)
    ends = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    return expiry("TLS", ends - time.time(), ends, f"{version}; the backend's certificate")


def _certificate_advice(error: ssl.SSLCertVerificationError) -> str:
    message = error.verify_message.lower()
    if "expired" in message or "not yet valid" in message:
        return "set this machine's clock if it is wrong; else the backend's operator must renew the certificate"
    if "hostname" in message or "ip address" in message:
        return "cloud.api_url must name the host as its certificate does; or somebody else answers in its place"
    return "set cloud.ca_file if the backend has a private authority; else somebody may be listening in between"


async def _check_backend(cloud: CloudSettings) -> AsyncIterator[Finding]:
    clock = SystemClock()
    brief = cloud.model_copy(update={"timeout": min(cloud.timeout, _PATIENCE)})
    try:
        async with CloudAPIClient(settings=brief, clock=clock) as client:
            await client.refresh_credential()
            try:
                probe = await client.probe()
            except CloudError as error:
                yield _no_health(error)
                return
            yield ok("health", f"answered within {(probe.received - probe.sent) * 1000:.0f} ms")
            yield ok("captive portal", "none: the backend itself answers")
            yield _check_skew(probe, clock)
            yield await _check_credential(client)
    except ConfigurationError as error:
        yield fail("credential", str(error), "check api_key_file and the TLS files")


def _no_health(error: CloudError) -> Finding:
    if error.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.GONE}:
        return fail("health", str(error), "somebody answers there, and has no /health: check cloud.api_url")
    match error:
        case NotNowError():
            return fail(
                "health", str(error), "the backend is in trouble: nothing is lost, the agent tries again by itself"
            )
        case CredentialError():
            return fail("credential", str(error), _KEY_ADVICE)
        case UnreachableError() if "login page" in str(error) or "redirected" in str(error):
            return fail(
                "captive portal",
                f"something else answers in the backend's place: {error}",
                "sign in to this network or use another; if there is none, check the path in cloud.api_url",
            )
    return fail("health", str(error), "check the network; the agent keeps everything and tries again by itself")


def _check_skew(probe: Probe, clock: Clock) -> Finding:
    exact = rfc3339(probe.server_time)
    reading, uncertainty = exact, 0.0
    if reading is None and probe.date is not None:
        reading, uncertainty = probe.date + _DATE_UNCERTAINTY, _DATE_UNCERTAINTY
    if reading is None:
        return ok("clock skew", "unknown: the backend does not tell its time")
    boot = clock.boot_id()
    seen = clock_observation(boot, reading, probe.sent, probe.received, uncertainty)
    ahead = skew(seen, ClockStamp(boot, clock.now() - clock.monotonic())) or 0.0
    if abs(ahead) <= TOLERANCE + seen.uncertainty:
        return ok("clock skew", f"{abs(ahead):.1f} s {'ahead of' if ahead > 0.0 else 'behind'} the backend's clock")
    return warn(
        "clock skew",
        f"this clock is {duration(abs(ahead))} {'ahead of' if ahead > 0.0 else 'behind'} the backend's",
        "start a time service (chrony, systemd-timesyncd); until then the agent itself puts the times of trips right",
    )


_KEY_ADVICE = (
    "set cloud.api_key_file (or api_key) to a key that the backend accepts; a new one is used without a restart"
)


async def _check_credential(client: CloudAPIClient) -> Finding:
    """Ask for something cheap that needs the key; that there is nothing to tell (404) is as good an answer."""
    try:
        await client.request(HTTPMethod.GET, f"/vehicles/{quote_id(client.settings.vehicle_id)}/status")
    except CredentialError as error:
        return fail("credential", str(error), _KEY_ADVICE)
    except RejectedError:
        return ok("credential", "accepted")
    except NotNowError as error:
        return warn("credential", f"not known: {error}", "the backend is busy: ask again later")
    except CloudError as error:
        return fail(
            "credential", f"not known: {error}", "the backend answers its health check but not this: look at it"
        )
    return ok("credential", "accepted")


def _why(error: OSError) -> str:
    match error:
        case TimeoutError():
            return "no answer"
        case ssl.SSLError():
            return error.reason or str(error)
    # asyncio's own text holds addresses; where it tried several of them there is no number, only its text.
    return os.strerror(error.errno) if error.errno else str(error)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        return  # the other side was faster
