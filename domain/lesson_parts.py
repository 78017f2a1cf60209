"""Slides and quiz of a lesson: how they are kept, their nodes, and what makes them good beyond their schemas."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Final
from uuid import UUID

from domain.course_graph import NodeKind, NodeMade, below, content_sha256
from domain.generation import (
    ContentStatus,
    DraftNote,
    Lesson,
    LessonContent,
    Provenance,
    Quiz,
    QuizQuestion,
    SlideDeck,
)
from domain.model import Frozen

QUESTIONS_OF_A_LESSON: Final = 5
"""The most questions that a quiz is asked to have."""

_LEAST_EVIDENCE_LETTERS: Final = 12
_QUOTES: Final = str.maketrans(dict.fromkeys("\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}«»„", '"'))
_SINGLE_QUOTES: Final = str.maketrans(
    dict.fromkeys("\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}", "'")
)
_BULLET: Final = re.compile(r"^[-*\N{BULLET}]\s+")
_DASHES: Final = re.compile("[\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{EN DASH}\N{EM DASH}]")

Fault = tuple[str, str]
"""Where, as a JSON pointer, and what is wrong there."""


# --- as they are kept -------------------------------------------------------------------------------


class WrittenSlides(Frozen):
    """What came of the wish for slides: the content of the node ``lesson-1.2/slides``. No deck unless READY."""

    status: ContentStatus
    deck: SlideDeck | None
    draft: DraftNote | None = None
    provenance: Provenance


class WrittenQuiz(Frozen):
    """What came of the wish for questions: the content of the node ``lesson-1.2/quiz``. No quiz unless READY."""

    status: ContentStatus
    quiz: Quiz | None
    draft: DraftNote | None = None
    provenance: Provenance


def with_parts(lesson: Lesson, slides: WrittenSlides | None, quiz: WrittenQuiz | None) -> Lesson:
    """The lesson together with what was made of it.

    Provenance without slides or questions says that they were asked for and did not come to be.
    """
    parts: dict[str, object] = {}
    if slides is not None:
        parts |= {"slides": slides.deck, "slides_provenance": slides.provenance}
    if quiz is not None:
        parts |= {"quiz": quiz.quiz, "quiz_provenance": quiz.provenance}
    return lesson.model_copy(update=parts) if parts else lesson


def slides_nodes(lesson: str, title: str, kept: WrittenSlides, *, input_hash: str, artifact_id: UUID) -> list[NodeMade]:
    """The deck of a lesson (given by its key) as a node, and each slide as a part of it."""
    deck = kept.deck
    whole = NodeMade(
        key=below(lesson, "slides"),
        kind=NodeKind.SLIDES,
        title=title,
        input_hash=input_hash,
        content_sha256=content_sha256(_said(deck, kept.draft)),
        artifact_id=artifact_id,
        status=kept.status,
        calls=kept.provenance.calls,
        cost_usd=kept.provenance.cost_usd,
    )
    parts = [
        NodeMade(
            key=below(lesson, f"slide-{number}"),
            kind=NodeKind.SLIDE,
            title=slide.title,
            input_hash=input_hash,
            content_sha256=content_sha256(slide.model_dump(mode="json")),
        )
        for number, slide in enumerate(() if deck is None else deck.slides, start=1)
    ]
    return [whole, *parts]


def quiz_node(lesson: str, title: str, kept: WrittenQuiz, *, input_hash: str, artifact_id: UUID) -> NodeMade:
    """The questions on a lesson (given by its key) as a node."""
    return NodeMade(
        key=below(lesson, "quiz"),
        kind=NodeKind.QUIZ,
        title=title,
        input_hash=input_hash,
        content_sha256=content_sha256(_said(kept.quiz, kept.draft)),
        artifact_id=artifact_id,
        status=kept.status,
        calls=kept.provenance.calls,
        cost_usd=kept.provenance.cost_usd,
    )


def _said(content: Frozen | None, draft: DraftNote | None) -> object:
    said = content or draft
    return None if said is None else said.model_dump(mode="json")


# --- what makes them good ---------------------------------------------------------------------------


def texts_of(content: LessonContent) -> Iterator[str]:
    """Every text of a lesson that states something, in reading order. Titles state nothing."""
    yield content.summary
    for block in content.blocks:
        yield from block.paragraphs
        yield from block.bullets
    yield from content.key_points
    for term in content.terms:
        yield term.definition
        yield f"{term.term}: {term.definition}"


def is_said_in(content: LessonContent, sentence: str) -> bool:
    """Whether the lesson says this, word by word. White space, and how quotes and dashes are set, do not matter."""
    wanted = _plain(sentence)
    return bool(wanted) and any(wanted in _plain(text) for text in texts_of(content))


def deck_faults(deck: SlideDeck) -> list[Fault]:
    """Slides that show nothing."""
    return [
        (f"/slides/{number}", "needs bullets or a figure")
        for number, slide in enumerate(deck.slides)
        if not slide.bullets and slide.figure is None
    ]


def quiz_faults(quiz: Quiz, content: LessonContent) -> list[Fault]:
    """Questions whose answer cannot be found in the lesson, and questions asked twice."""
    said = [_plain(text) for text in texts_of(content)]
    asked: set[str] = set()
    faults: list[Fault] = []
    for number, question in enumerate(quiz.questions):
        faults += _evidence_faults(question, said, f"/questions/{number}/evidence")
        key = _plain(question.question).casefold()
        if key in asked:
            faults.append((f"/questions/{number}/question", "is asked twice"))
        asked.add(key)
    return faults


def _evidence_faults(question: QuizQuestion, said: list[str], place: str) -> Iterator[Fault]:
    evidence = _BULLET.sub("", _plain(question.evidence))
    if sum(char.isalnum() for char in evidence) < _LEAST_EVIDENCE_LETTERS:
        yield place, "is too short to show an answer: it has to be a whole sentence of the lesson"
    elif not any(evidence in text for text in said):
        yield place, "is not a sentence of the lesson, word by word"


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).translate(_QUOTES).translate(_SINGLE_QUOTES)
    return " ".join(_DASHES.sub("-", folded).split())
