"""Versions of models that are offered no more."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column; a process of the version before lists what is withdrawn until it is replaced."""
    op.execute("ALTER TABLE models ADD COLUMN withdrawn_at DOUBLE PRECISION")
