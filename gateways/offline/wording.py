"""The few sentences that do not come from a source: objectives, and names for parts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateways.offline.words import primary


@dataclass(frozen=True)
class Wording:
    """The templates of one language."""

    explain: dict[str, str]
    """By level; takes a heading."""
    define: str
    use: str
    part: str
    part_title: str
    conjunction: str
    quotes: tuple[str, str]

    def quoted(self, text: str) -> str:
        """``text`` in the language's quotation marks."""
        return f"{self.quotes[0]}{text}{self.quotes[1]}"

    def listed(self, texts: Sequence[str]) -> str:
        """``A``, ``A and B`` or ``A, B and C``; with semicolons where that would be misread."""
        if len(texts) > 1 and any(f" {self.conjunction} " in text or "," in text for text in texts):
            return "; ".join(texts)
        *head, last = texts
        return f"{', '.join(head)} {self.conjunction} {last}" if head else last


_ENGLISH: Final = Wording(
    explain={
        "beginner": "Explain in your own words: {}",
        "intermediate": "Explain and apply: {}",
        "advanced": "Analyse and assess: {}",
    },
    define="Define {}",
    use="Use these terms correctly: {}",
    part="Work through part {part} of {parts}: {heading}",
    part_title="{heading}, part {part}",
    conjunction="and",
    quotes=("“", "”"),
)
_RUSSIAN: Final = Wording(
    explain={
        "beginner": "Объяснить своими словами тему {}",
        "intermediate": "Объяснить и применить на практике тему {}",
        "advanced": "Разобрать и критически оценить тему {}",
    },
    define="Дать определение: {}",
    use="Правильно употреблять понятия: {}",
    part="Изучить часть {part} из {parts}: {heading}",
    part_title="{heading}, часть {part}",
    conjunction="и",
    quotes=("«", "»"),
)
_BY_LANGUAGE: Final = {"ru": _RUSSIAN}
_PART: Final = re.compile(r"^\D+ (?P<part>\d+) (?:of|из) (?P<parts>\d+): ")


def wording_for(language: str) -> Wording:
    """The templates for a language tag; English where there are none of its own."""
    return _BY_LANGUAGE.get(primary(language), _ENGLISH)


def part_named_in(objectives: Sequence[str]) -> tuple[int, int] | None:
    """Which part of how many a lesson covers, read back from its objectives."""
    for objective in objectives:
        if found := _PART.match(objective):
            part, parts = int(found["part"]), int(found["parts"])
            if 1 <= part <= parts:
                return part, parts
    return None
