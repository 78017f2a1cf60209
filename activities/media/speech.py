"""Lessons are spoken: script, price, pieces, one recording, a node of the course graph."""

import asyncio
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from temporalio import activity

from activities.generation.documents import DocumentStore
from activities.generation.lesson_parts import WriteLessonPartInput, content_of
from activities.heartbeat import heartbeating
from activities.media.paid_speech import PaidSpeech, PieceWish, SpokenPiece
from activities.steps import StepKeeper, input_hash
from domain.artifacts import ArtifactRole
from domain.audio import MP3, WAV, join_audio
from domain.course_graph import NodeKind, NodeMade, below, lesson_key
from domain.errors import ContentError, SpeechUnavailable
from domain.generation import CourseInput, Lesson, MediaRef, SpeechWish
from domain.generation_plan import module_step
from domain.jobs import JobRef
from domain.media import MediaNote, SpeechProvider, SpeechRequest, Voice, pieces_of
from domain.model import Frozen
from rendering.lesson_script import SCRIPT_VERSION, lesson_script
from repositories.courses import revision_statement
from repositories.jobs import JobRepository
from repositories.steps import StepResultRepository

_ENDINGS: Final = {MP3: "mp3", WAV: "wav"}


class SpeakLessonResult(Frozen):
    """Where the note of the recording is (``MediaNote``); None where the lesson does without one."""

    artifact_id: UUID | None


@dataclass(frozen=True, slots=True)
class SpeechWork:
    """A lesson to be spoken: what it says, who speaks, and where the recording belongs."""

    job: JobRef
    course_id: UUID
    step: str
    module: int
    lesson: int
    title: str
    language: str
    script: str
    voice: Voice
    is_last: bool

    @property
    def key(self) -> str:
        """The node of the course graph."""
        return below(lesson_key(self.module, self.lesson), "audio")

    @property
    def place(self) -> str:
        """The lesson as events name it."""
        return f"{self.module + 1}.{self.lesson + 1}"

    @property
    def digest(self) -> str:
        """Everything that a recording depends on."""
        return input_hash("audio", SCRIPT_VERSION, self.script_sha256, [self.voice.provider, *self._who])

    @property
    def script_sha256(self) -> str:
        """The checksum of what is said."""
        return hashlib.sha256(self.script.encode()).hexdigest()

    @property
    def _who(self) -> list[str]:
        return [self.voice.voice, self.voice.model]

    @property
    def pieces(self) -> tuple[PieceWish, ...]:
        """The calls that it takes, each with an op of its own."""
        terms = self.voice.terms
        return tuple(
            PieceWish(
                op=input_hash(str(self.job.job_id), self.key, self.digest, index),
                step=self.key,
                request=SpeechRequest(
                    text=text, voice=self.voice.voice, model=self.voice.model, language=self.language
                ),
                terms=terms,
            )
            for index, text in enumerate(pieces_of(self.script, longest=terms.max_characters))
        )


class SpeechActivities:
    """The speaking of lessons. A lesson that cannot be spoken on this machine goes without, and the job says so."""

    def __init__(
        self, keeper: StepKeeper, documents: DocumentStore, calls: PaidSpeech, providers: Iterable[SpeechProvider]
    ) -> None:
        self._keeper = keeper
        self._documents = documents
        self._calls = calls
        self._providers = {provider.name: provider for provider in providers}

    @activity.defn(name="speak_lesson")
    async def speak_lesson(self, step: WriteLessonPartInput) -> SpeakLessonResult:
        """Record a lesson that is ready. Raises where the provider is not configured or its model has no price."""
        async with heartbeating(), self._keeper.attempt(step.job, module_step(step.module)):
            wanted = await self._documents.read_input(step.job)
            lesson = await self._documents.read(step.job, step.lesson_id, Lesson)
            work = self._plan(step, wanted, lesson, course_id=await self._documents.course_of(step.job))
            return SpeakLessonResult(artifact_id=await self._record(work))

    def _plan(self, step: WriteLessonPartInput, wanted: CourseInput, lesson: Lesson, *, course_id: UUID) -> SpeechWork:
        wish = wanted.speech or SpeechWish()
        voice = self._provider(wish.provider).choose(language=wanted.language, voice=wish.voice, model=wish.model)
        return SpeechWork(
            job=step.job, course_id=course_id, step=module_step(step.module), module=step.module,
            lesson=step.lesson, title=lesson.title, language=wanted.language,
            script=lesson_script(content_of(lesson), language=wanted.language), voice=voice, is_last=step.is_last,
        )  # fmt: skip

    async def _record(self, work: SpeechWork) -> UUID | None:
        """The note of the recording (``MediaNote``), made now or before; None where this machine cannot speak."""
        kept = await self._keeper.recall(work.job, work.key, work.digest)
        if kept is None:
            await self._show_price(work)
            provider = self._provider(work.voice.provider)
            try:
                pieces = [await self._calls.speak(work.job, provider, wish) for wish in work.pieces]
            except SpeechUnavailable as reason:
                await self._skip(work, reason)
                return None
            kept = await self._finish(work, pieces)
        return UUID(kept["artifact_id"])

    def _provider(self, name: str) -> SpeechProvider:
        provider = self._providers.get(name)
        if provider is None:
            raise ContentError(
                f"this worker has no credentials for the speech provider {name}", code="E.ELEVENLABS.NOT_CONFIGURED"
            )
        return provider

    async def _show_price(self, work: SpeechWork) -> None:
        """Say what a recording is going to cost at the most, before the first piece of it is bought."""
        most = sum((wish.terms.cost_of(len(wish.request.text)) for wish in work.pieces), Decimal(0))
        if not most or activity.info().attempt > 1:
            return
        async with self._keeper.effect(work.job) as connection:
            await JobRepository(connection).record(
                job_id=work.job.job_id,
                attempt=work.job.attempt,
                event="speech.priced",
                data={
                    "lesson": work.place, "provider": work.voice.provider, "model": work.voice.model,
                    "characters": len(work.script), "calls": len(work.pieces), "most_usd": f"{most:f}",
                },
                values={},
            )  # fmt: skip

    async def _skip(self, work: SpeechWork, reason: SpeechUnavailable) -> None:
        # Remembered apart from recordings: another worker, or a later attempt, may be able to speak.
        async with self._keeper.effect(work.job) as connection:
            await self._keeper.finish_part(
                connection, work.job, step=work.step, part=f"{work.key}/skipped", digest=work.digest,
                result={"skipped": reason.detail}, event="lesson.not_spoken",
                data={"lesson": work.place, "code": reason.code, "detail": reason.detail}, advances=work.is_last,
            )  # fmt: skip

    async def _finish(self, work: SpeechWork, pieces: list[SpokenPiece]) -> dict[str, Any]:
        """One recording of all pieces: stored, named, remembered, and a node of the graph, in one transaction."""
        job = work.job
        bodies = [await self._calls.read(job, piece) for piece in pieces]
        media_type = pieces[0].media_type
        audio, seconds = await asyncio.to_thread(join_audio, bodies, media_type)
        name = f"lessons/{work.module + 1:02}-{work.lesson + 1:02}"
        recording = await self._documents.store_bytes(
            job, f"{name}.{_ENDINGS[media_type]}", media_type, audio, ArtifactRole.PARTIAL
        )
        cost = sum((piece.cost_usd for piece in pieces), Decimal(0))
        media = MediaRef(
            artifact_id=recording.id, media_type=media_type, bytes=recording.bytes, sha256=recording.sha256,
            seconds=round(seconds, 3), provider=work.voice.provider, cost_usd=cost,
        )  # fmt: skip
        note = MediaNote(
            media=media, voice=work.voice.voice, model=work.voice.model, script_sha256=work.script_sha256,
            request_ids=tuple(piece.request_id for piece in pieces if piece.request_id), calls=len(pieces),
        )  # fmt: skip
        document = await self._documents.store(job, f"{name}-audio.json", note, ArtifactRole.INTERNAL)
        node = NodeMade(
            key=work.key, kind=NodeKind.AUDIO, title=work.title, input_hash=work.digest,
            content_sha256=recording.sha256, artifact_id=document.id, calls=len(pieces), cost_usd=cost,
        )  # fmt: skip
        result = {"artifact_id": str(document.id), "audio_id": str(recording.id)}
        async with self._keeper.effect(job) as connection:
            earlier = await StepResultRepository(connection).get_or_none(job, work.key, work.digest)
            if earlier is not None:
                return earlier
            await self._documents.add(connection, recording)
            await self._documents.add(connection, document)
            await connection.execute(*revision_statement(job, work.course_id, node))
            await self._keeper.finish_part(
                connection, job, step=work.step, part=work.key, digest=work.digest, result=result,
                event="lesson.spoken", advances=work.is_last,
                data={
                    "lesson": work.place, "artifact_id": str(recording.id), "media_type": media_type,
                    "bytes": recording.bytes, "seconds": media.seconds, "cost_usd": f"{cost:f}",
                },
            )  # fmt: skip
        return result
