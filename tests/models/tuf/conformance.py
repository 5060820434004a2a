"""The command that tuf-conformance drives (its CLIENT-CLI.md, `--entrypoint`), by the agent's own TUF code."""

import argparse
import asyncio
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr, TypeAdapter

from sentinel_sync import CloudAPIClient
from sentinel_sync.base.clock import SystemClock
from sentinel_sync.base.errors import SentinelSyncError, VerificationError
from sentinel_sync.cloud.download import FileDownload, Target
from sentinel_sync.models.files import checksum_of
from sentinel_sync.models.rules.tuf import RepositoryState, SignedTarget
from sentinel_sync.models.tuf.refresh import refresh
from sentinel_sync.models.tuf.refresh_request import RefreshRequest, RefreshResult, anchor_of, run_fetching
from sentinel_sync.settings import CloudSettings

_MEMORY = TypeAdapter(RepositoryState)


def begin(metadata_dir: Path, trusted_root: Path) -> None:
    """What a vehicle is delivered with."""
    anchor = metadata_dir.with_name("anchor.json")
    shutil.copy(trusted_root, anchor)
    shutil.copy(trusted_root, metadata_dir / "root.json")
    # The suite looks into the cache, which is a folder of its own by root.
    (metadata_dir / anchor_of(anchor.read_bytes())[:16]).symlink_to(".")


async def refreshed(client: CloudAPIClient, arguments: argparse.Namespace, wanted: tuple[str, ...]) -> RefreshResult:
    """One refresh, and the memory that outlives it."""
    kept = arguments.metadata_dir.with_name("memory.json")
    memory = _MEMORY.validate_json(kept.read_bytes()) if kept.exists() else None
    now, anchor = time.time(), arguments.metadata_dir.with_name("anchor.json")
    url = arguments.metadata_url.rstrip("/") + "/"
    request = RefreshRequest(url, anchor, arguments.metadata_dir, memory, now, now, wanted)
    result = await run_fetching(client, SystemClock(), partial(refresh, request))
    kept.write_bytes(_MEMORY.dump_json(result.memory))
    if result.error is not None:
        raise result.error
    return result


async def fetch(
    client: CloudAPIClient, arguments: argparse.Namespace, target: SignedTarget, *, is_consistent: bool
) -> None:
    """Fetch one file, unless it is here."""
    checksum = target.hashes.get("sha256") or target.hashes["sha512"]
    folder, slash, name = target.path.rpartition("/")
    path = f"{folder}{slash}{checksum}.{name}" if is_consistent else target.path
    whole = arguments.target_dir / quote(target.path, "")
    if whole.exists() and checksum_of(whole, like=checksum) == checksum:
        return
    staging = arguments.metadata_dir.with_name("staging")
    download = FileDownload(client, Target(staging, target.size, checksum), clock=SystemClock(), on_progress=print)
    await download.fetch(arguments.target_base_url.rstrip("/") + "/" + quote(path))
    staging.rename(whole)


async def act(arguments: argparse.Namespace) -> None:
    """Refresh, and fetch what is named."""
    settings = CloudSettings(api_url="http://127.0.0.1:9", api_key=SecretStr("none"), vehicle_id="v", rate_limit=0.0)
    async with CloudAPIClient(settings=settings) as client:
        result = await refreshed(client, arguments, names := tuple(arguments.target_name or ()))
        targets = {target.path: target for target in result.targets}
        for name in names:
            if name not in targets:
                raise VerificationError(f"{name} is not among the targets: {result.left_aside}")
            await fetch(client, arguments, targets[name], is_consistent=result.consistent)


def main() -> None:
    """Parse the command line, and do it."""
    parser = argparse.ArgumentParser(prog="python -m tests.models.tuf.conformance")
    for name in ("--metadata-dir", "--target-dir", "--metadata-url", "--target-base-url"):
        parser.add_argument(name, type=Path if name.endswith("dir") else str)
    parser.add_argument("--target-name", action="append")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("init").add_argument("trusted_root", type=Path)
    actions.add_parser("refresh")
    actions.add_parser("download")
    arguments = parser.parse_args()
    if arguments.action == "init":
        begin(arguments.metadata_dir, arguments.trusted_root)
        return
    try:
        asyncio.run(act(arguments))
    except SentinelSyncError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
