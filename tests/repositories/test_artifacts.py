from uuid import UUID

import pytest

from core.database import Database
from core.ids import new_id
from domain.artifacts import Artifact, ArtifactRole
from domain.errors import NotFound
from repositories.artifacts import ArtifactRepository
from tests.support.life import add_job, new_tenant


def artifact(tenant_id: UUID, role: ArtifactRole, job_id: UUID | None = None) -> Artifact:
    """A name for bytes."""
    return Artifact(
        id=new_id(),
        tenant_id=tenant_id,
        job_id=job_id,
        name="a.md",
        media_type="text/markdown",
        bytes=1,
        sha256="ab" * 32,
        role=role,
    )


class TestArtifacts:
    async def test_are_found_by_their_tenant_only(self, database: Database, tenant_id: UUID) -> None:
        made = artifact(tenant_id, ArtifactRole.UPLOAD)
        async with database.tenant(tenant_id) as connection:
            await ArtifactRepository(connection).add(made)
            found = await ArtifactRepository(connection).get_one(made.id)
        assert found.model_copy(update={"created_at": None}) == made
        assert found.created_at is not None
        async with database.tenant(await new_tenant(database)) as connection:
            with pytest.raises(NotFound):
                await ArtifactRepository(connection).get_one(made.id)

    async def test_of_a_job_are_shown_page_by_page_without_the_internal_ones(
        self, database: Database, tenant_id: UUID
    ) -> None:
        job = await add_job(database, tenant_id)
        made = [artifact(tenant_id, role, job.job_id) for role in (*ArtifactRole, ArtifactRole.EXPORT)]
        async with database.tenant(tenant_id) as connection:
            repository = ArtifactRepository(connection)
            for one in made:
                await repository.add(one)
            first = await repository.get_shown(job.job_id, limit=2, before=None)
            rest = await repository.get_shown(job.job_id, limit=2, before=first[-1].id)
        assert [one.role for one in (*first, *rest)] == ["export", "export", "partial"]
