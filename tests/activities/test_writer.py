"""Structured content from the stand-in over a socket: validated, repaired once, cached, or shown as a draft."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pytest

from activities.generation.calls import PaidCalls, worst_case_usd
from activities.generation.wishes import outline_faults
from activities.generation.writer import StructuredWriter, Wish, _request
from core.database import Database
from core.ids import new_id
from domain.errors import BudgetExceeded, PriceUnknown, ProviderError
from domain.generation import (
    Completion,
    ContentStatus,
    CourseInput,
    CourseOutline,
    Finish,
    LessonBlock,
    LessonContent,
    LessonOutline,
    LessonTask,
    OutlineTask,
    Price,
    Section,
    TokenUsage,
)
from domain.jobs import JobRef
from domain.structured import strict_schema
from gateways.openai import OpenAILanguageModel
from gateways.standin_openai import Match, Rule, StandInOpenAI
from gateways.standin_openai.script import MalformedJson
from gateways.standin_openai.wire import REFUSAL_TEXT
from prompts import course_lesson, course_outline
from repositories.tenants import TenantRepository
from tests.support.job_rows import add_running_job, call_rows
from tests.support.keeping import KeepingWriter

SECTION: Final = Section(id="s1", source="tides.txt", path=("Tides",), paragraphs=("The moon pulls the sea.",))
TASK: Final = LessonTask(
    topic="Tides", audience="sailors", language="en", level="beginner", course_title="Tides", module_title="The moon",
    lesson=LessonOutline(title="Why twice a day", objectives=("Explain both tides",), section_ids=("s1",)),
    sections=(SECTION,),
)  # fmt: skip


def lesson_wish(**changes: Any) -> Wish[LessonContent]:
    """A lesson on tides."""
    task = TASK.model_copy(update=changes)
    return Wish(
        task=task,
        prompt=course_lesson.PROMPT,
        messages=course_lesson.render(task),
        answer=LessonContent,
        max_output_tokens=4_000,
    )


@pytest.fixture
async def job(database: Database, tenant_id: UUID) -> JobRef:
    """A running job without a budget."""
    return await add_running_job(database, tenant_id)


@pytest.fixture
def writer(database: Database, calls: PaidCalls) -> StructuredWriter:
    """A writer that keeps good answers for an hour."""
    return KeepingWriter(database, calls, cache_for=timedelta(hours=1))


class TestReady:
    async def test_a_good_answer_is_content(
        self, writer: StructuredWriter, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """With everything needed to account for it."""
        written = await writer.write(job, "lesson", model, "gpt-x", lesson_wish())
        assert written.status is ContentStatus.READY
        assert written.content is not None
        assert written.draft is None
        (call,) = server.calls
        origin = written.provenance
        assert (origin.provider, origin.model, origin.calls, origin.cached) == ("openai", "gpt-x-2026-01-01", 1, False)
        assert (origin.input_tokens, origin.output_tokens) == (call.prompt_tokens, call.completion_tokens)
        assert (origin.prompt_id, origin.prompt_version) == ("course-lesson", course_lesson.PROMPT.version)
        assert origin.prompt_sha256 == course_lesson.PROMPT.sha256
        assert origin.cost_usd > 0

    async def test_the_same_wish_of_two_steps_is_two_effects(
        self, database: Database, calls: PaidCalls, job: JobRef, model: OpenAILanguageModel
    ) -> None:
        """Lessons that read alike do not share a ledger row."""
        forgetful = KeepingWriter(database, calls, cache_for=timedelta(0))
        for step in ("lesson-1.1", "lesson-1.2"):
            await forgetful.write(job, step, model, "gpt-x", lesson_wish())
        assert [row.step for row in await call_rows(database, job)] == ["lesson-1.1", "lesson-1.2"]


class TestRepair:
    @pytest.mark.parametrize("action", ["schema_breaking", MalformedJson(where="content")], ids=str)
    async def test_one_repair_with_the_last_answer_and_its_faults(
        self, writer: StructuredWriter, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI, action: Any
    ) -> None:
        """The second call carries the first wish, the bad answer and what is wrong with it; nothing else."""
        server.play(Rule(match=Match(nth=1), action=action))
        written = await writer.write(job, "lesson", model, "gpt-x", lesson_wish())
        assert written.status is ContentStatus.READY
        first, second = server.requests
        assert second["messages"][:2] == first["messages"]
        assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "user"]
        assert "does not fit the schema" in second["messages"][3]["content"]
        expected = "/unexpected" if action == "schema_breaking" else "not a JSON document"
        assert expected in second["messages"][3]["content"]
        assert first["metadata"]["op"] != second["metadata"]["op"]
        assert {**first, "messages": 0, "metadata": 0} == {**second, "messages": 0, "metadata": 0}

    async def test_a_repair_is_paid_for_and_told(
        self,
        database: Database,
        writer: StructuredWriter,
        job: JobRef,
        model: OpenAILanguageModel,
        server: StandInOpenAI,
    ) -> None:
        """Provenance sums up both calls, and agrees with the ledger to the last digit."""
        server.play(Rule(match=Match(nth=1), action="schema_breaking"))
        written = await writer.write(job, "lesson", model, "gpt-x", lesson_wish())
        rows = await call_rows(database, job)
        assert written.provenance.calls == len(rows) == 2
        assert written.provenance.cost_usd == sum(row.settled_usd for row in rows)
        assert written.provenance.input_tokens == sum(row.input_tokens for row in rows)

    async def test_invalid_twice_is_a_draft(
        self, writer: StructuredWriter, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """There is no third call; the raw answer and the place of each fault are kept."""
        server.play(Rule(action="schema_breaking"))
        written = await writer.write(job, "lesson", model, "gpt-x", lesson_wish())
        assert written.status is ContentStatus.DRAFT
        assert written.content is None
        assert server.stats["billed"] == 2
        assert written.draft is not None
        assert '"unexpected": true' in written.draft.raw
        assert {"/terms", "/unexpected"} == {path for path, _ in written.draft.errors}

    async def test_the_draft_shows_the_second_answer(
        self, writer: StructuredWriter, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """Its raw text and its faults belong together."""
        server.play(
            Rule(match=Match(nth=1), action="schema_breaking"),
            Rule(match=Match(nth=2), action=MalformedJson(where="content")),
        )
        written = await writer.write(job, "lesson", model, "gpt-x", lesson_wish())
        assert written.draft is not None
        assert "unexpected" not in written.draft.raw
        assert [path for path, _ in written.draft.errors] == [""]

    async def test_a_rule_of_ours_is_a_fault_like_any_other(
        self, writer: StructuredWriter, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """A schema cannot say that a course has two modules; the repair names the place."""
        wanted = CourseInput(topic="Tides", modules=2, lessons_per_module=1)
        written = await writer.write(job, "outline", model, "gpt-x", outline_wish(wanted, asked_modules=3))
        assert written.status is ContentStatus.DRAFT
        assert "/modules: has 3 modules instead of 2" in server.requests[1]["messages"][3]["content"]
        assert written.draft is not None
        assert written.draft.errors == (("/modules", "has 3 modules instead of 2"),)

    async def test_a_worker_killed_between_answer_and_repair_pays_for_neither_twice(
        self, writer: StructuredWriter, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """The first answer is read back, judged again, and repaired."""
        server.play(Rule(match=Match(nth=1), action="schema_breaking"), Rule(match=Match(nth=2), action="reset"))
        with pytest.raises(ProviderError):
            await writer.write(job, "lesson", model, "gpt-x", lesson_wish())
        written = await writer.write(job, "lesson", model, "gpt-x", lesson_wish())
        assert written.status is ContentStatus.READY
        assert written.provenance.calls == 2
        assert server.stats["billed"] == 2
        assert server.stats["paid_more_than_once"] == {}

    async def test_repairs_count_against_the_budget(
        self,
        database: Database,
        tenant_id: UUID,
        writer: StructuredWriter,
        model: OpenAILanguageModel,
        server: StandInOpenAI,
    ) -> None:
        """Enough for one call is not enough for its repair, which is then not made."""
        server.play(Rule(action="schema_breaking"))
        probe = await add_running_job(database, tenant_id)
        worst = worst_case_usd(model, _request(probe, "lesson", "gpt-x", lesson_wish()))
        job = await add_running_job(database, tenant_id, budget_usd=worst)
        with pytest.raises(BudgetExceeded):
            await writer.write(job, "lesson", model, "gpt-x", lesson_wish())
        assert server.stats["arrived"] == 1


def outline_wish(wanted: CourseInput, *, asked_modules: int) -> Wish[CourseOutline]:
    """An outline whose prompt asks for another number of modules than its rule accepts."""
    task = OutlineTask(
        topic=wanted.topic, audience="a", language="en", level="beginner", modules=asked_modules,
        lessons_per_module=wanted.lessons_per_module, sections=(SECTION,),
    )  # fmt: skip
    return Wish(
        task=task,
        prompt=course_outline.PROMPT,
        messages=course_outline.render(task),
        answer=CourseOutline,
        max_output_tokens=2_000,
        rule=lambda outline: outline_faults(outline, wanted, {"s1"}),
    )


class TestUnusable:
    @pytest.mark.parametrize(
        ("action", "status"),
        [
            ("refusal", ContentStatus.REFUSED),
            ("truncation", ContentStatus.TRUNCATED),
            ("content_filter", ContentStatus.FILTERED),
        ],
    )
    async def test_an_outcome_of_its_own_is_not_repaired(
        self,
        *,
        writer: StructuredWriter,
        job: JobRef,
        model: OpenAILanguageModel,
        server: StandInOpenAI,
        action: Any,
        status: ContentStatus,
    ) -> None:
        """One call, paid, with what was said as the draft."""
        server.play(Rule(action=action))
        written = await writer.write(job, "lesson", model, "gpt-x", lesson_wish())
        assert (written.status, written.content) == (status, None)
        assert server.stats["billed"] == written.provenance.calls == 1
        assert written.provenance.cost_usd > 0
        assert written.draft is not None
        assert written.draft.raw
        assert (written.draft.raw == REFUSAL_TEXT) is (status is ContentStatus.REFUSED)

    async def test_a_repair_may_be_refused(
        self, writer: StructuredWriter, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """The last answer decides."""
        server.play(Rule(match=Match(nth=1), action="schema_breaking"), Rule(match=Match(nth=2), action="refusal"))
        written = await writer.write(job, "lesson", model, "gpt-x", lesson_wish())
        assert (written.status, written.provenance.calls) == (ContentStatus.REFUSED, 2)

    async def test_a_truncated_document_that_happens_to_be_whole_is_not_trusted(
        self, writer: StructuredWriter, job: JobRef
    ) -> None:
        """The finish reason comes before the text."""
        written = await writer.write(job, "lesson", CutOff(), "gpt-x", lesson_wish())
        assert written.status is ContentStatus.TRUNCATED


class CutOff:
    """Says a whole document, and that it was cut off."""

    name = "cut-off"
    default_model = "gpt-x"
    can_look_up = False

    async def complete(self, *, request: Any) -> Completion:
        block = LessonBlock(heading="h", paragraphs=("p",), bullets=())
        lesson = LessonContent(title="t", summary="s", blocks=(block,), key_points=("k",), terms=())
        text = lesson.model_dump_json()
        usage = TokenUsage(input_tokens=1, output_tokens=1)
        return Completion(text=text, finish=Finish.LENGTH, usage=usage, model="gpt-x")

    async def find_completion(self, *, op: str, model: str) -> None: ...

    def price(self, model: str) -> Price:
        return Price(input_usd=Decimal(0), cached_input_usd=Decimal(0), output_usd=Decimal(0))


class TestCache:
    async def test_a_hit_costs_nothing(
        self,
        *,
        database: Database,
        tenant_id: UUID,
        writer: StructuredWriter,
        job: JobRef,
        model: OpenAILanguageModel,
        server: StandInOpenAI,
    ) -> None:
        """Another job of the tenant gets the same content without a call, and says so."""
        first = await writer.write(job, "lesson", model, "gpt-x", lesson_wish())
        other = await add_running_job(database, tenant_id, budget_usd=Decimal("0.000001"))
        again = await writer.write(other, "lesson", model, "gpt-x", lesson_wish())
        assert again.content == first.content
        assert (again.provenance.cached, again.provenance.calls, again.provenance.cost_usd) == (True, 0, Decimal(0))
        assert server.stats["arrived"] == 1
        assert await call_rows(database, other) == []

    async def test_tenants_share_nothing(
        self,
        database: Database,
        writer: StructuredWriter,
        job: JobRef,
        model: OpenAILanguageModel,
        server: StandInOpenAI,
    ) -> None:
        """The same wish of somebody else is a call of their own."""
        stranger = new_id()
        async with database.system() as connection:
            await TenantRepository(connection).add(tenant_id=stranger, name=f"tenant-{stranger}")
        await writer.write(job, "lesson", model, "gpt-x", lesson_wish())
        await writer.write(await add_running_job(database, stranger), "lesson", model, "gpt-x", lesson_wish())
        assert server.stats["billed"] == 2

    @pytest.mark.parametrize("action", ["schema_breaking", "refusal", "truncation", "content_filter"])
    async def test_only_validated_answers_are_kept(
        self,
        *,
        database: Database,
        tenant_id: UUID,
        writer: StructuredWriter,
        job: JobRef,
        model: OpenAILanguageModel,
        server: StandInOpenAI,
        action: Any,
    ) -> None:
        """A bad answer is the bad luck of one job."""
        server.play(Rule(action=action))
        await writer.write(job, "lesson", model, "gpt-x", lesson_wish())
        server.play()
        other = await add_running_job(database, tenant_id)
        written = await writer.write(other, "lesson", model, "gpt-x", lesson_wish())
        assert (written.status, written.provenance.cached) == (ContentStatus.READY, False)

    async def test_a_repaired_answer_is_kept(
        self,
        *,
        database: Database,
        tenant_id: UUID,
        writer: StructuredWriter,
        job: JobRef,
        model: OpenAILanguageModel,
        server: StandInOpenAI,
    ) -> None:
        """It is as good as any, and kept under the wish, not under its repair."""
        server.play(Rule(match=Match(nth=1), action="schema_breaking"))
        repaired = await writer.write(job, "lesson", model, "gpt-x", lesson_wish())
        again = await writer.write(await add_running_job(database, tenant_id), "lesson", model, "gpt-x", lesson_wish())
        assert again.provenance.cached
        assert again.content == repaired.content

    @pytest.mark.parametrize(
        "change",
        [
            lambda wish: replace(wish, prompt=wish.prompt.model_copy(update={"version": "2"})),
            lambda wish: replace(wish, prompt=wish.prompt.model_copy(update={"user": "other text"})),
            lambda wish: replace(wish, answer=StricterLesson),
            lambda wish: replace(wish, max_output_tokens=3_999),
            lambda wish: replace(wish, messages=course_lesson.render(TASK.model_copy(update={"audience": "poets"}))),
            lambda _wish: lesson_wish(audience="poets"),
        ],
        ids=["version", "text", "schema", "tokens", "messages", "task"],
    )
    async def test_whatever_goes_into_an_answer_is_part_of_its_key(
        self,
        *,
        database: Database,
        tenant_id: UUID,
        writer: StructuredWriter,
        job: JobRef,
        model: OpenAILanguageModel,
        server: StandInOpenAI,
        change: Callable[[Wish[LessonContent]], Wish[LessonContent]],
    ) -> None:
        """A changed wish is never answered by an older answer."""
        await writer.write(job, "lesson", model, "gpt-x", lesson_wish())
        other = await add_running_job(database, tenant_id)
        await writer.write(other, "lesson", model, "gpt-x", change(lesson_wish()))
        assert server.stats["arrived"] >= 2

    async def test_the_model_is_part_of_the_key(
        self,
        *,
        database: Database,
        tenant_id: UUID,
        writer: StructuredWriter,
        job: JobRef,
        model: OpenAILanguageModel,
        server: StandInOpenAI,
    ) -> None:
        """A small model's answer does not stand for a large one's."""
        await writer.write(job, "lesson", model, "gpt-x-mini", lesson_wish())
        await writer.write(await add_running_job(database, tenant_id), "lesson", model, "gpt-x", lesson_wish())
        assert server.stats["billed"] == 2

    async def test_an_answer_that_no_longer_fits_is_asked_for_again(
        self, writer: StructuredWriter, database: Database, tenant_id: UUID, job: JobRef, model: OpenAILanguageModel
    ) -> None:
        """Our models say more than the wire schema in the key: a stricter rule makes an old answer a miss."""
        await writer.write(job, "lesson", model, "gpt-x", lesson_wish())
        other = await add_running_job(database, tenant_id)
        assert strict_schema(StricterRule) == strict_schema(LessonContent)
        written = await writer.write(other, "lesson", model, "gpt-x", replace(lesson_wish(), answer=StricterRule))
        assert not written.provenance.cached

    async def test_answers_expire(
        self,
        *,
        database: Database,
        tenant_id: UUID,
        calls: PaidCalls,
        job: JobRef,
        model: OpenAILanguageModel,
        server: StandInOpenAI,
    ) -> None:
        """After its time an answer is asked for anew."""
        forgetful = KeepingWriter(database, calls, cache_for=timedelta(0))
        await forgetful.write(job, "lesson", model, "gpt-x", lesson_wish())
        await forgetful.write(await add_running_job(database, tenant_id), "lesson", model, "gpt-x", lesson_wish())
        assert server.stats["billed"] == 2


class StricterLesson(LessonContent):
    """A lesson that is asked for one thing more."""

    exercise: str


class StricterRule(LessonContent):
    """A written lesson."""  # the words of its parent, since they are part of the wire schema

    def model_post_init(self, _context: Any, /) -> None:
        raise ValueError("is not good enough")


class TestPrice:
    async def test_a_model_without_a_price_is_refused_before_any_call(
        self, writer: StructuredWriter, job: JobRef, model: OpenAILanguageModel, server: StandInOpenAI
    ) -> None:
        """Unknown price refuses."""
        with pytest.raises(PriceUnknown):
            await writer.write(job, "lesson", model, "gpt-unheard-of", lesson_wish())
        assert server.stats["arrived"] == 0

    async def test_the_cost_is_that_of_the_name_asked_for(
        self, writer: StructuredWriter, job: JobRef, model: OpenAILanguageModel
    ) -> None:
        """The snapshot that answers may have no price of its own."""
        written = await writer.write(job, "lesson", model, "gpt-x-mini", lesson_wish())
        usage = TokenUsage(input_tokens=written.provenance.input_tokens, output_tokens=written.provenance.output_tokens)
        assert Decimal(0) < written.provenance.cost_usd <= model.price("gpt-x-mini").of(usage)
