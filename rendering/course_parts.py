"""What every rendering of a course agrees on: visible text, what counts as good, totals, stamps of time and money."""

import re
import string
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from domain.generation import ContentStatus, Course, Lesson, Provenance, Quiz
from domain.model import Frozen

Profile = Literal["full", "minimal"]
"""``full`` tells where everything comes from and what it cost; ``minimal`` is the content alone."""

_BREAK = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
_UNPRINTABLE = re.compile(f"[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff{_NONCHARACTERS}]")
_PICTURES = 0x2400  # Unicode draws the control character n as the symbol 2400 + n
_DELETE = 0x7F
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n")
_SPACES = re.compile(r"[ \t\n]{2,}|[\t\n]")  # a single space stays as it is


# --- text -------------------------------------------------------------------------------------------


def visible(text: str) -> str:
    """The text with one kind of line break and a visible sign for each character that no document can carry."""
    if text.isprintable():  # as nearly every piece is, and this knows it much sooner
        return text
    return _UNPRINTABLE.sub(_sign, _BREAK.sub("\n", text))


def one_line(text: str) -> str:
    """The visible text on one line, no space at its ends. No-break spaces inside stay: they were put there."""
    return _SPACES.sub(" ", visible(text)).strip()


def paragraphs(text: str) -> tuple[tuple[str, ...], ...]:
    """The visible text as paragraphs (parted by blank lines) of lines; nothing in it is empty or indented."""
    parts = (_lines(part) for part in _BLANK_LINES.split(visible(text)))
    return tuple(part for part in parts if part)


def _lines(text: str) -> tuple[str, ...]:
    lines = (_SPACES.sub(" ", line).strip() for line in text.split("\n"))
    return tuple(line for line in lines if line)


def _sign(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < ord(" "):
        return chr(_PICTURES + code)
    return "\N{SYMBOL FOR DELETE}" if code == _DELETE else "\N{REPLACEMENT CHARACTER}"


# --- stamps: equal values give equal bytes, however they were written down --------------------------


def stamp(moment: datetime) -> str:
    """The moment in ISO 8601, always in UTC; one without a zone is taken to be UTC already."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.replace(tzinfo=None).isoformat() + "Z"


def money(amount: Decimal) -> str:
    """The exact amount in plain digits, without trailing zeros or an exponent."""
    digits = f"{amount:f}"
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


# --- the course as a whole --------------------------------------------------------------------------


class Totals(Frozen):
    """A course in numbers: its outline and all its lessons, repairs and recordings included.

    Tokens and calls are those of language models.
    """

    modules: int
    lessons: int
    lessons_by_status: dict[ContentStatus, int]
    """Every status has an entry, so that nobody has to tell a missing one from zero."""
    input_tokens: int
    output_tokens: int
    calls: int
    cost_usd: Decimal
    complete: bool


def totals(course: Course) -> Totals:
    """Count and add up the course."""
    lessons = [lesson for module in course.modules for lesson in module.lessons]
    counted = Counter(lesson.status for lesson in lessons)
    paid = all_provenance(course)
    costs = [item.cost_usd for item in paid] + [media.cost_usd for lesson in lessons for media in lesson.recordings]
    return Totals(
        modules=len(course.modules),
        lessons=len(lessons),
        lessons_by_status={status: counted[status] for status in ContentStatus},
        input_tokens=sum(item.input_tokens for item in paid),
        output_tokens=sum(item.output_tokens for item in paid),
        calls=sum(item.calls for item in paid),
        cost_usd=sum(costs, start=Decimal(0)),
        complete=course.complete,
    )


def all_provenance(course: Course) -> tuple[Provenance, ...]:
    """Where the outline and each lesson with what was made of it, in order, come from."""
    lessons = (origin for module in course.modules for lesson in module.lessons for origin in lesson.origins)
    return (course.outline_provenance, *lessons)


def is_good(lesson: Lesson) -> bool:
    """Whether the lesson may be shown as finished. The status decides: content beside another status is not good."""
    return lesson.status is ContentStatus.READY and lesson.content is not None


def quiz_of(lesson: Lesson) -> Quiz | None:
    """The questions to show with a lesson; none with one that is not good."""
    return lesson.quiz if is_good(lesson) else None


def lacks_quiz(lesson: Lesson) -> bool:
    """Whether questions on this good lesson were asked for and did not come to be."""
    return is_good(lesson) and lesson.quiz is None and lesson.quiz_provenance is not None


def letter_of(option: int) -> str:
    """What an option is called: A, B, C ..."""
    return string.ascii_uppercase[option]


def shows_quiz(course: Course) -> bool:
    """Whether there is any question in the course, or word of a missing one."""
    lessons = (lesson for module in course.modules for lesson in module.lessons)
    return any(quiz_of(lesson) is not None or lacks_quiz(lesson) for lesson in lessons)


def unfinished(course: Course) -> int:
    """How many lessons must not be shown as finished."""
    return sum(not is_good(lesson) for module in course.modules for lesson in module.lessons)
