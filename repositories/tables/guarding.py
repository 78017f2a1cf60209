"""What the content policy keeps: one row for each tenant that has set one."""

from typing import Final

from sqlalchemy import BigInteger, Column, ForeignKey, Table, Uuid
from sqlalchemy.dialects.postgresql import JSONB

from repositories.tables.base import Moment, metadata, now

guard_policies: Final = Table(
    "guard_policies",
    metadata,
    Column("tenant_id", Uuid, ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("policy", JSONB, nullable=False),
    Column("updated_at", Moment, nullable=False, server_default=now),
    comment="What a tenant wants done about personal data and harmful content. Without a row the defaults hold.",
)
