"""Leases: who may use a provider that does only so many things at once."""

from typing import Final

from sqlalchemy import Column, Index, PrimaryKeyConstraint, Table, Text, Uuid

from repositories.tables.base import Moment, job_key, metadata, now

provider_leases: Final = Table(
    "provider_leases",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("job_id", Uuid, nullable=False),
    Column("provider", Text, nullable=False),
    Column("holder", Text, nullable=False),
    Column("asked_at", Moment, nullable=False, server_default=now),
    Column("granted_at", Moment),
    Column("expires_at", Moment, nullable=False),
    PrimaryKeyConstraint("tenant_id", "provider", "holder"),
    job_key(),
    comment="Who may use a provider that does only so many things at once, and who waits for it (granted_at is null)."
    " A row counts until expires_at: what a dead worker held comes back by itself.",
)
Index("ix_provider_leases_provider_expires_at", provider_leases.c.provider, provider_leases.c.expires_at)
