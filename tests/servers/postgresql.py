"""A real PostgreSQL of Debian's packages, on a socket file of its own; each test gets a database of its own."""

import itertools
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from sentinel_sync.backend.migrations import migrate

_SETTINGS = "-c listen_addresses='' -c max_connections=200"
#: What a power cut would take is no matter to a test, and half of the time goes without.
_FLEETING = "-c fsync=off -c full_page_writes=off -c shared_buffers=64MB"
_numbers = itertools.count()


class PostgresqlServer:
    """A server that runs, with one database that has the tables, from which others are copied."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._folder = folder
        self.programs = programs
        """Where `pg_dump` and the others are."""
        self._user = pwd.getpwuid(os.getuid()).pw_name if os.geteuid() else "postgres"
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE migrated")
        migrate(self.address("migrated"))

    def address(self, database: str) -> str:
        """Of one of its databases."""
        return f"postgresql://{self._user}@/{database}?host={quote(str(self._folder), safe='')}"

    def fresh(self, *, empty: bool = False) -> str:
        """The address of a new database, with the tables unless `empty`."""
        name = f"test_{next(_numbers)}"
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {'template0' if empty else 'migrated'}".encode())
        return self.address(name)


@contextmanager
def postgresql_server(folder: Path, *, durable: bool = False) -> Iterator[PostgresqlServer]:
    """Run one below `folder`; `durable`: as it is shipped, for who measures it."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which("pg_ctl") or (str(programs[-1] / "pg_ctl") if programs else None)
    if found is None:
        pytest.skip("no PostgreSQL: apt install postgresql")
    programs_folder = Path(found).resolve().parent
    folder.mkdir(parents=True)
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to be root
    if user is not None:
        shutil.chown(folder, user, user)

    def run(program: str, *arguments: str) -> None:
        command = [str(programs_folder / program), "-D", str(folder / "data"), *arguments]
        with (folder / "log").open("a") as log:
            subprocess.run(
                command, check=True, stdout=log, stderr=log, timeout=60, cwd=folder, env={"LC_ALL": "C"}, user=user
            )

    run("initdb", "--no-sync", "--auth", "trust", "--encoding", "UTF8")
    run(
        "pg_ctl",
        "-w",
        "-l",
        str(folder / "server.log"),
        "-o",
        f"{_SETTINGS} {'' if durable else _FLEETING} -k {folder}",
        "start",
    )
    try:
        yield PostgresqlServer(folder, programs_folder)
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")
