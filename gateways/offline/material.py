"""Sections as the writers use them: cut into sentences, whole or a part of them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Final

from domain.generation import Section
from gateways.offline.partition import cut
from gateways.offline.sentences import split_sentences

# By the number of headings that two neighbours share.
_RELUCTANCE: Final = (0.1, 0.4, 1.0, 1.2)
_SAME_SECTION_RELUCTANCE: Final = 1.4
# Less than nothing: two texts in one module are worth some imbalance to avoid.
_OTHER_SOURCE_RELUCTANCE: Final = -0.7
_LEAST_SENTENCES: Final = 3
_WHITE: Final = re.compile(r"\s+")


@dataclass(frozen=True)
class Sentence:
    """A sentence, or a list item, and where it stands."""

    text: str
    paragraph: int
    place: int
    """Its number in the passage."""
    bullet: bool = False


@dataclass(frozen=True)
class Passage:
    """A section or a part of one."""

    section: Section
    sentences: tuple[Sentence, ...]

    @property
    def prose(self) -> tuple[Sentence, ...]:
        """Running text, without list items."""
        return tuple(sentence for sentence in self.sentences if not sentence.bullet)

    @property
    def listed(self) -> tuple[Sentence, ...]:
        """List items."""
        return tuple(sentence for sentence in self.sentences if sentence.bullet)

    @property
    def size(self) -> int:
        """Characters, at least one."""
        return sum(len(sentence.text) for sentence in self.sentences) or 1


def passage_of(section: Section) -> Passage:
    """The whole section."""
    return Passage(section, tuple(_sentences(section)))


def part_of(passage: Passage, part: int, parts: int) -> Passage:
    """Part ``part`` (from 1) of ``parts``: cut between paragraphs where there are enough, else between sentences.

    Where that would leave a sentence or two for each, neighbours overlap instead.
    """
    if parts == 1:
        return passage
    units = _paragraphs(passage.sentences)
    if len(units) < parts:
        units = [[sentence] for sentence in passage.sentences]
        if len(units) < parts * _LEAST_SENTENCES:
            start = (part - 1) * max(len(units) - _LEAST_SENTENCES, 0) // max(parts - 1, 1)
            return replace(passage, sentences=passage.sentences[start : start + _LEAST_SENTENCES])
    weights = [float(sum(len(sentence.text) for sentence in unit)) for unit in units]
    first, last = cut(weights, [0.0] * len(units), parts)[part - 1]
    return replace(passage, sentences=tuple(sentence for unit in units[first:last] for sentence in unit))


def border_reluctance(sections: Sequence[Section]) -> list[float]:
    """How bad it is to separate each section from the one before; where another source begins it is good."""
    return [0.0, *(_closeness(one, other) for one, other in pairwise(sections))]


def clip(text: str, limit: int) -> str:
    """``text``, or as many of its first words as fit into ``limit`` characters."""
    if len(text) <= limit:
        return text
    head = text[: limit + 1].rpartition(" ")[0] or text[:limit]
    return head.rstrip(" ,;:(—-")


def _sentences(section: Section) -> Iterator[Sentence]:
    place = 0
    for number, paragraph in enumerate(section.paragraphs):
        for text in split_sentences(_WHITE.sub(" ", paragraph).strip()):
            yield Sentence(text, number, place)
            place += 1
    for number, bullet in enumerate(section.bullets, start=len(section.paragraphs)):
        if bullet.strip():
            yield Sentence(_WHITE.sub(" ", bullet).strip(), number, place, bullet=True)
            place += 1


def _paragraphs(sentences: Iterable[Sentence]) -> list[list[Sentence]]:
    return [list(group) for _, group in groupby(sentences, key=attrgetter("paragraph"))]


def _closeness(one: Section, other: Section) -> float:
    if one.source != other.source:
        return _OTHER_SOURCE_RELUCTANCE
    if one.path == other.path:
        return _SAME_SECTION_RELUCTANCE
    shared = 0
    while shared < min(len(one.path), len(other.path)) and one.path[shared] == other.path[shared]:
        shared += 1
    # To begin under a deeper heading right after its parent's own text tears more than between two siblings.
    child = shared == len(one.path)
    return _RELUCTANCE[min(shared + child, len(_RELUCTANCE) - 1)]
