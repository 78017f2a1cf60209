"""Approvals: what a person is asked to agree to, how that can end, and what is bound to what was seen."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from domain.course_graph import content_sha256
from domain.generation import CourseOutline, Provenance

MOST_ROUNDS: Final = 5
"""How many outlines in one attempt of a job are made because a person did not agree to the one before."""

PERSON: Final = "person"
"""The provider of what a person has edited."""


class Subject(StrEnum):
    """What a person is asked to agree to."""

    OUTLINE = "outline"
    COURSE = "course"


class ApprovalState(StrEnum):
    """How an approval stands. Only WAITING may change, but for a later attempt of the job, which asks again.

    WITHDRAWN: nobody answered, and nobody has to any more, because the job ended or asks something else.
    """

    WAITING = "waiting"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person said. ``seen`` is the digest of what they looked at, where they told it."""

    approved: bool
    comment: str | None = None
    seen: str | None = None


def outline_sha256(outline: CourseOutline) -> str:
    """The digest that an approval of an outline is bound to."""
    return content_sha256(outline.model_dump(mode="json"))


def files_sha256(files: dict[str, str]) -> str:
    """The digest that an approval of a finished course is bound to: its files, as checksums by name."""
    return content_sha256(files)


def edited_by_hand(provenance: Provenance, *, at: datetime) -> Provenance:
    """The provenance of what a person has changed.

    Prompt, tokens and cost stay those of what was changed, so that sums stay right; ``model`` says who wrote that.
    """
    if provenance.provider == PERSON:
        return provenance.model_copy(update={"generated_at": at})
    before = f"{provenance.provider}/{provenance.model}"
    return provenance.model_copy(update={"provider": PERSON, "model": before, "generated_at": at})
