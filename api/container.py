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
from core.telemetry import Tracing
from repositories.jobs import JobReader
from services.artifacts import ArtifactService
from services.codec import RemoteCodec
from services.jobs import JobService
from services.tenants import Authenticator


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
    reader: JobReader
    artifacts: ArtifactService
    hub: EventHub
    served: ServedQueues
    links: Links
    readiness: Readiness
    codec: RemoteCodec | None
    sdk_metrics_url: str
