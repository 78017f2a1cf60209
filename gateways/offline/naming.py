"""Titles: from real headings first, from key phrases where headings run out, never the same twice."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from domain.generation import Section
from gateways.offline.material import Passage, clip
from gateways.offline.partition import shared_prefix
from gateways.offline.wording import Wording

MAX_TITLE_CHARS: Final = 160
_MAX_JOINED_CHARS: Final = 90
_MAX_JOINED: Final = 3
_MAX_NAME_ENDING_CHARS: Final = 8
_SEPARATORS: Final = re.compile(r"[_\-\s]+")


class Names:
    """Hands out titles, each only once."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def take(self, candidates: Iterable[str]) -> str:
        """The first candidate still free; else the first of all, with a number."""
        first = ""
        for candidate in candidates:
            title = clip(candidate, MAX_TITLE_CHARS)
            first = first or title
            if self._free(title):
                return title
        number = 2
        while not self._free(f"{first} ({number})"):
            number += 1
        return f"{first} ({number})"

    def _free(self, title: str) -> bool:
        key = title.casefold()
        if key in self._used:
            return False
        self._used.add(key)
        return True


def heading_of(section: Section) -> str:
    """The innermost heading on one line; for text without one, the name of the source made readable."""
    if section.path:
        return " ".join(section.path[-1].split()) or section.source
    stem, dot, ending = section.source.rpartition(".")
    name = stem if dot and stem and len(ending) <= _MAX_NAME_ENDING_CHARS else section.source
    name = _SEPARATORS.sub(" ", name).strip() or section.source
    return name[:1].upper() + name[1:]


def label(passages: Sequence[Passage], depth: int, wording: Wording) -> str:
    """What passages have in common: one heading above them all and deeper than ``depth``, else their own joined."""
    sections = [passage.section for passage in passages]
    if len({section.path for section in sections}) == 1:
        return heading_of(sections[0])
    above = shared_prefix([section.path for section in sections])
    if len(above) > depth:
        return above[-1]
    return joined_label(passages, depth, wording)


def joined_label(passages: Sequence[Passage], depth: int, wording: Wording) -> str:
    """The headings just below ``depth``: all of them, or the two with the most text."""
    sizes: dict[str, int] = {}
    # What stands before the first subheading introduces the rest and need not be named beside it.
    below = [passage for passage in passages if len(passage.section.path) > depth]
    for passage in below or passages:
        path = passage.section.path
        head = path[depth] if len(path) > depth else heading_of(passage.section)
        sizes[head] = sizes.get(head, 0) + passage.size
    heads = list(sizes)
    if len(heads) > _MAX_JOINED or len(wording.listed(heads)) > _MAX_JOINED_CHARS:
        heaviest = sorted(heads, key=lambda head: -sizes[head])[:2]
        heads = [head for head in heads if head in heaviest]
    joined = wording.listed(heads)
    return joined if len(joined) <= _MAX_JOINED_CHARS else max(heads, key=lambda head: sizes[head])
