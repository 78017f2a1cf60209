"""Video renders: the ledger of renders that are paid for, and the digests of webhooks that woke somebody.

Revision: 0009
Follows: 0008
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

APP_GRANTS = {"video_renders": "SELECT, INSERT, UPDATE"}
# A webhook names a render and no tenant, so the platform finds out whose it is, and says whom it woke.
SYSTEM_GRANTS = {"video_renders": "SELECT, UPDATE", "provider_webhooks": "SELECT, INSERT, DELETE"}
TENANT_TABLES = tuple(APP_GRANTS)


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
        op.execute(f"CREATE POLICY platform ON {table} TO longhaul_system USING (true) WITH CHECK (true)")


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table('video_renders',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('job_id', sa.Uuid(), nullable=False),
    sa.Column('attempt', sa.Integer(), nullable=False),
    sa.Column('part', sa.Text(), nullable=False),
    sa.Column('digest', sa.Text(), nullable=False),
    sa.Column('generation', sa.Integer(), nullable=False),
    sa.Column('op', sa.Text(), nullable=False),
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('engine', sa.Text(), nullable=False),
    sa.Column('state', sa.Text(), server_default=sa.text("'planned'"), nullable=False),
    sa.Column('workflow_id', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('title', sa.Text(), nullable=False),
    sa.Column('body', sa.Text(), nullable=False),
    sa.Column('script_seconds', sa.Double(), nullable=False),
    sa.Column('reserved_usd', sa.Numeric(precision=14, scale=6), nullable=False),
    sa.Column('cost_usd', sa.Numeric(precision=14, scale=6), nullable=True),
    sa.Column('sends', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('doubts', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('looks', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('wakes', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('video_id', sa.Text(), nullable=True),
    sa.Column('seconds', sa.Double(), nullable=True),
    sa.Column('artifact_id', sa.Uuid(), nullable=True),
    sa.Column('error_code', sa.Text(), nullable=True),
    sa.Column('first_sent_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('submitted_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('woken_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('settled_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('updated_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("state in ('planned','submitting','unknown','rendering','stuck','done','failed','abandoned','replaced')", name=op.f('ck_video_renders_state')),
    sa.ForeignKeyConstraint(['tenant_id', 'job_id'], ['jobs.tenant_id', 'jobs.id'], name=op.f('fk_video_renders_tenant_id_job_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_video_renders')),
    sa.UniqueConstraint('tenant_id', 'job_id', 'part', 'digest', 'generation', name=op.f('uq_video_renders_tenant_id_job_id_part_digest_generation')),
    comment='The ledger of renders: a row is committed before the wire is touched, with the very body that goes over it, so that the same render is sent under the same key however often it is tried.'
    )
    op.create_index('ix_video_renders_list', 'video_renders', ['tenant_id', 'job_id', sa.literal_column('id DESC')], unique=False)
    op.create_index('ix_video_renders_video_id', 'video_renders', ['provider', 'video_id'], unique=False, postgresql_where=sa.text('video_id IS NOT NULL'))
    op.create_table('provider_webhooks',
    sa.Column('sha256', sa.LargeBinary(), nullable=False),
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('signed', sa.Boolean(), nullable=False),
    sa.Column('received_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.PrimaryKeyConstraint('provider', 'sha256', name=op.f('pk_provider_webhooks')),
    comment='Digests of webhooks that woke somebody, kept for some days: the same bytes wake nobody twice.'
    )
    op.create_index('ix_provider_webhooks_received_at', 'provider_webhooks', ['received_at'], unique=False)
    _isolate()


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("provider_webhooks")
    op.drop_table("video_renders")
