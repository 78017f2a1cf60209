"""The few sentences that do not come from a source: objectives, questions, and names for parts."""

# ruff: noqa: RUF001
# Russian words are written in Cyrillic.

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
    key_points: str
    terms: str
    term: str
    meaning: str
    entry: str
    """Heads the first column of a table whose source has no name for it."""
    details: str
    gap: str
    """Takes a sentence with a gap."""
    about: str
    """Takes what an entry of a list is about."""
    column: str
    """Takes an entry of a table and the name of a column."""
    under: str
    """Takes a heading."""
    said: str
    """Takes a sentence of the lesson."""

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
    key_points="Key points",
    terms="Terms",
    term="Term",
    meaning="Meaning",
    entry="Entry",
    details="Details",
    gap="What belongs in the gap? {}",
    about="What does the lesson say about {}?",
    column="{}: what does the lesson give as {}?",
    under="What does the lesson say under {}?",
    said="The lesson says: {}",
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
    key_points="Главное",
    terms="Термины",
    term="Термин",
    meaning="Значение",
    entry="Пункт",
    details="Подробности",
    gap="Что пропущено? {}",
    about="Что в уроке сказано о пункте {}?",
    column="{}: что в уроке указано в графе {}?",
    under="Что в уроке сказано в части {}?",
    said="В уроке сказано: {}",
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
