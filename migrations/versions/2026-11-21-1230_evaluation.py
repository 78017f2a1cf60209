"""Evaluation: runs over golden sets with their verdicts, and the samples that they were judged by.

Revision: 0012
Follows: 0011
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# Of no use to the platform itself: it never looks into what tenants have measured.
APP_GRANTS = {
    "evaluation_runs": "SELECT, INSERT, UPDATE",
    "evaluation_cases": "SELECT, INSERT, UPDATE, DELETE",
}
MINE = "tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    moment = postgresql.TIMESTAMP(timezone=True)
    op.create_table(
        "evaluation_runs",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("golden_set", sa.Text(), nullable=False),
        sa.Column("checksum", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("baseline_job_id", sa.Uuid(), nullable=True),
        sa.Column("scores", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("created_at", moment, server_default=sa.text("now()"), nullable=False),
        sa.Column("judged_at", moment, nullable=True),
        sa.CheckConstraint("verdict in ('good','regressed','below_floor')", name=op.f("ck_evaluation_runs_verdict")),
        sa.CheckConstraint("(verdict is null) = (judged_at is null)", name=op.f("ck_evaluation_runs_judged")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "job_id"],
            ["jobs.tenant_id", "jobs.id"],
            name=op.f("fk_evaluation_runs_tenant_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "job_id", name=op.f("pk_evaluation_runs")),
        comment="Evaluations. One without a verdict did not finish, or ran out of its budget;"
        " only good ones are baselines.",
    )
    op.create_index(
        "ix_evaluation_runs_good",
        "evaluation_runs",
        ["tenant_id", "checksum", "provider", "model", "judged_at"],
        unique=False,
        postgresql_where=sa.text("verdict = 'good'"),
    )
    op.create_table(
        "evaluation_cases",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("case_name", sa.Text(), nullable=False),
        sa.Column("sample", sa.Integer(), nullable=False),
        sa.Column("case_sha256", sa.Text(), nullable=False),
        sa.Column("result", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", moment, server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("sample > 0", name=op.f("ck_evaluation_cases_sample")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "job_id"],
            ["evaluation_runs.tenant_id", "evaluation_runs.job_id"],
            name=op.f("fk_evaluation_cases_tenant_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "job_id", "case_name", "sample", name=op.f("pk_evaluation_cases")),
        comment="What each sample of each golden case showed: scores, faults, the split into lessons, what it cost.",
    )
    for table, rights in APP_GRANTS.items():
        op.execute(f"GRANT {rights} ON {table} TO longhaul_app")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant_only ON {table} TO longhaul_app USING ({MINE}) WITH CHECK ({MINE})")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("evaluation_cases")
    op.drop_table("evaluation_runs")
