"""schemathesis over the reference backend, on a real socket: `make fuzz-openapi`; a seed replays a run.

No 500, no status, type, body or header that /openapi.json does not document. Schemathesis is no dependency of ours.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from sentinel_sync.backend import BackendSettings, running_server

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


async def run(program: str, examples: int, seed: int) -> int:
    """Start a backend, let the program at it, and return its exit code."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "hooks.py").write_text(_HOOKS)
        async with running_server(BackendSettings(folder=folder / "backend", api_keys=("key",))) as url:
            process = await asyncio.create_subprocess_exec(
                *(program, "run", f"{url}/openapi.json", "--url", url),
                *(word for header in _HEADERS for word in ("-H", header)),
                *("--checks", _CHECKS, "--phases", "examples,coverage,fuzzing,stateful", "--request-timeout", "10"),
                *("-n", str(examples), "--seed", str(seed)),
                env=os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": name},
                cwd=name,
            )
            return await process.wait()


def main() -> int:
    """Parse the command line, and run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.backend.openapi_fuzz", description=__doc__)
    parser.add_argument("program", help="schemathesis")
    parser.add_argument("--examples", type=int, default=100, help="per operation (100)")
    parser.add_argument("--seed", type=int, default=1, help="of what is generated (1)")
    arguments = parser.parse_args()
    program = str(Path(arguments.program).absolute())
    return asyncio.run(run(program, arguments.examples, arguments.seed))


if __name__ == "__main__":
    sys.exit(main())
