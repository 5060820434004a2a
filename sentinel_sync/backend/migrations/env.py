"""What alembic runs: the steps of `versions`, in one transaction, by one process at a time."""

from alembic import context
from sqlalchemy import text

connection = context.config.attributes["connection"]
context.configure(connection=connection, transactional_ddl=True)
with context.begin_transaction():
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('sentinel_sync migration', 0))"))
    context.run_migrations()
