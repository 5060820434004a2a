"""schemathesis over the reference backend and the console, on real sockets: `make fuzz-openapi`; a seed replays a run.

No 500, no status, type, body or header that is not documented: the backend's by its own /openapi.json, the console's,
which is for its page alone and publishes none, below. Schemathesis is no dependency of ours.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sentinel_sync import Settings, SyncAgent
from sentinel_sync.backend import BackendSettings, running_server
from sentinel_sync.console import running_console

_CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance"
)
#: Without them most of what is generated would come no further than the check of who asks.
_HEADERS = (
    "Authorization: Bearer key",
    "X-Vehicle-ID: vehicle_001",
    "X-Fleet-ID: fleet",
    "X-Request-ID: 4b3c0a0e-6b1e-4a57-8a0c-0f6f6c1f6f0a",
    "User-Agent: sentinel-sync/1.0.0 (vehicle vehicle_001)",
)
#: Schemathesis knows no way to write a piece of a resumable upload: as it is generated.
_HOOKS = """
import schemathesis
@schemathesis.serializer("application/offset+octet-stream")
def octets(ctx, value):
    return value if isinstance(value, bytes) else str(value).encode()
"""


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked: the address of its document, its own address, and what each request shows."""

    document: str
    url: str
    headers: tuple[str, ...]


@asynccontextmanager
async def backend(folder: Path) -> AsyncIterator[Target]:
    """The reference backend."""
    async with running_server(BackendSettings(folder=folder / "backend", api_keys=("key",))) as url:
        yield Target(f"{url}/openapi.json", url, _HEADERS)


@asynccontextmanager
async def console(folder: Path) -> AsyncIterator[Target]:
    """An agent's console, with a backend for the agent."""
    folders = {f"{name}_dir": folder / name for name in ("state", "scenarios", "profiles", "models")}
    cloud = {"enabled": True, "api_key": "key", "trip_queue_file": folder / "none.json", **folders}
    document = folder / "console.json"
    document.write_text(json.dumps(_console_document()))
    async with running_server(BackendSettings(folder=folder / "backend", api_keys=("key",))) as url:
        settings = Settings.model_validate({"cloud": {**cloud, "api_url": url}})
        async with SyncAgent(settings) as agent, running_console(agent, "127.0.0.1", 0) as address:
            token = address.token_file.read_text().strip()
            yield Target(str(document), address.url, (f"Authorization: Bearer {token}",))


def _console_document() -> dict[str, object]:
    error = _json({"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}})
    refused = {"400": error, "401": error, "403": error, "413": error, "503": error}
    looks = {
        "/api/status": "object",
        "/api/outbox": "object",
        "/api/connectivity": "array",
        "/api/recordings": "object",
        "/api/consents": "object",
    }
    words = {
        "/api/outbox/retry": {"key": "string"},
        "/api/consent": {"granted": "boolean"},
        "/api/models/rollback": {"name": "string"},
    }
    paths: dict[str, object] = {
        path: {"get": {"responses": {"200": _json({"type": kind}), "503": error}}} for path, kind in looks.items()
    }
    query = [
        {"name": name, "in": "query", "schema": schema}
        for name, schema in {"metric": {"type": "string"}, "days": {"type": "integer"}}.items()
    ]
    answers = {"200": _json({"type": "object"}), "400": error, "503": error}
    paths["/api/fleet"] = {"get": {"parameters": query, "responses": answers}}
    paths["/api/sync"] = {"post": {"responses": {"200": _json({"type": "object"}), **refused}}}
    for path, fields in words.items():
        schema = {
            "type": "object",
            "required": list(fields),
            "properties": {name: {"type": kind} for name, kind in fields.items()},
        }
        missing = {"404": _json({"type": "object"})} if path == "/api/outbox/retry" else {"409": error}
        responses = {"200": _json({"type": "object"}), **missing, **refused}
        paths[path] = {"post": {"requestBody": {"required": True, **_json(schema)}, "responses": responses}}
    return {"openapi": "3.1.0", "info": {"title": "console", "version": "1"}, "paths": paths}


def _json(schema: Mapping[str, object]) -> dict[str, object]:
    return {"description": "see the console's page", "content": {"application/json": {"schema": schema}}}


async def run(program: str, examples: int, seed: int) -> int:
    """Start each, let the program at it, and return 0 where it found nothing."""
    codes = []
    for target in (backend, console):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "hooks.py").write_text(_HOOKS)
            async with target(folder) as there:
                process = await asyncio.create_subprocess_exec(
                    *(program, "run", there.document, "--url", there.url.rstrip("/")),
                    *(word for header in there.headers for word in ("-H", header)),
                    *("--checks", _CHECKS, "--phases", "examples,coverage,fuzzing,stateful", "--request-timeout", "10"),
                    *("-n", str(examples), "--seed", str(seed)),
                    env=os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": name},
                    cwd=name,
                )
                codes.append(await process.wait())
    return max(codes)


def main() -> int:
    """Parse the command line, and run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.contract.openapi_fuzz", description=__doc__)
    parser.add_argument("program", help="schemathesis")
    parser.add_argument("--examples", type=int, default=100, help="per operation (100)")
    parser.add_argument("--seed", type=int, default=1, help="of what is generated (1)")
    arguments = parser.parse_args()
    program = str(Path(arguments.program).absolute())
    return asyncio.run(run(program, arguments.examples, arguments.seed))


if __name__ == "__main__":
    sys.exit(main())
