"""Federated learning: models with versions and decisions, participants, rounds and leases.

Revision: 0004
Follows: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# What was decided is never changed. The platform itself has no business in any of these tables.
APP_GRANTS = {
    "fl_models": "SELECT, INSERT, UPDATE",
    "fl_versions": "SELECT, INSERT, UPDATE",
    "fl_decisions": "SELECT, INSERT",
    "fl_participants": "SELECT, INSERT, UPDATE",
    "fl_rounds": "SELECT, INSERT, UPDATE",
    "fl_leases": "SELECT, INSERT, UPDATE",
}
MINE = "tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "fl_models",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("family", sa.Text(), nullable=False),
        sa.Column("holdout_sha256", sa.Text(), nullable=True),
        sa.Column("schema", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("head_id", sa.Uuid(), nullable=True),
        sa.Column("versions", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("cycle_job_id", sa.Uuid(), nullable=True),
        sa.Column("privacy_loss", postgresql.ARRAY(sa.Double()), nullable=True),
        sa.Column("privacy_rounds", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_fl_models_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "name", name=op.f("pk_fl_models")),
        comment="A model is a line of versions; head_id is the published one. cycle_job_id is the cycle at work on it. "
        "privacy_loss is what all private rounds have spent, Renyi divergence by order, whatever became of them.",
    )
    op.create_table(
        "fl_participants",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("key_prefix", sa.Text(), nullable=True),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False),
        sa.Column("accepted", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_fl_participants_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fl_participants")),
        sa.UniqueConstraint("tenant_id", "name", name=op.f("uq_fl_participants_tenant_id_name")),
        comment="Who takes part. The key of a participant may do nothing but take part.",
    )
    op.create_index("ix_fl_participants_key", "fl_participants", ["tenant_id", "key_id"], unique=False)
    op.create_table(
        "fl_decisions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("head_before", sa.Uuid(), nullable=True),
        sa.Column("head_after", sa.Uuid(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "data", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "action in ('created','published','rejected','rolled_back')", name=op.f("ck_fl_decisions_action")
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "model"],
            ["fl_models.tenant_id", "fl_models.name"],
            name=op.f("fk_fl_decisions_tenant_id_model"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fl_decisions")),
        comment="The audit trail of the registry: who or what changed the head, or did not, and why. Never changed.",
    )
    op.create_index(
        "ix_fl_decisions_model", "fl_decisions", ["tenant_id", "model", sa.literal_column("id DESC")], unique=False
    )
    op.create_table(
        "fl_rounds",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("base_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'open'"), nullable=False),
        sa.Column("goal", sa.Integer(), nullable=False),
        sa.Column("quorum", sa.Integer(), nullable=False),
        sa.Column("selected", sa.Integer(), nullable=False),
        sa.Column("leased", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("handed_out", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("accepted", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("refused", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False),
        sa.Column("plan", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("limits", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("noise_secret", sa.LargeBinary(), nullable=False),
        sa.Column("deadline", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("version_id", sa.Uuid(), nullable=True),
        sa.Column(
            "detail", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("opened_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("closed_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state in ('open','closed','aggregated','evaluated','published','rejected','abandoned')",
            name=op.f("ck_fl_rounds_state"),
        ),
        sa.CheckConstraint("accepted <= goal", name=op.f("ck_fl_rounds_accepted")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "job_id"],
            ["jobs.tenant_id", "jobs.id"],
            name=op.f("fk_fl_rounds_tenant_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fl_rounds")),
        sa.UniqueConstraint("tenant_id", "job_id", "number", name=op.f("uq_fl_rounds_tenant_id_job_id_number")),
        comment="The rounds of cycles. leased counts slots that are taken, handed_out every lease there ever was.",
    )
    op.create_index(
        "ix_fl_rounds_open",
        "fl_rounds",
        ["tenant_id", "opened_at"],
        unique=False,
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_table(
        "fl_versions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("round", sa.Integer(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("state_sha256", sa.Text(), nullable=True),
        sa.Column(
            "metrics", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status in ('candidate','published','rejected','rolled_back')", name=op.f("ck_fl_versions_status")
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "model"],
            ["fl_models.tenant_id", "fl_models.name"],
            name=op.f("fk_fl_versions_tenant_id_model"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fl_versions")),
        sa.UniqueConstraint("tenant_id", "model", "number", name=op.f("uq_fl_versions_tenant_id_model_number")),
        comment="Every version of a model that was ever made. state_sha256 is the optimizer state that belongs with it.",
    )
    op.create_index("ix_fl_versions_job", "fl_versions", ["tenant_id", "job_id", "round"], unique=False)
    op.create_index("ix_fl_versions_sha256", "fl_versions", ["tenant_id", "sha256"], unique=False)
    op.create_table(
        "fl_leases",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("round_id", sa.Uuid(), nullable=False),
        sa.Column("participant_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'leased'"), nullable=False),
        sa.Column("expires_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("heartbeat_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("examples", sa.BigInteger(), nullable=True),
        sa.Column("norm", sa.Double(), nullable=True),
        sa.Column(
            "metrics", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("refusals", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("accepted_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'accepted') = (sha256 is not null)", name=op.f("ck_fl_leases_accepted")),
        sa.CheckConstraint("state in ('leased','expired','accepted','missed')", name=op.f("ck_fl_leases_state")),
        sa.ForeignKeyConstraint(["participant_id"], ["fl_participants.id"], name=op.f("fk_fl_leases_participant_id")),
        sa.ForeignKeyConstraint(["round_id"], ["fl_rounds.id"], name=op.f("fk_fl_leases_round_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fl_leases")),
        sa.UniqueConstraint(
            "tenant_id", "round_id", "participant_id", name=op.f("uq_fl_leases_tenant_id_round_id_participant_id")
        ),
        comment="Who was asked for an update in which round, and the receipt of it. reason is that of the latest refusal.",
    )
    op.create_index(
        "ix_fl_leases_expiry",
        "fl_leases",
        ["round_id", "expires_at"],
        unique=False,
        postgresql_where=sa.text("state = 'leased'"),
    )
    for table, rights in APP_GRANTS.items():
        op.execute(f"GRANT {rights} ON {table} TO longhaul_app")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant_only ON {table} TO longhaul_app USING ({MINE}) WITH CHECK ({MINE})")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table in ("fl_leases", "fl_rounds", "fl_participants", "fl_decisions", "fl_versions", "fl_models"):
        op.drop_table(table)
