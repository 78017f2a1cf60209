"""Nothing personal and nothing harmful gets past the writer: into answers, caches, memories, events or providers."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import httpx
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from temporalio.testing import ActivityEnvironment

from activities.generation.calls import PaidCalls
from activities.generation.documents import DocumentStore
from activities.generation.guard import ContentGuard
from activities.generation.models import Models
from activities.generation.slots import CallSlots
from activities.generation.steps import (
    CourseStepInput,
    ExportCourseInput,
    GenerationActivities,
    WriteLessonInput,
    WriteOutlineInput,
)
from activities.generation.writer import StructuredWriter, Wish
from activities.steps import StepKeeper
from core.database import Database
from core.metrics import WorkerMetrics
from core.store import ArtifactStore
from domain.errors import ContentError, Outcome, ProviderError
from domain.generation import (
    Completion,
    CompletionRequest,
    ContentStatus,
    CourseInput,
    Finish,
    InlineSource,
    Lesson,
    LessonBlock,
    LessonContent,
    LessonOutline,
    LessonTask,
    Price,
    Section,
    TokenUsage,
)
from domain.generation_plan import first_steps, module_steps
from domain.guarding import ContentPolicy, FindingKind, GuardAction, Judgement
from domain.jobs import JobRef
from gateways.detection import PersonalDataDetector
from gateways.moderation import OpenAIModerator
from gateways.offline import OfflineLanguageModel
from gateways.standin_openai import Match, Rule, StandInOpenAI
from prompts import course_lesson
from repositories.guarding import PolicyRepository
from repositories.jobs import JobRepository
from tests.support.job_rows import add_running_job, event_rows
from tests.support.keeping import KeepingWriter

MAIL: Final = "anna.petrova@mail.example.org"
PHONE: Final = "+7 916 123-45-67"
CARD: Final = "4111 1111 1111 1111"
SECRETS: Final = (MAIL, PHONE, CARD, "anna.petrova", "123-45-67", "4111 1111")
SECTION: Final = Section(id="s1", source="tides.txt", path=("Tides",), paragraphs=(f"Ask {MAIL} or {PHONE}.",))


class Says:
    """A model that says what it was told to, and remembers what it was asked."""

    can_look_up = False
    default_model = "gpt-x"

    def __init__(self, *answers: str, name: str = "openai", finish: Finish = Finish.STOP) -> None:
        self.name = name
        self.answers = list(answers)
        self.asked: list[CompletionRequest] = []
        self.finish = finish

    async def complete(self, *, request: CompletionRequest) -> Completion:
        self.asked.append(request)
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        usage = TokenUsage(input_tokens=1, output_tokens=1)
        return Completion(text=answer, finish=self.finish, usage=usage, model="gpt-x")

    async def find_completion(self, *, op: str, model: str) -> None: ...

    def price(self, model: str) -> Price:
        return Price(input_usd=Decimal(1), cached_input_usd=Decimal(1), output_usd=Decimal(1))


class Objects:
    """A moderation that objects to texts with a word in them, and may be away."""

    provider = "openai"
    model = "toy"

    def __init__(self, category: str = "violence", word: str = "blood") -> None:
        self.category = category
        self.word = word
        self.away = False
        self.seen: list[str] = []

    async def moderate(self, *, texts: Any) -> tuple[Judgement, ...]:
        if self.away:
            raise ProviderError("away", code="E.OPENAI.UNAVAILABLE", outcome=Outcome.UNKNOWN, retryable=True)
        self.seen += texts
        return tuple(Judgement(categories={self.category: 0.9} if self.word in one else {}) for one in texts)


def lesson(*paragraphs: str, summary: str = "About the sea.") -> LessonContent:
    """A written lesson."""
    block = LessonBlock(heading="Tides", paragraphs=paragraphs, bullets=())
    return LessonContent(title="Tides", summary=summary, blocks=(block,), key_points=("The moon pulls.",), terms=())


def wish(language: str = "en", sections: tuple[Section, ...] = (SECTION,)) -> Wish[LessonContent]:
    """A lesson on tides."""
    task = LessonTask(
        topic="Tides", audience="sailors", language=language, level="beginner", course_title="Tides",
        module_title="The moon", lesson=LessonOutline(title="Why", objectives=("Explain",), section_ids=("s1",)),
        sections=sections,
    )  # fmt: skip
    return Wish(
        task=task, prompt=course_lesson.PROMPT, messages=course_lesson.render(task), answer=LessonContent,
        max_output_tokens=4_000,
    )  # fmt: skip


MakeWriter = Callable[..., StructuredWriter]


@pytest.fixture
def make_writer(database: Database) -> MakeWriter:
    """Makes writers with a moderation of one's own."""

    def make(*moderators: Any, cache_for: timedelta = timedelta(hours=1)) -> StructuredWriter:
        keeper = StepKeeper(database)
        guard = ContentGuard(database, keeper, PersonalDataDetector(), moderators)
        metrics = WorkerMetrics(CollectorRegistry())
        return KeepingWriter(
            database, PaidCalls(database, keeper, metrics, CallSlots(5), guard=guard), cache_for=cache_for
        )

    return make


@pytest.fixture
async def job(database: Database, tenant_id: UUID) -> JobRef:
    """A running job."""
    return await add_running_job(database, tenant_id)


async def set_policy(database: Database, tenant_id: UUID, **actions: Any) -> None:
    """What the tenant wants from now on."""
    async with database.tenant(tenant_id) as connection:
        await PolicyRepository(connection).put(tenant_id, ContentPolicy(**actions))


KEPT: Final = ("step_results", "response_cache", "job_events", "job_steps", "provider_calls")


async def rows_of(database: Database, tenant_id: UUID, table: str) -> str:
    """Every row that a tenant has in a table, as one text."""
    query = text(f"SELECT coalesce(json_agg(t), '[]')::text FROM {table} t")  # noqa: S608 - a constant of this module
    async with database.tenant(tenant_id) as connection:
        return str((await connection.execute(query)).scalar_one())


async def everything_kept(database: Database, tenant_id: UUID) -> str:
    """Every row of the tables that a model's words could get into."""
    return "\n".join([await rows_of(database, tenant_id, table) for table in KEPT])


def guarded_events(events: Any) -> list[Any]:
    """The events of the content policy."""
    return [event for event in events if event.type == "content.guarded"]


class TestMasking:
    async def test_personal_data_is_masked_before_anything_is_kept(
        self, database: Database, make_writer: MakeWriter, job: JobRef
    ) -> None:
        """Not in the content, not in the memory of the job, not in the cache, not in the events."""
        answer = lesson(f"Write to {MAIL} or call {PHONE}.", f"Pay with {CARD}.", summary=f"Ask {MAIL}.")
        written = await make_writer().write(job, "lesson-1.1", Says(answer.model_dump_json()), "gpt-x", wish())
        assert written.status is ContentStatus.READY
        assert written.content == lesson(
            "Write to [e-mail] or call [phone].", "Pay with [card number].", summary="Ask [e-mail]."
        )
        kept = await everything_kept(database, job.tenant_id)
        assert "[e-mail]" in kept
        assert not any(secret in kept for secret in SECRETS)

    async def test_findings_say_what_was_where(self, database: Database, make_writer: MakeWriter, job: JobRef) -> None:
        """The pointer and the stretch name the mark in the content as it is; the event tells the same."""
        answer = lesson(f"Write to {MAIL} or call {PHONE}.")
        written = await make_writer().write(job, "lesson-1.1", Says(answer.model_dump_json()), "gpt-x", wish())
        assert written.content is not None
        paragraph = written.content.blocks[0].paragraphs[0]
        assert [(one.kind, one.pointer, paragraph[one.start : one.end]) for one in written.findings] == [
            (FindingKind.EMAIL, "/blocks/0/paragraphs/0", "[e-mail]"),
            (FindingKind.PHONE, "/blocks/0/paragraphs/0", "[phone]"),
        ]
        (event,) = guarded_events(await event_rows(database, job))
        assert event.data["part"] == "lesson-1.1"
        assert event.data["counts"] == {"email": {"mask": 1}, "phone": {"mask": 1}}
        assert [one["pointer"] for one in event.data["findings"]] == ["/blocks/0/paragraphs/0"] * 2

    async def test_marks_are_in_the_language_of_the_course(self, make_writer: MakeWriter, job: JobRef) -> None:
        answer = lesson(f"Пишите на {MAIL}, звоните {PHONE}.")
        written = await make_writer().write(job, "l", Says(answer.model_dump_json()), "gpt-x", wish("ru"))
        assert written.content is not None
        assert written.content.blocks[0].paragraphs == ("Пишите на [эл. почта], звоните [телефон].",)

    async def test_escapes_of_json_hide_nothing(self, database: Database, make_writer: MakeWriter, job: JobRef) -> None:
        """The detectors see what a reader would see."""
        raw = lesson("MAIL\n8 916 123-45-67").model_dump_json().replace("MAIL", MAIL.replace("@", "\\u0040"))
        written = await make_writer().write(job, "l", Says(raw), "gpt-x", wish())
        assert written.content is not None
        assert written.content.blocks[0].paragraphs == ("[e-mail]\n[phone]",)
        assert "petrova" not in await everything_kept(database, job.tenant_id)

    @pytest.mark.parametrize("raw", [
        f'{{"note": "Write to {MAIL}\\n{PHONE}", "n": 4111111111111111}}',
        f'{{"{MAIL}": "a name of a member", "{PHONE}": 1}}',
        f'Sorry, I cannot: {MAIL.replace("@", chr(92) + "u0040")} and{chr(92)}n{PHONE}',
        f'{{"title": "cut off at {MAIL}, {PHONE}',
        f'```json\n{{"a": "{MAIL}", "b": "{PHONE}"}}\n```',
        f'{{"a": "{MAIL}", "big": {"9" * 40}, "b": "{PHONE}"}}',
        f'{{"a": "{MAIL}", "broken": "{chr(92)}ud800", "b": "{PHONE}"}}',
        "[" * 900 + f'"{MAIL}", "{PHONE}"' + "]" * 900,
        "[" * 50_000 + f'"{MAIL}", "{PHONE}"' + "]" * 50_000,
    ], ids=["fields", "names", "prose", "cut off", "fence", "huge", "surrogate", "deep", "abyss"])  # fmt: skip
    async def test_a_draft_is_masked_as_well(
        self, database: Database, make_writer: MakeWriter, job: JobRef, raw: str
    ) -> None:
        """An answer that fits no schema, and may be no JSON at all, in the raw text and in the repair's prompt."""
        model = Says(raw)
        written = await make_writer().write(job, "l", model, "gpt-x", wish())
        assert written.status is ContentStatus.DRAFT
        assert written.draft is not None
        assert len(model.asked) == 2
        shown = f"{written.draft} {model.asked[1].messages} {await everything_kept(database, job.tenant_id)}"
        assert not any(secret in shown for secret in ("petrova", "123-45-67", "4111 1111", "411111111111"))
        assert {one.kind for one in written.findings} >= {FindingKind.EMAIL, FindingKind.PHONE}

    async def test_a_resumed_step_tells_the_same_once(
        self, database: Database, make_writer: MakeWriter, job: JobRef
    ) -> None:
        """The paid answer comes from the memory of the job, with its findings; the event is not repeated."""
        model = Says(lesson(f"Write to {MAIL}.").model_dump_json())
        forgetful = make_writer(cache_for=timedelta(0))
        first = await forgetful.write(job, "l", model, "gpt-x", wish())
        again = await forgetful.write(job, "l", model, "gpt-x", wish())
        assert len(model.asked) == 1
        assert again.findings == first.findings != ()
        assert again.content == first.content
        assert len(guarded_events(await event_rows(database, job))) == 1

    async def test_clean_content_asks_no_policy_and_leaves_no_event(
        self, database: Database, make_writer: MakeWriter, job: JobRef, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The usual case costs a search and nothing else."""
        writer = make_writer()
        monkeypatch.setattr(writer.guard, "_policies", None)
        clean = wish(sections=(SECTION.model_copy(update={"paragraphs": ("The moon pulls the sea.",)}),))
        written = await writer.write(job, "l", Says(lesson("The moon pulls.").model_dump_json()), "gpt-x", clean)
        assert (written.status, written.findings) == (ContentStatus.READY, ())
        assert guarded_events(await event_rows(database, job)) == []


class TestPolicies:
    async def test_flagged_content_keeps_its_text(
        self, database: Database, make_writer: MakeWriter, job: JobRef
    ) -> None:
        await set_policy(database, job.tenant_id, email=GuardAction.FLAG)
        answer = lesson(f"Write to {MAIL}.")
        written = await make_writer().write(job, "l", Says(answer.model_dump_json()), "gpt-x", wish())
        assert written.content == answer
        (finding,) = written.findings
        paragraph = answer.blocks[0].paragraphs[0]
        assert (finding.action, paragraph[finding.start : finding.end]) == (GuardAction.FLAG, MAIL)

    async def test_allowed_things_leave_no_trace(
        self, database: Database, make_writer: MakeWriter, job: JobRef
    ) -> None:
        await set_policy(database, job.tenant_id, email=GuardAction.ALLOW)
        answer = lesson(f"Write to {MAIL}.")
        written = await make_writer().write(job, "l", Says(answer.model_dump_json()), "gpt-x", wish())
        assert (written.content, written.findings) == (answer, ())
        assert guarded_events(await event_rows(database, job)) == []

    async def test_blocked_content_is_gone(self, database: Database, make_writer: MakeWriter, job: JobRef) -> None:
        """It is paid for, and nothing of it is left anywhere; it is not repaired and not cached."""
        await set_policy(database, job.tenant_id, card=GuardAction.BLOCK)
        model = Says(lesson(f"Pay with {CARD}, said the captain of Ushant.").model_dump_json())
        written = await make_writer().write(job, "l", model, "gpt-x", wish())
        assert (written.status, written.content) == (ContentStatus.FILTERED, None)
        assert written.draft is not None
        assert (written.draft.raw, written.draft.errors) == (
            "", (("/blocks/0/paragraphs/0", "blocked by the content policy: card"),),
        )  # fmt: skip
        assert [one.action for one in written.findings] == [GuardAction.BLOCK]
        assert written.provenance.cost_usd > 0
        assert len(model.asked) == 1
        assert "Ushant" not in await everything_kept(database, job.tenant_id)

    async def test_a_cached_answer_is_judged_by_the_policy_of_today(
        self, database: Database, tenant_id: UUID, make_writer: MakeWriter, job: JobRef
    ) -> None:
        """What was only flagged yesterday is masked, without another call."""
        await set_policy(database, tenant_id, email=GuardAction.FLAG, sources="send")
        model, writer = Says(lesson(f"Write to {MAIL}.").model_dump_json()), make_writer()
        await writer.write(job, "l", model, "gpt-x", wish())
        await set_policy(database, tenant_id, email=GuardAction.MASK, sources="send")
        masked = await writer.write(await add_running_job(database, tenant_id), "l", model, "gpt-x", wish())
        assert masked.content is not None
        assert masked.provenance.cached
        assert masked.content.blocks[0].paragraphs == ("Write to [e-mail].",)

    async def test_a_stricter_policy_blocks_what_is_cached(
        self, database: Database, tenant_id: UUID, make_writer: MakeWriter, job: JobRef
    ) -> None:
        await set_policy(database, tenant_id, email=GuardAction.FLAG, sources="send")
        model, writer = Says(lesson(f"Write to {MAIL}.").model_dump_json()), make_writer()
        await writer.write(job, "l", model, "gpt-x", wish())
        await set_policy(database, tenant_id, email=GuardAction.BLOCK, sources="send")
        other = await add_running_job(database, tenant_id)
        blocked = await writer.write(other, "l", model, "gpt-x", wish())
        assert (blocked.status, blocked.content, len(model.asked)) == (ContentStatus.FILTERED, None, 1)
        assert len(guarded_events(await event_rows(database, other))) == 1

    async def test_a_masked_answer_serves_while_masks_are_wanted(
        self, database: Database, tenant_id: UUID, make_writer: MakeWriter, job: JobRef
    ) -> None:
        """From the cache with its findings; once the policy lets the text stay, it is asked for anew."""
        await set_policy(database, tenant_id, sources="send")
        model, writer = Says(lesson(f"Write to {MAIL}.").model_dump_json()), make_writer()
        first = await writer.write(job, "l", model, "gpt-x", wish())
        again = await writer.write(await add_running_job(database, tenant_id), "l", model, "gpt-x", wish())
        assert again.provenance.cached
        assert (again.content, again.findings) == (first.content, first.findings)
        await set_policy(database, tenant_id, email=GuardAction.FLAG, sources="send")
        anew = await writer.write(await add_running_job(database, tenant_id), "l", model, "gpt-x", wish())
        assert anew.content == lesson(f"Write to {MAIL}.")
        assert len(model.asked) == 2


class TestSources:
    async def test_what_leaves_the_installation_is_masked(
        self, database: Database, make_writer: MakeWriter, job: JobRef
    ) -> None:
        """The provider outside sees marks; the job tells that something was withheld, and not what."""
        model = Says(lesson("The moon pulls.").model_dump_json())
        await make_writer().write(job, "lesson-1.1", model, "gpt-x", wish())
        sent = str(model.asked[0].messages)
        assert "Ask [e-mail] or [phone]." in sent
        assert not any(secret in sent for secret in SECRETS)
        told = [event for event in await event_rows(database, job) if event.type == "sources.guarded"]
        assert [event.data["counts"] for event in told] == [{"email": {"mask": 1}, "phone": {"mask": 1}}]

    @pytest.mark.parametrize(("policy", "shown"), [
        ({"sources": "send"}, (MAIL, PHONE)),
        ({"email": "flag"}, (MAIL, "[phone]")),
        ({"phone": "block"}, ("[e-mail]", "[phone]")),
    ], ids=["send", "flag", "block"])  # fmt: skip
    async def test_the_policy_decides_what_is_sent(
        self, database: Database, make_writer: MakeWriter, job: JobRef, policy: Any, shown: tuple[str, str]
    ) -> None:
        """What may not be in an answer is not sent; what may be, is."""
        await set_policy(database, job.tenant_id, **policy)
        model = Says(lesson("The moon pulls.").model_dump_json())
        await make_writer().write(job, "l", model, "gpt-x", wish())
        assert "Ask {} or {}.".format(*shown) in str(model.asked[0].messages)

    async def test_what_stays_inside_is_left_alone(self, make_writer: MakeWriter, job: JobRef) -> None:
        """The offline provider is this process; its answers are masked like any other's."""
        model = Says(lesson(f"Ask {MAIL}.").model_dump_json(), name="offline")
        written = await make_writer().write(job, "l", model, "gpt-x", wish())
        assert MAIL in str(model.asked[0].messages)
        assert written.content == lesson("Ask [e-mail].")


class TestModeration:
    async def test_severe_content_is_blocked(self, database: Database, make_writer: MakeWriter, job: JobRef) -> None:
        """Status FILTERED, no content, nothing in the cache."""
        moderation = Objects("illicit/violent")
        model = Says(lesson("Calm.", "How to draw blood.").model_dump_json())
        written = await make_writer(moderation).write(job, "l", model, "gpt-x", wish())
        assert (written.status, written.content) == (ContentStatus.FILTERED, None)
        (finding,) = written.findings
        assert (finding.kind, finding.pointer, finding.detector, finding.action) == (
            FindingKind.SEVERE, "/blocks/0/paragraphs/1", "openai.illicit/violent", GuardAction.BLOCK,
        )  # fmt: skip
        assert "blood" not in await rows_of(database, job.tenant_id, "response_cache")

    async def test_other_objections_are_told(self, make_writer: MakeWriter, job: JobRef) -> None:
        """A lesson on a war stays a lesson."""
        answer = lesson("Much blood was shed.")
        written = await make_writer(Objects()).write(job, "l", Says(answer.model_dump_json()), "gpt-x", wish())
        assert written.content == answer
        assert [(one.kind, one.action) for one in written.findings] == [(FindingKind.HARMFUL, GuardAction.FLAG)]

    async def test_the_moderation_sees_no_personal_data(self, make_writer: MakeWriter, job: JobRef) -> None:
        """It is outside as well, and personal data is dealt with first."""
        moderation = Objects()
        answer = lesson(f"Write to {MAIL}.").model_dump_json()
        await make_writer(moderation).write(job, "l", Says(answer), "gpt-x", wish())
        assert any("Write to [e-mail]." in passage for passage in moderation.seen)
        assert not any(secret in str(moderation.seen) for secret in SECRETS)

    async def test_no_judgement_is_no_approval(self, database: Database, make_writer: MakeWriter, job: JobRef) -> None:
        """While the moderation is away nothing is kept; afterwards the answer is judged without being paid again."""
        moderation = Objects()
        moderation.away = True
        model, writer = Says(lesson("The moon pulls.").model_dump_json()), make_writer(moderation)
        with pytest.raises(ProviderError):
            await writer.write(job, "l", model, "gpt-x", wish())
        assert await rows_of(database, job.tenant_id, "response_cache") == "[]"
        moderation.away = False
        assert (await writer.write(job, "l", model, "gpt-x", wish())).status is ContentStatus.READY
        assert len(model.asked) == 1

    async def test_a_kept_answer_is_judged_again(
        self, database: Database, tenant_id: UUID, make_writer: MakeWriter, job: JobRef
    ) -> None:
        """By the moderation and by the policy of the day: neither is remembered with the answer."""
        moderation = Objects(word="nothing")
        model, writer = Says(lesson("Much blood was shed.").model_dump_json()), make_writer(moderation)
        await writer.write(job, "l", model, "gpt-x", wish())
        await set_policy(database, tenant_id, harmful=GuardAction.BLOCK)
        moderation.word = "blood"
        other = await add_running_job(database, tenant_id)
        written = await writer.write(other, "l", model, "gpt-x", wish())
        assert (written.status, len(model.asked)) == (ContentStatus.FILTERED, 1)

    async def test_short_texts_are_judged_together(self, make_writer: MakeWriter, job: JobRef) -> None:
        """One text for a lesson of which all is well; one by one only where something is not."""
        moderation = Objects()
        paragraphs = [f"Paragraph {number}." for number in range(30)]
        writer = make_writer(moderation)
        await writer.write(job, "good", Says(lesson(*paragraphs).model_dump_json()), "gpt-x", wish())
        assert len(moderation.seen) == 1
        paragraphs[20] = "Much blood was shed."
        bad = Says(lesson(*paragraphs).model_dump_json())
        written = await writer.write(job, "bad", bad, "gpt-x", wish(language="de"))
        assert [one.pointer for one in written.findings] == ["/blocks/0/paragraphs/20"]
        assert moderation.seen.count("Much blood was shed.") == 1

    async def test_what_is_bad_only_together_is_found_in_all_of_it(self, make_writer: MakeWriter, job: JobRef) -> None:
        """Nothing that the moderation objects to goes by because its sentences are harmless one by one."""
        moderation = Objects(word="draw\nblood")
        answer = lesson("How to draw", "blood", summary="s" * 1_990)
        written = await make_writer(moderation).write(job, "l", Says(answer.model_dump_json()), "gpt-x", wish())
        told = {one.pointer for one in written.findings}
        assert {"/blocks/0/paragraphs/0", "/blocks/0/paragraphs/1"} <= told
        assert "/summary" not in told

    async def test_together_it_may_be_worse_than_its_parts(self, make_writer: MakeWriter, job: JobRef) -> None:
        """A sentence that is only harmful by itself does not hide that the passage is severe."""

        class Worse(Objects):
            async def moderate(self, *, texts: Any) -> tuple[Judgement, ...]:
                alone = await super().moderate(texts=texts)
                severe = Judgement(categories={"illicit/violent": 0.9, "violence": 0.9})
                return tuple(severe if "draw\nblood" in text else one for text, one in zip(texts, alone, strict=True))

        answer = lesson("How to draw", "blood").model_dump_json()
        written = await make_writer(Worse()).write(job, "l", Says(answer), "gpt-x", wish())
        assert written.status is ContentStatus.FILTERED
        severe = {one.pointer for one in written.findings if one.kind is FindingKind.SEVERE}
        harmful = {one.pointer for one in written.findings if one.kind is FindingKind.HARMFUL}
        assert {"/blocks/0/paragraphs/0", "/blocks/0/paragraphs/1"} <= severe
        assert harmful == {"/blocks/0/paragraphs/1"}

    async def test_a_long_draft_is_judged_in_pieces(self, make_writer: MakeWriter, job: JobRef) -> None:
        """The finding names the stretch."""
        raw = "calm " * 2_000 + "blood"
        written = await make_writer(Objects()).write(job, "l", Says(raw), "gpt-x", wish())
        assert written.status is ContentStatus.DRAFT
        assert [(one.start, one.end) for one in written.findings] == [(8_000, len(raw))]

    async def test_over_the_wire(
        self, make_writer: MakeWriter, job: JobRef, http: httpx.AsyncClient, server: StandInOpenAI
    ) -> None:
        """One text for a lesson, and one call; its failure is that of the step."""
        moderator = OpenAIModerator(
            client=http, base_url=server.base_url, api_key="sk-test-0123456789", model="omni-moderation-latest"
        )
        server.play(Rule(match=Match(endpoint="moderations", nth=1), action="status_500_before"))
        model, writer = Says(lesson("Fine.", "A [hate/threatening] word.").model_dump_json()), make_writer(moderator)
        with pytest.raises(ProviderError):
            await writer.write(job, "l", model, "gpt-x", wish())
        written = await writer.write(job, "l", model, "gpt-x", wish())
        assert written.status is ContentStatus.FILTERED
        assert len(model.asked) == 1
        # The first failed, the second objected to the lesson as a whole, the third to one of its texts.
        assert [len(call) for call in server.moderations] == [1, 1, 6]


# --- a whole course ---------------------------------------------------------------------------------

SOURCE: Final = f"""# Harbour

The harbour master is on duty day and night. Every ship that comes in has to report to the office before it moors.
Questions about berths are answered by {MAIL}, and by phone under {PHONE}, at any time of the day.
The fee for a berth is paid in advance, for example with the card {CARD}, and is not returned when a ship leaves early.

# Tides

The water rises and falls twice a day. A deep ship can only pass the bar at high water. The pilot knows the depth.
The tables of the tides are printed every year. Each captain keeps a copy on the bridge and reads it before the bar.
"""


@asynccontextmanager
async def course_of(
    database: Database, store: ArtifactStore, tenant_id: UUID
) -> AsyncIterator[tuple[GenerationActivities, JobRef]]:
    """A course by the offline provider from a source with personal data."""
    wanted = CourseInput(
        topic="Harbours", modules=1, lessons_per_module=2, sources=(InlineSource(name="harbour.md", text=SOURCE),)
    )
    job = await add_running_job(
        database, tenant_id, raw_input=wanted.model_dump(mode="json"), steps=(*first_steps(), *module_steps((2,)))
    )
    keeper = StepKeeper(database)
    calls = PaidCalls(database, keeper, WorkerMetrics(CollectorRegistry()), CallSlots(5))
    writer = StructuredWriter(database, calls, cache_for=timedelta(0))
    yield (
        GenerationActivities(
            keeper, DocumentStore(database, store), writer, Models([OfflineLanguageModel()]), lessons_at_once=2
        ),
        job,
    )


class TestCourse:
    async def test_nothing_personal_is_in_anything_handed_out(
        self, database: Database, store: ArtifactStore, tenant_id: UUID
    ) -> None:
        """Lessons, exports, events and the result of a course whose source is full of it."""
        async with course_of(database, store, tenant_id) as (course, job):
            act = ActivityEnvironment().run
            corpus_id = await act(course.prepare_sources, CourseStepInput(job=job))
            outline = await act(course.write_outline, WriteOutlineInput(job=job, corpus_id=corpus_id))
            where: dict[str, Any] = {"job": job, "corpus_id": corpus_id, "outline_id": outline.outline_id}
            made = [await act(course.write_lesson, WriteLessonInput(**where, module=0, lesson=i)) for i in range(2)]
            await act(course.export_course, ExportCourseInput(**where))
            lessons = [await course._documents.read(job, one.lesson_id, Lesson) for one in made]
            async with database.tenant(tenant_id) as connection:
                result = (await JobRepository(connection).get_result(job.job_id)).result
            files = [
                (await course._documents.read_bytes(job, UUID(file["id"])))[1].decode() for file in result["artifacts"]
            ]
        kept = await everything_kept(database, tenant_id)
        shown = "\n".join([*files, json.dumps(result), *(one.model_dump_json() for one in lessons), kept])
        assert not any(secret in shown for secret in SECRETS)
        assert "[e-mail]" in shown
        found = result["guarding"]
        assert (found["personal_data"], found["moderation"]) == ("local detectors", None)
        assert set(found["findings"]) == {"email", "phone", "card"}
        told = sum(count for kind in found["findings"].values() for count in kind.values())
        assert told >= sum(len(one.findings) for one in lessons) > 0

    async def test_a_blocked_outline_ends_the_job_and_says_why(
        self, database: Database, store: ArtifactStore, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not as if the provider had filtered it."""
        await set_policy(database, tenant_id, email=GuardAction.BLOCK)
        async with course_of(database, store, tenant_id) as (course, job):
            corpus_id = await ActivityEnvironment().run(course.prepare_sources, CourseStepInput(job=job))
            spoiled = Says('{"title": "Ask anna.petrova@mail.example.org"}', name="offline")
            monkeypatch.setattr(course, "_models", Models([spoiled]))
            with pytest.raises(Exception, match="content policy stopped the outline") as caught:
                await ActivityEnvironment().run(course.write_outline, WriteOutlineInput(job=job, corpus_id=corpus_id))
        assert isinstance(caught.value.__cause__, ContentError)
        assert caught.value.__cause__.code == "E.GENERATION.BLOCKED"
        assert "petrova" not in await everything_kept(database, tenant_id)
