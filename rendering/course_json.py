"""A course as JSON, for programs: the document models, their published schema, and the bytes."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, TypeVar
from uuid import UUID

from pydantic import ConfigDict, Field, PlainSerializer, ValidationInfo, WithJsonSchema, field_validator

from domain.generation import ContentStatus, Course, DraftNote, LessonContent, Provenance, Quiz, SlideDeck
from domain.model import Frozen
from rendering.course_parts import Profile, Totals, money, stamp, totals

Dollars = Annotated[
    Decimal,
    PlainSerializer(money, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$"}),
]
"""An exact amount. A JSON string, because a JSON number would pass through a float at the reader's end."""

Moment = Annotated[
    datetime, PlainSerializer(stamp, return_type=str), WithJsonSchema({"type": "string", "format": "date-time"})
]


_Absent: Final = Field(exclude_if=lambda value: value is None)
"""A member that is left out where there is nothing to say, as documents were before there was such a thing."""

_MadeT = TypeVar("_MadeT", LessonContent, SlideDeck, Quiz)


# --- what both profiles say -------------------------------------------------------------------------


class _Document(Frozen):
    """The head of either document. Each field is read from the attribute of the course that has its name."""

    model_config = ConfigDict(from_attributes=True, json_schema_serialization_defaults_required=True)

    format: Literal["longhaul.course"] = "longhaul.course"
    schema_version: Literal["1"]
    profile: Profile
    title: str
    description: str
    topic: str
    audience: str
    language: str
    level: str
    complete: bool
    sources: tuple[str, ...]


class _Module(Frozen):
    model_config = ConfigDict(from_attributes=True)

    index: int
    title: str
    summary: str


# --- minimal: the content alone ---------------------------------------------------------------------


class MinimalLesson(Frozen):
    """A lesson. ``content`` is there when ``status`` is ``ready`` and at no other time.

    ``slides`` and ``quiz`` are members of the document where there are any.
    """

    model_config = ConfigDict(from_attributes=True)

    index: int
    title: str
    objectives: tuple[str, ...]
    status: ContentStatus
    content: LessonContent | None
    draft: DraftNote | None
    slides: Annotated[SlideDeck | None, _Absent] = None
    quiz: Annotated[Quiz | None, _Absent] = None

    @field_validator("content", "slides", "quiz")
    @classmethod
    def _only_of_the_finished(cls, made: _MadeT | None, known: ValidationInfo) -> _MadeT | None:
        return made if known.data.get("status") is ContentStatus.READY else None


class MinimalModule(_Module):
    """A module with its lessons in order."""

    lessons: tuple[MinimalLesson, ...]


class MinimalCourse(_Document):
    """The document of the minimal profile."""

    profile: Literal["minimal"] = "minimal"
    modules: tuple[MinimalModule, ...]


# --- full: with everything needed to audit it -------------------------------------------------------


class FullProvenance(Provenance):
    """Where a piece of content comes from and what it cost."""

    model_config = ConfigDict(from_attributes=True)

    cost_usd: Dollars
    generated_at: Moment


class FullTotals(Totals):
    """The course in numbers."""

    model_config = ConfigDict(from_attributes=True)

    cost_usd: Dollars


class FullLesson(MinimalLesson):
    """A lesson and its origin. The origin of slides that are not there says that they were asked for in vain."""

    section_ids: tuple[str, ...]
    provenance: FullProvenance
    slides_provenance: Annotated[FullProvenance | None, _Absent] = None
    quiz_provenance: Annotated[FullProvenance | None, _Absent] = None


class FullModule(_Module):
    """A module with its lessons in order."""

    lessons: tuple[FullLesson, ...]


class FullCourse(_Document):
    """The document of the full profile."""

    profile: Literal["full"] = "full"
    id: UUID
    generated_at: Moment
    totals: FullTotals
    outline_provenance: FullProvenance
    modules: tuple[FullModule, ...]


# --- the bytes --------------------------------------------------------------------------------------

_MODELS: dict[Profile, type[FullCourse | MinimalCourse]] = {"full": FullCourse, "minimal": MinimalCourse}


@dataclass(frozen=True, slots=True)
class _Counted:
    """The course with its totals beside its own attributes, which is what a document is read from."""

    course: Course
    totals: Totals

    def __getattr__(self, name: str) -> Any:
        return getattr(self.course, name)


def course_json(course: Course, *, profile: Profile) -> bytes:
    """The course as an indented UTF-8 document ending in a newline; equal courses give equal bytes."""
    document = _MODELS[profile].model_validate(_Counted(course, totals(course)))
    return document.model_dump_json(indent=2).encode() + b"\n"


def course_json_schema(profile: Profile) -> dict[str, Any]:
    """The JSON Schema (2020-12) which every document of the profile satisfies; published in docs/schemas."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:longhaul:schema:course:1:{profile}",
        **_MODELS[profile].model_json_schema(mode="serialization"),
    }


def full_provenance(provenance: Provenance) -> FullProvenance:
    """The provenance in the form in which it is published."""
    return FullProvenance.model_validate(provenance)
