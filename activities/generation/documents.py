"""Documents between steps: JSON in the object store, named in the database, read once per process."""

from collections import OrderedDict
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database
from core.ids import new_id
from core.store import ArtifactStore
from domain.artifacts import Artifact, ArtifactRole
from domain.course_graph import NodeKind, kind_of
from domain.generation import CourseInput
from domain.jobs import JobRef
from domain.model import Frozen
from domain.sections import EXPORT_KIND, SECTION_KIND, Revision, SectionInput, VersionExportInput, revision_of
from repositories.approvals import ApprovalRepository
from repositories.artifacts import ArtifactRepository
from repositories.courses import CourseRepository
from repositories.jobs import JobRepository

DocumentT = TypeVar("DocumentT", bound=Frozen)

_CACHED_DOCUMENTS: Final = 256
_JSON: Final = "application/json"
_WISHES: Final[dict[str, type[SectionInput | VersionExportInput]]] = {
    SECTION_KIND: SectionInput,
    EXPORT_KIND: VersionExportInput,
}
"""What jobs on a course that is there already ask for, by their kind."""


class DocumentStore:
    """Artifacts of jobs as typed documents. What is stored never changes, so it is kept at hand for a while."""

    def __init__(self, database: Database, store: ArtifactStore) -> None:
        self._database = database
        self._store = store
        self._cache: OrderedDict[tuple[UUID, UUID], Any] = OrderedDict()

    async def read_input(self, job: JobRef) -> CourseInput:
        """What is wanted of the course that the job works on: its own input, or that of the course with its changes."""
        wish = await self._read_wish(job)
        if wish is None:
            return await self._read_course(job.tenant_id, job.job_id)
        return wish.over(await self._read_course(job.tenant_id, wish.course_id))

    async def course_of(self, job: JobRef) -> UUID:
        """The course that the job works on; the job of a course has the course's own id."""
        wish = await self._read_wish(job)
        return job.job_id if wish is None else wish.course_id

    async def revision_of(self, job: JobRef, key: str) -> Revision | None:
        """How this job wants the whole node ``key`` to be made anew; None where it is to follow from what it is of.

        A course that a person rejected in an earlier attempt wants so of its lessons, with that person's comment.
        """
        wish = await self._read_wish(job)
        if isinstance(wish, SectionInput):
            return revision_of(wish, key)
        if wish is not None or job.attempt == 1 or kind_of(key) is not NodeKind.LESSON:
            return None
        async with self._database.tenant(job.tenant_id) as connection:
            objection = await ApprovalRepository(connection).get_objection_or_none(job)
        return None if objection is None else Revision(comment=objection.comment)

    async def edited_or_none(self, job: JobRef, lesson: str, *, without: str) -> UUID | None:
        """The lesson with this key as a person has edited it, where the tree has no ``without`` that is made of it.

        None for every job but the one that makes the course: others work on what they have planned with.
        """
        if await self._read_wish(job) is not None:
            return None
        async with self._database.tenant(job.tenant_id) as connection:
            standing = await CourseRepository(connection).get_standing(job.job_id, [lesson, without])
        edited = lesson in standing and standing[lesson].job_id is None
        return standing[lesson].artifact_id if edited and without not in standing else None

    async def read_section(self, job: JobRef) -> SectionInput:
        """The input of a ``generation.section`` job."""
        wish = await self._read_wish(job)
        assert isinstance(wish, SectionInput)
        return wish

    async def read_export(self, job: JobRef) -> VersionExportInput:
        """The input of a ``generation.export`` job."""
        wish = await self._read_wish(job)
        assert isinstance(wish, VersionExportInput)
        return wish

    async def _read_course(self, tenant_id: UUID, course_id: UUID) -> CourseInput:
        wanted: CourseInput = await self._read_job(tenant_id, course_id, CourseInput)
        return wanted

    async def _read_wish(self, job: JobRef) -> SectionInput | VersionExportInput | None:
        kind = _WISHES.get(job.kind)
        if kind is None:
            return None
        wish: SectionInput | VersionExportInput = await self._read_job(job.tenant_id, job.job_id, kind)
        return wish

    async def _read_job(self, tenant_id: UUID, job_id: UUID, kind: type[Frozen]) -> Any:
        key = (tenant_id, job_id)
        if key not in self._cache:
            async with self._database.tenant(tenant_id) as connection:
                raw = await JobRepository(connection).get_input(job_id)
            self._remember(key, kind.model_validate(raw))
        return self._cache[key]

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
