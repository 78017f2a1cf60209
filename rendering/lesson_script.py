"""A lesson as it is spoken: plain sentences in reading order, a pure function of the lesson."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

from domain.generation import LessonContent
from rendering.course_parts import one_line
from rendering.course_words import words_for

SCRIPT_VERSION: Final = "1"
"""Changes whenever the same lesson gives another script, because recordings are made anew for another script."""

_CODE_BLOCK: Final = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_MARKS: Final = re.compile(r"(?<!\w)(\*\*|__|\*|_)(?=\S)(.+?)(?<=\S)\1(?!\w)")
_CODE: Final = re.compile(r"`+([^`]*)`+")
_ADDRESS: Final = re.compile(r"<?https?://\S+>?")
_END: Final = re.compile(r"[.!?:;\u2026\u3002\uff01\uff1f][\"'\u00bb\u201d\u2019)]*$")


def lesson_script(content: LessonContent, *, language: str) -> str:
    """What is said: title, summary, each block with its list, and what to remember; paragraphs between blank lines.

    Terms are left out: their definitions are for looking up. Empty never: a lesson has a title.
    """
    return "\n\n".join(part for part in _paragraphs(content, language) if part)


def _paragraphs(content: LessonContent, language: str) -> Iterator[str]:
    words = words_for(language)
    yield sentence(content.title)
    yield sentence(content.summary)
    for block in content.blocks:
        yield sentence(block.heading)
        yield from (sentence(paragraph) for paragraph in block.paragraphs)
        yield _sentences(block.bullets)
    # A label in a foreign language would be read out by the wrong voice.
    yield _sentences(([] if words.foreign else [words.key_points]) + list(content.key_points))


def _sentences(texts: Iterable[str]) -> str:
    return " ".join(filter(None, (sentence(text) for text in texts)))


def sentence(text: str) -> str:
    """The text as it is said: no marks of Markdown, no addresses, and a full stop where there is no end."""
    plain = _CODE_BLOCK.sub(" ", text)
    plain = _LINK.sub(r"\1", plain)
    plain = _CODE.sub(r"\1", _ADDRESS.sub("", plain))
    plain = _MARKS.sub(r"\2", _MARKS.sub(r"\2", plain))
    said = unicodedata.normalize("NFC", one_line(plain)).strip(" -*#>\u2022")
    if not said or _END.search(said):
        return said
    return f"{said}."
