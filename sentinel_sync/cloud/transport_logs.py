"""Keeps the transport's own log quiet about our requests: its lines hold whole URLs, and so drivers' ids.

httpx logs each URL at INFO, httpcore each answer's headers at DEBUG, into the logging of whoever embeds the agent. Only
what is sent inside `unlogged()` is dropped: the embedder's own requests through httpx are logged as they were.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: A filter counts only on the very logger that a record is made with, so each is named (httpx 0.28, httpcore 1.0).
_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy", "httpcore.socks")
_ours: ContextVar[bool] = ContextVar("sentinel_sync_request", default=False)


def _is_theirs(_record: logging.LogRecord) -> bool:
    return not _ours.get()


def mute() -> None:
    """Install the filter; again is once."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_theirs)


@contextmanager
def unlogged() -> Iterator[None]:
    """Drop what httpx and httpcore log in this task meanwhile."""
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)
