"""Questions whose answer the lesson states word by word, with wrong options from elsewhere in the material.

Four kinds: an entry of a list, a term missing from its definition, a number missing from its sentence, and what is
said under a heading. A question without two fair wrong options is not asked.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from math import log10
from typing import Final

from domain.generation import Quiz, QuizQuestion, QuizTask
from gateways.offline.choice import Ranked, leans, rank_sentences
from gateways.offline.material import Passage, passage_of
from gateways.offline.phrases import defined_term
from gateways.offline.slides import one_line, passages_of
from gateways.offline.tables import Table, table_of
from gateways.offline.wording import Wording, wording_for
from gateways.offline.words import Lexicon

_MAX_OPTIONS, _MIN_OPTIONS = 4, 3
_MAX_OPTION_CHARS: Final = 280
_MAX_SENTENCE_CHARS: Final = 320
_MIN_WORDS, _MAX_WORDS = 6, 40
_MIN_CELL_CHARS: Final = 2
_FEWEST_LETTERS: Final = 12
_GAP: Final = "[…]"
_ALIKE: Final = 0.4
# A number on its own: no part of a date, a version, an address or a name.
_NUMBER: Final = re.compile(
    r"(?<![\w.,:/+\u2013\u2014-])\d{1,6}(?:[.,]\d{1,3})?(?![\w:/\u2013\u2014-]|[.,]\d|\s?[:/\u2013-]\s?\d)"
)
_YEAR: Final = re.compile(r"1[0-9]{3}|20[0-9]{2}")
_MOST_OF_A_KIND: Final = {"entry": 2, "term": 3, "number": 2, "statement": 3}


@dataclass(frozen=True)
class _Candidate:
    """A question that may be asked. ``wrong`` are the wrong options, the best first."""

    kind: str
    question: str
    right: str
    wrong: tuple[str, ...]
    evidence: str
    place: int
    """The part of the lesson that it is about."""


def write_quiz(task: QuizTask) -> Quiz | None:
    """Up to ``task.questions`` questions in the order of the lesson; None where there is no fair one."""
    writer = _Writer(task)
    chosen = _chosen(writer.candidates(), task.questions)
    if not chosen:
        return None
    return Quiz(questions=tuple(_question(one, writer.wording) for one in chosen))


class _Writer:
    def __init__(self, task: QuizTask) -> None:
        self._lesson = task.lesson
        self._lexicon = Lexicon(task.language)
        self.wording = wording_for(task.language)
        self._parts = passages_of(task.lesson)
        self._ranked = rank_sentences(self._parts, self._lexicon)
        own = {one.text for one in self._ranked}
        self._elsewhere = [
            sentence.text
            for passage in map(passage_of, task.sections)
            for sentence in passage.sentences
            if sentence.text not in own
        ]

    def candidates(self) -> Iterator[_Candidate]:
        """Every question there is to ask, the best kinds first."""
        yield from self._terms()
        yield from self._entries()
        yield from self._numbers()
        yield from self._statements()

    # --- a term missing from its definition ---------------------------------------------------------

    def _terms(self) -> Iterator[_Candidate]:
        others = list(dict.fromkeys(chain((term.term for term in self._lesson.terms), self._defined_elsewhere())))
        for term in self._lesson.terms:
            evidence = one_line(term.definition)
            gapped = _without(evidence, term.term)
            if gapped is None or not _is_fit(evidence):
                continue
            stems = set(self._lexicon.stems(term.term))
            if not stems or stems <= set(self._lexicon.stems(gapped)):
                continue  # the rest of the sentence gives it away
            said = set(self._lexicon.stems(evidence))
            wrong = [other for other in others if self._is_other_term(other, stems, said)]
            yield _Candidate(
                "term", self._gap(gapped), one_line(term.term), tuple(wrong), evidence, self._place_of(evidence)
            )

    def _defined_elsewhere(self) -> Iterator[str]:
        for text in chain((one.text for one in self._ranked), self._elsewhere):
            found = defined_term(text, listed=False, lexicon=self._lexicon)
            if found and found[1]:
                yield found[0]

    def _is_other_term(self, other: str, stems: Collection[str], said: Collection[str]) -> bool:
        """Neither a part of the term, nor the term and more, nor named in the sentence itself."""
        these = set(self._lexicon.stems(other))
        return bool(these) and not these <= set(said) and not these >= set(stems)

    # --- entries of lists ---------------------------------------------------------------------------

    def _entries(self) -> Iterator[_Candidate]:
        for place, block in enumerate(self._lesson.blocks):
            table = table_of([line for line in map(one_line, block.bullets) if line])
            if table is not None:
                for column in range(len(table.names) or 1):
                    yield from self._column(table, column, place)

    def _column(self, table: Table, column: int, place: int) -> Iterator[_Candidate]:
        cells = [row.cells[column] for row in table.rows]
        if len({cell.casefold() for cell in cells}) < len(cells) or min(map(len, cells)) < _MIN_CELL_CHARS:
            return
        for row in table.rows:
            about = self.wording.quoted(row.first)
            question = (
                self.wording.column.format(about, self.wording.quoted(table.names[column]))
                if table.names
                else self.wording.about.format(about)
            )
            wrong = tuple(cell for cell in cells if cell != row.cells[column])
            yield _Candidate("entry", question, row.cells[column], wrong, row.source, place)

    # --- a number missing from its sentence ---------------------------------------------------------

    def _numbers(self) -> Iterator[_Candidate]:
        known = list(dict.fromkeys(
            number for text in chain((one.text for one in self._ranked), self._elsewhere)
            for number in _NUMBER.findall(text)
        ))  # fmt: skip
        for one in self._standing():
            found = _NUMBER.findall(one.text)
            if len(found) == 1 and len(re.findall(r"\d+", one.text)) == len(re.findall(r"\d+", found[0])):
                (right,) = found
                wrong = sorted(
                    (other for other in known if _value(other) != _value(right) and _is_year(other) == _is_year(right)),
                    key=lambda other, right=right: (_distance(other, right), other),  # type: ignore[misc]
                )
                gapped = _NUMBER.sub(_GAP, one.text)
                yield _Candidate("number", self._gap(gapped), right, _distinct(wrong), one.text, one.passage)

    # --- what is said under a heading ---------------------------------------------------------------

    def _statements(self) -> Iterator[_Candidate]:
        seen: set[int] = set()
        for one in self._standing():
            if one.passage in seen or len(one.text) > _MAX_OPTION_CHARS:
                continue
            seen.add(one.passage)
            heading = self._lesson.blocks[one.passage].heading
            wrong = [text for text in self._outside(one.passage) if self._is_unlike(text, one)]
            question = self.wording.under.format(self.wording.quoted(heading))
            yield _Candidate("statement", question, one.text, tuple(wrong), one.text, one.passage)

    def _outside(self, place: int) -> Iterator[str]:
        """Sentences that stand well alone, from other parts of the lesson and from the rest of the material."""
        here = {sentence.text for sentence in self._parts[place].sentences}
        others = [one.text for one in self._standing() if one.passage != place]
        for text in chain(others, self._elsewhere):
            if text not in here and len(text) <= _MAX_OPTION_CHARS and _is_fit(text) and not leans(text):
                yield text

    def _is_unlike(self, text: str, one: Ranked) -> bool:
        these, those = set(self._lexicon.stems(text)), set(self._lexicon.stems(one.text))
        return bool(these) and len(these & those) < _ALIKE * min(len(these), len(those))

    # --- pieces -------------------------------------------------------------------------------------

    def _standing(self) -> list[Ranked]:
        """Sentences of the lesson that make sense alone, best first."""
        prose = [
            one for one in self._ranked
            if not one.sentence.bullet and _is_fit(one.text) and not leans(one.text) and one.score > 0
        ]  # fmt: skip
        return sorted(prose, key=lambda one: (-one.score, one.position))

    def _gap(self, gapped: str) -> str:
        return self.wording.gap.format(self.wording.quoted(gapped))

    def _place_of(self, evidence: str) -> int:
        """The part of the lesson in which the sentence stands; the end where it stands in none."""
        found = (number for number, part in enumerate(self._parts) if _says(part, evidence))
        return next(found, len(self._parts))


def _says(part: Passage, evidence: str) -> bool:
    return any(evidence == sentence.text for sentence in part.sentences)


def _chosen(candidates: Iterable[_Candidate], most: int) -> list[_Candidate]:
    """The first of each kind, none on a sentence that another is on, in the order of the lesson."""
    chosen: list[_Candidate] = []
    for one in candidates:
        if len(chosen) == most:
            break
        of_its_kind = sum(other.kind == one.kind for other in chosen)
        fair = len(_options(one)) >= _MIN_OPTIONS and of_its_kind < _MOST_OF_A_KIND[one.kind]
        if fair and not any(one.evidence == other.evidence or one.question == other.question for other in chosen):
            chosen.append(one)
    return sorted(chosen, key=lambda one: one.place)


def _options(one: _Candidate) -> list[str]:
    """The right option and the best wrong ones, each different to a reader, in an order that tells nothing."""
    options: dict[str, str] = {one.right.casefold(): one.right}
    for text in one.wrong:
        if len(options) == _MAX_OPTIONS:
            break
        if 0 < len(text) <= _MAX_OPTION_CHARS:
            options.setdefault(text.casefold(), text)
    return sorted(options.values(), key=lambda text: hashlib.sha256(f"{one.evidence}\n{text}".encode()).digest())


def _question(one: _Candidate, wording: Wording) -> QuizQuestion:
    options = _options(one)
    return QuizQuestion(
        question=one.question,
        options=tuple(options),
        answer=options.index(one.right),
        explanation=wording.said.format(wording.quoted(one.evidence)),
        evidence=one.evidence,
    )


def _is_fit(text: str) -> bool:
    """Whether a sentence may be asked about: neither a fragment nor endless, and no question itself."""
    words = len(text.split())
    return (
        _MIN_WORDS <= words <= _MAX_WORDS
        and len(text) <= _MAX_SENTENCE_CHARS
        and sum(map(str.isalnum, text)) >= _FEWEST_LETTERS
        and not text.endswith((":", "?", "…"))
    )


def _without(sentence: str, term: str) -> str | None:
    """The sentence with a gap wherever the term stands in it; None where it does not."""
    whole = rf"(?<!\w){re.escape(one_line(term))}(?!\w)"
    gapped, count = re.subn(whole, _GAP, sentence, flags=re.IGNORECASE)
    return gapped if count else None


def _value(number: str) -> float:
    return float(number.replace(",", "."))


def _is_year(number: str) -> bool:
    return _YEAR.fullmatch(number) is not None


def _distance(one: str, other: str) -> tuple[bool, float]:
    """Numbers written alike are near, then those of the same size."""
    written_otherwise = ("." in one, "," in one) != ("." in other, "," in other)
    return written_otherwise, abs(log10(1 + _value(one)) - log10(1 + _value(other)))


def _distinct(numbers: Iterable[str]) -> tuple[str, ...]:
    seen: dict[float, str] = {}
    for number in numbers:
        seen.setdefault(_value(number), number)
    return tuple(seen.values())
