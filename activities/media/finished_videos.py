"""Videos that are there: bytes on their way in, and what is named, settled and remembered once they are ours."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.media.films import Film
from activities.steps import StepKeeper
from core.ids import new_id
from core.store import ArtifactStore
from domain.artifacts import Artifact, ArtifactRole
from domain.course_graph import NodeKind, NodeMade
from domain.errors import BodyTooLarge, LonghaulError, Outcome
from domain.generation import MediaRef
from domain.media import MediaNote
from domain.video import RenderState
from repositories.artifacts import ArtifactRepository
from repositories.courses import CourseRepository, revision_statement
from repositories.renders import RenderRepository
from repositories.rows import AnyRow
from repositories.steps import StepRepository, StepResultRepository


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of a video as they lie in our store, how long it is, and what it cost."""

    sha256: str
    bytes: int
    media_type: str
    seconds: float
    cost_usd: Decimal


class Incoming:
    """The bytes of a video on their way in; ``fault`` is what ended them early."""

    def __init__(self, source: AsyncIterator[bytes], *, most: int) -> None:
        self._source = source
        self._most = most
        self.fault: LonghaulError | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes. Raises ProviderError and BodyTooLarge."""
        size = 0
        try:
            async for chunk in self._source:
                size += len(chunk)
                if size > self._most:
                    raise BodyTooLarge(f"a video has at most {self._most} bytes")
                yield chunk
        except LonghaulError as fault:
            self.fault = fault
            raise


class FinishedVideos:
    """The end of every video, made by a renderer or by a program of ours."""

    def __init__(self, keeper: StepKeeper, store: ArtifactStore) -> None:
        self._keeper = keeper
        self._store = store

    async def finish(self, film: Film, body: Body, *, row: AnyRow | None = None) -> None:
        """Name the video, settle, make it a node of the course, remember it and say so, all in one transaction."""
        video = Artifact(
            id=new_id(), tenant_id=film.job.tenant_id, job_id=film.job.job_id, name=film.file("mp4"),
            media_type=body.media_type, bytes=body.bytes, sha256=body.sha256, role=ArtifactRole.PARTIAL,
        )  # fmt: skip
        media = MediaRef(
            artifact_id=video.id, media_type=body.media_type, bytes=body.bytes, sha256=body.sha256,
            seconds=round(body.seconds, 3), provider=film.provider, cost_usd=body.cost_usd,
        )  # fmt: skip
        note = MediaNote(
            media=media, voice=film.voice, model=film.engine if row is None else row.engine,
            script_sha256=hashlib.sha256(film.script.encode()).hexdigest(),
            request_ids=() if row is None or row.video_id is None else (row.video_id,), calls=0 if row is None else 1,
        )  # fmt: skip
        document = await self._stored_note(film, note)
        node = NodeMade(
            key=film.key, kind=NodeKind.VIDEO, title=film.title, input_hash=film.digest, content_sha256=body.sha256,
            artifact_id=document.id, calls=note.calls, cost_usd=body.cost_usd,
        )  # fmt: skip
        async with self._keeper.effect(film.job) as connection:
            if row is not None:
                await self._settle_done(connection, row, body, video)
            earlier = await StepResultRepository(connection).get_or_none(film.job, film.key, film.digest)
            if earlier is not None:
                return
            await ArtifactRepository(connection).add(video)
            await ArtifactRepository(connection).add(document)
            await connection.execute(*revision_statement(film.job, film.course_id, node))
            await self._keeper.finish_part(
                connection, film.job, step=film.step, part=film.key, digest=film.digest,
                result={"artifact_id": str(document.id), "video_id": str(video.id)}, event="lesson.filmed",
                data={
                    "lesson": film.place, "artifact_id": str(video.id), "bytes": body.bytes,
                    "seconds": media.seconds, "cost_usd": f"{body.cost_usd:f}", "provider": film.provider,
                },
            )  # fmt: skip

    async def _stored_note(self, film: Film, note: MediaNote) -> Artifact:
        raw = note.model_dump_json(indent=1).encode()
        sha256 = await self._store.put(film.job.tenant_id, raw)
        return Artifact(
            id=new_id(), tenant_id=film.job.tenant_id, job_id=film.job.job_id, name=film.file("json", "-video"),
            media_type="application/json", bytes=len(raw), sha256=sha256, role=ArtifactRole.INTERNAL,
        )  # fmt: skip

    async def _settle_done(self, connection: AsyncConnection, row: AnyRow, body: Body, video: Artifact) -> None:
        renders = RenderRepository(connection)
        now = await renders.get_one(row.id, lock=True)
        if now.state == RenderState.DONE:
            return
        await renders.change(
            row.id, state=RenderState.DONE, cost_usd=body.cost_usd, seconds=body.seconds, artifact_id=video.id,
            settled_at=func.now(), error_code=None,
        )  # fmt: skip
        await renders.settle(row, outcome=Outcome.DONE, cost_usd=body.cost_usd)

    async def take_over(self, connection: AsyncConnection, film: Film) -> bool:
        """Remember the video that another job of the course has made from the same things, if there is one."""
        courses, memory = CourseRepository(connection), StepResultRepository(connection)
        await memory.inherit(film.job, [film.key], jobs=await courses.get_makers(film.course_id))
        kept = await memory.get_or_none(film.job, film.key, film.digest)
        if kept is None:
            return False
        if film.job.job_id == film.course_id:
            # Section jobs put what they have into the tree at their end; who made this one may never come that far.
            made = await courses.get_by_artifact(film.course_id, [UUID(kept["artifact_id"])])
            (revision,) = await courses.get_revisions(film.course_id, list(made.values()))
            facts = revision.model_dump(include=set(NodeMade.model_fields)) | {"calls": 0, "cost_usd": Decimal(0)}
            await connection.execute(*revision_statement(film.job, film.course_id, NodeMade.model_validate(facts)))
        await StepRepository(connection).advance(film.job, film.step)
        return True
