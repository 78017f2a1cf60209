"""The documents of a course: what the stand-in answers to our own schemas, so that they fit the full models too."""

import itertools
import random
import re
from collections.abc import Callable, Sequence
from typing import Final

from domain.generation import (
    MAX_LESSONS,
    CourseOutline,
    KeyTerm,
    LessonBlock,
    LessonContent,
    LessonOutline,
    ModuleOutline,
    Quiz,
    QuizQuestion,
    Slide,
    SlideDeck,
    SlideFigure,
)
from domain.model import Frozen

_SUBJECTS: Final = (
    "A careful plan", "The first draft", "A working example", "Each small step", "The reader", "A good habit",
    "The method", "This approach", "A short exercise", "The whole group", "An early test", "The main idea",
)  # fmt: skip
_VERBS: Final = (
    "explains", "supports", "prepares", "replaces", "clarifies", "connects", "reveals", "strengthens", "limits",
)  # fmt: skip
_OBJECTS: Final = (
    "the next decision", "a common mistake", "what was learned before", "the result", "the underlying structure",
    "daily practice", "the open question", "a simple rule", "the way the parts fit together", "the cost of change",
)  # fmt: skip
_NOUNS: Final = (
    "foundations", "practice", "structure", "evidence", "methods", "patterns", "review", "tools", "planning",
    "feedback", "examples", "principles", "measurement", "context",
)  # fmt: skip
_MAX_SECTIONS_PER_LESSON: Final = 60
_FEWEST_EVIDENCE_WORDS: Final = 4
_LONG: Final = 250
_MOST_QUESTIONS: Final = 4
_SHARE_OF_FIGURES: Final = 0.3
_SECTION: Final = re.compile(r"^[ \t#>*-]*\[(s[0-9]+)\]", re.MULTILINE)
_MATERIAL: Final = re.compile(r"<sources>\n(.*)\n</sources>", re.DOTALL)
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")


def course_document(members: set[str], prompt: str, rng: random.Random) -> Frozen | None:
    """The document for one of our own schemas, known by the members of its root; None for any other schema."""
    writer = _WRITERS.get(frozenset(members))
    return None if writer is None else writer(prompt, rng)


def _outline(prompt: str, rng: random.Random) -> CourseOutline:
    modules = _number(prompt, r"modules", limit=100)
    per_module = min(_number(prompt, r"lessons[ _]per[ _]module", limit=50), max(1, MAX_LESSONS // modules))
    sections = list(dict.fromkeys(_SECTION.findall(prompt)))
    topic = _line(prompt, "topic") or _phrase(rng)
    shares = _spread(sections, modules * per_module)
    return CourseOutline(
        title=_cut(f"{topic}: {_phrase(rng)}", 200),
        description=_paragraph(rng),
        modules=tuple(
            ModuleOutline(
                title=_cut(f"Module {module + 1}: {_phrase(rng)}", 200),
                summary=_paragraph(rng, sentences=2),
                lessons=tuple(
                    _planned(module, lesson, shares[module * per_module + lesson], rng) for lesson in range(per_module)
                ),
            )
            for module in range(modules)
        ),
    )


def _planned(module: int, lesson: int, sections: Sequence[str], rng: random.Random) -> LessonOutline:
    return LessonOutline(
        title=f"Lesson {module + 1}.{lesson + 1}: {_phrase(rng)}",
        objectives=tuple(f"Describe how {sentence(rng)[:-1].lower()}" for _ in range(rng.randint(1, 3))),
        section_ids=tuple(sections[:_MAX_SECTIONS_PER_LESSON]),
    )


def _lesson(prompt: str, rng: random.Random) -> LessonContent:
    title = _line(prompt, "lesson") or _line(prompt, "lesson title") or _line(prompt, "title") or _phrase(rng)
    return LessonContent(
        title=_cut(title, 200),
        summary=_paragraph(rng, sentences=2),
        blocks=tuple(_block(prompt, rng) for _ in range(rng.randint(2, 4))),
        key_points=tuple(sentence(rng) for _ in range(rng.randint(2, 5))),
        terms=tuple(KeyTerm(term=noun, definition=sentence(rng)) for noun in rng.sample(_NOUNS, k=rng.randint(0, 4))),
    )


def _spread(items: Sequence[str], parts: int) -> list[Sequence[str]]:
    """Cut ``items`` into ``parts`` runs in order; where there are too few, neighbours share one."""
    if len(items) < parts:
        return [items[index * len(items) // parts : index * len(items) // parts + 1] for index in range(parts)]
    bounds = [index * len(items) // parts for index in range(parts + 1)]
    return [items[start:end] for start, end in itertools.pairwise(bounds)]


def _number(prompt: str, label: str, *, limit: int) -> int:
    found = re.search(rf"^[ \t*-]*{label}[ \t]*:[ \t*]*([0-9]{{1,6}})", prompt, re.MULTILINE | re.IGNORECASE)
    return min(max(int(found[1]), 1), limit) if found else 2


def _line(prompt: str, label: str) -> str | None:
    found = re.search(rf"^[ \t*-]*{label}[ \t]*:(.*)$", prompt, re.MULTILINE | re.IGNORECASE)
    text = "".join(char for char in found[1] if char.isprintable()).strip(" *\"'") if found else ""
    return text or None


def _cut(text: str, limit: int) -> str:
    return text[:limit].strip()


def _phrase(rng: random.Random) -> str:
    first, second = rng.sample(_NOUNS, k=2)
    return f"{first} and {second}".capitalize()


def sentence(rng: random.Random) -> str:
    """A sentence that says little."""
    return f"{rng.choice(_SUBJECTS)} {rng.choice(_VERBS)} {rng.choice(_OBJECTS)}."


def _paragraph(rng: random.Random, sentences: int = 4) -> str:
    return " ".join(sentence(rng) for _ in range(sentences))


def _deck(prompt: str, rng: random.Random) -> SlideDeck:
    """A slide for each headed part of the lesson in the prompt."""
    return SlideDeck(
        slides=tuple(
            Slide(
                title=_cut(heading, 120) or _phrase(rng),
                bullets=tuple(_cut(line, 300) for line in lines[:4]) or (sentence(rng),),
                notes=_cut("\n\n".join(lines), 3_000) or sentence(rng),
                figure=_figure(heading, rng) if rng.random() < _SHARE_OF_FIGURES else None,
            )
            for heading, lines in _parts(prompt)[:20]
        )
        or (Slide(title=_phrase(rng), bullets=(sentence(rng),), notes=sentence(rng), figure=None),)
    )


def _block(_prompt: str, rng: random.Random) -> LessonBlock:
    return LessonBlock(
        heading=_phrase(rng),
        paragraphs=tuple(_paragraph(rng) for _ in range(rng.randint(1, 3))),
        bullets=tuple(sentence(rng) for _ in range(rng.randint(0, 4))),
    )


def _slide(_prompt: str, rng: random.Random) -> Slide:
    lines = tuple(sentence(rng) for _ in range(rng.randint(1, 4)))
    return Slide(title=_phrase(rng), bullets=lines, notes=" ".join(lines), figure=None)


def _figure(heading: str, rng: random.Random) -> SlideFigure:
    rows = tuple((noun.capitalize(), sentence(rng)) for noun in rng.sample(_NOUNS, k=3))
    return SlideFigure(caption=_cut(heading, 200) or _phrase(rng), header=("Noun", "Remark"), rows=rows)


def _quiz(prompt: str, rng: random.Random) -> Quiz:
    """Questions whose evidence stands in the lesson of the prompt, as far as there is one."""
    said = [one for _, lines in _parts(prompt) for line in lines for one in _SENTENCE_END.split(line)]
    usable = [one for one in dict.fromkeys(said) if len(one.split()) >= _FEWEST_EVIDENCE_WORDS and len(one) <= _LONG]
    wanted = min(_number(prompt, "questions", limit=20), _MOST_QUESTIONS)
    chosen = rng.sample(usable, k=min(wanted, len(usable))) or [sentence(rng)]
    return Quiz(questions=tuple(_question(number, evidence, rng) for number, evidence in enumerate(chosen, start=1)))


def _question(number: int, evidence: str, rng: random.Random) -> QuizQuestion:
    options = list(dict.fromkeys([_cut(evidence, 300), *(f"{sentence(rng)[:-1]} instead." for _ in range(3))]))
    rng.shuffle(options)
    return QuizQuestion(
        question=f"Question {number}: which of these does the lesson say?",
        options=tuple(options),
        answer=options.index(_cut(evidence, 300)),
        explanation=f"The lesson says so: {evidence}",
        evidence=evidence,
    )


def _parts(prompt: str) -> list[tuple[str, list[str]]]:
    """The headed parts of the lesson that the prompt carries as material, each with its lines."""
    found = _MATERIAL.search(prompt)
    parts: list[tuple[str, list[str]]] = []
    for raw in found[1].splitlines() if found else ():
        line = "".join(char for char in raw if char.isprintable()).strip()
        if line.startswith("## "):
            parts.append((line.removeprefix("## ").strip(), []))
        elif line and parts:
            parts[-1][1].append(line.removeprefix("- "))
    return [(heading, lines) for heading, lines in parts if lines]


_WRITERS: Final[dict[frozenset[str], Callable[[str, random.Random], Frozen]]] = {
    frozenset(CourseOutline.model_fields): _outline,
    frozenset(LessonContent.model_fields): _lesson,
    frozenset(SlideDeck.model_fields): _deck,
    frozenset(Quiz.model_fields): _quiz,
    frozenset(LessonBlock.model_fields): _block,
    frozenset(Slide.model_fields): _slide,
}
