"""Documents between steps: JSON in the object store, named in the database, read once per process."""

from collections import OrderedDict
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database
from core.ids import new_id
from core.store import ArtifactStore
from domain.artifacts import Artifact, ArtifactRole
from domain.generation import CourseInput
from domain.jobs import JobRef
from domain.model import Frozen
from repositories.artifacts import ArtifactRepository
from repositories.jobs import JobRepository

DocumentT = TypeVar("DocumentT", bound=Frozen)

_CACHED_DOCUMENTS: Final = 256
_JSON: Final = "application/json"


class DocumentStore:
    """Artifacts of jobs as typed documents. What is stored never changes, so it is kept at hand for a while."""

    def __init__(self, database: Database, store: ArtifactStore) -> None:
        self._database = database
        self._store = store
        self._cache: OrderedDict[tuple[UUID, UUID], Any] = OrderedDict()

    async def read_input(self, job: JobRef) -> CourseInput:
        """The validated input of the job."""
        key = (job.tenant_id, job.job_id)
        if key not in self._cache:
            async with self._database.tenant(job.tenant_id) as connection:
                raw = await JobRepository(connection).get_input(job.job_id)
            self._remember(key, CourseInput.model_validate(raw))
        wanted: CourseInput = self._cache[key]
        return wanted

    async def read(self, job: JobRef, artifact_id: UUID, kind: type[DocumentT]) -> DocumentT:
        """The document behind an artifact. Raises NotFound."""
        key = (job.tenant_id, artifact_id)
        if key not in self._cache:
            _, raw = await self.read_bytes(job, artifact_id)
            self._remember(key, kind.model_validate_json(raw))
        document: DocumentT = self._cache[key]
        return document

    async def read_bytes(self, job: JobRef, artifact_id: UUID) -> tuple[Artifact, bytes]:
        """An artifact and its bytes. Raises NotFound."""
        async with self._database.tenant(job.tenant_id) as connection:
            artifact = await ArtifactRepository(connection).get_one(artifact_id)
        return artifact, await self._store.get(artifact.store_key)

    async def store(self, job: JobRef, name: str, body: Frozen, role: ArtifactRole) -> Artifact:
        """Put a document into the store; it has no name in the database before ``add``."""
        artifact = await self.store_bytes(job, name, _JSON, body.model_dump_json(indent=1).encode(), role)
        self._remember((job.tenant_id, artifact.id), body)
        return artifact

    async def store_bytes(self, job: JobRef, name: str, media_type: str, body: bytes, role: ArtifactRole) -> Artifact:
        """Put bytes into the store; they have no name in the database before ``add``."""
        sha256 = await self._store.put(job.tenant_id, body)
        return Artifact(
            id=new_id(),
            tenant_id=job.tenant_id,
            job_id=job.job_id,
            name=name,
            media_type=media_type,
            bytes=len(body),
            sha256=sha256,
            role=role,
        )

    async def add(self, connection: AsyncConnection, artifact: Artifact) -> None:
        """Name a stored artifact, in the transaction of the step that made it."""
        await ArtifactRepository(connection).add(artifact)

    def _remember(self, key: tuple[UUID, UUID], document: Any) -> None:
        self._cache[key] = document
        if len(self._cache) > _CACHED_DOCUMENTS:
            self._cache.popitem(last=False)
