"""Uploading and reading artifacts, for one tenant at a time."""

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from core.database import Database
from core.ids import new_id
from core.store import ArtifactStore
from domain.artifacts import Artifact, ArtifactRole
from repositories.artifacts import ArtifactRepository
from repositories.jobs import JobRepository


class ArtifactService:
    """Use cases on artifacts."""

    def __init__(self, database: Database, store: ArtifactStore, *, max_bytes: int) -> None:
        self._database = database
        self._store = store
        self._max_bytes = max_bytes

    async def upload(self, tenant_id: UUID, chunks: AsyncIterator[bytes], *, name: str, media_type: str) -> Artifact:
        """Keep what comes in; once this returns it survives a power cut. Raises BodyTooLarge and StoreUnavailable."""
        sha256, length = await self._store.put_stream(tenant_id, chunks, max_bytes=self._max_bytes)
        artifact = Artifact(
            id=new_id(),
            tenant_id=tenant_id,
            job_id=None,
            name=name,
            media_type=media_type,
            bytes=length,
            sha256=sha256,
            role=ArtifactRole.UPLOAD,
        )
        async with self._database.tenant(tenant_id) as connection:
            await ArtifactRepository(connection).add(artifact)
        return artifact

    async def get(self, tenant_id: UUID, artifact_id: UUID) -> Artifact:
        """The artifact, without its bytes. Raises NotFound."""
        async with self._database.tenant(tenant_id) as connection:
            return await ArtifactRepository(connection).get_one(artifact_id)

    async def list_of_job(
        self, tenant_id: UUID, job_id: UUID, *, limit: int, before: UUID | None
    ) -> Sequence[Artifact]:
        """Up to ``limit`` artifacts that a job shows, newest first, older than ``before``. Raises NotFound."""
        async with self._database.tenant(tenant_id) as connection:
            await JobRepository(connection).get_result(job_id)
            return await ArtifactRepository(connection).get_shown(job_id, limit=limit, before=before)

    def read(self, artifact: Artifact, *, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from ``start`` up to, not including, ``end``. Raises NotFound and StoreUnavailable."""
        return self._store.stream(artifact.store_key, start=start, end=end)
