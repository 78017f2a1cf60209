"""The steps of a video as activities: planned, ordered, looked at, brought home; or made by a program of ours."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from temporalio import activity

from activities.errors import as_failures
from activities.generation.documents import DocumentStore
from activities.heartbeat import heartbeating
from activities.media.films import (
    Film,
    film_slides,
    film_wish,
    rendered_digest,
    slides_digest,
    spoken_script,
)
from activities.media.renders import RenderDesk, not_configured
from activities.steps import StepKeeper
from core.logging import bind_job
from domain.course_graph import NodeKind
from domain.errors import PriceUnknown, VideoUnavailable
from domain.generation import Lesson, SlideDeck, VideoWish
from domain.generation_plan import VIDEO_STEP
from domain.jobs import JobRef
from domain.media import MediaNote
from domain.model import Frozen
from domain.sections import SECTION_KIND
from domain.video import Close, FilmSlide, Kept, Planned, RenderStatus, Submitted, VideoMaker, Way
from repositories.steps import StepResultRepository

_UNSET: Final = "unset"


class FilmLessonInput(Frozen):
    """The video of the lesson at this place of a course, counted from zero, as it was written.

    ``course_id`` is the course whose wish counts, which is the job itself unless a part of a course is made anew.
    ``digest`` is what the plan was made from, once there is one. ``material`` are the documents of slides and recording
    to film; None: those that the job itself has made of the lesson.
    """

    job: JobRef
    course_id: UUID
    lesson_id: UUID
    module: int
    lesson: int
    digest: str = ""
    material: dict[NodeKind, UUID | None] | None = None


class CloseRenderInput(Frozen):
    """An end or a turn that is to be written down."""

    film: FilmLessonInput
    how: Close
    code: str | None = None


class VideoActivities:
    """The filming of lessons. A lesson that cannot be filmed goes without a video, and the job says so."""

    def __init__(
        self, keeper: StepKeeper, documents: DocumentStore, desk: RenderDesk, makers: Iterable[VideoMaker]
    ) -> None:
        self._keeper = keeper
        self._documents = documents
        self._desk = desk
        self._makers = {maker.name: maker for maker in makers}

    # --- what is to be done -------------------------------------------------------------------------

    @activity.defn(name="plan_video")
    async def plan_video(self, step: FilmLessonInput) -> Planned:
        """Whether there is to be a video, by whom, and what it may cost: written down before anything is sent."""
        async with heartbeating(), self._keeper.attempt(step.job, VIDEO_STEP):
            wish, lesson, language = await self._read(step)
            if wish is None or lesson.content is None:
                return await self._plan_none(step, wish, lesson, "E.VIDEO.NO_LESSON")
            if wish.provider in self._makers:
                return await self._plan_making(step, wish, lesson)
            return await self._plan_render(step, wish, lesson, language)

    async def _plan_render(self, step: FilmLessonInput, wish: VideoWish, lesson: Lesson, language: str) -> Planned:
        renderer = self._desk.renderer(wish.provider)
        asked = None
        if renderer is not None and lesson.content is not None:
            script, shortened = spoken_script(lesson.content, language=language, longest=renderer.longest_script)
            asked = film_wish(wish, renderer, script)
        workflow_id = activity.info().workflow_id or ""
        if asked is None:
            film = self._film(step, wish, lesson)
            planned = await self._desk.take_up(film, workflow_id=workflow_id)
            return planned or await self._plan_none(step, wish, lesson, not_configured(wish.provider))
        film = replace(
            self._film(step, wish, lesson), script=script, shortened=shortened, voice=asked.avatar,
            engine=asked.engine, digest=rendered_digest(wish.provider, asked),
        )  # fmt: skip
        try:
            for_itself = await self._is_asked_for(step.job, film.key)
            return await self._desk.plan(film, asked, workflow_id=workflow_id, for_itself=for_itself)
        except PriceUnknown as fault:
            return await self._plan_none(step, wish, lesson, fault.code)

    async def _is_asked_for(self, job: JobRef, key: str) -> bool:
        """Whether the job is to make this very video, and not only what it is made from."""
        return job.kind == SECTION_KIND and (await self._documents.read_section(job)).node == key

    async def _plan_making(self, step: FilmLessonInput, wish: VideoWish, lesson: Lesson) -> Planned:
        slides, narration = await self._material(step, lesson)
        digest = slides_digest(slides, None if narration is None else narration.media.sha256, wish.resolution)
        film = replace(self._film(step, wish, lesson), digest=digest)
        if await self._keeper.recall(step.job, film.key, film.digest) is not None:
            return Planned(way=Way.KEPT, digest=digest)
        fault = self._makers[wish.provider].fault(slides)
        if fault is not None:
            await self._desk.skip(film, VideoUnavailable.code, fault)
            return Planned(way=Way.SKIPPED, code=VideoUnavailable.code)
        return Planned(way=Way.MAKE, digest=digest)

    async def _plan_none(self, step: FilmLessonInput, wish: VideoWish | None, lesson: Lesson, code: str) -> Planned:
        await self._desk.skip(self._film(step, wish, lesson), code)
        return Planned(way=Way.SKIPPED, code=code)

    # --- by a program of ours -----------------------------------------------------------------------

    @activity.defn(name="make_video")
    async def make_video(self, step: FilmLessonInput) -> bool:
        """Film the slides here; False where it turned out that this machine cannot."""
        async with heartbeating(), self._keeper.attempt(step.job, VIDEO_STEP):
            wish, lesson, _ = await self._read(step)
            assert wish is not None
            film = self._film(step, wish, lesson)
            if await self._keeper.recall(step.job, film.key, film.digest) is not None:
                return True
            slides, note = await self._material(step, lesson)
            narration = None
            if note is not None:
                _, narration = await self._documents.read_bytes(step.job, note.media.artifact_id)
            try:
                maker = self._makers[wish.provider]
                async with maker.make(slides, narration=narration, resolution=wish.resolution) as made:
                    await self._desk.keep_made(film, made)
            except VideoUnavailable as fault:
                await self._desk.skip(film, fault.code, fault.detail)
                return False
            return True

    async def _material(self, step: FilmLessonInput, lesson: Lesson) -> tuple[tuple[FilmSlide, ...], MediaNote | None]:
        """The slides and the recording of a lesson, as far as they were made."""
        material = step.material if step.material is not None else await self._own_material(step)
        deck_id, note_id = material.get(NodeKind.SLIDES), material.get(NodeKind.AUDIO)
        deck = lesson.slides
        if deck is None and deck_id is not None:
            deck = await self._read_deck(step.job, deck_id)
        note = None if note_id is None else await self._documents.read(step.job, note_id, MediaNote)
        return film_slides(lesson, deck), note

    async def _own_material(self, step: FilmLessonInput) -> dict[NodeKind, UUID | None]:
        async with self._keeper.effect(step.job) as connection:
            kept = await StepResultRepository(connection).get_by_prefix(step.job, _lesson_prefix(step))
        made = {kind: kept.get(f"{_lesson_prefix(step)}{kind}") for kind in (NodeKind.SLIDES, NodeKind.AUDIO)}
        return {kind: None if one is None else UUID(one["artifact_id"]) for kind, one in made.items()}

    async def _read_deck(self, job: JobRef, artifact_id: UUID) -> SlideDeck | None:
        # Not through the cache of documents: what is read here is a part of what others read there.
        _, raw = await self._documents.read_bytes(job, artifact_id)
        return KeptSlides.model_validate_json(raw).deck

    # --- by a renderer ------------------------------------------------------------------------------

    @activity.defn(name="take_render_place")
    async def take_render_place(self, step: FilmLessonInput) -> bool:
        """Whether one of the provider's places is ours now."""
        with bind_job(step.job, step=VIDEO_STEP), as_failures():
            return await self._desk.take_place(await self._ordered_film(step))

    @activity.defn(name="submit_render")
    async def submit_render(self, step: FilmLessonInput) -> Submitted:
        """One try to order the render; safe to repeat, because its key makes it one."""
        with bind_job(step.job, step=VIDEO_STEP), as_failures():
            return await self._desk.submit(await self._ordered_film(step))

    @activity.defn(name="look_at_render")
    async def look_at_render(self, step: FilmLessonInput) -> RenderStatus | None:
        """The truth, fetched."""
        with bind_job(step.job, step=VIDEO_STEP), as_failures():
            return await self._desk.look(await self._ordered_film(step))

    @activity.defn(name="keep_video")
    async def keep_video(self, step: FilmLessonInput) -> Kept:
        """Copy the bytes into our store and settle the price."""
        with bind_job(step.job, step=VIDEO_STEP), as_failures():
            async with heartbeating():
                return await self._desk.keep(await self._ordered_film(step))

    @activity.defn(name="close_render")
    async def close_render(self, closing: CloseRenderInput) -> None:
        """Write down an end, or that a person has to decide."""
        with bind_job(closing.film.job, step=VIDEO_STEP), as_failures():
            await self._desk.close(await self._ordered_film(closing.film), closing.how, closing.code)

    @activity.defn(name="find_video")
    async def find_video(self, step: FilmLessonInput) -> UUID | None:
        """The document of the video that this job has, made by it or taken over; None where it goes without."""
        with bind_job(step.job, step=VIDEO_STEP), as_failures():
            key = f"{_lesson_prefix(step)}video"
            kept = await self._keeper.recall(step.job, key, step.digest)
            return None if kept is None else UUID(kept["artifact_id"])

    # --- what everything is made from ---------------------------------------------------------------

    async def _read(self, step: FilmLessonInput) -> tuple[VideoWish | None, Lesson, str]:
        wanted = await self._documents.read_input(step.job)
        return wanted.video, await self._documents.read(step.job, step.lesson_id, Lesson), wanted.language

    async def _ordered_film(self, step: FilmLessonInput) -> Film:
        """The film of a plan; by its digest, which stays what it was should the settings change meanwhile."""
        wish, lesson, language = await self._read(step)
        film = self._film(step, wish, lesson)
        renderer = None if wish is None else self._desk.renderer(wish.provider)
        if wish is None or lesson.content is None or renderer is None:
            return film
        script, shortened = spoken_script(lesson.content, language=language, longest=renderer.longest_script)
        voice = wish.avatar or renderer.default_avatar or ""
        return replace(film, script=script, shortened=shortened, voice=voice)

    def _film(self, step: FilmLessonInput, wish: VideoWish | None, lesson: Lesson) -> Film:
        return Film(
            job=step.job, course_id=step.course_id, step=VIDEO_STEP, module=step.module, lesson=step.lesson,
            title=lesson.title, provider=_UNSET if wish is None else wish.provider, script="", digest=step.digest,
        )  # fmt: skip


class KeptSlides(BaseModel):
    """As much as is needed here of how slides are kept between steps."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    deck: SlideDeck | None = None


def _lesson_prefix(step: FilmLessonInput) -> str:
    return f"lesson-{step.module + 1}.{step.lesson + 1}/"
