"""What makes the slides and the quiz of a lesson good, beyond what their schemas can say."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from domain.generation import LessonContent, Quiz, QuizQuestion, SlideDeck

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
