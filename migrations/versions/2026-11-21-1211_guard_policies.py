"""Content policies of tenants: what becomes of personal data and harmful content.

Revision: 0011
Follows: 0010
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def _isolate() -> None:
    mine = "tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid"
    op.execute("GRANT SELECT, INSERT, UPDATE ON guard_policies TO longhaul_app")
    op.execute("ALTER TABLE guard_policies ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE guard_policies FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant_only ON guard_policies TO longhaul_app USING ({mine}) WITH CHECK ({mine})")


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "guard_policies",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("policy", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "updated_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_guard_policies_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_guard_policies")),
        comment="What a tenant wants done about personal data and harmful content. Without a row the defaults hold.",
    )
    _isolate()


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("guard_policies")
