"""Artifacts: bytes with a name, kept in the object store under their tenant and digest."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from domain.model import Frozen


class ArtifactRole(StrEnum):
    """What an artifact is to its job."""

    UPLOAD = "upload"
    PARTIAL = "partial"  # a part of the result, visible before the job is done
    EXPORT = "export"  # a form of the final result
    INTERNAL = "internal"  # between steps, not shown


class Artifact(Frozen):
    """A stored artifact; ``sha256`` is the lower-case hex digest of its ``bytes`` bytes."""

    id: UUID
    tenant_id: UUID
    job_id: UUID | None
    name: str
    media_type: str
    bytes: int
    sha256: str
    role: ArtifactRole
    created_at: datetime | None = None

    @property
    def store_key(self) -> str:
        """Where the bytes lie: one copy for each tenant and digest."""
        return store_key(self.tenant_id, self.sha256)


def store_key(tenant_id: UUID, sha256: str) -> str:
    """The path of a tenant's bytes in the object store."""
    return f"{tenant_id}/{sha256[:2]}/{sha256}"
