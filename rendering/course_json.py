"""A course as JSON, for programs: the document models, their published schema, and the bytes."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import ConfigDict, PlainSerializer, WithJsonSchema

from domain.generation import ContentStatus, Course, DraftNote, Lesson, LessonContent, Module, Provenance
from domain.model import Frozen
from rendering.course_parts import Profile, Totals, is_good, money, stamp, totals

Dollars = Annotated[
    Decimal,
    PlainSerializer(money, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$"}),
]
"""An exact amount. A JSON string, because a JSON number would pass through a float at the reader's end."""

Moment = Annotated[
    datetime, PlainSerializer(stamp, return_type=str), WithJsonSchema({"type": "string", "format": "date-time"})
]


# --- minimal: the content alone ---------------------------------------------------------------------


class MinimalLesson(Frozen):
    """A lesson. ``content`` is there when ``status`` is ``ready`` and at no other time."""

    index: int
    title: str
    objectives: tuple[str, ...]
    status: ContentStatus
    content: LessonContent | None
    draft: DraftNote | None


class MinimalModule(Frozen):
    """A module with its lessons in order."""

    index: int
    title: str
    summary: str
    lessons: tuple[MinimalLesson, ...]


class MinimalCourse(Frozen):
    """The document of the minimal profile."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    format: Literal["longhaul.course"] = "longhaul.course"
    schema_version: Literal["1"]
    profile: Literal["minimal"] = "minimal"
    title: str
    description: str
    topic: str
    audience: str
    language: str
    level: str
    complete: bool
    sources: tuple[str, ...]
    modules: tuple[MinimalModule, ...]


# --- full: with everything needed to audit it -------------------------------------------------------


class FullProvenance(Provenance):
    """Where a piece of content comes from and what it cost."""

    cost_usd: Dollars
    generated_at: Moment


class FullTotals(Totals):
    """The course in numbers."""

    cost_usd: Dollars


class FullLesson(MinimalLesson):
    """A lesson and its origin."""

    section_ids: tuple[str, ...]
    provenance: FullProvenance


class FullModule(Frozen):
    """A module with its lessons in order."""

    index: int
    title: str
    summary: str
    lessons: tuple[FullLesson, ...]


class FullCourse(Frozen):
    """The document of the full profile."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    format: Literal["longhaul.course"] = "longhaul.course"
    schema_version: Literal["1"]
    profile: Literal["full"] = "full"
    id: UUID
    title: str
    description: str
    topic: str
    audience: str
    language: str
    level: str
    complete: bool
    generated_at: Moment
    totals: FullTotals
    sources: tuple[str, ...]
    outline_provenance: FullProvenance
    modules: tuple[FullModule, ...]


# --- the bytes --------------------------------------------------------------------------------------


def course_json(course: Course, *, profile: Profile) -> bytes:
    """The course as an indented UTF-8 document ending in a newline; equal courses give equal bytes."""
    document = _full(course) if profile == "full" else _minimal(course)
    return document.model_dump_json(indent=2).encode() + b"\n"


def course_json_schema(profile: Profile) -> dict[str, Any]:
    """The JSON Schema (2020-12) which every document of the profile satisfies."""
    document = FullCourse if profile == "full" else MinimalCourse
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **document.model_json_schema(mode="serialization"),
    }


def _minimal(course: Course) -> MinimalCourse:
    return MinimalCourse(
        schema_version=course.schema_version,
        title=course.title,
        description=course.description,
        topic=course.topic,
        audience=course.audience,
        language=course.language,
        level=course.level,
        complete=course.complete,
        sources=course.sources,
        modules=tuple(_minimal_module(module) for module in course.modules),
    )


def _minimal_module(module: Module) -> MinimalModule:
    return MinimalModule(
        index=module.index,
        title=module.title,
        summary=module.summary,
        lessons=tuple(_minimal_lesson(lesson) for lesson in module.lessons),
    )


def _minimal_lesson(lesson: Lesson) -> MinimalLesson:
    return MinimalLesson(
        index=lesson.index,
        title=lesson.title,
        objectives=lesson.objectives,
        status=lesson.status,
        content=lesson.content if is_good(lesson) else None,
        draft=lesson.draft,
    )


def _full(course: Course) -> FullCourse:
    return FullCourse(
        schema_version=course.schema_version,
        id=course.id,
        title=course.title,
        description=course.description,
        topic=course.topic,
        audience=course.audience,
        language=course.language,
        level=course.level,
        complete=course.complete,
        generated_at=course.generated_at,
        totals=FullTotals(**dict(totals(course))),
        sources=course.sources,
        outline_provenance=full_provenance(course.outline_provenance),
        modules=tuple(_full_module(module) for module in course.modules),
    )


def _full_module(module: Module) -> FullModule:
    return FullModule(
        index=module.index,
        title=module.title,
        summary=module.summary,
        lessons=tuple(_full_lesson(lesson) for lesson in module.lessons),
    )


def _full_lesson(lesson: Lesson) -> FullLesson:
    return FullLesson(
        **dict(_minimal_lesson(lesson)),
        section_ids=lesson.section_ids,
        provenance=full_provenance(lesson.provenance),
    )


def full_provenance(provenance: Provenance) -> FullProvenance:
    """The provenance in the form in which it is published."""
    return FullProvenance(**dict(provenance))
