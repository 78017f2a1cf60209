"""The lesson: the best sentences of its sections in reading order, under their own headings."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Final

from domain.errors import SourceEmpty
from domain.generation import KeyTerm, LessonBlock, LessonContent, LessonTask
from gateways.offline.choice import MAX_RANKED, Ranked, best, leans, rank_sentences, summary_of
from gateways.offline.material import Passage, border_reluctance, clip, part_of, passage_of
from gateways.offline.naming import MAX_TITLE_CHARS, label
from gateways.offline.partition import cut
from gateways.offline.phrases import Key, PhraseBook, defined_term
from gateways.offline.wording import part_named_in, wording_for
from gateways.offline.words import Lexicon

_MIN_BLOCKS, _MAX_BLOCKS = 3, 8
_SENTENCES_FOR_A_BLOCK: Final = 3
_LESSON_WORDS: Final = 800
_MIN_BLOCK_WORDS: Final = 80
_SLACK: Final = 1.25
_MAX_PARAGRAPH_SENTENCES: Final = 6
_MERGED_PARAGRAPH_SENTENCES: Final = 4
_MAX_BULLETS: Final = 8
_MAX_LISTED: Final = 24
_MAX_PARAGRAPHS: Final = 30
_MIN_SENTENCES: Final = 4
_MAX_SENTENCE_CHARS: Final = 1_000
_MAX_SUMMARY_CHARS: Final = 1_500
_MIN_KEY_POINTS, _MAX_KEY_POINTS = 3, 6
_SENTENCES_FOR_A_KEY_POINT: Final = 4
_MAX_TERMS: Final = 8
_MAX_TERM_CHARS: Final = 120


@dataclass(frozen=True)
class _Chunk:
    """The material of one block: passages ``first`` to ``last`` of the lesson."""

    heading: str
    first: int
    last: int


def write_lesson(task: LessonTask) -> LessonContent:
    """Write the lesson from its sections. Raises SourceEmpty where they hold no text."""
    passages = [passage for passage in map(passage_of, task.sections) if passage.sentences]
    if not passages:
        raise SourceEmpty("the offline provider writes a lesson from its sections, and there is no text in them")
    named = part_named_in(task.lesson.objectives)
    if named and len(passages) == 1:
        passages = [part_of(passages[0], *named)]
    return _Writer(task, passages).lesson()


class _Writer:
    def __init__(self, task: LessonTask, passages: Sequence[Passage]) -> None:
        self._task = task
        self._lexicon = Lexicon(task.language)
        self._book = PhraseBook(self._lexicon)
        self._wording = wording_for(task.language)
        self._passages = _subdivided(_limited(passages))
        focus = self._lexicon.stems(f"{task.lesson.title} {task.topic}")
        self._ranked = rank_sentences(self._passages, self._lexicon, frozenset(focus))
        self._all: Counter[Key] = Counter()
        for passage in self._passages:
            self._all.update(self._book.count_passage(passage))

    def lesson(self) -> LessonContent:
        summary = summary_of(self._ranked)
        return LessonContent(
            title=self._task.lesson.title,
            summary=clip(" ".join(one.text for one in summary), _MAX_SUMMARY_CHARS),
            blocks=tuple(self._blocks()),
            key_points=tuple(clip(one.text, _MAX_SENTENCE_CHARS) for one in self._key_points(summary)),
            terms=tuple(self._terms()),
        )

    def _blocks(self) -> Iterator[LessonBlock]:
        total = sum(passage.size for passage in self._passages)
        for chunk in self._chunks():
            passages = self._passages[chunk.first : chunk.last]
            share = sum(passage.size for passage in passages) / total
            words = max(int(_LESSON_WORDS * share), _MIN_BLOCK_WORDS)
            bullets = self._bullets(chunk)
            yield LessonBlock(
                heading=chunk.heading,
                paragraphs=tuple(self._paragraphs(chunk, words, has_list=bool(bullets))),
                bullets=tuple(bullets),
            )

    def _chunks(self) -> list[_Chunk]:
        spans = [(at, at + 1) for at in range(len(self._passages))]
        if len(self._passages) > _MAX_BLOCKS:
            weights = [float(passage.size) for passage in self._passages]
            reluctance = border_reluctance([passage.section for passage in self._passages])
            spans = cut(weights, reluctance, _MAX_BLOCKS)
        chunks: list[_Chunk] = []
        for first, last in spans:
            used = {chunk.heading.casefold() for chunk in chunks}
            heading = next((one for one in self._headings(first, last) if one.casefold() not in used), None)
            if heading is None:  # nothing sets this part off from the one before
                chunks[-1] = replace(chunks[-1], last=last)
            else:
                chunks.append(_Chunk(heading, first, last))
        return chunks

    def _headings(self, first: int, last: int) -> Iterator[str]:
        base = clip(label(self._passages[first:last], 0, self._wording), MAX_TITLE_CHARS)
        yield base
        yield from self._book.subjects(self._passages[first:last], background=self._all, beside=base)

    def _paragraphs(self, chunk: _Chunk, words: int, *, has_list: bool) -> Iterator[str]:
        prose = [one for one in self._of(chunk) if not one.sentence.bullet]
        fit = [one for one in prose if not one.text.endswith(":")]
        if has_list and prose and prose[-1] not in fit:
            fit.append(prose[-1])  # it introduces the list
        chosen = _selected(fit or ([] if has_list else prose), words)
        for group in _grouped(chosen)[:_MAX_PARAGRAPHS]:
            yield " ".join(clip(one.text, _MAX_SENTENCE_CHARS) for one in group)

    def _bullets(self, chunk: _Chunk) -> list[str]:
        bullets = [one.text for passage in self._passages[chunk.first : chunk.last] for one in passage.listed]
        if len(bullets) > _MAX_BULLETS:
            scores = {one.text: one.score for one in self._of(chunk) if one.sentence.bullet}
            order = sorted(range(len(bullets)), key=lambda at: (-scores.get(bullets[at], 0.0), at))
            bullets = [bullets[at] for at in sorted(order[:_MAX_BULLETS])]
        return [clip(text, _MAX_SENTENCE_CHARS) for text in bullets]

    def _key_points(self, summary: Sequence[Ranked]) -> list[Ranked]:
        wanted = min(max(len(self._ranked) // _SENTENCES_FOR_A_KEY_POINT, _MIN_KEY_POINTS), _MAX_KEY_POINTS)
        left = [one for one in self._ranked if one not in summary]
        prose = [one for one in left if not one.sentence.bullet and not one.text.endswith((":", "?"))]
        enough = prose if len(prose) >= _MIN_KEY_POINTS else left
        return best(enough, wanted, unlike=summary) or best(left, wanted) or list(summary)

    def _terms(self) -> list[KeyTerm]:
        terms: dict[str, KeyTerm] = {}
        for one in self._ranked:
            found = defined_term(one.text, listed=one.sentence.bullet, lexicon=self._lexicon)
            if found is None or one.text.endswith(":") or len(found[0]) > _MAX_TERM_CHARS:
                continue
            term, sure = found
            stems = self._lexicon.stems(term)
            if sure or self._all[stems] > 1:
                terms.setdefault(" ".join(stems), KeyTerm(term=term, definition=clip(one.text, _MAX_SENTENCE_CHARS)))
        return list(terms.values())[:_MAX_TERMS]

    def _of(self, chunk: _Chunk) -> list[Ranked]:
        return [one for one in self._ranked if chunk.first <= one.passage < chunk.last]


def _limited(passages: Sequence[Passage]) -> list[Passage]:
    """The beginning of each passage, so that a lesson from many sections takes no longer than one from few."""
    room = max(MAX_RANKED // len(passages), _MIN_SENTENCES)
    return [replace(passage, sentences=(*passage.prose[:room], *passage.listed[:_MAX_LISTED])) for passage in passages]


def _subdivided(passages: Sequence[Passage]) -> list[Passage]:
    """Cut long passages, so that a lesson made from one or two sections has several blocks all the same."""
    each = -(-_MIN_BLOCKS // len(passages))
    result: list[Passage] = []
    for passage in passages:
        paragraphs = len({sentence.paragraph for sentence in passage.prose})
        parts = min(each, paragraphs, len(passage.prose) // _SENTENCES_FOR_A_BLOCK) or 1
        result.extend(part_of(passage, part, parts) for part in range(1, parts + 1))
    return result


def _selected(sentences: Sequence[Ranked], words: int) -> list[Ranked]:
    """The best sentences within ``words``, in reading order, each with the one it leans on."""
    if sum(_words(one) for one in sentences) <= words * _SLACK:
        return list(sentences)
    before = {two.position: one for one, two in pairwise(sentences)}
    chosen: dict[tuple[int, int], Ranked] = {}
    for one in sorted(sentences, key=lambda one: (one.position != sentences[0].position, -one.score, one.position)):
        if sum(_words(other) for other in chosen.values()) >= words:
            break
        _add(chosen, one, before)
    return [chosen[position] for position in sorted(chosen)]


def _add(chosen: dict[tuple[int, int], Ranked], one: Ranked, before: dict[tuple[int, int], Ranked]) -> None:
    chosen[one.position] = one
    while leans(one.text) and (previous := before.get(one.position)):
        if previous.sentence.paragraph != one.sentence.paragraph or previous.position in chosen:
            break
        chosen[previous.position] = one = previous


def _words(one: Ranked) -> int:
    return len(one.text.split())


def _grouped(sentences: Sequence[Ranked]) -> list[list[Ranked]]:
    """By source paragraph; lone sentences join their neighbours, overlong paragraphs are halved."""
    groups: list[list[Ranked]] = []
    for _, members in groupby(sentences, key=lambda one: (one.passage, one.sentence.paragraph)):
        group = list(members)
        if groups and min(len(group), len(groups[-1])) == 1 and _may_join(groups[-1], group):
            groups[-1].extend(group)
        else:
            groups.append(group)
    return [half for group in groups for half in _halves(group)]


def _may_join(one: Sequence[Ranked], other: Sequence[Ranked]) -> bool:
    return one[-1].passage == other[0].passage and len(one) + len(other) <= _MERGED_PARAGRAPH_SENTENCES


def _halves(group: list[Ranked]) -> list[list[Ranked]]:
    if len(group) <= _MAX_PARAGRAPH_SENTENCES:
        return [group]
    middle = (len(group) + 1) // 2
    return [*_halves(group[:middle]), *_halves(group[middle:])]
