"""Courses that are spoken: real activities, database and Temporal; ElevenLabs is the stand-in, over a socket."""

import hashlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select
from temporalio.client import Client

from core.database import Database
from core.http import HttpTimeouts, create_http_client
from core.store import ArtifactStore
from domain.artifacts import ArtifactRole, store_key
from domain.audio import MP3, WAV, read_audio
from domain.course_graph import NodeKind
from domain.jobs import JobAction, JobRef
from domain.media import SpeechModel, SpeechProvider
from gateways.elevenlabs import ElevenLabsSpeech
from gateways.offline_speech import OfflineSpeech
from gateways.standin_elevenlabs import Fault, FaultKind, StandInElevenLabs
from repositories.courses import CourseRepository
from repositories.tables import artifacts
from tests.support.course_service import Courses, serving_courses
from tests.support.job_rows import artifact_names, call_rows, event_rows, job_row, step_rows

PRICE = SpeechModel(usd_per_1000_characters=Decimal("0.30"), max_characters=400)
TIMEOUTS = HttpTimeouts(connect=10, read=10, write=10, pool=10)
WITHIN = 120.0
TONE = """
import struct, sys
said = sys.stdin.buffer.read()
samples = b"\\1\\0" * 2205 * max(1, len(said) // 100)
layout = struct.pack("<HHIIHH", 1, 1, 22050, 44100, 2, 16)
head = b"RIFF" + struct.pack("<I", 0x7FFFF024) + b"WAVEfmt " + struct.pack("<I", 16) + layout
sys.stdout.buffer.write(head + b"data" + struct.pack("<I", 0x7FFFF000) + samples)
"""
"""What espeak-ng does, as far as we see it: text in, an endless WAV out."""

needs_unix = pytest.mark.skipif(sys.platform == "win32", reason="scripts with a shebang")


@asynccontextmanager
async def speaking(
    temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID, *voices: SpeechProvider
) -> AsyncIterator[Courses]:
    """Courses whose worker has these voices."""
    async with serving_courses(temporal, database, store, tenant_id, voices=voices) as courses:
        yield courses


@pytest.fixture
async def standin() -> AsyncIterator[StandInElevenLabs]:
    async with StandInElevenLabs(seed=3) as running:
        yield running


@pytest.fixture
async def courses(
    temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID, standin: StandInElevenLabs
) -> AsyncIterator[Courses]:
    """Courses spoken by the stand-in, in pieces of at most 400 characters."""
    async with create_http_client(timeout=TIMEOUTS, proxy=None, user_agent="longhaul-test") as http:
        voice = ElevenLabsSpeech(
            client=http, base_url=standin.origin, api_key="xi-test-0123456789", default_voice="v",
            default_model="eleven_multilingual_v2", models={"eleven_multilingual_v2": PRICE}, at_once=3,
        )  # fmt: skip
        async with speaking(temporal, database, store, tenant_id, voice) as made:
            yield made


async def recordings(database: Database, store: ArtifactStore, job: JobRef) -> dict[str, bytes]:
    """The recordings of a job by name."""
    query = select(artifacts.c.name, artifacts.c.sha256).where(
        artifacts.c.job_id == job.job_id, artifacts.c.media_type.in_([MP3, WAV])
    )
    async with database.tenant(job.tenant_id) as connection:
        rows = (await connection.execute(query.order_by(artifacts.c.name))).all()
    return {row.name: await store.get(store_key(job.tenant_id, row.sha256)) for row in rows}


async def exported(database: Database, store: ArtifactStore, job: JobRef) -> dict[str, Any]:
    """The course as its JSON export tells it."""
    query = select(artifacts.c.sha256).where(
        artifacts.c.job_id == job.job_id,
        artifacts.c.role == ArtifactRole.EXPORT,
        artifacts.c.media_type == "application/json",
    )
    async with database.tenant(job.tenant_id) as connection:
        sha256 = (await connection.execute(query)).scalar_one()
    document: dict[str, Any] = json.loads(await store.get(store_key(job.tenant_id, sha256)))
    return document


async def audio_nodes(database: Database, job: JobRef) -> list[Any]:
    """The recordings as the graph of the course has them."""
    async with database.tenant(job.tenant_id) as connection:
        tree = await CourseRepository(connection).get_tree(job.job_id)
    return [node for node in tree if node.kind is NodeKind.AUDIO]


class TestSpoken:
    async def test_every_lesson_is(
        self, courses: Courses, database: Database, store: ArtifactStore, standin: StandInElevenLabs
    ) -> None:
        """In our store, in the graph, in the bill, and with an event; the bytes are those that were paid for."""
        job = await courses.start(modules=2, lessons=1, speech={"provider": "elevenlabs"})
        row = await courses.until_status(job, "succeeded", within=WITHIN)
        made = await recordings(database, store, job)
        assert list(made) == ["lessons/01-01.mp3", "lessons/02-01.mp3"]
        takes = {take.audio for take in standin.studio.takes}
        assert len(takes) == len(standin.requests) > 2  # in pieces
        assert all(read_audio(body, MP3).whole for body in made.values())
        assert sum(map(len, made.values())) == sum(map(len, takes))
        nodes = await audio_nodes(database, job)
        assert [node.key for node in nodes] == ["lesson-1.1/audio", "lesson-2.1/audio"]
        assert sum(node.calls for node in nodes) == len(takes)
        cost = sum((PRICE.cost_of(len(take.text)) for take in standin.studio.takes), Decimal(0))
        assert sum(node.cost_usd for node in nodes) == row.cost_usd == cost
        export = await exported(database, store, job)
        published = [lesson["audio"] for module in export["modules"] for lesson in module["lessons"]]
        assert [audio["sha256"] for audio in published] == [hashlib.sha256(body).hexdigest() for body in made.values()]
        assert sum(Decimal(audio["cost_usd"]) for audio in published) == cost
        assert row.result["audio"]["lessons"] == 2
        assert Decimal(row.result["cost_usd"]) == Decimal(export["totals"]["cost_usd"]) == cost
        events = await event_rows(database, job)
        spoken = [event for event in events if event.type == "lesson.spoken"]
        assert sorted(event.data["lesson"] for event in spoken) == ["1.1", "2.1"]
        assert sorted(event.data["bytes"] for event in spoken) == sorted(map(len, made.values()))

    async def test_the_price_is_shown_before_anything_is_bought(self, courses: Courses, database: Database) -> None:
        job = await courses.start(modules=1, lessons=1, speech={"provider": "elevenlabs"})
        await courses.until_status(job, "succeeded", within=WITHIN)
        events = {event.type: event for event in await event_rows(database, job)}
        assert events["speech.priced"].seq < events["lesson.spoken"].seq
        assert Decimal(events["speech.priced"].data["most_usd"]) == Decimal(events["lesson.spoken"].data["cost_usd"])

    async def test_the_steps_count_lessons(self, courses: Courses, database: Database) -> None:
        """A lesson is done when it is spoken; progress never runs ahead of that."""
        job = await courses.start(modules=1, lessons=2, speech={"provider": "elevenlabs"}, quiz=True)
        row = await courses.until_status(job, "succeeded", within=WITHIN)
        steps = await step_rows(database, job)
        assert (steps["module-1"].done, steps["module-1"].total, row.progress) == (2, 2, 1.0)
        events = await event_rows(database, job)
        progress = [event.data["progress"] for event in events]
        assert progress == sorted(progress)
        first = next(event for event in events if event.type == "lesson.spoken")
        assert first.data["progress"] < 1

    async def test_faults_on_the_way_are_not_paid_for(
        self, courses: Courses, database: Database, standin: StandInElevenLabs
    ) -> None:
        standin.faults.add(
            Fault(kind=FaultKind.DROP_AFTER),
            Fault(kind=FaultKind.STATUS_BEFORE, status=429, code="concurrent_limit_exceeded"),
            Fault(kind=FaultKind.BROKEN_OFF),
            Fault(kind=FaultKind.STATUS_AFTER, status=502),
        )
        job = await courses.start(modules=1, lessons=2, speech={"provider": "elevenlabs"})
        await courses.until_status(job, "succeeded", within=WITHIN)
        texts = [take.text for take in standin.studio.takes]
        assert len(texts) == len(set(texts))
        assert sum((row.lost_usd for row in await call_rows(database, job)), Decimal(0)) == 0

    async def test_no_quota_ends_the_job_and_a_retry_goes_on(
        self, courses: Courses, database: Database, standin: StandInElevenLabs
    ) -> None:
        """What was written and spoken before is kept."""
        account = standin.studio.account("xi-test-0123456789")
        account.character_limit = 500
        job = await courses.start(modules=1, lessons=2, speech={"provider": "elevenlabs"})
        row = await courses.until_status(job, "failed", within=WITHIN)
        assert row.error["code"] == "E.ELEVENLABS.QUOTA"
        account.character_limit = 1_000_000
        lessons = len(courses.model.lessons)
        await courses.act(job, JobAction.RETRY)
        await courses.until_status(job, "succeeded", within=WITHIN)
        texts = [take.text for take in standin.studio.takes]
        assert len(texts) == len(set(texts))
        assert len(courses.model.lessons) <= lessons + 1  # one may have been held back by the failure

    async def test_a_worker_without_a_key_says_so(self, courses: Courses) -> None:
        job = await courses.start(modules=1, lessons=1, speech={"provider": "offline"})
        row = await courses.until_status(job, "failed", within=WITHIN)
        assert row.error["code"] == "E.ELEVENLABS.NOT_CONFIGURED"


class TestOffline:
    async def test_where_nothing_can_speak_the_course_goes_without(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        """And says so."""
        voice = OfflineSpeech(program="no-such-program")
        async with speaking(temporal, database, store, tenant_id, voice) as courses:
            job = await courses.start(modules=1, lessons=2, speech={})
            row = await courses.until_status(job, "succeeded", within=WITHIN)
        assert row.progress == 1.0
        events = await event_rows(database, job)
        unspoken = [event.data for event in events if event.type == "lesson.not_spoken"]
        assert sorted(data["lesson"] for data in unspoken) == ["1.1", "1.2"]
        assert {data["code"] for data in unspoken} == {"E.SPEECH.UNAVAILABLE"}
        assert await recordings(database, store, job) == {}
        assert await audio_nodes(database, job) == []

    @needs_unix
    async def test_a_program_speaks_for_nothing(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID, tmp_path: Path
    ) -> None:
        program = tmp_path / "speaker"
        program.write_text(f"#!{sys.executable}\n{TONE}")
        program.chmod(0o755)
        voice = OfflineSpeech(program=str(program))
        async with speaking(temporal, database, store, tenant_id, voice) as courses:
            job = await courses.start(modules=1, lessons=1, speech={"provider": "offline"})
            row = await courses.until_status(job, "succeeded", within=WITHIN)
        (body,) = (await recordings(database, store, job)).values()
        assert read_audio(body, WAV).whole
        assert row.cost_usd == 0
        assert "lessons/01-01.wav" in await artifact_names(database, job)


class TestDrafts:
    async def test_what_is_no_lesson_is_not_spoken(
        self, courses: Courses, database: Database, standin: StandInElevenLabs
    ) -> None:
        courses.model.open.clear()
        job = await courses.start(modules=1, lessons=1, speech={"provider": "elevenlabs"})
        await courses.until_asked(1)
        courses.model.answers[courses.model.lessons[0]] = '{"title": "half a les'
        courses.model.open.set()
        await courses.until_status(job, "succeeded", within=WITHIN)
        assert standin.requests == []
        assert (await job_row(database, job)).progress == 1.0


class TestMadeAgain:
    """``generation.section`` over a course that is spoken."""

    async def test_another_lesson_is_spoken_again(
        self, courses: Courses, database: Database, store: ArtifactStore, standin: StandInElevenLabs
    ) -> None:
        """Only that one, and the course's next version has the new recording."""
        course = await courses.start(modules=1, lessons=2, speech={"provider": "elevenlabs"})
        await courses.until_status(course, "succeeded", within=WITHIN)
        before = {node.key: node for node in await audio_nodes(database, course)}
        paid = len(standin.studio.takes)
        wish = {"course_id": str(course.job_id), "node": "lesson-1.1/audio"}
        section = await courses.start_kind("generation.section", wish)
        await courses.until_status(section, "succeeded", within=WITHIN)
        after = {node.key: node for node in await audio_nodes(database, course)}
        assert after["lesson-1.2/audio"].revision_id == before["lesson-1.2/audio"].revision_id
        assert after["lesson-1.1/audio"].content_sha256 != before["lesson-1.1/audio"].content_sha256
        assert after["lesson-1.1/audio"].input_hash == before["lesson-1.1/audio"].input_hash
        assert len(standin.studio.takes) == paid + before["lesson-1.1/audio"].calls

    @needs_unix
    async def test_a_recording_that_did_not_come_about_is_made(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID, tmp_path: Path
    ) -> None:
        """The course went without, and has succeeded; then somebody installs the program."""
        program = tmp_path / "speaker"
        async with speaking(temporal, database, store, tenant_id, OfflineSpeech(program=str(program))) as courses:
            course = await courses.start(modules=1, lessons=1, speech={})
            await courses.until_status(course, "succeeded", within=WITHIN)
            assert await audio_nodes(database, course) == []
            program.write_text(f"#!{sys.executable}\n{TONE}")
            program.chmod(0o755)
            wish = {"course_id": str(course.job_id), "node": "lesson-1.1/audio"}
            section = await courses.start_kind("generation.section", wish)
            await courses.until_status(section, "succeeded", within=WITHIN)
        assert [node.key for node in await audio_nodes(database, course)] == ["lesson-1.1/audio"]

    async def test_a_lesson_that_says_the_same_is_not_paid_again(
        self, courses: Courses, database: Database, standin: StandInElevenLabs
    ) -> None:
        """The text is made anew and comes out word for word: the recording stands."""
        course = await courses.start(modules=1, lessons=1, speech={"provider": "elevenlabs"})
        await courses.until_status(course, "succeeded", within=WITHIN)
        before = await audio_nodes(database, course)
        paid = len(standin.studio.takes)
        wish = {"course_id": str(course.job_id), "node": "lesson-1.1"}
        section = await courses.start_kind("generation.section", wish)
        await courses.until_status(section, "succeeded", within=WITHIN)
        assert [node.revision_id for node in await audio_nodes(database, course)] == [
            node.revision_id for node in before
        ]
        assert len(standin.studio.takes) == paid
