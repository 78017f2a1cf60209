"""Webhooks: endpoints, and an outbox that is written with every change of a job's status.

Revision: 0006
Follows: 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

APP_GRANTS = {
    "webhook_endpoints": "SELECT, INSERT, UPDATE, DELETE",
    "webhook_deliveries": "SELECT, INSERT, UPDATE",
}
SYSTEM_GRANTS = {
    "webhook_endpoints": "SELECT, UPDATE",
    "webhook_deliveries": "SELECT, INSERT, UPDATE, DELETE",
}
TENANT_TABLES = tuple(APP_GRANTS)

# A trigger and not code: a status is changed in several places, and wherever that is, the outbox is written in the
# same transaction. It runs with the rights of whoever changes the job.
ANNOUNCE = """
CREATE FUNCTION announce_job() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    body text := jsonb_build_object(
        'type', 'job.' || NEW.status,
        'timestamp', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'data', jsonb_build_object(
            'id', NEW.id, 'kind', NEW.kind, 'status', NEW.status, 'version', NEW.version, 'attempt', NEW.attempt,
            'progress', NEW.progress, 'error_code', NEW.error_code, 'labels', NEW.labels, 'request_id', NEW.request_id)
    )::text;
BEGIN
    INSERT INTO webhook_deliveries (tenant_id, endpoint_id, job_id, url, type, body)
    SELECT NEW.tenant_id, e.id, NEW.id, coalesce(e.url, NEW.callback_url), 'job.' || NEW.status, body
    FROM webhook_endpoints e
    WHERE e.tenant_id = NEW.tenant_id AND e.disabled_at IS NULL AND coalesce(e.url, NEW.callback_url) IS NOT NULL;
    IF FOUND THEN
        PERFORM pg_notify('longhaul_webhooks', '');
    END IF;
    RETURN NULL;
END
$$
"""
ON_QUEUED = """
CREATE TRIGGER announce_queued AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION announce_job()
"""
ON_CHANGED = """
CREATE TRIGGER announce_changed AFTER UPDATE OF status ON jobs FOR EACH ROW
WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION announce_job()
"""



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
    op.create_table('webhook_endpoints',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('url', sa.Text(), nullable=True),
    sa.Column('sealed_secret', sa.LargeBinary(), nullable=False),
    sa.Column('sealed_previous', sa.LargeBinary(), nullable=True),
    sa.Column('previous_until', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('disabled_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.Column('disabled_reason', sa.Text(), nullable=True),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['tenant_id'], ['tenants.id'], name=op.f('fk_webhook_endpoints_tenant_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_webhook_endpoints')),
    sa.UniqueConstraint('tenant_id', 'id', name=op.f('uq_webhook_endpoints_tenant_id_id')),
    comment='Where a tenant is told of every job. The one without a url holds the secret for the callback_url of jobs.'
    )
    op.create_index('uq_webhook_endpoints_callbacks', 'webhook_endpoints', ['tenant_id'], unique=True, postgresql_where=sa.text('url is null'))
    op.create_table('webhook_deliveries',
    sa.Column('id', sa.Uuid(), server_default=sa.text('uuidv7()'), nullable=False),
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('endpoint_id', sa.Uuid(), nullable=True),
    sa.Column('job_id', sa.Uuid(), nullable=True),
    sa.Column('url', sa.Text(), nullable=False),
    sa.Column('type', sa.Text(), nullable=False),
    sa.Column('body', sa.Text(), nullable=False),
    sa.Column('state', sa.Text(), server_default=sa.text("'pending'"), nullable=False),
    sa.Column('tries', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('due_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('last_status', sa.Integer(), nullable=True),
    sa.Column('last_error', sa.Text(), nullable=True),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('delivered_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.CheckConstraint("state in ('pending','delivered','failed','disabled')", name=op.f('ck_webhook_deliveries_state')),
    sa.ForeignKeyConstraint(['tenant_id', 'endpoint_id'], ['webhook_endpoints.tenant_id', 'webhook_endpoints.id'], name=op.f('fk_webhook_deliveries_tenant_id_endpoint_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['tenant_id'], ['tenants.id'], name=op.f('fk_webhook_deliveries_tenant_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_webhook_deliveries')),
    comment="The outbox of webhooks: written by a trigger in the transaction that changes a job's status."
    )
    op.create_index('ix_webhook_deliveries_due', 'webhook_deliveries', ['due_at'], unique=False, postgresql_where=sa.text("state = 'pending'"))
    op.create_index('ix_webhook_deliveries_list', 'webhook_deliveries', ['tenant_id', sa.literal_column('id DESC')], unique=False)
    _isolate()
    op.execute(ANNOUNCE)
    op.execute(ON_QUEUED)
    op.execute(ON_CHANGED)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("DROP TRIGGER announce_changed ON jobs")
    op.execute("DROP TRIGGER announce_queued ON jobs")
    op.execute("DROP FUNCTION announce_job()")
    op.drop_table("webhook_deliveries")
    op.drop_table("webhook_endpoints")
