"""Provider leases: how many things a provider does at once for us, all tenants and workers together.

Revision: 0008
Follows: 0007
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# An account of a provider is shared by tenants, so the platform counts across them; a tenant sees its own rows.
APP_GRANTS = {"provider_leases": "SELECT"}
SYSTEM_GRANTS = {"provider_leases": "SELECT, INSERT, UPDATE, DELETE"}
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
    op.create_table('provider_leases',
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('job_id', sa.Uuid(), nullable=False),
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('holder', sa.Text(), nullable=False),
    sa.Column('asked_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('granted_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('expires_at', postgresql.TIMESTAMP(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['tenant_id', 'job_id'], ['jobs.tenant_id', 'jobs.id'], name=op.f('fk_provider_leases_tenant_id_job_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('tenant_id', 'provider', 'holder', name=op.f('pk_provider_leases')),
    comment='Who may use a provider that does only so many things at once, and who waits for it (granted_at is null). A row counts until expires_at: what a dead worker held comes back by itself.'
    )
    op.create_index('ix_provider_leases_provider_expires_at', 'provider_leases', ['provider', 'expires_at'], unique=False)
    _isolate()


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("provider_leases")
