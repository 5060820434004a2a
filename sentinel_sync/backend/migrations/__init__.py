"""What changed the tables on PostgreSQL, step by step, by alembic; SQLite's are in `sqlite.py`."""

from pathlib import Path

import alembic.command
from alembic.config import Config
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from sentinel_sync.backend.database import DatabaseUnavailableError


def migrate(address: str) -> None:
    """Brings the tables of a PostgreSQL database up to date, or makes them; blocks.

    Two processes may do it at once: one waits. What runs on the revision before goes on meanwhile, where the steps
    only add.

    Args:
        address: `postgresql://…`

    Raises:
        DatabaseUnavailableError: It cannot be reached.
    """
    url = make_url(address).set(drivername="postgresql+psycopg")
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    try:
        with create_engine(url, poolclass=NullPool).begin() as connection:
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")
    except OperationalError as error:
        raise DatabaseUnavailableError(str(error.orig).splitlines()[0]) from error
