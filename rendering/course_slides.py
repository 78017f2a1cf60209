"""A course as slides: what stands on each, cut so that it fits, and what the speaker says. Nothing here is a format."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from domain.generation import Course, Lesson, LessonBlock, LessonContent, Module, SlideDeck
from rendering.course_parts import (
    Profile,
    is_good,
    letter_of,
    money,
    one_line,
    paragraphs,
    quiz_of,
    stamp,
    totals,
    unfinished,
)
from rendering.course_words import Words
from rendering.slide_figures import Figure, figures
from rendering.text_width import BODY_LINES, GAP_LINES, cut, width, wrapped

_TITLE_UNITS: Final = 200
_SUBTITLE_UNITS: Final = 260
_SENTENCE_END: Final = re.compile(r"(?<=[.!?\u2026])\s+|(?<=[\u3002\uff01\uff1f])")


@dataclass(frozen=True, slots=True)
class Slide:
    """One slide. ``notes`` are paragraphs for the speaker, in full where the slide shows less.

    ``figure`` stands below the lines, which leave room for it.
    """

    layout: Literal["title", "section", "content", "figure"]
    title: str
    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    figure: Figure | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Slides that belong together: the opening, a module, the end."""

    title: str
    slides: tuple[Slide, ...]


def course_slides(course: Course, words: Words, *, profile: Profile) -> tuple[Part, ...]:
    """The opening, a part for each module, and in the full profile how the course was made."""
    title = _titled(course.title, words)
    parts = [Part(title, (_opening(course, title, words), *_contents(course, words)))]
    for number, module in enumerate(course.modules, start=1):
        heading = f"{number}. {_titled(module.title, words)}"
        parts.append(Part(heading, tuple(_module(module, number, heading, words))))
    ending = tuple(_ending(course, words, profile))
    return (*parts, Part(words.sources, ending)) if ending else tuple(parts)


# --- the parts --------------------------------------------------------------------------------------


def _opening(course: Course, title: str, words: Words) -> Slide:
    facts = (one_line(course.audience), words.levels.get(course.level, one_line(course.level)))
    lines = [cut(" \N{MIDDLE DOT} ".join(fact for fact in facts if fact), _SUBTITLE_UNITS)]
    if waiting := unfinished(course):
        lessons = sum(len(module.lessons) for module in course.modules)
        lines.append(words.incomplete.format(unfinished=waiting, lessons=lessons))
    return Slide("title", cut(title, _TITLE_UNITS), tuple(lines), (title, *_spoken(course.description)))


def _contents(course: Course, words: Words) -> Iterator[Slide]:
    modules = (f"{number}. {_titled(module.title, words)}" for number, module in enumerate(course.modules, start=1))
    return _content(words.contents, modules)


def _module(module: Module, number: int, heading: str, words: Words) -> Iterator[Slide]:
    summary = one_line(module.summary)
    yield Slide("section", cut(heading, _TITLE_UNITS), (cut(summary, _SUBTITLE_UNITS),), _spoken(module.summary))
    for place, lesson in enumerate(module.lessons, start=1):
        yield from _lesson(lesson, f"{number}.{place} {_titled(lesson.title, words)}", words)


def _lesson(lesson: Lesson, heading: str, words: Words) -> Iterator[Slide]:
    if is_good(lesson) and lesson.content is not None:
        renamed = one_line(lesson.content.title) != one_line(lesson.title)
        notes = (one_line(lesson.content.title), *_spoken(lesson.content.summary))
        missing = lesson.slides is None and lesson.slides_provenance is not None
        lacking = (words.no_slides,) if missing else ()
        yield from _content(heading, lesson.objectives, (*(notes if renamed else notes[1:]), *lacking))
        if lesson.slides is None:
            yield from _finished(lesson.content, heading, words)
        else:
            yield from _deck(lesson.slides)
        yield from _questions(lesson, words)
    else:
        faults = () if lesson.draft is None else tuple(f"{path}: {message}" for path, message in lesson.draft.errors)
        lines = (words.draft, words.reason(lesson), *lesson.objectives)
        yield from _content(heading, lines, tuple(one_line(fault) for fault in faults))


def _finished(content: LessonContent, heading: str, words: Words) -> Iterator[Slide]:
    for block in content.blocks:
        notes = tuple(line for paragraph in block.paragraphs for line in _spoken(paragraph))
        yield from _content(_titled(block.heading, words), _shown(block), notes)
    yield from _content(words.key_points, content.key_points, (heading,))
    if content.terms:
        terms = (f"{one_line(term.term)}: {one_line(term.definition)}" for term in content.terms)
        yield from _content(words.terms, terms, (heading,))


def _deck(deck: SlideDeck) -> Iterator[Slide]:
    """Slides as they were made. A figure goes below the bullets where both fit, else on a slide of its own."""
    for slide in deck.slides:
        notes = _spoken(slide.notes)
        lines = [line for line in map(one_line, slide.bullets) if line]
        if slide.figure is None:
            yield from _content(slide.title, lines, notes)
            continue
        room = BODY_LINES - _needs(lines)
        title = one_line(slide.title)
        first, *more = figures(slide.figure, first=room) or figures(slide.figure, first=BODY_LINES)
        alone = bool(lines) and room < first.lines
        if alone:
            yield from _content(title, lines, notes)
        notes = () if alone else notes
        shown = () if alone else tuple(lines)
        spoken = notes if width(title) <= _TITLE_UNITS else (title, *notes)
        heading = cut(title, _TITLE_UNITS)
        yield Slide("content" if shown else "figure", heading, shown, spoken, first)
        yield from (Slide("figure", heading, figure=figure) for figure in more)


def _questions(lesson: Lesson, words: Words) -> Iterator[Slide]:
    """A slide for each question, with the answer in the notes."""
    quiz = quiz_of(lesson)
    for number, question in enumerate(() if quiz is None else quiz.questions, start=1):
        asked = one_line(question.question)
        options = tuple(f"{letter_of(place)}. {one_line(option)}" for place, option in enumerate(question.options))
        answer = words.answer.format(letter=options[question.answer])
        fits = width(asked) <= _TITLE_UNITS / 2
        title = asked if fits else words.question.format(number=number)
        yield from _content(title, options if fits else (asked, *options), (answer, *_spoken(question.explanation)))


def _ending(course: Course, words: Words, profile: Profile) -> Iterator[Slide]:
    if course.sources:
        yield from _content(words.sources, course.sources)
    if profile == "full":
        total, origin = totals(course), course.outline_provenance
        facts = (
            (words.identifier, str(course.id)),
            (words.generated, stamp(course.generated_at)),
            (words.model, f"{origin.provider}: {origin.model}"),
            (words.prompt, f"{origin.prompt_id} {origin.prompt_version}"),
            (words.tokens_in, words.number(total.input_tokens)),
            (words.tokens_out, words.number(total.output_tokens)),
            (words.calls, words.number(total.calls)),
            (words.cost, money(total.cost_usd)),
        )
        yield from _content(words.provenance, (f"{name}: {value}" for name, value in facts))


# --- from text to lines -----------------------------------------------------------------------------


def _shown(block: LessonBlock) -> tuple[str, ...]:
    """A list as it is; of running text the first sentence of each paragraph. The notes have all of it."""
    bullets = tuple(bullet for bullet in block.bullets if one_line(bullet))
    return bullets or tuple(_SENTENCE_END.split(one_line(paragraph), maxsplit=1)[0] for paragraph in block.paragraphs)


def _spoken(text: str) -> tuple[str, ...]:
    return tuple(" ".join(lines) for lines in paragraphs(text))


def _titled(title: str, words: Words) -> str:
    return one_line(title) or words.untitled


def _content(title: str, lines: Iterable[str], notes: tuple[str, ...] = ()) -> Iterator[Slide]:
    """As many slides as the lines need, numbered where there are several; the notes are with the first."""
    shown = [line for line in map(one_line, lines) if line]
    pages = list(_pages(shown)) or [()]
    spoken = notes if width(title) <= _TITLE_UNITS else (title, *notes)
    for number, page in enumerate(pages, start=1):
        suffix = f" ({number}/{len(pages)})" if len(pages) > 1 else ""
        heading = cut(title, _TITLE_UNITS - len(suffix)) + suffix
        yield Slide("content", heading, page, spoken if number == 1 else ())


def _pages(lines: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The lines on slides that they fit on; one that fits on no slide is cut where a line on the slide ends."""
    page: list[str] = []
    left = BODY_LINES
    for piece in (piece for line in lines for piece in _pieces(line)):
        needs = len(wrapped(piece)) + GAP_LINES
        if needs > left and page:
            yield tuple(page)
            page, left = [], BODY_LINES
        page.append(piece)
        left -= needs
    if page:
        yield tuple(page)


def _needs(lines: Sequence[str]) -> float:
    return sum(len(wrapped(line)) + GAP_LINES for line in lines)


def _pieces(line: str) -> Iterator[str]:
    rows = wrapped(line)
    most = int(BODY_LINES - GAP_LINES)
    for start in range(0, len(rows), most):
        if piece := "".join(rows[start : start + most]).strip():
            yield piece
