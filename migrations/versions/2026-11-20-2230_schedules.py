"""Schedules of every kind of job: what was wished for, and how much of it Temporal has been told.

Revision: 0003
Follows: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MINE = "tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    moment = postgresql.TIMESTAMP(timezone=True)
    op.create_table(
        "schedules",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("input", postgresql.JSONB(), nullable=False),
        sa.Column("spec", postgresql.JSONB(), nullable=False),
        sa.Column("overlap", sa.Text(), nullable=False),
        sa.Column("catchup_window_seconds", sa.Integer(), nullable=False),
        sa.Column("pause_on_failure", sa.Boolean(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("labels", postgresql.JSONB(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("told_version", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("not_before", moment, server_default=sa.text("now()"), nullable=False),
        sa.Column("trouble", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("created_at", moment, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", moment, server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", moment, nullable=True),
        sa.CheckConstraint(
            "overlap in ('skip','buffer_one','buffer_all','cancel_other','allow_all')",
            name=op.f("ck_schedules_overlap"),
        ),
        sa.CheckConstraint("priority between 1 and 5", name=op.f("ck_schedules_priority")),
        sa.CheckConstraint("told_version <= version", name=op.f("ck_schedules_told")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_schedules_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
        sa.UniqueConstraint("tenant_id", "id", name=op.f("uq_schedules_tenant_id_id")),
        comment="Schedules as wished for. Temporal has been told the version told_version; not_before is when to tell"
        " it the newer one. trouble is why the latest run has made no job.",
    )
    op.create_index("ix_schedules_list", "schedules", ["tenant_id", sa.literal_column("id DESC")], unique=False)
    op.create_index(
        "ix_schedules_untold",
        "schedules",
        ["not_before"],
        unique=False,
        postgresql_where=sa.text("told_version < version"),
    )
    op.execute("GRANT SELECT, INSERT, UPDATE ON schedules TO longhaul_app")
    # The worker tells Temporal about the schedules of everybody, and forgets those that are gone.
    op.execute("GRANT SELECT, UPDATE, DELETE ON schedules TO longhaul_system")
    op.execute("ALTER TABLE schedules ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE schedules FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant_only ON schedules TO longhaul_app USING ({MINE}) WITH CHECK ({MINE})")
    op.execute("CREATE POLICY platform ON schedules TO longhaul_system USING (true) WITH CHECK (true)")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("schedules")
