"""The slides of a lesson: its own headings, lists and best sentences, with everything it says in the notes."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from domain.generation import LessonBlock, LessonContent, Section, Slide, SlideDeck, SlideFigure, SlidesTask
from gateways.offline.choice import Ranked, best, rank_sentences
from gateways.offline.material import Passage, clip, passage_of
from gateways.offline.sentences import split_sentences
from gateways.offline.tables import Table, table_of
from gateways.offline.wording import Wording, wording_for
from gateways.offline.words import Lexicon

_MAX_TITLE_CHARS: Final = 120
_MAX_BULLETS: Final = 8
_MAX_BULLET_CHARS: Final = 220
_SENTENCES_ON_A_SLIDE: Final = 4
_SENTENCES_BESIDE_A_FIGURE: Final = 2
_MAX_NOTES_CHARS: Final = 2_900
_MAX_CELL_CHARS: Final = 200
_MAX_HEADER_CHARS: Final = 120
_MAX_ROWS: Final = 12
_FEWEST_TERMS: Final = 2
_ELLIPSIS: Final = "…"
_BREAKS: Final = frozenset({"Cc", "Zl", "Zp"})


def write_slides(task: SlidesTask) -> SlideDeck:
    """A slide for each part of the lesson, one for its key points, and one for its terms where there are several."""
    wording = wording_for(task.language)
    lexicon = Lexicon(task.language)
    passages = passages_of(task.lesson)
    focus = frozenset(lexicon.stems(f"{task.lesson.title} {task.topic}"))
    ranked = rank_sentences(passages, lexicon, focus)
    slides = [
        _slide(block, [one for one in ranked if one.passage == number], wording)
        for number, block in enumerate(task.lesson.blocks)
    ]
    return SlideDeck(slides=(*slides, *_ending(task.lesson, wording)))


def passages_of(lesson: LessonContent) -> list[Passage]:
    """The parts of a lesson as passages, in order; one has no sentences where its part has no text in it."""
    return [
        passage_of(
            Section(
                id=f"b{number}", source=lesson.title, path=(block.heading,),
                paragraphs=tuple(map(one_line, block.paragraphs)), bullets=tuple(map(one_line, block.bullets)),
            )
        )
        for number, block in enumerate(lesson.blocks, start=1)
    ]  # fmt: skip


def one_line(text: str) -> str:
    """The text on one line, without control characters."""
    if not text.isprintable():
        text = "".join(" " if unicodedata.category(char) in _BREAKS else char for char in text)
    return " ".join(text.split())


def shortened(text: str, limit: int) -> str:
    """The text, or its first sentences that fit, or as much of the first one as does."""
    text = one_line(text)
    if len(text) <= limit:
        return text
    fitting = ""
    for sentence in split_sentences(text):
        longer = f"{fitting} {sentence}".strip()
        if len(longer) > limit:
            break
        fitting = longer
    return fitting or (clip(text, limit - 1) or text[: limit - 1]) + _ELLIPSIS


def _slide(block: LessonBlock, ranked: Sequence[Ranked], wording: Wording) -> Slide:
    listed = [line for line in map(one_line, block.bullets) if line]
    table = table_of(listed)
    figure = _figure(table, block.heading, wording) if table else None
    prose = [one for one in ranked if not one.sentence.bullet and not one.text.endswith(":")]
    if figure is not None:
        lines = [one.text for one in best(prose, _SENTENCES_BESIDE_A_FIGURE)]
    elif listed:
        lines = [*_introduction(ranked), *listed]
    else:
        lines = [one.text for one in best(prose or ranked, _SENTENCES_ON_A_SLIDE)]
    shown = tuple(shortened(line, _MAX_BULLET_CHARS) for line in lines[:_MAX_BULLETS])
    heading = shortened(block.heading, _MAX_TITLE_CHARS)
    spoken = [*block.paragraphs, *listed]
    return Slide(
        title=heading,
        # A part whose text no sentence could be read from still has a slide.
        bullets=shown or (() if figure else (heading,)),
        notes=_notes(spoken) or heading,
        figure=figure,
    )


def _introduction(ranked: Sequence[Ranked]) -> list[str]:
    """The sentence without which the list would be fragments."""
    prose = [one.text for one in ranked if not one.sentence.bullet]
    return [text for text in prose[-1:] if text.endswith(":")]


def _figure(table: Table, caption: str, wording: Wording) -> SlideFigure:
    return _drawn(
        caption,
        (wording.entry, *(table.names or (wording.details,))),
        [(row.first, *row.cells) for row in table.rows],
    )


def _ending(lesson: LessonContent, wording: Wording) -> Iterator[Slide]:
    points = tuple(shortened(point, _MAX_BULLET_CHARS) for point in lesson.key_points[:_MAX_BULLETS] if one_line(point))
    if points:
        yield Slide(
            title=wording.key_points, bullets=points, notes=_notes([lesson.summary]) or wording.key_points, figure=None
        )
    terms = [(term.term, one_line(term.definition)) for term in lesson.terms if one_line(term.definition)]
    if len(terms) >= _FEWEST_TERMS:
        yield Slide(
            title=wording.terms,
            bullets=(),
            notes=_notes(f"{term}: {definition}" for term, definition in terms),
            figure=_drawn(wording.terms, (wording.term, wording.meaning), terms),
        )


def _drawn(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> SlideFigure:
    return SlideFigure(
        caption=shortened(caption, _MAX_CELL_CHARS),
        header=tuple(shortened(name, _MAX_HEADER_CHARS) for name in header),
        rows=tuple(tuple(shortened(cell, _MAX_CELL_CHARS) for cell in row) for row in rows[:_MAX_ROWS]),
    )


def _notes(texts: Iterable[str]) -> str:
    """The texts as paragraphs, as many whole ones as fit."""
    notes = ""
    for line in filter(None, map(one_line, texts)):
        room = _MAX_NOTES_CHARS - len(notes)
        if room < _MAX_BULLET_CHARS:
            break
        notes += ("\n\n" if notes else "") + shortened(line, room)
    return notes
