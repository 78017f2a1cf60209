"""Publishing: credentials, channels, slots, orders, the ledger of effects, limits, tasks, conversations.

Revision: 0005
Follows: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

APP_GRANTS = {
    "credentials": "SELECT, INSERT, UPDATE, DELETE",
    "channels": "SELECT, INSERT, UPDATE",
    "slots": "SELECT, INSERT, UPDATE",
    "orders": "SELECT, INSERT, UPDATE",
    "publications": "SELECT, INSERT, UPDATE",
    "owner_tasks": "SELECT, INSERT, UPDATE",
    "view_counts": "SELECT, INSERT",
    "bots": "SELECT, INSERT, UPDATE, DELETE",
    "bot_updates": "SELECT, INSERT, UPDATE",
    "rate_scopes": "SELECT",
    "rate_parties": "SELECT",
}
# Limits are the platform's business: tenants who share a token share its limits. Bots are found by the id in the
# address of a webhook, before it is known whose they are. Orders are watched over by the guardian.
SYSTEM_GRANTS = {
    "rate_scopes": "SELECT, INSERT, UPDATE, DELETE",
    "rate_parties": "SELECT, INSERT, UPDATE, DELETE",
    "bots": "SELECT",
    "orders": "SELECT, UPDATE",
    "owner_tasks": "SELECT, INSERT, UPDATE",
}
TENANT_TABLES = tuple(table for table in APP_GRANTS if table != "rate_scopes")


def _isolate() -> None:
    mine = "tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid"
    for table, rights in APP_GRANTS.items():
        op.execute(f"GRANT {rights} ON {table} TO longhaul_app")
    for table, rights in SYSTEM_GRANTS.items():
        op.execute(f"GRANT {rights} ON {table} TO longhaul_system")
    for table in TENANT_TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant_only ON {table} TO longhaul_app USING ({mine}) WITH CHECK ({mine})")
        if table in SYSTEM_GRANTS:
            op.execute(f"CREATE POLICY platform ON {table} TO longhaul_system USING (true) WITH CHECK (true)")


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    # The wheel of the embedded PostgreSQL has no btree_gist; a range of one id takes part in GiST all the same.
    op.execute("CREATE TYPE uuidrange AS RANGE (subtype = uuid)")
    op.create_table('rate_scopes',
    sa.Column('scope', sa.Text(), nullable=False),
    sa.Column('next_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('frozen_until', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('interval_seconds', sa.Double(), nullable=True),
    sa.Column('freezes', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('updated_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.PrimaryKeyConstraint('scope', name=op.f('pk_rate_scopes')),
    comment='Limits shared by all workers, one row a chat or token (by fingerprint). next_at is the theoretical arrival time of GCRA; interval_seconds is what was learned from the other side, if anything.'
    )
    op.create_table('credentials',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('sealed', sa.LargeBinary(), nullable=False),
    sa.Column('fingerprint', sa.Text(), nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['tenant_id'], ['tenants.id'], name=op.f('fk_credentials_tenant_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_credentials')),
    sa.UniqueConstraint('tenant_id', 'id', name=op.f('uq_credentials_tenant_id_id')),
    sa.UniqueConstraint('tenant_id', 'name', name=op.f('uq_credentials_tenant_id_name')),
    comment='Secrets of outside systems, encrypted; named by id everywhere else. fingerprint is a hash, the same for the same secret, by which limits are shared.'
    )
    op.create_table('rate_parties',
    sa.Column('scope', sa.Text(), nullable=False),
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('granted_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('waits_until', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['tenant_id'], ['tenants.id'], name=op.f('fk_rate_parties_tenant_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('tenant_id', 'scope', name=op.f('pk_rate_parties')),
    comment='Who shares a scope: whoever was served longest ago goes first.'
    )
    op.create_table('channels',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('gateway', sa.Text(), nullable=False),
    sa.Column('chat_id', sa.Text(), nullable=False),
    sa.Column('audit_chat_id', sa.Text(), nullable=True),
    sa.Column('credential_id', sa.Uuid(), nullable=True),
    sa.Column('title', sa.Text(), server_default=sa.text("''"), nullable=False),
    sa.Column('username', sa.Text(), nullable=True),
    sa.Column('time_zone', sa.Text(), nullable=False),
    sa.Column('requires_approval', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('notify', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
    sa.Column('state', sa.Text(), server_default=sa.text("'checking'"), nullable=False),
    sa.Column('rights', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
    sa.Column('checked_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('last_message_id', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("state in ('checking','ready','refused')", name=op.f('ck_channels_state')),
    sa.ForeignKeyConstraint(['tenant_id', 'credential_id'], ['credentials.tenant_id', 'credentials.id'], name=op.f('fk_channels_tenant_id_credential_id')),
    sa.ForeignKeyConstraint(['tenant_id'], ['tenants.id'], name=op.f('fk_channels_tenant_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_channels')),
    sa.UniqueConstraint('tenant_id', 'gateway', 'chat_id', name=op.f('uq_channels_tenant_id_gateway_chat_id')),
    sa.UniqueConstraint('tenant_id', 'id', name=op.f('uq_channels_tenant_id_id')),
    comment='Channels of a tenant. last_message_id is the highest id known; doubtful posts are looked for behind it.'
    )
    op.create_table('bots',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('credential_id', sa.Uuid(), nullable=False),
    sa.Column('channel_id', sa.Uuid(), nullable=False),
    sa.Column('secret_sha256', sa.LargeBinary(), nullable=False),
    sa.Column('polls', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('next_update', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['tenant_id', 'channel_id'], ['channels.tenant_id', 'channels.id'], name=op.f('fk_bots_tenant_id_channel_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['tenant_id', 'credential_id'], ['credentials.tenant_id', 'credentials.id'], name=op.f('fk_bots_tenant_id_credential_id')),
    sa.ForeignKeyConstraint(['tenant_id'], ['tenants.id'], name=op.f('fk_bots_tenant_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_bots')),
    sa.UniqueConstraint('tenant_id', 'id', name=op.f('uq_bots_tenant_id_id')),
    comment='Bots that take orders in conversations; updates come by webhook, or by long polling in development.'
    )
    op.create_table('slots',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('channel_id', sa.Uuid(), nullable=False),
    sa.Column('period', postgresql.TSTZRANGE(), nullable=False),
    sa.Column('state', sa.Text(), server_default=sa.text("'offered'"), nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    postgresql.ExcludeConstraint((sa.text("uuidrange(channel_id, channel_id, '[]')"), '='), (sa.column('period'), '&&'), where=sa.text("state = 'offered'"), using='gist', name='ex_slots_overlap'),
    sa.CheckConstraint("state in ('offered','withdrawn')", name=op.f('ck_slots_state')),
    sa.CheckConstraint('not isempty(period) and not lower_inf(period) and not upper_inf(period)', name=op.f('ck_slots_period')),
    sa.ForeignKeyConstraint(['tenant_id', 'channel_id'], ['channels.tenant_id', 'channels.id'], name=op.f('fk_slots_tenant_id_channel_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_slots')),
    sa.UniqueConstraint('tenant_id', 'id', name=op.f('uq_slots_tenant_id_id')),
    comment='Times that a channel offers; the database refuses two that overlap.'
    )
    op.create_index('ix_slots_channel', 'slots', ['tenant_id', 'channel_id', 'id'], unique=False)
    op.create_table('bot_updates',
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('bot_id', sa.Uuid(), nullable=False),
    sa.Column('update_id', sa.BigInteger(), nullable=False),
    sa.Column('chat_id', sa.BigInteger(), nullable=True),
    sa.Column('text', sa.Text(), nullable=True),
    sa.Column('delivered_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['tenant_id', 'bot_id'], ['bots.tenant_id', 'bots.id'], name=op.f('fk_bot_updates_tenant_id_bot_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('tenant_id', 'bot_id', 'update_id', name=op.f('pk_bot_updates')),
    comment="Updates as they came in, each once; the text stays here, the conversation's workflow knows the number."
    )
    op.create_table('orders',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('channel_id', sa.Uuid(), nullable=False),
    sa.Column('slot_id', sa.Uuid(), nullable=True),
    sa.Column('job_id', sa.Uuid(), nullable=False),
    sa.Column('position', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('state', sa.Text(), server_default=sa.text("'booked'"), nullable=False),
    sa.Column('version', sa.Integer(), server_default=sa.text('1'), nullable=False),
    sa.Column('content', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('content_sha256', sa.Text(), nullable=False),
    sa.Column("pending", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
    sa.Column('approved_sha256', sa.Text(), nullable=True),
    sa.Column('wish', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('publish_at', postgresql.TIMESTAMP(timezone=True), nullable=False),
    sa.Column('remove_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('latest_at', postgresql.TIMESTAMP(timezone=True), nullable=False),
    sa.Column('armed_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('sent_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('drift_ms', sa.Double(), nullable=True),
    sa.Column('ended_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('message_ids', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('updated_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("state in ('booked','approval','armed','sending','needs_person','live','pinned','removed','stubbed','finished','gone','missed','rejected','canceled')", name=op.f('ck_orders_state')),
    sa.ForeignKeyConstraint(['tenant_id', 'channel_id'], ['channels.tenant_id', 'channels.id'], name=op.f('fk_orders_tenant_id_channel_id')),
    sa.ForeignKeyConstraint(['tenant_id', 'job_id'], ['jobs.tenant_id', 'jobs.id'], name=op.f('fk_orders_tenant_id_job_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['tenant_id', 'slot_id'], ['slots.tenant_id', 'slots.id'], name=op.f('fk_orders_tenant_id_slot_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_orders')),
    sa.UniqueConstraint('tenant_id', 'id', name=op.f('uq_orders_tenant_id_id')),
    comment="Posts that are ordered. An order has the id of its job; deliveries of a sequence share its job."
    )
    op.create_index('ix_orders_channel', 'orders', ['tenant_id', 'channel_id', 'publish_at'], unique=False)
    op.create_index('ix_orders_job', 'orders', ['tenant_id', 'job_id', 'position'], unique=False)
    op.create_index('uq_orders_slot', 'orders', ['tenant_id', 'slot_id'], unique=True, postgresql_where=sa.text("slot_id is not null and state not in ('canceled','rejected','missed')"))
    op.create_table('owner_tasks',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('order_id', sa.Uuid(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('detail', sa.Text(), nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('closed_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('resolution', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['tenant_id', 'order_id'], ['orders.tenant_id', 'orders.id'], name=op.f('fk_owner_tasks_tenant_id_order_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_owner_tasks')),
    sa.UniqueConstraint('tenant_id', 'order_id', 'kind', name=op.f('uq_owner_tasks_tenant_id_order_id_kind')),
    comment='What only a person can do or decide.'
    )
    op.create_table('publications',
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('order_id', sa.Uuid(), nullable=False),
    sa.Column('effect', sa.Text(), nullable=False),
    sa.Column('channel_id', sa.Uuid(), nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('attempt', sa.Integer(), nullable=False),
    sa.Column('fence', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('sends', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('content_sha256', sa.Text(), server_default=sa.text("''"), nullable=False),
    sa.Column('after_message_id', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('message_ids', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False),
    sa.Column('doubts', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('resolved_by', sa.Text(), nullable=True),
    sa.Column('evidence', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False),
    sa.Column('error_code', sa.Text(), nullable=True),
    sa.Column('detail', sa.Text(), nullable=True),
    sa.Column('sending_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('settled_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('updated_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("state in ('sending','done','rejected','not_sent','unknown','needs_person','missed')", name=op.f('ck_publications_state')),
    sa.ForeignKeyConstraint(['tenant_id', 'order_id'], ['orders.tenant_id', 'orders.id'], name=op.f('fk_publications_tenant_id_order_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('tenant_id', 'order_id', 'effect', name=op.f('pk_publications')),
    comment='The ledger of effects: a row is committed before the wire is touched. fence is the newest attempt that is closed; nothing up to it may send any more.'
    )
    op.create_index('ix_publications_channel', 'publications', ['tenant_id', 'channel_id', 'updated_at'], unique=False)
    op.create_table('view_counts',
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('order_id', sa.Uuid(), nullable=False),
    sa.Column('source', sa.Text(), nullable=False),
    sa.Column('views', sa.BigInteger(), nullable=False),
    sa.Column('at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['tenant_id', 'order_id'], ['orders.tenant_id', 'orders.id'], name=op.f('fk_view_counts_tenant_id_order_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('tenant_id', 'order_id', 'source', 'at', name=op.f('pk_view_counts')),
    comment='How often posts were seen, by the source that says so.'
    )
    _isolate()


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("view_counts")
    op.drop_table("publications")
    op.drop_table("owner_tasks")
    op.drop_table("orders")
    op.drop_table("bot_updates")
    op.drop_table("slots")
    op.drop_table("bots")
    op.drop_table("channels")
    op.drop_table("rate_parties")
    op.drop_table("credentials")
    op.drop_table("rate_scopes")
    op.execute("DROP TYPE uuidrange")
