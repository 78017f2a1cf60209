"""Renders keep the price they were ordered at, and since when a person is asked; calls, that their provider has ended.

Revision: 0013
Follows: 0012
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("video_renders", sa.Column("usd_per_minute", sa.Numeric(14, 6), nullable=True))
    op.add_column("video_renders", sa.Column("asked_at", postgresql.TIMESTAMP(timezone=True), nullable=True))
    op.add_column("provider_calls", sa.Column("ended", sa.Boolean(), server_default=sa.text("false"), nullable=False))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_column("provider_calls", "ended")
    op.drop_column("video_renders", "asked_at")
    op.drop_column("video_renders", "usd_per_minute")
