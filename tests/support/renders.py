"""Renders as a test drives them: a stand-in HeyGen, a desk, films of lessons, and what became of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import httpx
from prometheus_client import CollectorRegistry
from sqlalchemy import select

from activities.media.films import Film, rendered_digest
from activities.media.renders import RenderDesk
from activities.steps import StepKeeper
from core.database import Database
from core.ids import new_id
from core.metrics import WorkerMetrics
from core.store import ArtifactStore
from domain.generation_plan import VIDEO_STEP
from domain.jobs import JobRef
from domain.video import FilmWish, RenderPolicy
from gateways.heygen import HeyGenRenderer
from gateways.standin_heygen import Play, Render, StandInHeyGen
from gateways.standin_heygen.world import KEY
from gateways.webhooks import GuardedClient
from repositories.courses import CourseRepository
from repositories.rows import AnyRow
from repositories.tables import artifacts, provider_calls, video_renders
from tests.support.life import add_job
from tests.support.publishing import new_http

PRICES: Final = {"avatar_iii": Decimal(1), "avatar_iv": Decimal(4)}
SECRET: Final = "a canary of a webhook secret"
QUICK: Final = RenderPolicy(
    poll_first=timedelta(milliseconds=30), poll_longest=timedelta(milliseconds=120),
    poll_stuck=timedelta(milliseconds=200), ask_for_place=timedelta(milliseconds=30),
    back_off_longest=timedelta(milliseconds=50),
)  # fmt: skip


def film_of(job: JobRef, script: str, *, lesson: int = 0, course: JobRef | None = None) -> tuple[Film, FilmWish]:
    """The film of a lesson, and what is asked of the renderer. The course is the job's own unless told which."""
    wish = FilmWish(script=script, avatar="ada", voice="v1", engine="avatar_iv", resolution="720p")
    film = Film(
        job=job, course_id=(course or job).job_id, step=VIDEO_STEP, module=0, lesson=lesson, title="A title",
        provider="heygen", script=script, digest=rendered_digest("heygen", wish), voice="ada", engine="avatar_iv",
    )  # fmt: skip
    return film, wish


@dataclass
class Studio:
    """One tenant's renders on a stand-in."""

    database: Database
    store: ArtifactStore
    tenant_id: UUID
    standin: StandInHeyGen
    http: httpx.AsyncClient
    policy: RenderPolicy = QUICK
    at_once: int = 10
    options: dict[str, Any] = field(default_factory=dict)
    metrics: WorkerMetrics = field(default_factory=lambda: WorkerMetrics(CollectorRegistry()))
    renderer: HeyGenRenderer = field(init=False)
    desk: RenderDesk = field(init=False)

    def __post_init__(self) -> None:
        host = self.standin.origin.removeprefix("http://")
        self.renderer = HeyGenRenderer(
            client=self.http, files=GuardedClient(self.http, exempt=[host], timeout_seconds=5),
            base_url=self.standin.origin, api_key=KEY, prices=PRICES, at_once=self.at_once, default_avatar="ada",
        )  # fmt: skip
        self.desk = self.new_desk()

    def new_desk(self, kind: type[RenderDesk] = RenderDesk) -> RenderDesk:
        """A desk, as a worker process of its own would have it."""
        keeper = StepKeeper(self.database)
        values = {"policy": self.policy, **self.options}
        return kind(self.database, keeper, self.store, self.metrics, [self.renderer], **values)

    async def add_job(self) -> JobRef:
        """A course job with a course to its name."""
        job = await add_job(self.database, self.tenant_id, kind="generation.course", task_queue="nobody")
        async with self.database.tenant(self.tenant_id) as connection:
            await CourseRepository(connection).open(job, job.job_id, title="A course", corpus_id=new_id())
        return job

    async def rows(self, job: JobRef) -> list[AnyRow]:
        """The ledger of renders of a job, in order."""
        query = select(video_renders).where(video_renders.c.job_id == job.job_id).order_by(video_renders.c.id)
        async with self.database.tenant(self.tenant_id) as connection:
            return list((await connection.execute(query)).all())

    async def calls(self, job: JobRef) -> list[AnyRow]:
        """The ledger of paid calls of a job."""
        async with self.database.tenant(self.tenant_id) as connection:
            query = select(provider_calls).where(provider_calls.c.job_id == job.job_id)
            return list((await connection.execute(query)).all())

    async def video(self, job: JobRef) -> bytes | None:
        """The bytes of the job's video, if there is one."""
        async with self.database.tenant(self.tenant_id) as connection:
            query = select(artifacts).where(artifacts.c.job_id == job.job_id, artifacts.c.media_type == "video/mp4")
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else await self.store.get(f"{row.tenant_id}/{row.sha256[:2]}/{row.sha256}")

    def bought(self, script: str) -> list[Render]:
        """Every render of a script that was paid for, judged by the stand-in."""
        return [render for render in self.standin.world.renders.values() if render.wish.script == script]


@asynccontextmanager
async def open_studio(
    database: Database, store: ArtifactStore, tenant_id: UUID, *, play: Play | None = None, at_once: int = 10,
    **options: Any,
) -> AsyncIterator[Studio]:  # fmt: skip
    """A studio with a stand-in of its own."""
    async with StandInHeyGen(seed=7, play=play, at_once=at_once) as standin, new_http() as http:
        yield Studio(database, store, tenant_id, standin, http, at_once=at_once, options=options)
