"""The one schema. Alembic compares the database with this module; nothing creates tables from it.

Every table with a ``tenant_id`` is under forced row-level security (see the first migration), and every key that
another tenant could probe for existence starts with the tenant.
"""

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
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Moment = TIMESTAMP(timezone=True)
Money = Numeric(14, 6)
_now = func.now()


def _job_key() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["tenant_id", "job_id"], ["jobs.tenant_id", "jobs.id"], ondelete="CASCADE")


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
    Column("created_at", Moment, nullable=False, server_default=_now),
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
    Column("created_at", Moment, nullable=False, server_default=_now),
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
    Column("created_at", Moment, nullable=False, server_default=_now),
    Column("started_at", Moment),
    Column("finished_at", Moment),
    Column("updated_at", Moment, nullable=False, server_default=_now),
    Column("reconciled_at", Moment, nullable=False, server_default=_now),
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
    _job_key(),
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
    Column("at", Moment, nullable=False, server_default=_now),
    PrimaryKeyConstraint("tenant_id", "job_id", "seq"),
    _job_key(),
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
    Column("not_before", Moment, nullable=False, server_default=_now),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("last_error", Text),
    Column("created_at", Moment, nullable=False, server_default=_now),
    _job_key(),
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
    Column("created_at", Moment, nullable=False, server_default=_now),
    _job_key(),
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
    Column("created_at", Moment, nullable=False, server_default=_now),
    PrimaryKeyConstraint("tenant_id", "job_id", "step", "input_hash"),
    _job_key(),
    comment="What a step has already made, so that it is never made, or paid for, twice.",
)

provider_calls: Final = Table(
    "provider_calls",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("job_id", Uuid, nullable=False),
    Column("op", Text, nullable=False),
    Column("step", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reserved_usd", Money, nullable=False),
    Column("settled_usd", Money),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("lost_usd", Money, nullable=False, server_default=text("0")),
    Column("sends", Integer, nullable=False, server_default=text("1")),
    Column("created_at", Moment, nullable=False, server_default=_now),
    Column("updated_at", Moment, nullable=False, server_default=_now),
    PrimaryKeyConstraint("tenant_id", "job_id", "op"),
    _job_key(),
    CheckConstraint("state in ('sending','done','rejected','not_sent','unknown')", name="state"),
    comment="The ledger of paid calls: a row is committed before the wire is touched."
    " lost_usd is the worst case of sends whose outcome stayed unknown.",
)

response_cache: Final = Table(
    "response_cache",
    metadata,
    Column("tenant_id", Uuid, ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False),
    Column("key", Text, nullable=False),
    Column("answer", JSONB, nullable=False),
    Column("expires_at", Moment, nullable=False),
    PrimaryKeyConstraint("tenant_id", "key"),
    comment="Validated answers of models by everything that went into them.",
)
Index("ix_response_cache_expires_at", response_cache.c.expires_at)

prompts: Final = Table(
    "prompts",
    metadata,
    Column("id", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("changelog", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("recorded_at", Moment, nullable=False, server_default=_now),
    PrimaryKeyConstraint("id", "version"),
    comment="Every prompt that ever ran here. The same version never has two texts.",
)

workers: Final = Table(
    "workers",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("task_queues", ARRAY(Text), nullable=False),
    Column("code_version", Text, nullable=False),
    Column("started_at", Moment, nullable=False, server_default=_now),
    Column("seen_at", Moment, nullable=False, server_default=_now),
    comment="Worker processes and when they last said that they are alive.",
)

TENANT_TABLES: Final = tuple(
    table for table in metadata.sorted_tables if table is tenants or "tenant_id" in table.columns
)
"""The tables under row-level security."""
