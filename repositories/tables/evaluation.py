"""What evaluation keeps: its runs with their verdicts, and every sample of every case."""

from typing import Final

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from repositories.tables.base import Moment, job_key, metadata, now

evaluation_runs: Final = Table(
    "evaluation_runs",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("job_id", Uuid, nullable=False),
    Column("golden_set", Text, nullable=False),
    Column("checksum", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("samples", Integer, nullable=False),
    Column("verdict", Text),
    Column("baseline_job_id", Uuid),
    Column("scores", JSONB(none_as_null=True)),
    Column("created_at", Moment, nullable=False, server_default=now),
    Column("judged_at", Moment),
    PrimaryKeyConstraint("tenant_id", "job_id"),
    job_key(),
    CheckConstraint("verdict in ('good','regressed','below_floor')", name="verdict"),
    CheckConstraint("(verdict is null) = (judged_at is null)", name="judged"),
    comment="Evaluations. One without a verdict did not finish, or ran out of its budget;"
    " only good ones are baselines.",
)
Index(
    "ix_evaluation_runs_good",
    evaluation_runs.c.tenant_id,
    evaluation_runs.c.checksum,
    evaluation_runs.c.provider,
    evaluation_runs.c.model,
    evaluation_runs.c.judged_at,
    postgresql_where=text("verdict = 'good'"),
)

evaluation_cases: Final = Table(
    "evaluation_cases",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("job_id", Uuid, nullable=False),
    Column("case_name", Text, nullable=False),
    Column("sample", Integer, nullable=False),
    Column("case_sha256", Text, nullable=False),
    Column("result", JSONB, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=now),
    PrimaryKeyConstraint("tenant_id", "job_id", "case_name", "sample"),
    ForeignKeyConstraint(
        ["tenant_id", "job_id"],
        ["evaluation_runs.tenant_id", "evaluation_runs.job_id"],
        ondelete="CASCADE",
    ),
    CheckConstraint("sample > 0", name="sample"),
    comment="What each sample of each golden case showed: scores, faults, the split into lessons, what it cost.",
)
