"""What people are asked to agree to."""

from typing import Final

from sqlalchemy import Boolean, CheckConstraint, Column, Index, Integer, PrimaryKeyConstraint, Table, Text, Uuid, text

from repositories.tables.base import Moment, job_key, metadata, now

approvals: Final = Table(
    "approvals",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("job_id", Uuid, nullable=False),
    Column("subject", Text, nullable=False),
    Column("round", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'waiting'")),
    Column("content_sha256", Text),
    Column("artifact_id", Uuid),
    Column("edited", Boolean, nullable=False, server_default=text("false")),
    Column("timed_out", Boolean, nullable=False, server_default=text("false")),
    Column("on_timeout", Text, nullable=False),
    Column("comment", Text),
    Column("asked_at", Moment, nullable=False, server_default=now),
    Column("until", Moment, nullable=False),
    Column("decided_at", Moment),
    PrimaryKeyConstraint("tenant_id", "job_id", "subject", "round"),
    job_key(),
    CheckConstraint("subject in ('outline','course')", name="subject"),
    CheckConstraint("state in ('waiting','approved','rejected','expired','withdrawn')", name="state"),
    CheckConstraint("on_timeout in ('fail','approve')", name="on_timeout"),
    CheckConstraint("state <> 'approved' or content_sha256 is not null", name="bound"),
    comment="What a person is asked to agree to, and what they said. An approval is of content_sha256 and of nothing"
    " else; it is null while the content is being put together anew after an edit.",
)
Index(
    "uq_approvals_waiting",
    approvals.c.tenant_id,
    approvals.c.job_id,
    unique=True,
    postgresql_where=text("state = 'waiting'"),
)
