"""What the routes work with: built once at start-up, never changed."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from api.documents import Links
from api.hub import EventHub
from api.limits import RateLimiter
from api.readiness import Readiness
from api.workers import ServedQueues
from core.database import Database
from core.metrics import ApiMetrics
from core.settings import Settings
from core.store import ArtifactStore
from core.telemetry import Tracing
from repositories.jobs import JobReader
from services.approvals import ApprovalService
from services.artifacts import ArtifactService
from services.codec import RemoteCodec
from services.costs import CostService
from services.courses import CourseService
from services.federated.services import FederatedServices
from services.guarding import PolicyService
from services.jobs import JobService
from services.media import MediaService
from services.publishing.dialogs import DialogService
from services.publishing.orders import PublishingService
from services.saving.intake import RecordIntake
from services.saving.letters import DeadLetterService
from services.schedules.service import ScheduleService
from services.tenants import Authenticator
from services.webhooks import WebhookService


@dataclass(frozen=True, slots=True)
class Services:
    """Everything the routes may use, by name."""

    settings: Settings
    database: Database
    tracing: Tracing
    registry: CollectorRegistry
    metrics: ApiMetrics
    authenticator: Authenticator
    limiter: RateLimiter
    jobs: JobService
    schedules: ScheduleService
    federated: FederatedServices
    prediction_limiter: RateLimiter
    store: ArtifactStore
    reader: JobReader
    artifacts: ArtifactService
    approvals: ApprovalService
    costs: CostService
    courses: CourseService
    publishing: PublishingService
    dialogs: DialogService
    webhooks: WebhookService
    policies: PolicyService
    media: MediaService
    hub: EventHub
    served: ServedQueues
    links: Links
    readiness: Readiness
    intake: RecordIntake
    dead_letters: DeadLetterService
    codec: RemoteCodec | None
    sdk_metrics_url: str
