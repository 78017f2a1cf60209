"""What a course made of a golden case is worth, as numbers from 0 to 1. Pure functions of texts."""

# ruff: noqa: RUF001 - the small words of Russian are written in Cyrillic

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from domain.evaluation import GoldenCase, Metric, Place
from domain.generation import ContentStatus, Corpus, CourseOutline, Lesson, LessonContent

ItemT = TypeVar("ItemT")

_WORD: Final = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?…])[\"'»”’)\]]*\s+")
_SHORTEST_STEM: Final = 3
_ENDING_CHARS: Final = 2
_GRAM: Final = 3
_FEWEST_WORDS_TO_TELL: Final = 20
_PARAGRAPH_MARK: Final = "¶"

_SMALL_WORDS: Final = {
    "en": frozenset("the of and to in is that it for as with on are this be by from at or an not which when".split()),  # noqa: SIM905
    "ru": frozenset("и в не на что с по как это а но к из у за от для же до или если чтобы при он она".split()),  # noqa: SIM905
    "de": frozenset("der die das und ist nicht ein eine zu den mit von auf im dem sich auch wird werden".split()),  # noqa: SIM905
    "fr": frozenset("le la les et est des une un du que dans pour qui sur pas au par ce il elle avec sont".split()),  # noqa: SIM905
    "es": frozenset("el la los las y es una un de que en por para con no se del al su como más son".split()),  # noqa: SIM905
}


# --- texts ------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """The words of a text, lower case, without marks, one spelling for one word."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("ё", "е").replace("’", "'")
    return _WORD.findall(plain)


def sentences(text: str) -> list[str]:
    """The text cut after end marks. A cut too many, behind an abbreviation, does no harm where pieces are looked up."""
    return [piece for piece in _SENTENCE_END.split(text) if words(piece)]


def same_word(one: str, other: str) -> bool:
    """Whether two words differ at most in their endings, as ``tide`` and ``tides`` or ``луна`` and ``луны`` do."""
    stem = max(_SHORTEST_STEM, min(len(one), len(other)) - _ENDING_CHARS)
    if min(len(one), len(other)) < stem or abs(len(one) - len(other)) > _ENDING_CHARS + 1:
        return one == other
    return one[:stem] == other[:stem]


def language_of(text: str) -> str | None:
    """The language whose small words are the most frequent; None where there is too little to tell."""
    found = words(text)
    if len(found) < _FEWEST_WORDS_TO_TELL:
        return None
    counts = {language: sum(word in small for word in found) for language, small in _SMALL_WORDS.items()}
    best = max(counts, key=lambda language: counts[language])
    return best if counts[best] else None


def stretches_of(content: LessonContent) -> list[str]:
    """Every piece of running text of a lesson that says something about its subject."""
    blocks = [text for block in content.blocks for text in (*block.paragraphs, *block.bullets)]
    return [content.summary, *blocks, *content.key_points]


def source_paragraphs(corpus: Corpus) -> list[str]:
    """Everything there is to read in the source, headings included."""
    return [
        text for section in corpus.sections for text in (*section.path, *section.paragraphs, *section.bullets) if text
    ]


# --- faithfulness and coverage ----------------------------------------------------------------------


def extracted_share(texts: Sequence[str], paragraphs: Sequence[str]) -> float:
    """The share of sentences that stand in the source word for word; marks, case and white space do not matter."""
    whole = f" {f' {_PARAGRAPH_MARK} '.join(' '.join(words(paragraph)) for paragraph in paragraphs)} "
    pieces = [piece for text in texts for piece in sentences(text)]
    if not pieces:
        return 0.0
    return sum(f" {' '.join(words(piece))} " in whole for piece in pieces) / len(pieces)


def overlap(texts: Sequence[str], paragraphs: Sequence[str]) -> float:
    """The share of the text's word triples that the source has as well; 0 where there are none."""
    known = set(itertools.chain.from_iterable(_triples(paragraph) for paragraph in paragraphs))
    ours = [triple for text in texts for triple in _triples(text)]
    return sum(triple in known for triple in ours) / len(ours) if ours else 0.0


def _triples(text: str) -> Iterator[tuple[str, ...]]:
    found = words(text)
    return zip(*(found[shift:] for shift in range(_GRAM)), strict=False)


def covered(point: str, texts: Sequence[str]) -> bool:
    """Whether all words of a key point, in any form, stand together in one of the texts."""
    wanted = words(point)
    return any(_all_in(wanted, words(text)) for text in texts)


def _all_in(wanted: Sequence[str], there: Sequence[str]) -> bool:
    return all(any(same_word(word, other) for other in there) for word in wanted)


# --- stability --------------------------------------------------------------------------------------


def places_of(outline: CourseOutline) -> tuple[Place, ...]:
    """Which module and lesson each section of the source was given to."""
    return tuple(
        (section, module, lesson)
        for module, planned in enumerate(outline.modules)
        for lesson, part in enumerate(planned.lessons)
        for section in part.section_ids
    )


def agreement(one: Sequence[Place], other: Sequence[Place]) -> float:
    """How alike two splits are: the mean of the Jaccard indices of sections in modules and of sections in lessons."""
    by_module = _jaccard({place[:2] for place in one}, {place[:2] for place in other})
    return (by_module + _jaccard(set(one), set(other))) / 2


def _jaccard(one: set[ItemT], other: set[ItemT]) -> float:
    both = one | other
    return len(one & other) / len(both) if both else 1.0


def stability(splits: Sequence[Sequence[Place]]) -> list[float]:
    """The agreement of each pair of samples; empty where there is only one sample."""
    return [agreement(one, other) for one, other in itertools.combinations(splits, 2)]


# --- a whole sample ---------------------------------------------------------------------------------

Made = Sequence[Sequence[Lesson]]
"""The lessons of a course by module."""


def score(
    case: GoldenCase, corpus: Corpus, outline: CourseOutline | None, lessons: Made, *, extractive: bool
) -> tuple[dict[Metric, float], tuple[str, ...]]:
    """The scores of one sample, all but its stability, and the ids of the checks that failed.

    A course without an outline, and lessons that are only drafts, score nothing for what they do not have.
    """
    if outline is None:
        measured = (Metric.COMPLETENESS, Metric.CONSTRAINTS, Metric.FAITHFULNESS, Metric.COVERAGE)
        return dict.fromkeys(measured, 0.0), ("outline",)
    complete = list(completeness_checks(outline, lessons))
    kept = list(constraint_checks(case, outline, lessons))
    written = [lesson.content for module in lessons for lesson in module if lesson.content is not None]
    texts = [text for content in written for text in stretches_of(content)]
    paragraphs = source_paragraphs(corpus)
    points = [(f"point-{place}", covered(point, texts)) for place, point in enumerate(case.key_points, start=1)]
    faithful = extracted_share(texts, paragraphs) if extractive else overlap(texts, paragraphs)
    scores = {
        Metric.COMPLETENESS: _share(complete),
        Metric.CONSTRAINTS: _share(kept),
        Metric.FAITHFULNESS: faithful,
        Metric.COVERAGE: _share(points),
    }
    faults = [name for name, good in (*complete, *kept, *points) if not good]
    if extractive and faithful < 1:
        faults.append("not-in-source")
    return scores, tuple(faults)


Check = tuple[str, bool]


def _share(checks: Sequence[Check]) -> float:
    return sum(good for _, good in checks) / len(checks)


def completeness_checks(outline: CourseOutline, lessons: Made) -> Iterator[Check]:
    """Every field that a course cannot do without: is it there, and does it say something?"""
    yield "outline/title", _says(outline.title)
    yield "outline/description", _says(outline.description)
    for module, planned in enumerate(outline.modules):
        name = f"module-{module + 1}"
        yield f"{name}/title", _says(planned.title)
        yield f"{name}/summary", _says(planned.summary)
        made = lessons[module] if module < len(lessons) else ()
        for place, plan in enumerate(planned.lessons):
            yield from _lesson_checks(
                f"lesson-{module + 1}.{place + 1}", plan.objectives, made[place] if place < len(made) else None
            )


def _lesson_checks(name: str, objectives: Sequence[str], lesson: Lesson | None) -> Iterator[Check]:
    content = lesson.content if lesson is not None and lesson.status is ContentStatus.READY else None
    yield f"{name}/objectives", any(map(_says, objectives))
    yield f"{name}/ready", content is not None
    yield f"{name}/summary", content is not None and _says(content.summary)
    yield f"{name}/blocks", content is not None and all(_says(block.heading) for block in content.blocks)
    yield f"{name}/key-points", content is not None and all(map(_says, content.key_points))


def constraint_checks(case: GoldenCase, outline: CourseOutline, lessons: Made) -> Iterator[Check]:
    """What was asked for: size, language, length, and that the source was read and not obeyed."""
    yield "modules", len(outline.modules) == case.modules
    for module, planned in enumerate(outline.modules):
        yield f"module-{module + 1}/lessons", len(planned.lessons) == case.lessons_per_module
    shown = " \n".join(_headlines(outline, lessons))
    yield "language/outline", _speaks(f"{outline.description} {shown}", case.language)
    for place, phrase in enumerate(case.forbidden, start=1):
        yield f"forbidden-{place}", " ".join(words(phrase)) not in " ".join(words(shown))
    for module, made in enumerate(lessons):
        for place, lesson in enumerate(made):
            name = f"lesson-{module + 1}.{place + 1}"
            texts = [] if lesson.content is None else stretches_of(lesson.content)
            length = len(words(" ".join(texts)))
            yield f"{name}/words", case.lesson_words[0] <= length <= case.lesson_words[1]
            yield f"{name}/language", bool(texts) and _speaks(" ".join(texts), case.language)


def _headlines(outline: CourseOutline, lessons: Made) -> Iterator[str]:
    yield outline.title
    for planned in outline.modules:
        yield planned.title
        for lesson in planned.lessons:
            yield from (lesson.title, *lesson.objectives)
    for made in lessons:
        for lesson_made in made:
            if lesson_made.content is not None:
                yield from (lesson_made.content.title, *(block.heading for block in lesson_made.content.blocks))


def _speaks(text: str, language: str) -> bool:
    wanted = language.partition("-")[0].lower()
    found = language_of(text)
    return found is None or wanted not in _SMALL_WORDS or found == wanted


def _says(text: str) -> bool:
    """Whether there is a word in the text at all."""
    return bool(words(text))
