"""What courses keep beyond their jobs: revisions of their nodes, the tree that is worked on, versions, exports."""

from typing import Final

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from repositories.tables.base import Moment, Money, metadata, now


def course_key() -> ForeignKeyConstraint:
    """The foreign key of a row that belongs to a course and goes with it."""
    return ForeignKeyConstraint(["tenant_id", "course_id"], ["courses.tenant_id", "courses.id"], ondelete="CASCADE")


courses: Final = Table(
    "courses",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("title", Text, nullable=False),
    Column("corpus_id", Uuid, nullable=False),
    Column("latest_version", Integer, nullable=False, server_default=text("0")),
    Column("created_at", Moment, nullable=False, server_default=now),
    Column("updated_at", Moment, nullable=False, server_default=now),
    UniqueConstraint("tenant_id", "id"),
    ForeignKeyConstraint(["tenant_id", "id"], ["jobs.tenant_id", "jobs.id"], ondelete="CASCADE"),
    comment="One row a course, from its outline on; its id is that of its job. No version yet: it is still being made.",
)
Index("ix_courses_list", courses.c.tenant_id, courses.c.id.desc())

node_revisions: Final = Table(
    "node_revisions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("course_id", Uuid, nullable=False),
    Column("job_id", Uuid),
    Column("whole_id", Uuid),
    Column("key", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("input_hash", Text, nullable=False),
    Column("content_sha256", Text, nullable=False),
    Column("artifact_id", Uuid),
    Column("status", Text, nullable=False),
    Column("calls", Integer, nullable=False, server_default=text("0")),
    Column("cost_usd", Money, nullable=False, server_default=text("0")),
    Column("made_at", Moment, nullable=False, server_default=now),
    UniqueConstraint("tenant_id", "course_id", "id"),
    course_key(),
    ForeignKeyConstraint(
        ["tenant_id", "course_id", "whole_id"],
        ["node_revisions.tenant_id", "node_revisions.course_id", "node_revisions.id"],
        ondelete="CASCADE",
    ),
    CheckConstraint("(artifact_id is null) = (whole_id is not null)", name="content"),
    comment="Every node of a course as it was ever made; rows never change. whole_id: the revision it is a part of."
    " job_id is null where a person made it.",
)
Index("ix_node_revisions_whole", node_revisions.c.tenant_id, node_revisions.c.whole_id)
Index(
    "ix_node_revisions_key",
    node_revisions.c.tenant_id,
    node_revisions.c.course_id,
    node_revisions.c.key,
    node_revisions.c.id.desc(),
)
Index(
    "uq_node_revisions_made",
    node_revisions.c.tenant_id,
    node_revisions.c.course_id,
    node_revisions.c.job_id,
    node_revisions.c.key,
    node_revisions.c.input_hash,
    unique=True,
    postgresql_where=text("whole_id is null"),
)

course_nodes: Final = Table(
    "course_nodes",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("course_id", Uuid, nullable=False),
    Column("key", Text, nullable=False),
    Column("revision_id", Uuid, nullable=False),
    PrimaryKeyConstraint("tenant_id", "course_id", "key"),
    course_key(),
    ForeignKeyConstraint(
        ["tenant_id", "course_id", "revision_id"],
        ["node_revisions.tenant_id", "node_revisions.course_id", "node_revisions.id"],
        ondelete="CASCADE",
    ),
    comment="The tree that is worked on: which revision of each whole node stands. Parts follow their whole.",
)

course_versions: Final = Table(
    "course_versions",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("course_id", Uuid, nullable=False),
    Column("number", Integer, nullable=False),
    Column("nodes", JSONB, nullable=False),
    Column("content_sha256", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("note", Text),
    Column("job_id", Uuid),
    Column("created_at", Moment, nullable=False, server_default=now),
    PrimaryKeyConstraint("tenant_id", "course_id", "number"),
    course_key(),
    CheckConstraint("reason in ('made','section','mix','rollback','edit')", name="reason"),
    comment="Versions of a course, numbered without gaps; rows never change. nodes: the revision of each whole node.",
)
Index(
    "uq_course_versions_job",
    course_versions.c.tenant_id,
    course_versions.c.course_id,
    course_versions.c.job_id,
    unique=True,
)

course_exports: Final = Table(
    "course_exports",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("course_id", Uuid, nullable=False),
    Column("number", Integer, nullable=False),
    Column("export", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("artifact_id", Uuid, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=now),
    PrimaryKeyConstraint("tenant_id", "course_id", "number", "export", "profile"),
    ForeignKeyConstraint(
        ["tenant_id", "course_id", "number"],
        ["course_versions.tenant_id", "course_versions.course_id", "course_versions.number"],
        ondelete="CASCADE",
    ),
    comment="What was rendered of each version.",
)
