"""The one schema. Alembic compares the database with this package; nothing creates tables from it.

One module a family, imported here by name. Every table with a ``tenant_id`` is under forced row-level security (see the
first migration), and every key that another tenant could probe for existence starts with the tenant.
"""

from typing import Final

from repositories.tables.approvals import approvals
from repositories.tables.base import Moment, Money, metadata
from repositories.tables.core import (
    api_keys,
    artifacts,
    commands,
    idempotency_keys,
    installation,
    job_events,
    job_steps,
    jobs,
    step_results,
    tenants,
    workers,
)
from repositories.tables.courses import (
    course_exports,
    course_nodes,
    course_versions,
    courses,
    node_revisions,
)
from repositories.tables.evaluation import evaluation_cases, evaluation_runs
from repositories.tables.federated import (
    fl_decisions,
    fl_leases,
    fl_models,
    fl_participants,
    fl_rounds,
    fl_versions,
)
from repositories.tables.generation import prompts, provider_calls, response_cache
from repositories.tables.guarding import guard_policies
from repositories.tables.leases import provider_leases
from repositories.tables.publishing import (
    bot_updates,
    bots,
    channels,
    credentials,
    orders,
    owner_tasks,
    publications,
    rate_parties,
    rate_scopes,
    slots,
    view_counts,
)
from repositories.tables.renders import provider_webhooks, video_renders
from repositories.tables.saving import (
    messages,
    record_batches,
    record_claims,
    record_dead_letters,
    record_inbox,
    users,
)
from repositories.tables.schedules import schedules
from repositories.tables.webhooks import webhook_deliveries, webhook_endpoints

STAGING_TABLES: Final = (record_inbox,)
"""Rows of many tenants, written by COPY, which row-level security would refuse; no tenant has a right on them."""

TENANT_TABLES: Final = tuple(
    table
    for table in metadata.sorted_tables
    if (table is tenants or "tenant_id" in table.columns) and table not in STAGING_TABLES
)
"""The tables under row-level security."""

__all__ = [
    "STAGING_TABLES",
    "TENANT_TABLES",
    "Moment",
    "Money",
    "api_keys",
    "approvals",
    "artifacts",
    "bot_updates",
    "bots",
    "channels",
    "commands",
    "course_exports",
    "course_nodes",
    "course_versions",
    "courses",
    "credentials",
    "evaluation_cases",
    "evaluation_runs",
    "fl_decisions",
    "fl_leases",
    "fl_models",
    "fl_participants",
    "fl_rounds",
    "fl_versions",
    "guard_policies",
    "idempotency_keys",
    "installation",
    "job_events",
    "job_steps",
    "jobs",
    "messages",
    "metadata",
    "node_revisions",
    "orders",
    "owner_tasks",
    "prompts",
    "provider_calls",
    "provider_leases",
    "provider_webhooks",
    "publications",
    "rate_parties",
    "rate_scopes",
    "record_batches",
    "record_claims",
    "record_dead_letters",
    "record_inbox",
    "response_cache",
    "schedules",
    "slots",
    "step_results",
    "tenants",
    "users",
    "video_renders",
    "view_counts",
    "webhook_deliveries",
    "webhook_endpoints",
    "workers",
]
