"""Every kind of job, one line each: what the API takes, and what the schedules of a worker start."""

from core.database import Database
from core.settings import Settings
from core.store import ArtifactStore
from services.diagnostics import NOOP
from services.evaluation import evaluation_kind
from services.federated.kind import cycle_kind
from services.generation import course_kind
from services.kinds import KindRegistry
from services.publishing.kinds import publishing_kinds
from services.saving.kind import import_kind
from services.sections import export_kind, section_kind


def create_kinds(settings: Settings, database: Database, store: ArtifactStore) -> KindRegistry:
    """Every kind of job, one line each."""
    return KindRegistry([
        NOOP,
        course_kind(
            database,
            store,
            default_model=settings.openai_model,
            most_output_tokens=settings.openai_most_output_tokens,
        ),
        section_kind(database),
        export_kind(database),
        evaluation_kind(database, default_budget_usd=settings.evaluation_budget_usd),
        import_kind(database, store),
        cycle_kind(database),
        *publishing_kinds(
            database, max_orders=settings.publishing_max_orders, exempt_hosts=settings.webhook_exempt_hosts
        ),
    ])  # fmt: skip
