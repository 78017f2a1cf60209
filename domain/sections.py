"""Making a part of a course again, and handing out a version of one: what is asked for."""

from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StringConstraints, field_validator

from domain.course_graph import NodeKey, NodeKind, belongs_to, kind_of, whole_of
from domain.generation import CourseInput, Export
from domain.model import Frozen
from domain.text import Prose

SECTION_KIND = "generation.section"
EXPORT_KIND = "generation.export"

_NOT_ALONE = frozenset({NodeKind.COURSE, NodeKind.OUTLINE})

Exports = Annotated[tuple[Export, ...], Field(min_length=1)]


class SectionInput(Frozen):
    """Input of ``generation.section``: one node of a course is made again, and what was made from it.

    What is not said is as it was for the course. ``comment`` is a person's wish for the content. ``budget_usd`` is the
    most that this job may spend, beside what the course has cost; not said, it is as much as the course might.
    """

    course_id: UUID
    node: NodeKey
    comment: Annotated[Prose, Field(max_length=2_000)] | None = None
    provider: Literal["offline", "openai"] | None = None
    model: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$")] | None = None
    budget_usd: Annotated[Decimal, Field(gt=0, le=10_000, max_digits=12, decimal_places=6)] | None = None
    exports: Exports | None = None

    @field_validator("node")
    @classmethod
    def _stands_alone(cls, node: str) -> str:
        if kind_of(node) in _NOT_ALONE:
            raise ValueError("is the whole course; make another course instead")
        return node

    def over(self, wanted: CourseInput) -> CourseInput:
        """What the course asked for, as far as this does not say otherwise."""
        changes: dict[str, object] = {}
        if self.provider is not None:
            # The model of another provider means nothing to this one.
            changes |= {"provider": self.provider, "model": self.model}
        elif self.model is not None:
            changes |= {"model": self.model}
        if self.exports is not None:
            changes |= {"exports": self.exports}
        return wanted.model_copy(update=changes)


class VersionExportInput(Frozen):
    """Input of ``generation.export``: a version of a course in some forms."""

    course_id: UUID
    version: Annotated[int, Field(ge=1)]
    exports: Exports = (Export.JSON, Export.MARKDOWN, Export.HTML)
    profile: Literal["full", "minimal"] = "full"

    def over(self, wanted: CourseInput) -> CourseInput:
        """What the course asked for, handed out in these forms."""
        return wanted.model_copy(update={"exports": self.exports, "profile": self.profile})


def may_be_missing(node: str, wanted: CourseInput) -> bool:
    """Whether a node can be made of its lesson though it is not there: media that the course asked for and lacks.

    A recording or a video may come to nothing, and the course succeeds without it.
    """
    asked = {NodeKind.AUDIO: wanted.speech, NodeKind.VIDEO: wanted.video}
    return asked.get(kind_of(node)) is not None


class Revision(Frozen):
    """That a node is to be made anew: a person's comment, and which part of it, if not all."""

    comment: str | None
    part: NodeKey | None = None
    """A block or a slide; everything else of the node stays word for word."""


def revision_of(wish: SectionInput, key: str) -> Revision | None:
    """What a wish means for the whole node ``key``; None where that is not to change for its own sake."""
    if wish.node == key or (kind_of(wish.node) is NodeKind.MODULE and belongs_to(key, wish.node)):
        only_lessons = kind_of(wish.node) is NodeKind.MODULE and kind_of(key) is not NodeKind.LESSON
        return None if only_lessons else Revision(comment=wish.comment)
    if whole_of(wish.node) == key:
        return Revision(comment=wish.comment, part=wish.node)
    return None
