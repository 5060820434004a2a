"""The one shared `httpx.AsyncClient`: TLS, proxy, pools, time-outs. The only place that builds one."""

import asyncio
import logging
import ssl
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib import import_module
from pathlib import Path
from typing import Protocol, Self

import httpcore

from sentinel_sync.base.clock import moment
from sentinel_sync.base.errors import ConfigurationError
from sentinel_sync.base.http_library import httpx
from sentinel_sync.cloud.bulk import BulkBackend
from sentinel_sync.cloud.transport import KeptConnections, Lane, PoolTransport, PriorityTransport
from sentinel_sync.settings import CloudSettings, is_key

logger: logging.Logger = logging.getLogger(__name__)

#: Connections beyond the requests in flight: one for the health probe, one for a file from another host. The pool gets
#: slower the more wait for it (encode/httpx#3215), so nobody is let to wait: the client bounds what is in flight.
SPARE_CONNECTIONS = 2
#: Connections for videos and models: two uploads (`ConcurrencyLimit`), and downloads beside them.
BULK_CONNECTIONS = 6
#: A keep-alive connection is given up after so many idle seconds: most load balancers cut it after 60.
KEEPALIVE_EXPIRY = 50.0
#: Seconds to set up a connection: beyond it a vehicle is better off trying again.
CONNECT_TIMEOUT = 10.0
#: An exchange may take so many times `timeout`: a server that drips a byte before each time-out ends here.
DEADLINE_FACTOR = 3.0
#: A health request's whole exchange, seconds: it is small, and an answer that takes longer is no good news.
PROBE_DEADLINE = 15.0
#: TLS sessions that are kept to be resumed, of the hosts that were connected to last.
RESUMABLE_HOSTS = 8

#: What httpcore imports at the first request, on the loop, for about 0.1 s: `warm_up` has it done beforehand.
_IMPORTED_LATE = ("sniffio", "anyio._backends._asyncio", "anyio.streams.tls")


class Credential(Protocol):
    """Gives the API key."""

    def key(self) -> str:
        """The key as last read."""
        ...

    async def refresh(self) -> bool:
        """Look whether the key has changed; True where it has."""
        ...


class FixedCredential:
    """A key that stays as it is."""

    def __init__(self, key: str) -> None:
        self._key = key

    def key(self) -> str:
        """The key."""
        return self._key

    async def refresh(self) -> bool:
        """Never changes."""
        return False

    def __repr__(self) -> str:
        return "FixedCredential(***)"


class FileCredential:
    """A key in a file, read again when the file changes (also by a rename, as secret stores do it)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = ""
        self._signature: tuple[int, int, int] | None = None

    def key(self) -> str:
        """The key as last read; empty before the first `refresh`."""
        return self._key

    async def refresh(self) -> bool:
        """Read the file where it changed; True where the key did.

        A file that is missing, empty or half-written for a moment, as while it is rotated, leaves the key as it was.

        Raises:
            ConfigurationError: There is no key at all: the file has never been readable.
        """
        before = self._key
        await asyncio.to_thread(self._read)
        return self._key != before

    def _read(self) -> None:
        try:
            status = self._path.stat()
            signature = (status.st_ino, status.st_mtime_ns, status.st_size)
            if signature == self._signature:
                return
            text = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            if not self._key:
                why = error.strerror if isinstance(error, OSError) else "not UTF-8"
                raise ConfigurationError(f"cannot read the API key from {self._path}: {why}") from None
            return
        if is_key(text):
            self._key, self._signature = text, signature
        elif not self._key:
            what = "is empty" if not text else "holds more than one key: visible ASCII without spaces is one"
            raise ConfigurationError(f"the API key file {self._path} {what}")

    def __repr__(self) -> str:
        return f"FileCredential({str(self._path)!r})"


def credential_of(settings: CloudSettings) -> Credential:
    """The credential that the settings name: the file where there is one, else the key."""
    path = settings.api_key_file
    return FileCredential(path) if path is not None else FixedCredential(settings.api_key.get_secret_value())


class RenewableContext(ssl.SSLContext):
    """A TLS context in the place of one that can be renewed: each new connection is made under the current one.

    What is under way goes on under the one it was made with. A connection resumes the TLS session of the last one to
    the same host (RFC 8446, 2.2): no certificates travel then, most of what a parked vehicle sends and receives
    (docs/measurements.md). Sessions end with their context, so a new certificate or authority is judged at once.
    """

    _current: ssl.SSLContext
    _latest: dict[str | None, ssl.SSLObject]
    _lock: threading.Lock

    def __new__(cls, current: ssl.SSLContext) -> Self:
        """Stand for a context."""
        made = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        made._lock = threading.Lock()  # under a proxy anyio begins TLS in a thread
        made.renew(current)
        return made

    def renew(self, current: ssl.SSLContext) -> None:
        """Stand for another one from now on."""
        with self._lock:
            self._current, self._latest = current, {}

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection's TLS."""
        host = server_hostname.decode() if isinstance(server_hostname, bytes) else server_hostname
        with self._lock:
            before = self._latest.pop(host, None)
            # Asked for this late because under TLS 1.3 it comes after the handshake; of one that failed none is taken.
            if session is None and before is not None and before.version() is not None:
                session = before.session
            begun = self._current.wrap_bio(incoming, outgoing, server_side, server_hostname, session)
            self._latest[host] = begun
            if len(self._latest) > RESUMABLE_HOSTS:
                del self._latest[next(iter(self._latest))]
            return begun

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Say which protocols are spoken."""
        self._current.set_alpn_protocols(alpn_protocols)


class Certificates:
    """The TLS files of the settings, read again when one of them changes. Its methods block: call them off the loop.

    Attributes:
        expires_at: When the client certificate ends, seconds since the epoch; None where there is none, or none that
            can be read.
    """

    def __init__(self, settings: CloudSettings) -> None:
        self._settings = settings
        named = (settings.ca_file, settings.client_cert_file, settings.client_key_file)
        self._files = [file for file in named if file is not None]
        self._context: RenewableContext | None = None
        self._signature: list[tuple[int, int, int] | None] = []
        self._complained: list[tuple[int, int, int] | None] = []
        self.expires_at: float | None = None

    @property
    def may_change(self) -> bool:
        """Whether there are any files."""
        return bool(self._files)

    def open(self) -> ssl.SSLContext:
        """Read them for the first time.

        Raises:
            ConfigurationError: A file cannot be used.
        """
        signature = self._look()
        self._context, self._signature = RenewableContext(tls_context(self._settings)), signature
        self.expires_at = certificate_end(self._settings.client_cert_file)
        return self._context

    def refresh(self) -> bool:
        """Read them again where one has changed; True where new ones are in use.

        Files that do not fit together, as for a moment while they are renewed, leave the ones before in use.
        """
        signature = self._look()
        if self._context is None or signature == self._signature:
            return False
        try:
            renewed = tls_context(self._settings)
        except ConfigurationError as error:
            if signature != self._complained:
                logger.warning("cloud.certificate: the files before stay in use: %s", error)
                self._complained = signature
            return False
        self._context.renew(renewed)
        self._signature = signature
        self.expires_at = certificate_end(self._settings.client_cert_file)
        until = "" if self.expires_at is None else f"; the vehicle's holds until {moment(self.expires_at).isoformat()}"
        logger.info("cloud.certificate: new certificates are in use%s", until)
        return True

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_appearance(file) for file in self._files]


def _appearance(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def certificate_end(file: Path | None) -> float | None:
    """When a certificate ends, seconds since the epoch; None where there is none that can be read. Blocks."""
    if file is None:
        return None
    from cryptography import x509  # noqa: PLC0415 # a tenth of a second that most vehicles need not spend

    try:
        return float(x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc.timestamp())
    except (OSError, ValueError):
        return None


def timeouts(seconds: float) -> httpx.Timeout:
    """Separate time-outs: `timeout` for each read and write, less to connect, none worth naming for the pool.

    The pool's is generous because waiting for a place is not the network's fault; the client's own bound comes first.
    """
    return httpx.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT), pool=seconds * 4)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long an answer is waited for: seconds in all, and for each phase."""

    deadline: float
    phases: httpx.Timeout

    @classmethod
    def of(cls, timeout: float) -> "Timeouts":
        """For any request."""
        return cls(timeout * DEADLINE_FACTOR, timeouts(timeout))

    @classmethod
    def of_a_probe(cls, timeout: float) -> "Timeouts":
        """For the health request."""
        return cls(min(PROBE_DEADLINE, timeout * DEADLINE_FACTOR), timeouts(min(PROBE_DEADLINE, timeout)))


def build_http_client(settings: CloudSettings, certificates: Certificates | None = None) -> httpx.AsyncClient:
    """Build the client. Blocks: reads certificates.

    No default credential (it would go to every host), no redirects (the client follows them by the contract), no
    environment (a vehicle's proxy is configured, not inherited), HTTP/1.1 (under HTTP/2 httpx waits out the whole read
    time-out where a server answers before the upload ends). Bulk has connections of its own, marked as background where
    `mark_background` says so.

    Raises:
        ConfigurationError: A certificate, key or proxy cannot be used.
    """
    context = (certificates or Certificates(settings)).open()
    try:
        transport = PriorityTransport(
            quick=Lane(_quick(settings, context, keep=settings.max_in_flight), _quick(settings, context, keep=0)),
            bulk=Lane(_bulk(settings, context, keep=BULK_CONNECTIONS), _bulk(settings, context, keep=0)),
        )
    except (ValueError, ImportError, httpx.InvalidURL):  # httpx imports what SOCKS needs, and we do not bring it
        raise ConfigurationError("cloud.proxy must be a URL such as http://proxy.example.com:3128") from None
    return httpx.AsyncClient(
        transport=transport,
        timeout=timeouts(settings.timeout),
        # No cookies: nothing in the contract needs them, and a login page's would travel along.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        trust_env=False,
        follow_redirects=False,
    )


def _quick(settings: CloudSettings, context: ssl.SSLContext, *, keep: int) -> httpx.AsyncBaseTransport:
    connections = settings.max_in_flight + SPARE_CONNECTIONS
    if settings.proxy is None:
        kept = KeptConnections(context, connections=connections, keep=keep, keepalive_expiry=KEEPALIVE_EXPIRY)
        return PoolTransport(kept)
    limits = httpx.Limits(
        max_connections=connections, max_keepalive_connections=keep, keepalive_expiry=KEEPALIVE_EXPIRY
    )
    return httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits, proxy=_proxy(settings))


def _bulk(settings: CloudSettings, context: ssl.SSLContext, *, keep: int) -> PoolTransport:
    """Connections that are marked as background, where that is wanted, and listened to while they send."""
    pool = httpcore.AsyncConnectionPool(
        ssl_context=context,
        proxy=_bulk_proxy(settings),
        max_connections=BULK_CONNECTIONS,
        max_keepalive_connections=keep,
        keepalive_expiry=KEEPALIVE_EXPIRY,
        network_backend=BulkBackend(marked=settings.mark_background),
    )
    return PoolTransport(pool)


def _proxy(settings: CloudSettings) -> str | None:
    return None if settings.proxy is None else settings.proxy.get_secret_value()


def _bulk_proxy(settings: CloudSettings) -> httpcore.Proxy | None:
    if (address := _proxy(settings)) is None:
        return None
    proxy = httpx.Proxy(address)
    url = httpcore.URL(
        scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=proxy.url.raw_path
    )
    return httpcore.Proxy(url, auth=proxy.raw_auth, headers=proxy.headers.raw)


def tls_context(settings: CloudSettings) -> ssl.SSLContext:
    """What the backend must show, and what the vehicle shows. Blocks: reads certificates.

    Raises:
        ConfigurationError: A file cannot be used.
    """
    try:
        context = _trusting(settings.ca_file)
        if settings.client_cert_file is not None:
            # A password, be it empty: without one OpenSSL would ask the terminal for an encrypted key's.
            context.load_cert_chain(settings.client_cert_file, settings.client_key_file, password="")
    except (OSError, ssl.SSLError) as error:
        files = [
            _name(file) for file in (settings.ca_file, settings.client_cert_file, settings.client_key_file) if file
        ]
        raise ConfigurationError(
            f"TLS files {', '.join(map(str, files))} cannot be used: {error.strerror or error}"
        ) from None
    return context


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    """The private CA alone where there is one, else the machine's, else (a machine without any) httpx's own."""
    if ca_file is not None:
        return ssl.create_default_context(cafile=str(ca_file))
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and paths.capath is None:
        return httpx.create_ssl_context(trust_env=False)
    return ssl.create_default_context()


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)


def warm_up() -> None:
    """Import what the first request would import on the loop. Blocks: call it off the loop."""
    for name in _IMPORTED_LATE:
        # Another transport, or another version of this one, may not need it.
        with suppress(ImportError):
            import_module(name)
