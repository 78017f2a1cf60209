"""Approvals: what a person is asked to agree to; and an index by which the costs of a span of time are found.

Revision: 0010
Follows: 0009
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def _isolate() -> None:
    mine = "tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid"
    op.execute("GRANT SELECT, INSERT, UPDATE ON approvals TO longhaul_app")
    op.execute("ALTER TABLE approvals ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE approvals FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant_only ON approvals TO longhaul_app USING ({mine}) WITH CHECK ({mine})")


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table('approvals',
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('job_id', sa.Uuid(), nullable=False),
    sa.Column('subject', sa.Text(), nullable=False),
    sa.Column('round', sa.Integer(), nullable=False),
    sa.Column('attempt', sa.Integer(), nullable=False),
    sa.Column('state', sa.Text(), server_default=sa.text("'waiting'"), nullable=False),
    sa.Column('content_sha256', sa.Text(), nullable=True),
    sa.Column('artifact_id', sa.Uuid(), nullable=True),
    sa.Column('edited', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('timed_out', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('on_timeout', sa.Text(), nullable=False),
    sa.Column('comment', sa.Text(), nullable=True),
    sa.Column('asked_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('until', postgresql.TIMESTAMP(timezone=True), nullable=False),
    sa.Column('decided_at', postgresql.TIMESTAMP(timezone=True), nullable=True),
    sa.CheckConstraint("on_timeout in ('fail','approve')", name=op.f('ck_approvals_on_timeout')),
    sa.CheckConstraint("state <> 'approved' or content_sha256 is not null", name=op.f('ck_approvals_bound')),
    sa.CheckConstraint("state in ('waiting','approved','rejected','expired','withdrawn')", name=op.f('ck_approvals_state')),
    sa.CheckConstraint("subject in ('outline','course')", name=op.f('ck_approvals_subject')),
    sa.ForeignKeyConstraint(['tenant_id', 'job_id'], ['jobs.tenant_id', 'jobs.id'], name=op.f('fk_approvals_tenant_id_job_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('tenant_id', 'job_id', 'subject', 'round', name=op.f('pk_approvals')),
    comment='What a person is asked to agree to, and what they said. An approval is of content_sha256 and of nothing else; it is null while the content is being put together anew after an edit.'
    )
    op.create_index('uq_approvals_waiting', 'approvals', ['tenant_id', 'job_id'], unique=True, postgresql_where=sa.text("state = 'waiting'"))
    op.create_index('ix_provider_calls_created_at', 'provider_calls', ['tenant_id', 'created_at'], unique=False)
    _isolate()


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_index('ix_provider_calls_created_at', table_name='provider_calls')
    op.drop_table("approvals")
