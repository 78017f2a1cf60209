"""Schedules: what was wished for, and how much of it Temporal has been told."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from repositories.tables.base import Moment, metadata, now

schedules: Final = Table(
    "schedules",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, ForeignKey("tenants.id"), nullable=False),
    Column("name", Text),
    Column("kind", Text, nullable=False),
    Column("input", JSONB, nullable=False),
    Column("spec", JSONB, nullable=False),
    Column("overlap", Text, nullable=False),
    Column("catchup_window_seconds", Integer, nullable=False),
    Column("pause_on_failure", Boolean, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("note", Text),
    Column("priority", SmallInteger, nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("summary", Text, nullable=False),
    Column("version", BigInteger, nullable=False, server_default=text("1")),
    Column("told_version", BigInteger, nullable=False, server_default=text("0")),
    Column("not_before", Moment, nullable=False, server_default=now),
    Column("trouble", JSONB(none_as_null=True)),
    Column("created_at", Moment, nullable=False, server_default=now),
    Column("updated_at", Moment, nullable=False, server_default=now),
    Column("deleted_at", Moment),
    UniqueConstraint("tenant_id", "id"),
    CheckConstraint("overlap in ('skip','buffer_one','buffer_all','cancel_other','allow_all')", name="overlap"),
    CheckConstraint("priority between 1 and 5", name="priority"),
    CheckConstraint("told_version <= version", name="told"),
    comment="Schedules as wished for. Temporal has been told the version told_version; not_before is when to tell it"
    " the newer one. trouble is why the latest run has made no job.",
)
Index("ix_schedules_list", schedules.c.tenant_id, schedules.c.id.desc())
Index("ix_schedules_untold", schedules.c.not_before, postgresql_where=schedules.c.told_version < schedules.c.version)
