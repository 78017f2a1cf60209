"""Renders of videos that are paid for, and which webhooks about them were heard."""

from typing import Final

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Double,
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

from repositories.tables.base import Moment, Money, job_key, metadata, now

video_renders: Final = Table(
    "video_renders",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("tenant_id", Uuid, nullable=False),
    Column("job_id", Uuid, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("part", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("op", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("engine", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'planned'")),
    Column("workflow_id", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("script_seconds", Double, nullable=False),
    Column("reserved_usd", Money, nullable=False),
    Column("usd_per_minute", Money),
    Column("cost_usd", Money),
    Column("sends", Integer, nullable=False, server_default=text("0")),
    Column("doubts", Integer, nullable=False, server_default=text("0")),
    Column("looks", Integer, nullable=False, server_default=text("0")),
    Column("wakes", Integer, nullable=False, server_default=text("0")),
    Column("video_id", Text),
    Column("seconds", Double),
    Column("artifact_id", Uuid),
    Column("error_code", Text),
    Column("first_sent_at", Moment),
    Column("submitted_at", Moment),
    Column("woken_at", Moment),
    Column("asked_at", Moment),
    Column("settled_at", Moment),
    Column("created_at", Moment, nullable=False, server_default=now),
    Column("updated_at", Moment, nullable=False, server_default=now),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("tenant_id", "job_id", "part", "digest", "generation"),
    job_key(),
    CheckConstraint(
        "state in ('planned','submitting','unknown','rendering','stuck','done','failed','abandoned','replaced')",
        name="state",
    ),
    comment="The ledger of renders: a row is committed before the wire is touched, with the very body that goes over"
    " it, so that the same render is sent under the same key however often it is tried.",
)
Index("ix_video_renders_list", video_renders.c.tenant_id, video_renders.c.job_id, video_renders.c.id.desc())
Index(
    "ix_video_renders_video_id",
    video_renders.c.provider,
    video_renders.c.video_id,
    postgresql_where=video_renders.c.video_id.is_not(None),
)

provider_webhooks: Final = Table(
    "provider_webhooks",
    metadata,
    Column("sha256", LargeBinary, nullable=False),
    Column("provider", Text, nullable=False),
    Column("signed", Boolean, nullable=False),
    Column("received_at", Moment, nullable=False, server_default=now),
    PrimaryKeyConstraint("provider", "sha256"),
    comment="Digests of webhooks that woke somebody, kept for some days: the same bytes wake nobody twice.",
)
Index("ix_provider_webhooks_received_at", provider_webhooks.c.received_at)
