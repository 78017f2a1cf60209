"""Plain text into a script: paragraphs between blank lines, and headings where there is little doubt."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rendering.sources.script import Script

_MAX_HEADING_CHARS: Final = 80
_MIN_CAPS_LETTERS: Final = 4
_MAX_NUMBER_DEPTH: Final = 4
_RULE: Final = re.compile(r"^\s*([=\-~*_#])\1{2,}\s*$")
_NUMBER: Final = re.compile(r"^(?P<number>\d{1,3}(?:\.\d{1,3})*)[.)]?\s+(?P<title>[^\W\d_].*)$")
_CHAPTER: Final = re.compile(
    r"^(?:chapter|part|section|lesson|appendix|глава|часть|раздел|урок|приложение)\s+(?:\d+|[IVXLC]+)\b", re.IGNORECASE
)
_BULLET: Final = re.compile(r"^\s*[-*•‣▪·]\s+")
_ENUMERATED: Final = re.compile(r"^\s*\d{1,2}[.)]\s+")
_SENTENCE_ENDS: Final = (".", "!", "?", ",", ";", ":", "…")


@dataclass(frozen=True)
class _Heading:
    title: str
    style: str


@dataclass(frozen=True)
class _Block:
    lines: tuple[str, ...]
    heading: _Heading | None = None


def read_plain(text: str, script: Script) -> None:
    """Write headings, paragraphs and list items of ``text`` into ``script``.

    The styles of headings are ranked by first appearance: whichever kind comes first is the outermost.
    """
    styles: dict[str, int] = {}
    for block in _without_numbered_items(list(_blocks(text))):
        if block.heading is None:
            _write_block(block.lines, script)
        else:
            level = styles.setdefault(block.heading.style, len(styles) + 1)
            script.heading(level, block.heading.title)


def _blocks(text: str) -> Iterator[_Block]:
    for chunk in re.split(r"\n[^\S\n]*\n|\f", text):
        lines = tuple(line for line in chunk.split("\n") if line.strip())
        if lines:
            yield from _headed(lines)


def _headed(lines: tuple[str, ...]) -> Iterator[_Block]:
    """The chunk as one block, or as a heading and the rest."""
    if len(lines) > 1 and (style := _underline(lines[0], lines[1])):
        yield _Block(lines[:2], _Heading(lines[0], style))
        if lines[2:]:
            yield _Block(lines[2:])
    elif len(lines) == 1:
        style = _single_line_style(lines[0].strip())
        yield _Block(lines, _Heading(lines[0], style) if style else None)
    else:
        yield _Block(tuple(line for line in lines if not _RULE.match(line)))


def _underline(title: str, rule: str) -> str:
    found = _RULE.match(rule)
    if not found or not _may_be_heading(title.strip()) or len(rule.strip()) * 2 < len(title.strip()):
        return ""
    return found[1]


def _single_line_style(line: str) -> str:
    if not _may_be_heading(line):
        return ""
    letters = [char for char in line if char.isalpha()]
    if len(letters) >= _MIN_CAPS_LETTERS and all(char.isupper() for char in letters):
        return "CAPS"
    if _CHAPTER.match(line):
        return "chapter"
    found = _NUMBER.match(line)
    if found and found["title"][0].isupper():
        return f"number {min(found['number'].count('.'), _MAX_NUMBER_DEPTH)}"
    return ""


def _may_be_heading(line: str) -> bool:
    has_letter = any(char.isalpha() for char in line)
    return has_letter and len(line) <= _MAX_HEADING_CHARS and not line.endswith(_SENTENCE_ENDS)


def _without_numbered_items(blocks: Sequence[_Block]) -> Iterator[_Block]:
    """A numbered line with no text under it before the next of its kind is an item of a list, not a heading."""
    for at, block in enumerate(blocks):
        following = blocks[at + 1].heading if at + 1 < len(blocks) else block.heading
        numbered = block.heading is not None and block.heading.style.startswith("number")
        if numbered and following is not None and following.style == (block.heading and block.heading.style):
            yield _Block(block.lines)
        else:
            yield block


def _write_block(lines: Sequence[str], script: Script) -> None:
    enumerated = bool(_ENUMERATED.match(lines[0])) if lines else False
    marker = re.compile(f"{_BULLET.pattern}|{_ENUMERATED.pattern}") if enumerated else _BULLET
    paragraph: list[str] = []
    items: list[list[str]] = []
    for line in lines:
        if found := marker.match(line):
            items.append([line[found.end() :]])
        else:
            (items[-1] if items else paragraph).append(line)
    script.paragraph(" ".join(paragraph))
    for item in items:
        script.bullet(" ".join(item))
