"""What generation keeps: prompts, paid calls, answers worth remembering."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from repositories.tables.base import Moment, Money, job_key, metadata, now

provider_calls: Final = Table(
    "provider_calls",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("job_id", Uuid, nullable=False),
    Column("op", Text, nullable=False),
    Column("step", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reserved_usd", Money, nullable=False),
    Column("settled_usd", Money),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("lost_usd", Money, nullable=False, server_default=text("0")),
    Column("sends", Integer, nullable=False, server_default=text("1")),
    Column("ended", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", Moment, nullable=False, server_default=now),
    Column("updated_at", Moment, nullable=False, server_default=now),
    PrimaryKeyConstraint("tenant_id", "job_id", "op"),
    job_key(),
    CheckConstraint("state in ('sending','done','rejected','not_sent','unknown')", name="state"),
    comment="The ledger of paid calls: a row is committed before the wire is touched."
    " lost_usd is the worst case of sends whose outcome stayed unknown.",
)
Index("ix_provider_calls_created_at", provider_calls.c.tenant_id, provider_calls.c.created_at)

response_cache: Final = Table(
    "response_cache",
    metadata,
    Column("tenant_id", Uuid, ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False),
    Column("key", Text, nullable=False),
    Column("answer", JSONB, nullable=False),
    Column("expires_at", Moment, nullable=False),
    PrimaryKeyConstraint("tenant_id", "key"),
    comment="Validated answers of models by everything that went into them.",
)
Index("ix_response_cache_expires_at", response_cache.c.expires_at)

prompts: Final = Table(
    "prompts",
    metadata,
    Column("id", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("changelog", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("recorded_at", Moment, nullable=False, server_default=now),
    PrimaryKeyConstraint("id", "version"),
    comment="Every prompt that ever ran here. The same version never has two texts.",
)
