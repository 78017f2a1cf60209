"""What saving keeps: batches and their counters, the inbox, dead letters, and a table for each collection."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from repositories.tables.base import Moment, metadata, now

_zero: Final = text("0")

record_batches: Final = Table(
    "record_batches",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False),
    Column("collection", Text, nullable=False),
    Column("job_id", Uuid),
    Column("idempotency_key", Text),
    Column("request_hash", LargeBinary),
    Column("received", BigInteger, nullable=False, server_default=_zero),
    Column("rejected", BigInteger, nullable=False, server_default=_zero),
    Column("refusals", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("saved", BigInteger, nullable=False, server_default=_zero),
    Column("deduplicated", BigInteger, nullable=False, server_default=_zero),
    Column("dead", BigInteger, nullable=False, server_default=_zero),
    Column("position_bytes", BigInteger, nullable=False, server_default=_zero),
    Column("created_at", Moment, nullable=False, server_default=now),
    CheckConstraint("saved >= 0 and deduplicated >= 0 and dead >= 0", name="counted"),
    CheckConstraint("saved + deduplicated + dead <= received", name="pending"),
    UniqueConstraint("tenant_id", "idempotency_key"),
    UniqueConstraint("tenant_id", "job_id"),
    # Counters change often and no index has them: with room on the page an update touches nothing else.
    postgresql_with={"fillfactor": "70"},
    comment="One row a batch. Pending is received - saved - deduplicated - dead, and what the inbox holds.",
)
Index("ix_record_batches_created_at", record_batches.c.tenant_id, record_batches.c.created_at)

record_inbox: Final = Table(
    "record_inbox",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("collection", Text, nullable=False),
    Column("shard", SmallInteger, nullable=False),
    Column("batch_id", Uuid, nullable=False),
    Column("first_index", BigInteger, nullable=False),
    Column("records", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("refused", Boolean, nullable=False, server_default=text("false")),
    Column("skipped", ARRAY(Integer)),
    Column("attempts", SmallInteger, nullable=False, server_default=_zero),
    Column("accepted_at", Moment, nullable=False, server_default=now),
    Column("body", Text, nullable=False),
    CheckConstraint("records > 0", name="records"),
    comment="Acknowledged records on their way, up to a thousand a row. PostgreSQL refuses COPY under row-level"
    " security: tenants have no right here and see their own through the view tenant_record_inbox.",
)
Index("ix_record_inbox_stream", record_inbox.c.collection, record_inbox.c.shard, record_inbox.c.tenant_id, "id")

record_claims: Final = Table(
    "record_claims",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("worker_id", Uuid, nullable=False),
    Column("collection", Text, nullable=False),
    Column("shard", SmallInteger, nullable=False),
    Column("pieces", ARRAY(BigInteger), nullable=False),
    Column("claimed_at", Moment, nullable=False, server_default=now),
    comment="Which rows of the inbox a worker has in hand; one of a worker that is silent tells that it died.",
)

record_dead_letters: Final = Table(
    "record_dead_letters",
    metadata,
    Column("id", Uuid, server_default=text("uuidv7()")),
    Column("tenant_id", Uuid, ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False),
    Column("collection", Text, nullable=False),
    Column("batch_id", Uuid, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("code", Text, nullable=False),
    Column("sqlstate", Text),
    Column("message", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("whole", Boolean, nullable=False, server_default=text("true")),
    Column("created_at", Moment, nullable=False, server_default=now),
    PrimaryKeyConstraint("tenant_id", "id"),
    comment="Records that could not be saved, with the reason. whole is false where only the beginning was kept.",
)
Index("ix_record_dead_letters_list", record_dead_letters.c.tenant_id, record_dead_letters.c.collection, "id")

# No foreign key to tenants: it would be checked row by row, and the batch that each row came in has one.
messages: Final = Table(
    "messages",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("dialog_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("model", Text),
    Column("tokens", Integer),
    Column("status", Text),
    Column("processing_ms", Integer),
    Column("metadata", JSONB(none_as_null=True)),
    Column("batch_id", Uuid, nullable=False),
    PrimaryKeyConstraint("tenant_id", "id"),
    comment="Messages of dialogs; the first one with an id stays.",
)
_message = messages.c
Index("ix_messages_dialog", _message.tenant_id, _message.dialog_id, _message.created_at, _message.id)
Index("ix_messages_user_dialogs", _message.tenant_id, _message.user_id, _message.dialog_id, _message.created_at.desc())
Index(
    "ix_messages_usage",
    _message.tenant_id, _message.created_at,
    postgresql_include=["user_id", "model", "tokens", "role"],
)  # fmt: skip
Index(
    "ix_messages_model",
    _message.tenant_id, _message.model, _message.created_at,
    postgresql_include=["tokens"],
    postgresql_where=_message.model.is_not(None),
)  # fmt: skip
Index(
    "ix_messages_user_tokens",
    _message.tenant_id, _message.user_id, _message.created_at,
    postgresql_include=["tokens"],
    postgresql_where=_message.tokens.is_not(None),
)  # fmt: skip
Index(
    "ix_messages_status",
    _message.tenant_id, _message.status, _message.processing_ms.desc(),
    postgresql_where=_message.status.is_not(None),
)  # fmt: skip

users: Final = Table(
    "users",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("id", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("premium", Boolean, nullable=False, server_default=text("false")),
    Column("blocked", Boolean, nullable=False, server_default=text("false")),
    Column("last_active_at", Moment),
    Column("attributes", JSONB(none_as_null=True)),
    Column("batch_id", Uuid, nullable=False),
    PrimaryKeyConstraint("tenant_id", "id"),
    comment="The newest known state of each user.",
)
_user = users.c
Index(
    "ix_users_premium",
    _user.tenant_id, _user.last_active_at.desc(), _user.id,
    postgresql_where=text("premium and not blocked"),
)  # fmt: skip
Index("ix_users_last_active", _user.tenant_id, _user.last_active_at.desc(), _user.id)
Index("ix_users_blocked", _user.tenant_id, _user.id, postgresql_where=text("blocked"))
