"""What publishing keeps: credentials, channels, slots, orders, the ledger of effects, limits, tasks, conversations."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
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
from sqlalchemy.dialects.postgresql import JSONB, TSTZRANGE, ExcludeConstraint

from repositories.tables.base import Moment, job_key, metadata, now

credentials: Final = Table(
    "credentials",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=now),
    UniqueConstraint("tenant_id", "id"),
    UniqueConstraint("tenant_id", "name"),
    comment="Secrets of outside systems, encrypted; named by id everywhere else. fingerprint is a hash, the same for "
    "the same secret, by which limits are shared.",
)

channels: Final = Table(
    "channels",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False),
    Column("gateway", Text, nullable=False),
    Column("chat_id", Text, nullable=False),
    Column("audit_chat_id", Text),
    Column("credential_id", Uuid),
    Column("title", Text, nullable=False, server_default=text("''")),
    Column("username", Text),
    Column("time_zone", Text, nullable=False),
    Column("requires_approval", Boolean, nullable=False, server_default=text("false")),
    Column("notify", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("state", Text, nullable=False, server_default=text("'checking'")),
    Column("rights", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("checked_at", Moment),
    Column("last_message_id", BigInteger, nullable=False, server_default=text("0")),
    Column("created_at", Moment, nullable=False, server_default=now),
    UniqueConstraint("tenant_id", "id"),
    UniqueConstraint("tenant_id", "gateway", "chat_id"),
    ForeignKeyConstraint(["tenant_id", "credential_id"], ["credentials.tenant_id", "credentials.id"]),
    CheckConstraint("state in ('checking','ready','refused')", name="state"),
    comment="Channels of a tenant. last_message_id is the highest id known; doubtful posts are looked for behind it.",
)

slots: Final = Table(
    "slots",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("channel_id", Uuid, nullable=False),
    Column("period", TSTZRANGE, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'offered'")),
    Column("created_at", Moment, nullable=False, server_default=now),
    UniqueConstraint("tenant_id", "id"),
    ForeignKeyConstraint(["tenant_id", "channel_id"], ["channels.tenant_id", "channels.id"], ondelete="CASCADE"),
    CheckConstraint("state in ('offered','withdrawn')", name="state"),
    CheckConstraint("not isempty(period) and not lower_inf(period) and not upper_inf(period)", name="period"),
    ExcludeConstraint(
        (text("uuidrange(channel_id, channel_id, '[]')"), "="),
        ("period", "&&"),
        using="gist",
        where=text("state = 'offered'"),
        name="ex_slots_overlap",
    ),
    comment="Times that a channel offers; the database refuses two that overlap.",
)
Index("ix_slots_channel", slots.c.tenant_id, slots.c.channel_id, slots.c.id)

orders: Final = Table(
    "orders",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("channel_id", Uuid, nullable=False),
    Column("slot_id", Uuid),
    Column("job_id", Uuid, nullable=False),
    Column("position", Integer, nullable=False, server_default=text("0")),
    Column("state", Text, nullable=False, server_default=text("'booked'")),
    Column("version", Integer, nullable=False, server_default=text("1")),
    Column("content", JSONB, nullable=False),
    Column("content_sha256", Text, nullable=False),
    Column("pending", JSONB(none_as_null=True)),
    Column("approved_sha256", Text),
    Column("wish", JSONB, nullable=False),
    Column("publish_at", Moment, nullable=False),
    Column("remove_at", Moment),
    Column("latest_at", Moment, nullable=False),
    Column("armed_at", Moment),
    Column("sent_at", Moment),
    Column("drift_ms", Double),
    Column("ended_at", Moment),
    Column("message_ids", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("created_at", Moment, nullable=False, server_default=now),
    Column("updated_at", Moment, nullable=False, server_default=now),
    UniqueConstraint("tenant_id", "id"),
    job_key(),
    ForeignKeyConstraint(["tenant_id", "channel_id"], ["channels.tenant_id", "channels.id"]),
    ForeignKeyConstraint(["tenant_id", "slot_id"], ["slots.tenant_id", "slots.id"]),
    CheckConstraint(
        "state in ('booked','approval','armed','sending','needs_person','live','pinned','removed','stubbed',"
        "'finished','gone','missed','rejected','canceled')",
        name="state",
    ),
    comment="Posts that are ordered. An order has the id of its job; deliveries of a sequence share its job.",
)
Index(
    "uq_orders_slot",
    orders.c.tenant_id,
    orders.c.slot_id,
    unique=True,
    postgresql_where=text("slot_id is not null and state not in ('canceled','rejected','missed')"),
)
Index("ix_orders_channel", orders.c.tenant_id, orders.c.channel_id, orders.c.publish_at)
Index("ix_orders_job", orders.c.tenant_id, orders.c.job_id, orders.c.position)

publications: Final = Table(
    "publications",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("order_id", Uuid, nullable=False),
    Column("effect", Text, nullable=False),
    Column("channel_id", Uuid, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("fence", Integer, nullable=False, server_default=text("0")),
    Column("sends", Integer, nullable=False, server_default=text("0")),
    Column("content_sha256", Text, nullable=False, server_default=text("''")),
    Column("after_message_id", BigInteger, nullable=False, server_default=text("0")),
    Column("message_ids", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("doubts", Integer, nullable=False, server_default=text("0")),
    Column("resolved_by", Text),
    Column("evidence", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("error_code", Text),
    Column("detail", Text),
    Column("sending_at", Moment),
    Column("settled_at", Moment),
    Column("created_at", Moment, nullable=False, server_default=now),
    Column("updated_at", Moment, nullable=False, server_default=now),
    PrimaryKeyConstraint("tenant_id", "order_id", "effect"),
    ForeignKeyConstraint(["tenant_id", "order_id"], ["orders.tenant_id", "orders.id"], ondelete="CASCADE"),
    CheckConstraint(
        "state in ('sending','done','rejected','not_sent','unknown','needs_person','missed')", name="state"
    ),
    comment="The ledger of effects: a row is committed before the wire is touched. fence is the newest attempt that is "
    "closed; nothing up to it may send any more.",
)
Index("ix_publications_channel", publications.c.tenant_id, publications.c.channel_id, publications.c.updated_at)

owner_tasks: Final = Table(
    "owner_tasks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("order_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=now),
    Column("closed_at", Moment),
    Column("resolution", Text),
    UniqueConstraint("tenant_id", "order_id", "kind"),
    ForeignKeyConstraint(["tenant_id", "order_id"], ["orders.tenant_id", "orders.id"], ondelete="CASCADE"),
    comment="What only a person can do or decide.",
)

view_counts: Final = Table(
    "view_counts",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("order_id", Uuid, nullable=False),
    Column("source", Text, nullable=False),
    Column("views", BigInteger, nullable=False),
    Column("at", Moment, nullable=False, server_default=now),
    PrimaryKeyConstraint("tenant_id", "order_id", "source", "at"),
    ForeignKeyConstraint(["tenant_id", "order_id"], ["orders.tenant_id", "orders.id"], ondelete="CASCADE"),
    comment="How often posts were seen, by the source that says so.",
)

rate_scopes: Final = Table(
    "rate_scopes",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("next_at", Moment, nullable=False, server_default=now),
    Column("frozen_until", Moment),
    Column("interval_seconds", Double),
    Column("freezes", Integer, nullable=False, server_default=text("0")),
    Column("updated_at", Moment, nullable=False, server_default=now),
    comment="Limits shared by all workers, one row a chat or token (by fingerprint). next_at is the theoretical arrival"
    " time of GCRA; interval_seconds is what was learned from the other side, if anything.",
)

rate_parties: Final = Table(
    "rate_parties",
    metadata,
    Column("scope", Text, nullable=False),
    Column("tenant_id", Uuid, ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False),
    Column("granted_at", Moment),
    Column("waits_until", Moment),
    PrimaryKeyConstraint("tenant_id", "scope"),
    comment="Who shares a scope: whoever was served longest ago goes first.",
)

bots: Final = Table(
    "bots",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False),
    Column("credential_id", Uuid, nullable=False),
    Column("channel_id", Uuid, nullable=False),
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("polls", Boolean, nullable=False, server_default=text("false")),
    Column("next_update", BigInteger, nullable=False, server_default=text("0")),
    Column("created_at", Moment, nullable=False, server_default=now),
    UniqueConstraint("tenant_id", "id"),
    ForeignKeyConstraint(["tenant_id", "credential_id"], ["credentials.tenant_id", "credentials.id"]),
    ForeignKeyConstraint(["tenant_id", "channel_id"], ["channels.tenant_id", "channels.id"], ondelete="CASCADE"),
    comment="Bots that take orders in conversations; updates come by webhook, or by long polling in development.",
)

bot_updates: Final = Table(
    "bot_updates",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("bot_id", Uuid, nullable=False),
    Column("update_id", BigInteger, nullable=False),
    Column("chat_id", BigInteger),
    Column("text", Text),
    Column("delivered_at", Moment),
    Column("at", Moment, nullable=False, server_default=now),
    PrimaryKeyConstraint("tenant_id", "bot_id", "update_id"),
    ForeignKeyConstraint(["tenant_id", "bot_id"], ["bots.tenant_id", "bots.id"], ondelete="CASCADE"),
    comment="Updates as they came in, each once; the text stays here, the conversation's workflow knows the number.",
)
