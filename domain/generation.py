"""Course generation: what is asked for, what is made, and the port through which a model is reached."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

from pydantic import Discriminator, Field, StringConstraints, Tag, field_validator, model_validator

from domain.guarding import Finding
from domain.model import Frozen
from domain.text import Line, Prose, check_language

FAMILY = "generation"
MAX_LESSONS = 2_000
MAX_SOURCE_CHARS = 4_000_000


# --- what is asked for ------------------------------------------------------------------------------


class InlineSource(Frozen):
    """A text sent along with the job. The ending of ``name`` tells the format (.md, .txt, .html)."""

    name: Annotated[Line, Field(max_length=200)]
    text: Annotated[Prose, Field(max_length=MAX_SOURCE_CHARS)]

    @field_validator("text")
    @classmethod
    def _has_text(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("the source has no text")
        return text


class ArtifactSource(Frozen):
    """A text uploaded beforehand through ``POST /artifacts``."""

    artifact_id: UUID


def _kind_of_source(value: Any) -> str:
    """Which sort of source is meant, so that only the errors of that sort are told."""
    is_artifact = "artifact_id" in value if isinstance(value, dict) else isinstance(value, ArtifactSource)
    return "artifact" if is_artifact else "inline"


Source = Annotated[
    Annotated[InlineSource, Tag("inline")] | Annotated[ArtifactSource, Tag("artifact")],
    Discriminator(_kind_of_source),
]


class Export(StrEnum):
    """The forms in which a finished course is handed out."""

    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"
    MDX = "mdx"
    SITE = "site"
    PPTX = "pptx"
    SCORM = "scorm"


class SpeechWish(Frozen):
    """Every lesson is to be spoken, by this voice of this provider; None: the provider's default."""

    provider: Literal["offline", "elevenlabs"] = "offline"
    voice: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    model: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_.]{1,64}$")] | None = None


class VideoWish(Frozen):
    """Every lesson is to become a video. ``avatar`` and ``engine`` are HeyGen's; None: from the settings."""

    provider: Literal["offline", "heygen"] = "offline"
    avatar: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,128}$")] | None = None
    engine: Literal["avatar_iii", "avatar_iv", "avatar_v"] | None = None
    resolution: Literal["720p", "1080p"] = "720p"

    @property
    def films_slides(self) -> bool:
        """Whether slides and recording are what is seen and heard; otherwise an avatar speaks the lesson's text."""
        return self.provider == "offline"


class ApprovalWish(Frozen):
    """A person is to agree to the outline before lessons are written, or to the finished course, or to both.

    Nobody answers within ``timeout_hours``: ``on_timeout`` says what that means.
    """

    outline: bool = False
    final: bool = False
    timeout_hours: Annotated[int, Field(ge=1, le=24 * 90)] = 24 * 7
    on_timeout: Literal["fail", "approve"] = "fail"


class CourseInput(Frozen):
    """Input of ``generation.course``."""

    topic: Annotated[Line, Field(max_length=200)]
    audience: Annotated[Line, Field(max_length=200)] = "general audience"
    language: Annotated[str, StringConstraints(max_length=35)] = "en"
    level: Literal["beginner", "intermediate", "advanced"] = "beginner"
    modules: Annotated[int, Field(ge=1, le=100)] = 3
    lessons_per_module: Annotated[int, Field(ge=1, le=50)] = 3
    sources: Annotated[tuple[Source, ...], Field(max_length=50)] = ()
    provider: Literal["offline", "openai"] = "offline"
    model: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$")] | None = None
    budget_usd: Annotated[Decimal, Field(gt=0, le=10_000, max_digits=12, decimal_places=6)] | None = None
    exports: Annotated[tuple[Export, ...], Field(min_length=1)] = (Export.JSON, Export.MARKDOWN, Export.HTML)
    profile: Literal["full", "minimal"] = "full"
    slides: bool = False
    quiz: bool = False
    speech: SpeechWish | None = None
    video: VideoWish | None = None
    approval: ApprovalWish | None = None

    _language = field_validator("language")(check_language)

    @model_validator(mode="after")
    def _consistent(self) -> "CourseInput":
        if self.modules * self.lessons_per_module > MAX_LESSONS:
            raise ValueError(f"a course has at most {MAX_LESSONS} lessons (modules x lessons_per_module)")
        return self


# --- the sources, prepared --------------------------------------------------------------------------


class Section(Frozen):
    """A stretch of one source under one heading. ``id`` (``s1``, ``s2`` ...) is unique in the corpus."""

    id: str
    source: str
    path: tuple[str, ...]
    """Headings from the outermost to this one; empty for text before the first heading."""
    paragraphs: tuple[str, ...]
    """Plain running text, one entry a paragraph; markup and link targets removed."""
    bullets: tuple[str, ...] = ()
    """List items of the section, plain text."""

    @property
    def heading(self) -> str:
        """The innermost heading, or the name of the source."""
        return self.path[-1] if self.path else self.source


class Corpus(Frozen):
    """All sources of one course, cut into sections in reading order."""

    sections: tuple[Section, ...]


# --- what a model answers ---------------------------------------------------------------------------


class LessonOutline(Frozen):
    """One lesson as planned. ``section_ids`` names the sections it is made from."""

    title: Annotated[Line, Field(max_length=200)]
    objectives: Annotated[tuple[Annotated[Line, Field(max_length=400)], ...], Field(min_length=1, max_length=8)]
    section_ids: Annotated[tuple[str, ...], Field(max_length=60)]


class ModuleOutline(Frozen):
    """One module as planned."""

    title: Annotated[Line, Field(max_length=200)]
    summary: Annotated[Prose, Field(max_length=2_000)]
    lessons: Annotated[tuple[LessonOutline, ...], Field(min_length=1)]


class CourseOutline(Frozen):
    """The structure of a course."""

    title: Annotated[Line, Field(max_length=200)]
    description: Annotated[Prose, Field(max_length=4_000)]
    modules: Annotated[tuple[ModuleOutline, ...], Field(min_length=1)]


class LessonBlock(Frozen):
    """A headed part of a lesson: running text, then an optional list."""

    heading: Annotated[Line, Field(max_length=200)]
    paragraphs: Annotated[tuple[Prose, ...], Field(max_length=30)]
    bullets: Annotated[tuple[Prose, ...], Field(max_length=30)]

    @model_validator(mode="after")
    def _not_empty(self) -> "LessonBlock":
        if not self.paragraphs and not self.bullets:
            raise ValueError("a block needs paragraphs or bullets")
        return self


class KeyTerm(Frozen):
    """A term and what it means here."""

    term: Annotated[Line, Field(max_length=120)]
    definition: Annotated[Prose, Field(max_length=1_000)]


class LessonContent(Frozen):
    """A written lesson."""

    title: Annotated[Line, Field(max_length=200)]
    summary: Annotated[Prose, Field(max_length=2_000)]
    blocks: Annotated[tuple[LessonBlock, ...], Field(min_length=1, max_length=20)]
    key_points: Annotated[tuple[Prose, ...], Field(min_length=1, max_length=12)]
    terms: Annotated[tuple[KeyTerm, ...], Field(max_length=20)]


class SlideFigure(Frozen):
    """A table worth drawing: a row of headings, then rows of the same width."""

    caption: Annotated[Line, Field(max_length=200)]
    header: Annotated[tuple[Annotated[Line, Field(max_length=120)], ...], Field(min_length=1, max_length=6)]
    rows: Annotated[tuple[tuple[Annotated[Line, Field(max_length=200)], ...], ...], Field(min_length=1, max_length=12)]

    @model_validator(mode="after")
    def _rectangular(self) -> "SlideFigure":
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError("every row needs as many cells as the header")
        return self


class Slide(Frozen):
    """One slide: what is shown, and what is said about it."""

    title: Annotated[Line, Field(max_length=120)]
    bullets: Annotated[tuple[Annotated[Line, Field(max_length=300)], ...], Field(max_length=8)]
    notes: Annotated[Prose, Field(max_length=3_000)]
    figure: SlideFigure | None


class SlideDeck(Frozen):
    """The slides of one lesson."""

    slides: Annotated[tuple[Slide, ...], Field(min_length=1, max_length=30)]


class QuizQuestion(Frozen):
    """A question with its options. ``evidence`` is the sentence of the lesson that shows the answer."""

    question: Annotated[Line, Field(max_length=400)]
    options: Annotated[tuple[Annotated[Line, Field(max_length=300)], ...], Field(min_length=2, max_length=6)]
    answer: Annotated[int, Field(ge=0, le=5)]
    """The place of the right option, counted from zero."""
    explanation: Annotated[Prose, Field(max_length=1_000)]
    evidence: Annotated[Prose, Field(max_length=1_000)]

    @model_validator(mode="after")
    def _answerable(self) -> "QuizQuestion":
        if self.answer >= len(self.options):
            raise ValueError("the answer is not one of the options")
        if len(set(self.options)) != len(self.options):
            raise ValueError("two options are the same")
        return self


class Quiz(Frozen):
    """The questions of one lesson."""

    questions: Annotated[tuple[QuizQuestion, ...], Field(min_length=1, max_length=20)]


# --- the port to a language model -------------------------------------------------------------------


class OutlineTask(Frozen):
    """The wish for an outline, as data. Sections carry the whole corpus in reading order.

    ``comments`` are what people said when they did not agree to earlier outlines, oldest first, and ``previous`` is the
    latest of those outlines.
    """

    kind: Literal["outline"] = "outline"
    topic: str
    audience: str
    language: str
    level: str
    modules: int
    lessons_per_module: int
    sections: tuple[Section, ...]
    comments: tuple[str, ...] = ()
    previous: CourseOutline | None = None


class LessonTask(Frozen):
    """The wish for one lesson, as data. Sections are those the outline gave to this lesson."""

    kind: Literal["lesson"] = "lesson"
    topic: str
    audience: str
    language: str
    level: str
    course_title: str
    module_title: str
    lesson: LessonOutline
    sections: tuple[Section, ...]


class SlidesTask(Frozen):
    """The wish for the slides of a written lesson, as data."""

    kind: Literal["slides"] = "slides"
    topic: str
    audience: str
    language: str
    level: str
    lesson: LessonContent


class QuizTask(Frozen):
    """The wish for questions on a written lesson, as data. ``questions`` is the most that is wanted.

    Sections are the material of the course that wrong options may be taken from, those of the lesson first.
    """

    kind: Literal["quiz"] = "quiz"
    topic: str
    audience: str
    language: str
    level: str
    lesson: LessonContent
    questions: int
    sections: tuple[Section, ...]


class RevisionTask(Frozen):
    """The wish for something that is there already, made anew.

    ``before`` is how it stands, ``comment`` what a person wants of it. ``part`` is the place, counted from zero, of
    the one block or slide that is to change and that alone is wanted; None: all of it.
    """

    kind: Literal["revision"] = "revision"
    of: Annotated[LessonTask | SlidesTask | QuizTask, Discriminator("kind")]
    before: dict[str, Any] | None
    comment: str | None
    part: int | None = None

    @property
    def language(self) -> str:
        """The language of what is made anew."""
        return self.of.language


Task = OutlineTask | LessonTask | SlidesTask | QuizTask | RevisionTask


class Message(Frozen):
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


class CompletionRequest(Frozen):
    """One call to a model.

    ``op`` identifies the effect: the same op is never paid for twice where the provider lets us look.
    ``messages`` is what a chat model reads, ``task`` the same wish as data for providers that need no prose.
    ``json_schema`` is the strict wire schema of the answer.
    """

    op: str
    model: str
    messages: tuple[Message, ...]
    task: Task
    schema_name: str
    json_schema: dict[str, Any]
    max_output_tokens: int
    temperature: float = 0.2
    seed: int = 7


class TokenUsage(Frozen):
    """Billed tokens of one call; ``cached_input_tokens`` is the part of the input billed at the cached price."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0


class Finish(StrEnum):
    """Why the model stopped."""

    STOP = "stop"
    LENGTH = "length"
    REFUSAL = "refusal"
    CONTENT_FILTER = "content_filter"


class Completion(Frozen):
    """What came back. ``text`` is the raw answer, not yet validated; ``refusal`` is set when Finish is REFUSAL.

    ``findings`` are those of the tenant's content policy, which ``text`` has been through before it is kept anywhere.
    """

    text: str
    finish: Finish
    refusal: str | None = None
    usage: TokenUsage
    model: str
    provider_request_id: str | None = None
    findings: tuple[Finding, ...] = ()


class Price(Frozen):
    """US dollars for a million tokens."""

    input_usd: Decimal
    cached_input_usd: Decimal
    output_usd: Decimal

    def of(self, usage: TokenUsage) -> Decimal:
        """The cost of ``usage`` in US dollars, exact to a ten-thousandth of a cent and rounded up."""
        fresh = usage.input_tokens - usage.cached_input_tokens
        total = (
            fresh * self.input_usd
            + usage.cached_input_tokens * self.cached_input_usd
            + usage.output_tokens * self.output_usd
        ) / Decimal(1_000_000)
        return total.quantize(Decimal("0.000001"), rounding="ROUND_CEILING")


class LanguageModel(Protocol):
    """A provider of completions. Implementations hold no settings and never retry; Temporal does."""

    name: str
    default_model: str
    can_look_up: bool
    """Whether ``find_completion`` can tell if an earlier call with the same op was carried out."""

    async def complete(self, *, request: CompletionRequest) -> Completion:
        """Answer the request. Raises ProviderError with the outcome of the call."""
        ...

    async def find_completion(self, *, op: str, model: str) -> Completion | None:
        """The answer of an earlier call with this op, or None where there is none. Raises ProviderError."""
        ...

    def price(self, model: str) -> Price:
        """The price list of a model. Raises PriceUnknown."""
        ...


# --- the course as made -----------------------------------------------------------------------------


class ContentStatus(StrEnum):
    """How good a piece of content is. Only READY is good; everything else is shown for what it is."""

    READY = "ready"
    DRAFT = "draft"  # did not fit its schema, also after the one repair
    REFUSED = "refused"
    FILTERED = "filtered"  # by the provider, or by the tenant's content policy
    TRUNCATED = "truncated"


class Provenance(Frozen):
    """Where a piece of content comes from and what it cost. ``calls`` counts the paid ones, repairs included."""

    provider: str
    model: str
    prompt_id: str
    prompt_version: str
    prompt_sha256: str
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    calls: int
    cached: bool
    generated_at: datetime


class DraftNote(Frozen):
    """What is wrong with a draft: the raw answer and, for a schema fault, the path and message of each error."""

    raw: str
    errors: tuple[tuple[str, str], ...] = ()


class MediaRef(Frozen):
    """A recording in our store: the bytes are ours, whatever becomes of the provider's address."""

    artifact_id: UUID
    media_type: str
    bytes: int
    sha256: str
    seconds: float
    provider: str
    cost_usd: Decimal


class Lesson(Frozen):
    """A lesson of a finished course. ``content`` is None unless the status is READY.

    ``slides``, ``quiz``, ``audio`` and ``video`` are None where they were not asked for or did not come to be.
    """

    index: int
    title: str
    objectives: tuple[str, ...]
    status: ContentStatus
    content: LessonContent | None
    draft: DraftNote | None = None
    findings: tuple[Finding, ...] = ()
    """What the tenant's content policy masked, flagged or blocked; pointers are into ``content``, or else the draft."""
    section_ids: tuple[str, ...] = ()
    provenance: Provenance
    slides: SlideDeck | None = None
    slides_provenance: Provenance | None = None
    quiz: Quiz | None = None
    quiz_provenance: Provenance | None = None
    audio: MediaRef | None = None
    video: MediaRef | None = None

    @property
    def origins(self) -> tuple[Provenance, ...]:
        """Where the text comes from, then its slides and its quiz where they were asked for."""
        everything = (self.provenance, self.slides_provenance, self.quiz_provenance)
        return tuple(origin for origin in everything if origin is not None)

    @property
    def recordings(self) -> tuple[MediaRef, ...]:
        """What there is to hear and to see of it."""
        return tuple(media for media in (self.audio, self.video) if media is not None)


class Module(Frozen):
    """A module of a finished course."""

    index: int
    title: str
    summary: str
    lessons: tuple[Lesson, ...]


class Course(Frozen):
    """A finished course with everything needed to print, audit and reproduce it."""

    schema_version: Literal["1"] = "1"
    id: UUID
    title: str
    description: str
    topic: str
    audience: str
    language: str
    level: str
    modules: tuple[Module, ...]
    sources: tuple[str, ...]
    outline_provenance: Provenance
    generated_at: datetime

    @property
    def complete(self) -> bool:
        """Whether every lesson is READY."""
        return all(lesson.status is ContentStatus.READY for module in self.modules for lesson in module.lessons)
