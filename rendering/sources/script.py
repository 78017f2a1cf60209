"""What a reader of any format writes down: headings, paragraphs and list items, in reading order."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from domain.generation import Section

MAX_SECTION_CHARS: Final = 6_000
_INVISIBLE: Final = re.compile("[\u00ad\u200b\u2060\ufeff]")
_NUMBERING: Final = re.compile(r"^(?:\d+(?:\.\d+)*[.)]|\d+(?:\.\d+)+|§\s*\d+\.?)\s+(?=\S)")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?…])\s+")


def clean(text: str) -> str:
    """``text`` on one line, white space collapsed, characters without a glyph removed."""
    return " ".join(_INVISIBLE.sub("", text).split())


@dataclass(frozen=True)
class _Item:
    text: str
    bullet: bool


@dataclass
class _Draft:
    path: tuple[str, ...]
    items: list[_Item] = field(default_factory=list)


class Script:
    """Takes down one source and hands it out as sections."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._headings: list[tuple[int, str]] = []
        self._drafts = [_Draft(path=())]

    def heading(self, level: int, text: str) -> None:
        """Begin a section. A heading ends every section of its own or a deeper level."""
        text = _NUMBERING.sub("", clean(text)).rstrip("¶#").rstrip()
        self._headings = [(above, title) for above, title in self._headings if above < level]
        if text:
            self._headings.append((level, text))
        self._drafts.append(_Draft(path=tuple(title for _, title in self._headings)))

    def paragraph(self, text: str) -> None:
        """Add running text to the section."""
        self._add(text, bullet=False)

    def bullet(self, text: str) -> None:
        """Add a list item to the section."""
        self._add(text, bullet=True)

    def row(self, cells: Sequence[str], header: Sequence[str]) -> None:
        """Add a table row as one list item; from the third column on a cell needs its header to be understood."""
        named = [(clean(cell), clean(header[at]) if at < len(header) else "") for at, cell in enumerate(cells)]
        first, *rest = [(cell, name) for cell, name in named if cell] or [("", "")]
        if len(rest) > 1:
            parts = "; ".join(f"{name}: {cell}" if name else cell for cell, name in rest)
            self.bullet(f"{first[0]} — {parts}")
        else:
            self.bullet(": ".join([first[0], *(cell for cell, _ in rest)]))

    def sections(self, *, first: int) -> tuple[Section, ...]:
        """Every section that has text, none much longer than MAX_SECTION_CHARS, numbered from ``first``."""
        pieces = [(draft.path, piece) for draft in self._drafts for piece in _pieces(draft.items)]
        return tuple(
            Section(
                id=f"s{number}",
                source=self._source,
                path=path,
                paragraphs=tuple(item.text for item in piece if not item.bullet),
                bullets=tuple(item.text for item in piece if item.bullet),
            )
            for number, (path, piece) in enumerate(pieces, start=first)
        )

    def _add(self, text: str, *, bullet: bool) -> None:
        text = clean(text)
        if any(char.isalnum() for char in text):
            self._drafts[-1].items.append(_Item(text, bullet))


def _pieces(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    piece: list[_Item] = []
    size = 0
    for item in (part for whole in items for part in _bounded(whole)):
        if piece and size + len(item.text) > MAX_SECTION_CHARS:
            yield piece
            piece, size = [], 0
        piece.append(item)
        size += len(item.text)
    if piece:
        yield piece


def _bounded(item: _Item) -> Iterator[_Item]:
    """The item itself, or its parts where it alone is too long for a section."""
    if len(item.text) <= MAX_SECTION_CHARS:
        yield item
        return
    part = ""
    for unit in _short_units(item.text):
        if part and len(part) + len(unit) >= MAX_SECTION_CHARS:
            yield _Item(part, item.bullet)
            part = ""
        part = f"{part} {unit}" if part else unit
    yield _Item(part, item.bullet)


def _short_units(text: str) -> Iterator[str]:
    for sentence in _SENTENCE_END.split(text):
        if len(sentence) < MAX_SECTION_CHARS:
            yield sentence
            continue
        for word in sentence.split():
            yield from (word[at : at + MAX_SECTION_CHARS] for at in range(0, len(word), MAX_SECTION_CHARS))
