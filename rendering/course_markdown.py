"""A course as CommonMark or MDX, for people and for other tools. Text from it is text here: it formats nothing."""

import json
import re
from collections.abc import Iterable, Iterator

from domain.generation import Course, Lesson, LessonBlock, LessonContent, Module, Provenance
from rendering.course_json import full_provenance
from rendering.course_parts import (
    Profile,
    is_good,
    lacks_quiz,
    letter_of,
    money,
    one_line,
    paragraphs,
    quiz_of,
    stamp,
    totals,
    unfinished,
    visible,
)
from rendering.course_words import Words, words_for

_SPECIAL = re.compile(
    r"""
    [\\`*_\[\]<{}|~$&\#:.]           # what may have to be escaped: one set in front, which is quick to search for
    (?:
        (?<=[\\`*_\[\]<{}|~$])        # emphasis, code, links, HTML; tables, strike-through, mathematics, MDX
        | (?<=&)(?=[#A-Za-z])         # entities
        | (?<=\#)(?<!\S\#)            # headings, and the closing sequence of a heading
        | (?<=:)(?=//) | (?<=www\.)   # the bare addresses that GitHub makes into links
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_LINE_START = re.compile(r"^(?:(?=[-+=>:])|(\d{1,9})(?=[.)](?:\s|$)))")
_MODULE_LINE = re.compile(r"^(?:e(?=xport\b)|i(?=mport\b))")  # MDX runs a paragraph that opens like this
_BACKTICKS = re.compile(r"`+")
_NOT_IN_METADATA = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_SHORTEST_FENCE = 3


def course_markdown(course: Course, *, profile: Profile) -> bytes:
    """The course as UTF-8 CommonMark ending in a newline; equal courses give equal bytes.

    The full profile opens with YAML front matter. Apart from it the document holds only headings, paragraphs, lists,
    the links of its table of contents, and their anchors, which are its only HTML.
    """
    front_matter = [_front_matter(course)] if profile == "full" else []
    return ("\n\n".join([*front_matter, *course_blocks(course)]) + "\n").encode()


def course_mdx(course: Course, *, profile: Profile) -> bytes:
    """The course as UTF-8 MDX ending in a newline; equal courses give equal bytes.

    The body is that of the Markdown, in which no text is an expression, an element, an import or an export. The full
    profile exports ``metadata``, for MDX itself knows no front matter.
    """
    metadata = [_metadata(course)] if profile == "full" else []
    return ("\n\n".join([*metadata, *course_blocks(course)]) + "\n").encode()


def course_blocks(course: Course) -> Iterator[str]:
    """The body, block by block."""
    words = words_for(course.language)
    yield from _opening(course, words)
    yield from _contents(course, words)
    for number, module in enumerate(course.modules, start=1):
        yield from _module(module, number, words)
    yield from _sources(course, words)


# --- metadata ---------------------------------------------------------------------------------------


def _front_matter(course: Course) -> str:
    """YAML whose every value is JSON, which is YAML too: no text can end its string or its line."""
    lines = [f"{key}: {_on_one_line(value)}" for key, value in _facts(course).items()]
    lessons = (f"  - {_on_one_line(facts)}" for facts in _lesson_facts(course))
    return "\n".join(["---", *lines, "lesson_provenance:", *lessons, "---"])


def _metadata(course: Course) -> str:
    """A JavaScript object whose every value is JSON, which is JavaScript too."""
    lines = [f"  {key}: {_on_one_line(value)}," for key, value in _facts(course).items()]
    lessons = (f"    {_on_one_line(facts)}," for facts in _lesson_facts(course))
    return "\n".join(["export const metadata = {", *lines, "  lesson_provenance: [", *lessons, "  ],", "}"])


def _facts(course: Course) -> dict[str, object]:
    total = totals(course)
    return {
        "id": str(course.id),
        "title": course.title,
        "topic": course.topic,
        "audience": course.audience,
        "language": course.language,
        "level": course.level,
        "generated_at": stamp(course.generated_at),
        "complete": total.complete,
        "modules": total.modules,
        "lessons": total.lessons,
        "lessons_by_status": {status.value: count for status, count in total.lessons_by_status.items()},
        "input_tokens": total.input_tokens,
        "output_tokens": total.output_tokens,
        "calls": total.calls,
        "cost_usd": money(total.cost_usd),
        "sources": list(course.sources),
        "outline_provenance": _provenance(course.outline_provenance),
    }


def _lesson_facts(course: Course) -> Iterator[dict[str, object]]:
    """One line a lesson, so that a comparison of two versions shows which lesson changed."""
    for number, module in enumerate(course.modules, start=1):
        for place, lesson in enumerate(module.lessons, start=1):
            facts: dict[str, object] = {
                "lesson": f"{number}.{place}",
                "status": lesson.status.value,
                "section_ids": list(lesson.section_ids),
            }
            yield facts | _provenance(lesson.provenance)
            for part, origin in (("slides", lesson.slides_provenance), ("quiz", lesson.quiz_provenance)):
                if origin is not None:
                    yield {"lesson": f"{number}.{place}", "part": part} | _provenance(origin)


def _provenance(provenance: Provenance) -> dict[str, object]:
    return full_provenance(provenance).model_dump(mode="json")


def _on_one_line(value: object) -> str:
    """The value as JSON on one line, escaped further where YAML allows less than JSON."""
    text = json.dumps(value, ensure_ascii=False)
    return _NOT_IN_METADATA.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


# --- the parts of the document, each a sequence of blocks -------------------------------------------


def _opening(course: Course, words: Words) -> Iterator[str]:
    yield f"# {_title(course.title, words)}"
    if waiting := unfinished(course):
        lessons = sum(len(module.lessons) for module in course.modules)
        yield _quote([f"**{_inline(words.incomplete.format(unfinished=waiting, lessons=lessons))}**"])
    yield from _prose(course.description)
    facts = (
        (words.audience, course.audience),
        (words.level, words.levels.get(course.level, course.level)),
        (words.topic, course.topic),
    )
    yield from _list(f"{_inline(name)}: {_inline(one_line(value))}" for name, value in facts)


def _contents(course: Course, words: Words) -> Iterator[str]:
    yield from _heading(2, words.contents, anchor="contents")
    yield "\n".join(_entries(course, words))


def _entries(course: Course, words: Words) -> Iterator[str]:
    for number, module in enumerate(course.modules, start=1):
        yield f"- [{number}. {_title(module.title, words)}](#module-{number})"
        for place, lesson in enumerate(module.lessons, start=1):
            link = f"[{number}.{place} {_title(lesson.title, words)}](#lesson-{number}-{place})"
            yield f"  - {link}{_mark(lesson, words)}"


def _module(module: Module, number: int, words: Words) -> Iterator[str]:
    yield from _heading(2, f"{number}. {_title(module.title, words)}", anchor=f"module-{number}")
    yield from _prose(module.summary)
    for place, lesson in enumerate(module.lessons, start=1):
        yield from _lesson(lesson, f"{number}.{place}", words)


def _lesson(lesson: Lesson, number: str, words: Words) -> Iterator[str]:
    anchor = f"lesson-{number.replace('.', '-')}"
    yield from _heading(3, f"{number} {_title(lesson.title, words)}{_mark(lesson, words)}", anchor=anchor)
    objectives = _headed_list(words.objectives, lesson.objectives)
    if is_good(lesson) and lesson.content is not None:
        yield from _subtitle(lesson.content, lesson.title, words)
        yield from _prose(lesson.content.summary)
        yield from objectives
        yield from _content(lesson.content, words)
        yield from _quiz(lesson, words)
    else:
        yield _notice(lesson, words)
        yield from objectives
        yield from _draft(lesson, words)


def _subtitle(content: LessonContent, planned_title: str, words: Words) -> Iterator[str]:
    if one_line(content.title) != one_line(planned_title):
        yield f"**{_title(content.title, words)}**"


def _content(content: LessonContent, words: Words) -> Iterator[str]:
    for block in content.blocks:
        yield from _block(block, words)
    yield from _headed_list(words.key_points, content.key_points)
    if content.terms:
        yield f"#### {_inline(words.terms)}"
        yield from _list(f"**{_title(term.term, words)}**: {_item(term.definition)}" for term in content.terms)


def _block(block: LessonBlock, words: Words) -> Iterator[str]:
    yield f"#### {_title(block.heading, words)}"
    for text in block.paragraphs:
        yield from _prose(text)
    yield from _list(_item(text) for text in block.bullets)


def _quiz(lesson: Lesson, words: Words) -> Iterator[str]:
    """The questions with their options, and below all of them the answers."""
    if lacks_quiz(lesson):
        yield _quote([_inline(words.no_quiz)])
    if (quiz := quiz_of(lesson)) is None:
        return
    yield f"#### {_inline(words.quiz)}"
    for number, question in enumerate(quiz.questions, start=1):
        yield f"**{number}.** {_inline(one_line(question.question))}"
        yield from _list(
            f"**{letter_of(place)}.** {_inline(one_line(option))}" for place, option in enumerate(question.options)
        )
    yield f"#### {_inline(words.answers)}"
    yield from _list(
        f"**{number}: {letter_of(question.answer)}.** {_item(question.explanation)}"
        for number, question in enumerate(quiz.questions, start=1)
    )


def _notice(lesson: Lesson, words: Words) -> str:
    return _quote([f"**{_inline(words.draft)}**", _inline(words.reason(lesson))])


def _draft(lesson: Lesson, words: Words) -> Iterator[str]:
    """What is wrong, and the raw answer where nothing in it can take effect."""
    if lesson.draft is not None:
        faults = tuple(f"{one_line(path)}: {message}" for path, message in lesson.draft.errors)
        yield from _headed_list(words.faults, faults)
        yield f"#### {_inline(words.raw)}"
        yield _fenced(lesson.draft.raw)


def _sources(course: Course, words: Words) -> Iterator[str]:
    if course.sources:
        yield f"## {_inline(words.sources)}"
        yield from _list(_inline(one_line(source)) for source in course.sources)


# --- the pieces blocks are made of ------------------------------------------------------------------


def _heading(level: int, markdown: str, *, anchor: str) -> tuple[str, str]:
    """The heading below an anchor of its own: renderers disagree about the anchors they derive from titles."""
    return f'<a id="{anchor}"></a>', f"{'#' * level} {markdown}"


def _headed_list(heading: str, items: tuple[str, ...]) -> Iterator[str]:
    if items:
        yield f"#### {_inline(heading)}"
        yield from _list(_item(item) for item in items)


def _list(items: Iterable[str]) -> Iterator[str]:
    """One block with all items that are not empty, or none."""
    lines = [f"- {item}" for item in items if item]
    if lines:
        yield "\n".join(lines)


def _item(text: str) -> str:
    """Text for a list item; what follows its first line is indented, which keeps it in the item."""
    return "\n\n".join(_prose(text)).replace("\n", "\n  ").replace("\n  \n", "\n\n")


def _quote(blocks: list[str]) -> str:
    return "> " + "\n\n".join(blocks).replace("\n", "\n> ").replace("> \n", ">\n")


def _fenced(raw: str) -> str:
    """The text as a code block behind a fence longer than any run of backticks in it."""
    text = visible(raw).strip("\n")
    longest = max((len(run) for run in _BACKTICKS.findall(text)), default=0)
    fence = "`" * max(_SHORTEST_FENCE, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _prose(text: str) -> Iterator[str]:
    """The text as paragraphs; line breaks inside a paragraph are kept."""
    for lines in paragraphs(text):
        yield "\\\n".join(_inline(line) for line in lines)


def _title(text: str, words: Words) -> str:
    return _inline(one_line(text)) or _inline(words.untitled)


def _mark(lesson: Lesson, words: Words) -> str:
    return "" if is_good(lesson) else f" *{_inline(words.statuses[lesson.status])}*"


def _inline(line: str) -> str:
    """One line of text, escaped so that it reads the same in every renderer and formats nothing."""
    escaped = _LINE_START.sub(r"\1\\", _SPECIAL.sub(r"\\\g<0>", line))
    # A backslash before a letter is a backslash. Only a reference to its first letter tells the word from code.
    return _MODULE_LINE.sub(lambda match: f"&#{ord(match.group())};", escaped)
