"""Golden cases made into courses by hand, and a model that a test makes worse."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from domain.evaluation import GoldenCase, Metric, SampleResult
from domain.evaluation_report import RunFacts
from domain.generation import (
    Completion,
    CompletionRequest,
    ContentStatus,
    Corpus,
    CourseOutline,
    Lesson,
    LessonBlock,
    LessonContent,
    LessonOutline,
    ModuleOutline,
    Provenance,
    Section,
)
from tests.support.course_service import HeldModel

SMALL: Final = ("en-candles", "en-knots", "ru-crossing")
"""Cases that are made in an instant."""

NOWHERE: Final = Provenance(
    provider="offline",
    model="extractive-1",
    prompt_id="course-lesson",
    prompt_version="1",
    prompt_sha256="",
    input_tokens=10,
    output_tokens=5,
    cost_usd=Decimal("0.01"),
    calls=1,
    cached=False,
    generated_at=datetime(2026, 11, 21, tzinfo=UTC),
)

SENTENCES: Final = (
    "The warden of the tower lights the lamp at dusk, and the lamp burns until the sun is up.",
    "Ships that pass by the reef steer for the lamp, because it is the only light on the coast.",
    "In fog the warden sounds a horn once in a minute, so that it is heard when nothing can be seen.",
)
CORPUS: Final = Corpus(
    sections=tuple(
        Section(id=f"s{number}", source="tower.md", path=(f"Part {number}",), paragraphs=(sentence,))
        for number, sentence in enumerate(SENTENCES, start=1)
    )
)
CASE: Final = GoldenCase(
    name="tower",
    topic="The tower on the reef",
    language="en",
    modules=1,
    lessons_per_module=2,
    lesson_words=(10, 200),
    key_points=("warden lights lamp dusk", "fog horn minute"),
    forbidden=("Treasure Hunt",),
    source_name="tower.md",
    source="\n\n".join(SENTENCES),
)


def content(*paragraphs: str, **changes: Any) -> LessonContent:
    """A lesson that says this."""
    values: dict[str, Any] = {
        "title": "The lamp",
        "summary": SENTENCES[0],
        "blocks": (LessonBlock(heading="The lamp", paragraphs=paragraphs, bullets=()),),
        "key_points": (SENTENCES[1],),
        "terms": (),
    }
    return LessonContent.model_validate(values | changes)


def lesson(index: int, written: LessonContent | None) -> Lesson:
    """A lesson of the course."""
    status = ContentStatus.DRAFT if written is None else ContentStatus.READY
    return Lesson(
        index=index, title="The lamp", objectives=("Tell why",), status=status, content=written, provenance=NOWHERE
    )


def outline(**changes: Any) -> CourseOutline:
    """The course that the case asks for."""
    planned = [
        LessonOutline(title=f"Lesson {number}", objectives=("Tell why",), section_ids=(f"s{number}",))
        for number in (1, 2)
    ]
    values: dict[str, Any] = {
        "title": "The tower",
        "description": "About the tower, the lamp and the horn, and what they are for.",
        "modules": (ModuleOutline(title="All of it", summary="The tower and the reef.", lessons=tuple(planned)),),
    }
    return CourseOutline.model_validate(values | changes)


def good_lessons() -> tuple[tuple[Lesson, ...], ...]:
    """Two lessons that leave nothing to be wished for."""
    return ((lesson(0, content(SENTENCES[0], SENTENCES[1])), lesson(1, content(SENTENCES[2]))),)


def sample(case: str = "a", number: int = 1, *, places: Any = (("s1", 0, 0),), **scores: float) -> SampleResult:
    """A sample with these scores; the others are perfect."""
    metrics = {metric: scores.get(metric.value, 1.0) for metric in Metric if metric is not Metric.STABILITY}
    return SampleResult(
        case=case,
        case_sha256="0",
        sample=number,
        status=ContentStatus.READY,
        scores=metrics,
        faults=() if all(score == 1 for score in metrics.values()) else ("something",),
        places=places,
        calls=3,
        input_tokens=100,
        output_tokens=50,
        cost_usd=Decimal("0.02"),
        seconds=1.5,
    )


def facts() -> RunFacts:
    """A run of nobody."""
    job = UUID("01890000-0000-7000-8000-000000000000")
    return RunFacts(
        job_id=job, golden_set="core", checksum="0", provider="offline", model="extractive-1", samples=1,
        extractive=False, prompts={"course-lesson": "1"}, baseline_job_id=None, judged_at=NOWHERE.generated_at,
    )  # fmt: skip


class WorseModel(HeldModel):
    """The offline model, which from a moment on says less than it should, or something else."""

    def __init__(self) -> None:
        super().__init__()
        self.worse = ""

    async def complete(self, *, request: CompletionRequest) -> Completion:
        """Answer, worse where asked to: ``forgets`` what is behind the first point, ``invents`` a sentence."""
        answer = await super().complete(request=request)
        if not self.worse or request.schema_name != "LessonContent":
            return answer
        written = LessonContent.model_validate_json(answer.text)
        first = written.key_points[0]
        blocks = (LessonBlock(heading=written.blocks[0].heading, paragraphs=(first,), bullets=()),)
        if self.worse == "invents":
            invented = LessonBlock(heading="More", paragraphs=("Nobody has ever said so in any source.",), bullets=())
            changed = written.model_copy(update={"blocks": (*written.blocks, invented)})
        else:
            changed = written.model_copy(update={"blocks": blocks, "summary": first, "key_points": (first,)})
        return answer.model_copy(update={"text": changed.model_dump_json()})
