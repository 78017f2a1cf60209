"""Courses as graphs: revisions of nodes, the tree that is worked on, versions and what was rendered of them.

Revision: 0007
Follows: 0006
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# What must never change - revisions, versions, renderings - cannot be changed: there is no right to.
APP_GRANTS = {
    "courses": "SELECT, INSERT, UPDATE",
    "node_revisions": "SELECT, INSERT",
    "course_nodes": "SELECT, INSERT, UPDATE, DELETE",
    "course_versions": "SELECT, INSERT",
    "course_exports": "SELECT, INSERT",
}
TENANT_TABLES = tuple(APP_GRANTS)


def _isolate() -> None:
    mine = "tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid"
    for table, rights in APP_GRANTS.items():
        op.execute(f"GRANT {rights} ON {table} TO longhaul_app")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant_only ON {table} TO longhaul_app USING ({mine}) WITH CHECK ({mine})")


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table('courses',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('title', sa.Text(), nullable=False),
    sa.Column('corpus_id', sa.Uuid(), nullable=False),
    sa.Column('latest_version', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('updated_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['tenant_id', 'id'], ['jobs.tenant_id', 'jobs.id'], name=op.f('fk_courses_tenant_id_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_courses')),
    sa.UniqueConstraint('tenant_id', 'id', name=op.f('uq_courses_tenant_id_id')),
    comment='One row a course, from its outline on; its id is that of its job. No version yet: it is still being made.'
    )
    op.create_index('ix_courses_list', 'courses', ['tenant_id', sa.literal_column('id DESC')], unique=False)
    op.create_table('node_revisions',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('course_id', sa.Uuid(), nullable=False),
    sa.Column('job_id', sa.Uuid(), nullable=True),
    sa.Column('whole_id', sa.Uuid(), nullable=True),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('title', sa.Text(), nullable=False),
    sa.Column('input_hash', sa.Text(), nullable=False),
    sa.Column('content_sha256', sa.Text(), nullable=False),
    sa.Column('artifact_id', sa.Uuid(), nullable=True),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('calls', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('cost_usd', sa.Numeric(precision=14, scale=6), server_default=sa.text('0'), nullable=False),
    sa.Column('made_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint('(artifact_id is null) = (whole_id is not null)', name=op.f('ck_node_revisions_content')),
    sa.ForeignKeyConstraint(['tenant_id', 'course_id'], ['courses.tenant_id', 'courses.id'], name=op.f('fk_node_revisions_tenant_id_course_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['tenant_id', 'course_id', 'whole_id'], ['node_revisions.tenant_id', 'node_revisions.course_id', 'node_revisions.id'], name=op.f('fk_node_revisions_tenant_id_course_id_whole_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_node_revisions')),
    sa.UniqueConstraint('tenant_id', 'course_id', 'id', name=op.f('uq_node_revisions_tenant_id_course_id_id')),
    comment='Every node of a course as it was ever made; rows never change. whole_id: the revision it is a part of. job_id is null where a person made it.'
    )
    op.create_index('ix_node_revisions_whole', 'node_revisions', ['tenant_id', 'whole_id'], unique=False)
    op.create_index('ix_node_revisions_key', 'node_revisions', ['tenant_id', 'course_id', 'key', sa.literal_column('id DESC')], unique=False)
    op.create_index('uq_node_revisions_made', 'node_revisions', ['tenant_id', 'course_id', 'job_id', 'key', 'input_hash'], unique=True, postgresql_where=sa.text('whole_id is null'))
    op.create_table('course_nodes',
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('course_id', sa.Uuid(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('revision_id', sa.Uuid(), nullable=False),
    sa.ForeignKeyConstraint(['tenant_id', 'course_id'], ['courses.tenant_id', 'courses.id'], name=op.f('fk_course_nodes_tenant_id_course_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['tenant_id', 'course_id', 'revision_id'], ['node_revisions.tenant_id', 'node_revisions.course_id', 'node_revisions.id'], name=op.f('fk_course_nodes_tenant_id_course_id_revision_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('tenant_id', 'course_id', 'key', name=op.f('pk_course_nodes')),
    comment='The tree that is worked on: which revision of each whole node stands. Parts follow their whole.'
    )
    op.create_table('course_versions',
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('course_id', sa.Uuid(), nullable=False),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('nodes', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('content_sha256', sa.Text(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.Column('note', sa.Text(), nullable=True),
    sa.Column('job_id', sa.Uuid(), nullable=True),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("reason in ('made','section','mix','rollback','edit')", name=op.f('ck_course_versions_reason')),
    sa.ForeignKeyConstraint(['tenant_id', 'course_id'], ['courses.tenant_id', 'courses.id'], name=op.f('fk_course_versions_tenant_id_course_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('tenant_id', 'course_id', 'number', name=op.f('pk_course_versions')),
    comment='Versions of a course, numbered without gaps; rows never change. nodes: the revision of each whole node.'
    )
    op.create_index('uq_course_versions_job', 'course_versions', ['tenant_id', 'course_id', 'job_id'], unique=True)
    op.create_table('course_exports',
    sa.Column('tenant_id', sa.Uuid(), nullable=False),
    sa.Column('course_id', sa.Uuid(), nullable=False),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('export', sa.Text(), nullable=False),
    sa.Column('profile', sa.Text(), nullable=False),
    sa.Column('artifact_id', sa.Uuid(), nullable=False),
    sa.Column('created_at', postgresql.TIMESTAMP(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['tenant_id', 'course_id', 'number'], ['course_versions.tenant_id', 'course_versions.course_id', 'course_versions.number'], name=op.f('fk_course_exports_tenant_id_course_id_number'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('tenant_id', 'course_id', 'number', 'export', 'profile', name=op.f('pk_course_exports')),
    comment='What was rendered of each version.'
    )
    _isolate()


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table in reversed(TENANT_TABLES):
        op.drop_table(table)
