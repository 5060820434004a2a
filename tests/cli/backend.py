"""A backend of a few lines on a real loopback socket, in a thread of its own, told by attributes how to behave."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "key-that-must-not-be-shown"
PORTAL = b"<html><title>Hotel WiFi</title>Please sign in</html>"


class Backend(ThreadingHTTPServer):
    """Attributes may be changed at any time; `received` are the trips it took, by their key."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.key = KEY
        self.portal = False
        self.ahead = timedelta()
        #: What the health check is answered with, instead of the time and that all is well.
        self.health: tuple[int, bytes] | None = None
        self.trip_status = 201
        self.holds = threading.Event()
        self.release = threading.Event()
        #: What GETs are answered with, by path without the query; anything else is 404.
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.received: dict[str, bytes] = {}
        self.changed = threading.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away, or found no TLS, is part of the test."""

    def wait_for(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        """Wait until a request has made `condition` true."""
        with self.changed:
            assert self.changed.wait_for(condition, seconds), "the backend was not asked in time"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Backend

    def do_GET(self) -> None:
        backend = self.server
        if backend.holds.is_set():
            backend.release.wait(60.0)
        if backend.portal:
            self._answer(200, PORTAL, "text/html")
        elif self.path == "/health" and backend.health is not None:
            self._answer(*backend.health)
        elif self.path == "/health":
            time = datetime.now(UTC) + backend.ahead
            self._answer(200, json.dumps({"status": "ok", "time": time.isoformat()}).encode())
        elif not self._authorized():
            return
        elif (answer := backend.answers.get(self.path.partition("?")[0])) is not None:
            self._answer(*answer)
        else:
            self._answer(404, b'{"title": "never heard of it"}')

    def do_POST(self) -> None:
        backend = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._authorized():
            return
        if backend.trip_status == 201:
            with backend.changed:
                backend.received[str(self.headers["Idempotency-Key"])] = body
                backend.changed.notify_all()
        self._answer(backend.trip_status, b'{"title": "as told"}')

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # as its parent
        """Nothing: the test's output is about the program."""

    def _authorized(self) -> bool:
        if self.headers["Authorization"] == f"Bearer {self.server.key}":
            return True
        self._answer(401, b'{"title": "this key is not accepted"}')
        return False

    def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def running_backend() -> Iterator[Backend]:
    """Serve until the block is left."""
    with Backend() as backend:
        thread = threading.Thread(target=backend.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield backend
        finally:
            backend.release.set()
            backend.shutdown()
            thread.join()
