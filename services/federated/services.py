"""The use cases of federated learning, built together."""

from dataclasses import dataclass
from pathlib import Path

from core.database import Database
from core.federated_metrics import IngestMetrics
from core.store import ArtifactStore
from domain.federated_registry import ModelRuntime
from services.commands import CommandSender
from services.federated.ingest import UpdateService
from services.federated.participants import ParticipantService
from services.federated.registry import RegistryService
from services.tenants import TenantService


@dataclass(frozen=True, slots=True)
class FederatedServices:
    """Everything that the routes of federated learning use."""

    registry: RegistryService
    participants: ParticipantService
    updates: UpdateService


def create_federated(
    database: Database,
    store: ArtifactStore,
    keys: TenantService,
    *,
    sender: CommandSender,
    runtime: ModelRuntime,
    metrics: IngestMetrics,
    folder: Path,
) -> FederatedServices:
    """The use cases over these; ``folder`` is for bytes on their way."""
    participants = ParticipantService(database, keys, metrics)
    return FederatedServices(
        registry=RegistryService(database, store, runtime, metrics, folder=folder),
        participants=participants,
        updates=UpdateService(database, store, participants, sender=sender, metrics=metrics, folder=folder),
    )
