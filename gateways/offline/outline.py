"""The outline: sections divided into modules and lessons in reading order, and named."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from domain.errors import SourceEmpty
from domain.generation import CourseOutline, LessonOutline, ModuleOutline, OutlineTask
from gateways.offline.choice import best, rank_sentences, summary_of
from gateways.offline.material import Passage, border_reluctance, clip, part_of, passage_of
from gateways.offline.naming import MAX_TITLE_CHARS, Names, heading_of, joined_label, label
from gateways.offline.partition import allocate, cut, shared_prefix
from gateways.offline.phrases import Key, PhraseBook, capitalised, defined_term, uncapitalised
from gateways.offline.wording import wording_for
from gateways.offline.words import Lexicon

_MAX_SECTIONS: Final = 60
_MAX_OBJECTIVE_CHARS: Final = 300
_MAX_SUMMARY_CHARS: Final = 1_500
_DESCRIPTION_SENTENCES: Final = 3
_PHRASES_IN_OBJECTIVES: Final = 3
_TERMS_IN_OBJECTIVES: Final = 2


@dataclass(frozen=True)
class Piece:
    """What one lesson is made from: whole sections, or one part of a section."""

    passages: tuple[Passage, ...]
    part: int = 1
    parts: int = 1


def write_outline(task: OutlineTask) -> CourseOutline:
    """Plan the course: exactly the modules and lessons asked for. Raises SourceEmpty where there is no text."""
    passages = [passage for passage in map(passage_of, task.sections) if passage.sentences]
    if not passages:
        raise SourceEmpty("the offline provider makes a course from its sources, and there is no text in them")
    return _Planner(task, passages).course()


def divide(passages: Sequence[Passage], modules: int, lessons: int) -> list[list[Piece]]:
    """Give every lesson its share, in reading order. Headings stay together where the numbers allow."""
    weights = [float(passage.size) for passage in passages]
    if len(passages) < modules:
        pieces = _parts(passages, [count * lessons for count in allocate(weights, modules)])
        return [pieces[at : at + lessons] for at in range(0, len(pieces), lessons)]
    reluctance = border_reluctance([passage.section for passage in passages])
    # With sections enough for every lesson it is a pity to split one.
    wanted = lessons if len(passages) >= modules * lessons else 1
    spans = cut(weights, reluctance, modules, wanted=wanted)
    return [_divide_module(passages[first:last], reluctance[first:last], lessons) for first, last in spans]


def _divide_module(passages: Sequence[Passage], reluctance: Sequence[float], lessons: int) -> list[Piece]:
    weights = [float(passage.size) for passage in passages]
    if len(passages) < lessons:
        return _parts(passages, allocate(weights, lessons))
    return [Piece(tuple(passages[first:last])) for first, last in cut(weights, reluctance, lessons)]


def _parts(passages: Sequence[Passage], counts: Sequence[int]) -> list[Piece]:
    return [
        Piece((part_of(passage, part, parts),), part, parts)
        for passage, parts in zip(passages, counts, strict=True)
        for part in range(1, parts + 1)
    ]


class _Planner:
    def __init__(self, task: OutlineTask, passages: Sequence[Passage]) -> None:
        self._task = task
        self._passages = passages
        self._lexicon = Lexicon(task.language)
        self._focus = frozenset(self._lexicon.stems(task.topic))
        self._book = PhraseBook(self._lexicon)
        self._wording = wording_for(task.language)
        self._all: Counter[Key] = Counter()
        for passage in passages:
            self._all.update(self._book.count_passage(passage))
        self._depth = len(shared_prefix([passage.section.path for passage in passages]))
        self._module_names = Names()
        self._lesson_names = Names()

    def course(self) -> CourseOutline:
        ranked = rank_sentences(self._passages, self._lexicon, self._focus)
        description = " ".join(one.text for one in best(ranked, _DESCRIPTION_SENTENCES))
        plan = divide(self._passages, self._task.modules, self._task.lessons_per_module)
        return CourseOutline(
            title=clip(self._task.topic, MAX_TITLE_CHARS),
            description=clip(description, _MAX_SUMMARY_CHARS),
            modules=tuple(self._module(pieces) for pieces in plan),
        )

    def _module(self, pieces: Sequence[Piece]) -> ModuleOutline:
        passages = [passage for piece in pieces for passage in piece.passages]
        ranked = rank_sentences(passages, self._lexicon, self._focus)
        summary = " ".join(one.text for one in summary_of(ranked))
        depth = len(shared_prefix([passage.section.path for passage in passages]))
        return ModuleOutline(
            title=self._module_names.take(self._module_titles(passages)),
            summary=clip(summary, _MAX_SUMMARY_CHARS),
            lessons=tuple(self._lesson(piece, depth) for piece in pieces),
        )

    def _lesson(self, piece: Piece, depth: int) -> LessonOutline:
        counts = self._counts_of(piece)
        title = self._lesson_names.take(self._lesson_titles(piece, depth))
        heaviest = sorted(piece.passages, key=lambda passage: -passage.size)[:_MAX_SECTIONS]
        chosen = {passage.section.id for passage in heaviest}
        return LessonOutline(
            title=title,
            objectives=tuple(clip(text, _MAX_OBJECTIVE_CHARS) for text in self._objectives(piece, counts, title)),
            section_ids=tuple(passage.section.id for passage in piece.passages if passage.section.id in chosen),
        )

    def _module_titles(self, passages: Sequence[Passage]) -> Iterator[str]:
        base = label(passages, self._depth, self._wording)
        yield base
        yield from self._with_subjects(base, passages)

    def _lesson_titles(self, piece: Piece, depth: int) -> Iterator[str]:
        base = label(piece.passages, depth, self._wording)
        if piece.part == 1:
            yield base
            paths = [passage.section.path for passage in piece.passages]
            if len(set(paths)) > 1:
                yield joined_label(piece.passages, len(shared_prefix(paths)), self._wording)
            yield from (f"{above}: {base}" for above in reversed(shared_prefix(paths)) if above != base)
        yield from self._with_subjects(base, piece.passages)
        if piece.parts > 1:
            yield self._wording.part_title.format(heading=base, part=piece.part)

    def _with_subjects(self, base: str, passages: Sequence[Passage]) -> Iterator[str]:
        for subject in self._book.subjects(passages, background=self._all, beside=base, loose=True):
            yield f"{base}: {uncapitalised(subject)}"

    def _objectives(self, piece: Piece, counts: Mapping[Key, int], title: str) -> Iterator[str]:
        wording = self._wording
        explain = wording.explain.get(self._task.level, wording.explain["beginner"])
        if piece.parts > 1:
            heading = heading_of(piece.passages[0].section)
            yield wording.part.format(part=piece.part, parts=piece.parts, heading=heading)
        # "Wind, part 3" says no more than the objective above.
        if piece.parts == 1 or title != wording.part_title.format(heading=title.rpartition(",")[0], part=piece.part):
            yield explain.format(wording.quoted(title))
        terms = self._terms(piece)
        if terms:
            yield wording.define.format(wording.listed([wording.quoted(term) for term in terms]))
        known = {stem for term in terms for stem in self._lexicon.stems(term)}
        phrases = self._book.top(counts, _PHRASES_IN_OBJECTIVES + len(terms), background=self._all)
        fresh = [phrase for phrase in phrases if not known & set(self._lexicon.stems(phrase))]
        if len(fresh) > 1:
            yield wording.use.format(wording.listed(fresh[:_PHRASES_IN_OBJECTIVES]))

    def _terms(self, piece: Piece) -> list[str]:
        terms: dict[str, str] = {}
        for passage in piece.passages:
            for sentence in passage.sentences:
                found = defined_term(sentence.text, listed=sentence.bullet, lexicon=self._lexicon)
                if found and found[1]:
                    terms.setdefault(found[0].casefold(), capitalised(found[0]))
        return list(terms.values())[:_TERMS_IN_OBJECTIVES]

    def _counts_of(self, piece: Piece) -> Counter[Key]:
        counts: Counter[Key] = Counter()
        for passage in piece.passages:
            counts.update(self._book.count_passage(passage))
        return counts
