"""Federated learning: models and their versions, decisions, participants, rounds, leases."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from repositories.tables.base import Moment, job_key, metadata, now

fl_models: Final = Table(
    "fl_models",
    metadata,
    Column("tenant_id", Uuid, ForeignKey("tenants.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("family", Text, nullable=False),
    Column("holdout_sha256", Text),
    Column("schema", JSONB, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("head_id", Uuid),
    Column("versions", Integer, nullable=False, server_default=text("0")),
    Column("cycle_job_id", Uuid),
    Column("privacy_loss", ARRAY(Double)),
    Column("privacy_rounds", Integer, nullable=False, server_default=text("0")),
    Column("created_at", Moment, nullable=False, server_default=now),
    Column("updated_at", Moment, nullable=False, server_default=now),
    PrimaryKeyConstraint("tenant_id", "name"),
    comment="A model is a line of versions; head_id is the published one. cycle_job_id is the cycle at work on it. "
    "privacy_loss is what all private rounds have spent, Renyi divergence by order, whatever became of them.",
)

fl_versions: Final = Table(
    "fl_versions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("model", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("parent_id", Uuid),
    Column("job_id", Uuid),
    Column("round", Integer),
    Column("sha256", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("state_sha256", Text),
    Column("metrics", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("created_at", Moment, nullable=False, server_default=now),
    UniqueConstraint("tenant_id", "model", "number"),
    ForeignKeyConstraint(["tenant_id", "model"], ["fl_models.tenant_id", "fl_models.name"]),
    CheckConstraint("status in ('candidate','published','rejected','rolled_back')", name="status"),
    comment="Every version of a model that was ever made. state_sha256 is the optimizer state that belongs with it.",
)
Index("ix_fl_versions_sha256", fl_versions.c.tenant_id, fl_versions.c.sha256)
Index("ix_fl_versions_job", fl_versions.c.tenant_id, fl_versions.c.job_id, fl_versions.c.round)

fl_decisions: Final = Table(
    "fl_decisions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("model", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("version_id", Uuid, nullable=False),
    Column("head_before", Uuid),
    Column("head_after", Uuid),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("data", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("at", Moment, nullable=False, server_default=now),
    ForeignKeyConstraint(["tenant_id", "model"], ["fl_models.tenant_id", "fl_models.name"]),
    CheckConstraint("action in ('created','published','rejected','rolled_back')", name="action"),
    comment="The audit trail of the registry: who or what changed the head, or did not, and why. Never changed.",
)
Index("ix_fl_decisions_model", fl_decisions.c.tenant_id, fl_decisions.c.model, fl_decisions.c.id.desc())

fl_participants: Final = Table(
    "fl_participants",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, ForeignKey("tenants.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("key_id", Uuid),
    Column("key_prefix", Text),
    Column("tags", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("accepted", Integer, nullable=False, server_default=text("0")),
    Column("created_at", Moment, nullable=False, server_default=now),
    Column("seen_at", Moment, nullable=False, server_default=now),
    UniqueConstraint("tenant_id", "name"),
    comment="Who takes part. The key of a participant may do nothing but take part.",
)
Index("ix_fl_participants_key", fl_participants.c.tenant_id, fl_participants.c.key_id)

fl_rounds: Final = Table(
    "fl_rounds",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("job_id", Uuid, nullable=False),
    Column("number", Integer, nullable=False),
    Column("model", Text, nullable=False),
    Column("base_id", Uuid, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'open'")),
    Column("goal", Integer, nullable=False),
    Column("quorum", Integer, nullable=False),
    Column("selected", Integer, nullable=False),
    Column("leased", Integer, nullable=False, server_default=text("0")),
    Column("handed_out", Integer, nullable=False, server_default=text("0")),
    Column("accepted", Integer, nullable=False, server_default=text("0")),
    Column("refused", Integer, nullable=False, server_default=text("0")),
    Column("tags", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("plan", JSONB, nullable=False),
    Column("limits", JSONB, nullable=False),
    Column("noise_secret", LargeBinary, nullable=False),
    Column("deadline", Moment, nullable=False),
    Column("reason", Text),
    Column("version_id", Uuid),
    Column("detail", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("opened_at", Moment, nullable=False, server_default=now),
    Column("closed_at", Moment),
    Column("finished_at", Moment),
    UniqueConstraint("tenant_id", "job_id", "number"),
    job_key(),
    CheckConstraint(
        "state in ('open','closed','aggregated','evaluated','published','rejected','abandoned')", name="state"
    ),
    CheckConstraint("accepted <= goal", name="accepted"),
    comment="The rounds of cycles. leased counts slots that are taken, handed_out every lease there ever was.",
)
Index("ix_fl_rounds_open", fl_rounds.c.tenant_id, fl_rounds.c.opened_at, postgresql_where=text("state = 'open'"))

fl_leases: Final = Table(
    "fl_leases",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("round_id", Uuid, ForeignKey("fl_rounds.id", ondelete="CASCADE"), nullable=False),
    Column("participant_id", Uuid, ForeignKey("fl_participants.id"), nullable=False),
    Column("state", Text, nullable=False, server_default=text("'leased'")),
    Column("expires_at", Moment, nullable=False),
    Column("heartbeat_at", Moment),
    Column("sha256", Text),
    Column("bytes", BigInteger),
    Column("examples", BigInteger),
    Column("norm", Double),
    Column("metrics", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("refusals", Integer, nullable=False, server_default=text("0")),
    Column("reason", Text),
    Column("token_hash", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=now),
    Column("accepted_at", Moment),
    UniqueConstraint("tenant_id", "round_id", "participant_id"),
    CheckConstraint("state in ('leased','expired','accepted','missed')", name="state"),
    CheckConstraint("(state = 'accepted') = (sha256 is not null)", name="accepted"),
    comment="Who was asked for an update in which round, and the receipt of it. reason is that of the latest refusal.",
)
Index("ix_fl_leases_expiry", fl_leases.c.round_id, fl_leases.c.expires_at, postgresql_where=text("state = 'leased'"))
