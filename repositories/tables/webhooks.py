"""What outgoing webhooks keep: endpoints with their secrets, and deliveries, the outbox."""

from typing import Final

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from repositories.tables.base import Moment, metadata, now

webhook_endpoints: Final = Table(
    "webhook_endpoints",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False),
    Column("url", Text),
    Column("sealed_secret", LargeBinary, nullable=False),
    Column("sealed_previous", LargeBinary),
    Column("previous_until", Moment),
    Column("disabled_at", Moment),
    Column("disabled_reason", Text),
    Column("created_at", Moment, nullable=False, server_default=now),
    UniqueConstraint("tenant_id", "id"),
    comment="Where a tenant is told of every job. The one without a url holds the secret for the callback_url of jobs.",
)
Index(
    "uq_webhook_endpoints_callbacks",
    webhook_endpoints.c.tenant_id,
    unique=True,
    postgresql_where=text("url is null"),
)

webhook_deliveries: Final = Table(
    "webhook_deliveries",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=text("uuidv7()")),
    Column("tenant_id", Uuid, ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False),
    Column("endpoint_id", Uuid),
    Column("job_id", Uuid),
    Column("url", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'pending'")),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("due_at", Moment, nullable=False, server_default=now),
    Column("last_status", Integer),
    Column("last_error", Text),
    Column("created_at", Moment, nullable=False, server_default=now),
    Column("delivered_at", Moment),
    ForeignKeyConstraint(
        ["tenant_id", "endpoint_id"], ["webhook_endpoints.tenant_id", "webhook_endpoints.id"], ondelete="CASCADE"
    ),
    CheckConstraint("state in ('pending','delivered','failed','disabled')", name="state"),
    comment="The outbox of webhooks: written by a trigger in the transaction that changes a job's status.",
)
Index("ix_webhook_deliveries_due", webhook_deliveries.c.due_at, postgresql_where=text("state = 'pending'"))
Index("ix_webhook_deliveries_list", webhook_deliveries.c.tenant_id, webhook_deliveries.c.id.desc())
