"""What all families share: tenants, jobs and their steps, events, commands and artifacts."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
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

from repositories.tables.base import Moment, Money, job_key, metadata, now

installation: Final = Table(
    "installation",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("profile", Text, nullable=False),
    CheckConstraint("singleton", name="one_row"),
    comment="Which profile this database belongs to, so that development and production cannot be mixed up.",
)

tenants: Final = Table(
    "tenants",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("max_running", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("created_at", Moment, nullable=False, server_default=now),
    comment="max_running: job kind -> most jobs of it that may run at once; the setting where there is no entry.",
)

api_keys: Final = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("prefix", Text, nullable=False, unique=True),
    Column("key_hash", LargeBinary, nullable=False),
    Column("name", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", Moment, nullable=False, server_default=now),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    Column("last_used_at", Moment),
    comment="Keys by public prefix; only the HMAC of the whole key is kept.",
)

jobs: Final = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, ForeignKey("tenants.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("task_queue", Text, nullable=False),
    Column("status", Text, nullable=False, server_default=text("'queued'")),
    Column("version", BigInteger, nullable=False, server_default=text("1")),
    Column("attempt", Integer, nullable=False, server_default=text("1")),
    Column("progress", Double, nullable=False, server_default=text("0")),
    Column("priority", SmallInteger, nullable=False, server_default=text("3")),
    Column("labels", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("input", JSONB, nullable=False),
    Column("waiting_on", JSONB(none_as_null=True)),
    Column("result", JSONB(none_as_null=True)),
    Column("error", JSONB(none_as_null=True)),
    Column("error_code", Text),
    Column("callback_url", Text),
    Column("budget_usd", Money),
    Column("cost_usd", Money, nullable=False, server_default=text("0")),
    Column("input_tokens", BigInteger, nullable=False, server_default=text("0")),
    Column("output_tokens", BigInteger, nullable=False, server_default=text("0")),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("cancel_requested_at", Moment),
    Column("start_at", Moment),
    Column("admitted_at", Moment),
    Column("created_at", Moment, nullable=False, server_default=now),
    Column("started_at", Moment),
    Column("finished_at", Moment),
    Column("updated_at", Moment, nullable=False, server_default=now),
    Column("reconciled_at", Moment, nullable=False, server_default=now),
    Column("run_id", Text),
    Column("request_id", Text),
    Column("traceparent", Text),
    UniqueConstraint("tenant_id", "id"),
    CheckConstraint("status in ('queued','running','succeeded','failed','canceled')", name="status"),
    CheckConstraint("(finished_at is not null) = (status in ('succeeded','failed','canceled'))", name="finished"),
    CheckConstraint("progress >= 0 and progress <= 1", name="progress"),
    CheckConstraint("priority between 1 and 5", name="priority"),
    comment="One row a job. version counts its events and is its ETag; admitted_at is when it took a running slot.",
)
Index("ix_jobs_list", jobs.c.tenant_id, jobs.c.id.desc())
Index("ix_jobs_list_kind", jobs.c.tenant_id, jobs.c.kind, jobs.c.id.desc())
Index("ix_jobs_labels", jobs.c.labels, postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"})
Index(
    "ix_jobs_admitted",
    jobs.c.tenant_id,
    jobs.c.kind,
    postgresql_where=text("admitted_at is not null and finished_at is null"),
)
Index(
    "ix_jobs_reconcile",
    jobs.c.reconciled_at,
    postgresql_where=text("admitted_at is not null and finished_at is null"),
)

job_steps: Final = Table(
    "job_steps",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("job_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("title", Text, nullable=False),
    Column("weight", Double, nullable=False, server_default=text("1")),
    Column("done", Integer, nullable=False, server_default=text("0")),
    Column("total", Integer, nullable=False, server_default=text("1")),
    Column("status", Text, nullable=False, server_default=text("'queued'")),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("started_at", Moment),
    Column("finished_at", Moment),
    Column("last_error", JSONB(none_as_null=True)),
    Column("next_retry_at", Moment),
    PrimaryKeyConstraint("tenant_id", "job_id", "name"),
    job_key(),
    CheckConstraint("done >= 0 and done <= total", name="done"),
    comment="The named steps of a job, as shown in its document.",
)

job_events: Final = Table(
    "job_events",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("job_id", Uuid, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("data", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("at", Moment, nullable=False, server_default=now),
    PrimaryKeyConstraint("tenant_id", "job_id", "seq"),
    job_key(),
    comment="Everything that happened to a job, numbered without gaps.",
)

commands: Final = Table(
    "commands",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("job_id", Uuid, nullable=False),
    Column("action", Text, nullable=False),
    Column("args", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("not_before", Moment, nullable=False, server_default=now),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("last_error", Text),
    Column("created_at", Moment, nullable=False, server_default=now),
    job_key(),
    CheckConstraint("action in ('start','cancel','signal')", name="action"),
    comment="What Temporal is still to be told. A row is deleted once the workflow has it.",
)
Index("ix_commands_due", commands.c.not_before)
Index("ix_commands_job", commands.c.tenant_id, commands.c.job_id)

idempotency_keys: Final = Table(
    "idempotency_keys",
    metadata,
    Column("tenant_id", Uuid, ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False),
    Column("key", Text, nullable=False),
    Column("request_hash", LargeBinary, nullable=False),
    Column("job_id", Uuid, nullable=False),
    Column("expires_at", Moment, nullable=False),
    PrimaryKeyConstraint("tenant_id", "key"),
    comment="Which job an idempotency key stands for, and the hash of the request it came with.",
)
Index("ix_idempotency_keys_expires_at", idempotency_keys.c.expires_at)

artifacts: Final = Table(
    "artifacts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, ForeignKey("tenants.id"), nullable=False),
    Column("job_id", Uuid),
    Column("name", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=now),
    job_key(),
    CheckConstraint("role in ('upload','partial','export','internal')", name="role"),
    comment="Names for bytes in the object store; the bytes are found by tenant and sha256.",
)
Index("ix_artifacts_job", artifacts.c.tenant_id, artifacts.c.job_id, artifacts.c.id)

step_results: Final = Table(
    "step_results",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("job_id", Uuid, nullable=False),
    Column("step", Text, nullable=False),
    Column("input_hash", Text, nullable=False),
    Column("result", JSONB, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=now),
    PrimaryKeyConstraint("tenant_id", "job_id", "step", "input_hash"),
    job_key(),
    comment="What a step has already made, so that it is never made, or paid for, twice.",
)

workers: Final = Table(
    "workers",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("task_queues", ARRAY(Text), nullable=False),
    Column("code_version", Text, nullable=False),
    Column("started_at", Moment, nullable=False, server_default=now),
    Column("seen_at", Moment, nullable=False, server_default=now),
    comment="Worker processes and when they last said that they are alive.",
)
