"""Names for bytes: which artifact belongs to whom and where its bytes are found."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.artifacts import Artifact, ArtifactRole
from domain.errors import NotFound
from repositories.rows import AnyRow
from repositories.tables import artifacts

_SHOWN = (ArtifactRole.PARTIAL, ArtifactRole.EXPORT)


class ArtifactRepository:
    """Artifacts of one tenant."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, artifact: Artifact) -> None:
        """Write an artifact down; its bytes are in the store already."""
        await self._connection.execute(insert(artifacts).values(artifact.model_dump(exclude={"created_at"})))

    async def get_one(self, artifact_id: UUID) -> Artifact:
        """The artifact. Raises NotFound."""
        found = (await self._connection.execute(select(artifacts).where(artifacts.c.id == artifact_id))).one_or_none()
        if found is None:
            raise NotFound("there is no such artifact")
        return _artifact(found)

    async def get_many(self, artifact_ids: Iterable[UUID]) -> dict[UUID, Artifact]:
        """These artifacts by id; unknown ones are left out."""
        query = select(artifacts).where(artifacts.c.id.in_(list(artifact_ids)))
        return {row.id: _artifact(row) for row in await self._connection.execute(query)}

    async def get_shown(self, job_id: UUID, *, limit: int, before: UUID | None) -> Sequence[Artifact]:
        """Partial and final results of a job, newest first, older than the artifact ``before``."""
        query = select(artifacts).where(artifacts.c.job_id == job_id, artifacts.c.role.in_(_SHOWN))
        if before is not None:
            query = query.where(artifacts.c.id < before)
        found = (await self._connection.execute(query.order_by(artifacts.c.id.desc()).limit(limit))).all()
        return [_artifact(row) for row in found]


def _artifact(row: AnyRow) -> Artifact:
    return Artifact.model_validate(row._asdict())
