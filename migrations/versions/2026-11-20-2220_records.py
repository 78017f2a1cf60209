"""Records by the million: batches, the inbox, dead letters, and the collections messages and users.

Revision: 0002
Follows: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

APP_GRANTS = {
    "record_batches": "SELECT, INSERT, UPDATE, DELETE",
    "record_dead_letters": "SELECT, INSERT, DELETE",
    "messages": "SELECT, INSERT, DELETE",
    "users": "SELECT, INSERT, UPDATE, DELETE",
    # Not a table: the rows of the inbox that belong to the tenant of the transaction.
    "tenant_record_inbox": "SELECT, INSERT, UPDATE, DELETE",
}
# The platform writes what it acknowledges and counts what waits; it cannot read a single record.
SYSTEM_GRANTS = {
    "record_batches": "SELECT (id, tenant_id, idempotency_key), INSERT",
    "record_inbox": "SELECT (id, tenant_id, collection, shard, records, bytes, attempts, accepted_at),"
    " INSERT, UPDATE (attempts)",
    "record_claims": "SELECT, INSERT, DELETE",
}
TENANT_TABLES = ("record_batches", "record_dead_letters", "messages", "users")
MINE = "tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid"


def _isolate_tenants() -> None:
    for table in TENANT_TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant_only ON {table} TO longhaul_app USING ({MINE}) WITH CHECK ({MINE})")
    op.execute("CREATE POLICY platform ON record_batches TO longhaul_system USING (true) WITH CHECK (true)")
    op.execute(
        "CREATE VIEW tenant_record_inbox WITH (security_barrier) AS"
        f" SELECT * FROM record_inbox WHERE {MINE} WITH CASCADED CHECK OPTION"
    )
    for table, rights in APP_GRANTS.items():
        op.execute(f"GRANT {rights} ON {table} TO longhaul_app")
    for table, rights in SYSTEM_GRANTS.items():
        op.execute(f"GRANT {rights} ON {table} TO longhaul_system")


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table('record_claims',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('worker_id', sa.Uuid(), nullable=False),
    sa.Column('collection', sa.Text(), nullable=False),
    sa.Column('shard', sa.SmallInteger(), nullable=False),
    sa.Column('pieces', postgresql.ARRAY(sa.BigInteger()), nullable=False),
    sa.Column('claimed_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_record_claims')),
    comment='Which rows of the inbox a worker has in hand; one of a worker that is silent tells that it died.'
    )
    op.create_table('record_inbox',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=True), nullable=False),
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('collection', sa.Text(), nullable=False),
    sa.Column('shard', sa.SmallInteger(), nullable=False),
    sa.Column('batch_id', sa.Uuid(), nullable=False),
    sa.Column('first_index', sa.BigInteger(), nullable=False),
    sa.Column('records', sa.Integer(), nullable=False),
    sa.Column('bytes', sa.Integer(), nullable=False),
    sa.Column('refused', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('skipped', postgresql.ARRAY(sa.Integer()), nullable=True),
    sa.Column('attempts', sa.SmallInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('accepted_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('body', sa.Text(), nullable=False),
    sa.CheckConstraint('records > 0', name=op.f('ck_record_inbox_records')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_record_inbox')),
    comment='Acknowledged records on their way, up to a thousand a row. PostgreSQL refuses COPY under row-level security: tenants have no right here and see their own through the view tenant_record_inbox.'
    )
    op.create_index('ix_record_inbox_stream', 'record_inbox', ['collection', 'shard', 'tenant_id', 'id'], unique=False)
    op.create_table('messages',
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('dialog_id', sa.Text(), nullable=False),
    sa.Column('user_id', sa.Text(), nullable=False),
    sa.Column('role', sa.Text(), nullable=False),
    sa.Column('content', sa.Text(), nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), nullable=False),
    sa.Column('model', sa.Text(), nullable=True),
    sa.Column('tokens', sa.Integer(), nullable=True),
    sa.Column('status', sa.Text(), nullable=True),
    sa.Column('processing_ms', sa.Integer(), nullable=True),
    sa.Column('metadata', postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
    sa.Column('batch_id', sa.Uuid(), nullable=False),
    sa.PrimaryKeyConstraint('tenant_id', 'id', name=op.f('pk_messages')),
    comment='Messages of dialogs; the first one with an id stays.'
    )
    op.create_index('ix_messages_dialog', 'messages', ['tenant_id', 'dialog_id', 'created_at', 'id'], unique=False)
    op.create_index('ix_messages_model', 'messages', ['tenant_id', 'model', 'created_at'], unique=False, postgresql_include=['tokens'], postgresql_where=sa.text('model IS NOT NULL'))
    op.create_index('ix_messages_status', 'messages', ['tenant_id', 'status', sa.literal_column('processing_ms DESC')], unique=False, postgresql_where=sa.text('status IS NOT NULL'))
    op.create_index('ix_messages_usage', 'messages', ['tenant_id', 'created_at'], unique=False, postgresql_include=['user_id', 'model', 'tokens', 'role'])
    op.create_index('ix_messages_user_dialogs', 'messages', ['tenant_id', 'user_id', 'dialog_id', sa.literal_column('created_at DESC')], unique=False)
    op.create_index('ix_messages_user_tokens', 'messages', ['tenant_id', 'user_id', 'created_at'], unique=False, postgresql_include=['tokens'], postgresql_where=sa.text('tokens IS NOT NULL'))
    op.create_table('record_batches',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('collection', sa.Text(), nullable=False),
    sa.Column('job_id', sa.Uuid(), nullable=True),
    sa.Column('idempotency_key', sa.Text(), nullable=True),
    sa.Column('request_hash', sa.LargeBinary(), nullable=True),
    sa.Column('received', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('rejected', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('refusals', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False),
    sa.Column('saved', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('deduplicated', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('dead', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('position_bytes', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint('saved + deduplicated + dead <= received', name=op.f('ck_record_batches_pending')),
    sa.CheckConstraint('saved >= 0 and deduplicated >= 0 and dead >= 0', name=op.f('ck_record_batches_counted')),
    sa.ForeignKeyConstraint(['tenant_id'], ['tenants.id'], name=op.f('fk_record_batches_tenant_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_record_batches')),
    sa.UniqueConstraint('tenant_id', 'idempotency_key', name=op.f('uq_record_batches_tenant_id_idempotency_key')),
    sa.UniqueConstraint('tenant_id', 'job_id', name=op.f('uq_record_batches_tenant_id_job_id')),
    comment='One row a batch. Pending is received - saved - deduplicated - dead, and what the inbox holds.',
    postgresql_with={'fillfactor': '70'}
    )
    op.create_index('ix_record_batches_created_at', 'record_batches', ['tenant_id', 'created_at'], unique=False)
    op.create_table('record_dead_letters',
    sa.Column('id', sa.Uuid(), server_default=sa.text('uuidv7()'), nullable=False),
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('collection', sa.Text(), nullable=False),
    sa.Column('batch_id', sa.Uuid(), nullable=False),
    sa.Column("position", sa.BigInteger(), nullable=False),
    sa.Column('code', sa.Text(), nullable=False),
    sa.Column('sqlstate', sa.Text(), nullable=True),
    sa.Column('message', sa.Text(), nullable=False),
    sa.Column('payload', sa.LargeBinary(), nullable=False),
    sa.Column('whole', sa.Boolean(), server_default=sa.text('true'), nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['tenant_id'], ['tenants.id'], name=op.f('fk_record_dead_letters_tenant_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('tenant_id', 'id', name=op.f('pk_record_dead_letters')),
    comment='Records that could not be saved, with the reason. whole is false where only the beginning was kept.'
    )
    op.create_index('ix_record_dead_letters_list', 'record_dead_letters', ['tenant_id', 'collection', 'id'], unique=False)
    op.create_table('users',
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('version', sa.BigInteger(), nullable=False),
    sa.Column('premium', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('blocked', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('last_active_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('attributes', postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
    sa.Column('batch_id', sa.Uuid(), nullable=False),
    sa.PrimaryKeyConstraint('tenant_id', 'id', name=op.f('pk_users')),
    comment='The newest known state of each user.'
    )
    op.create_index('ix_users_blocked', 'users', ['tenant_id', 'id'], unique=False, postgresql_where=sa.text('blocked'))
    op.create_index('ix_users_last_active', 'users', ['tenant_id', sa.literal_column('last_active_at DESC'), 'id'], unique=False)
    op.create_index('ix_users_premium', 'users', ['tenant_id', sa.literal_column('last_active_at DESC'), 'id'], unique=False, postgresql_where=sa.text('premium and not blocked'))
    # Bodies are written once, read once and deleted: compressing them would cost more than it saves.
    op.execute("ALTER TABLE record_inbox ALTER body SET STORAGE EXTERNAL")
    op.execute(
        "ALTER TABLE record_inbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,"
        " toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 50000)"
    )
    _isolate_tenants()


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("DROP VIEW tenant_record_inbox")
    op.drop_index('ix_users_premium', table_name='users', postgresql_where=sa.text('premium and not blocked'))
    op.drop_index('ix_users_last_active', table_name='users')
    op.drop_index('ix_users_blocked', table_name='users', postgresql_where=sa.text('blocked'))
    op.drop_table('users')
    op.drop_index('ix_record_dead_letters_list', table_name='record_dead_letters')
    op.drop_table('record_dead_letters')
    op.drop_index('ix_record_batches_created_at', table_name='record_batches')
    op.drop_table('record_batches')
    op.drop_index('ix_messages_user_tokens', table_name='messages', postgresql_include=['tokens'], postgresql_where=sa.text('tokens IS NOT NULL'))
    op.drop_index('ix_messages_user_dialogs', table_name='messages')
    op.drop_index('ix_messages_usage', table_name='messages', postgresql_include=['user_id', 'model', 'tokens', 'role'])
    op.drop_index('ix_messages_status', table_name='messages', postgresql_where=sa.text('status IS NOT NULL'))
    op.drop_index('ix_messages_model', table_name='messages', postgresql_include=['tokens'], postgresql_where=sa.text('model IS NOT NULL'))
    op.drop_index('ix_messages_dialog', table_name='messages')
    op.drop_table('messages')
    op.drop_index('ix_record_inbox_stream', table_name='record_inbox')
    op.drop_table('record_inbox')
    op.drop_table('record_claims')
