"""A course as a site in a ZIP archive: an index with search, and a page for each lesson. It works from a folder."""

import json
import unicodedata
from collections.abc import Iterator

from domain.generation import Course, Lesson, Module
from rendering.course_overview import footer, header, source_list
from rendering.course_parts import Profile, is_good, lacks_quiz, one_line, quiz_of
from rendering.course_words import Words, words_for
from rendering.html_pieces import badge, entry, fixed, language_of, numeral, page, prose, template, titled
from rendering.lesson_html import lesson_article
from rendering.markup import NOTHING, Html, element, joined, sanitised, text
from rendering.packages import packed
from rendering.quiz_html import quiz_css, quiz_data, quiz_script

_INDEX = "index.html"

Place = tuple[int, int]
"""Module and lesson, counted from one."""


def course_site(course: Course, *, profile: Profile) -> bytes:
    """A ZIP archive of UTF-8 pages without any outside address; equal courses give equal bytes.

    The index runs a script, the search, over text that the page itself carries, and lessons with questions run one
    that checks answers: no server, no request.
    """
    order = list(_places(course))
    pages = {_INDEX: _index(course, profile)}
    for position, (place, lesson) in enumerate(order):
        before = order[position - 1] if position else None
        after = order[position + 1] if position + 1 < len(order) else None
        pages[page_name(place)] = lesson_page(
            course, lesson, place, steps=_steps(before, after, words_for(course.language))
        )
    return packed(pages)


def lesson_page(course: Course, lesson: Lesson, place: Place, *, steps: Html = NOTHING, script: str = "") -> bytes:
    """One lesson as a page of its own. ``steps`` lead to other pages; ``script`` is ours and fixed.

    On a page with questions it comes after the one that checks answers.
    """
    quiz = quiz_of(lesson)
    language = language_of(course.language)
    words = words_for(language)
    article = lesson_article(lesson, place, words, level=1)
    main = element("main", article, id="main", tabindex="-1")
    name = f"{place[0]}.{place[1]} {one_line(lesson.title) or words.untitled}"
    return page(
        language=language,
        title=f"{name} \N{EN DASH} {one_line(course.title) or words.untitled}",
        css=site_css() + (quiz_css() if quiz or lacks_quiz(lesson) else ""),
        body=sanitised(framed([steps, main], words)),
        script=quiz_script() + script if quiz else script,
        data=quiz_data(quiz, words) if quiz else "",
    )


def page_name(place: Place) -> str:
    """The name of the file of a lesson."""
    return f"lesson-{place[0]}-{place[1]}.html"


def framed(parts: list[Html], words: Words) -> Html:
    """The parts of a page behind a link that skips to the main one."""
    skip = element("a", fixed(words.skip, words), class_="skip", href="#main")
    return joined([skip, element("div", joined(parts), class_="page single")])


def site_css() -> str:
    """The style sheet of pages that do not hold the whole course."""
    return template("course.css") + template("site.css")


def module_sections(course: Course, words: Words, *, linked: bool, level: int) -> Html:
    """Every module with its summary and its lessons, which are links where the reader may go from page to page."""
    return joined(
        _module(module, number, words, linked=linked, level=level)
        for number, module in enumerate(course.modules, start=1)
    )


# --- the index --------------------------------------------------------------------------------------


def _index(course: Course, profile: Profile) -> bytes:
    language = language_of(course.language)
    words = words_for(language)
    heading = element("h2", fixed(words.contents, words), id="contents")
    contents = element("nav", heading, module_sections(course, words, linked=True, level=3), aria_labelledby="contents")
    made = footer(course, words) if profile == "full" else NOTHING
    main = joined([element("main", contents, source_list(course, words), id="main", tabindex="-1"), made])
    # The form stands between what is sanitised: it is ours, and the allow-list knows no forms.
    body = framed([sanitised(header(course, words)), _search(words), sanitised(main)], words)
    return page(
        language=language,
        title=one_line(course.title) or words.untitled,
        css=site_css(),
        body=body,
        script=template("search.js"),
        data=_search_data(course, words),
    )


def _module(module: Module, number: int, words: Words, *, linked: bool, level: int) -> Html:
    lessons = (
        element("li", _lesson(lesson, (number, place), words, linked=linked), badge(lesson, words))
        for place, lesson in enumerate(module.lessons, start=1)
    )
    heading = element(f"h{level}", numeral(f"{number}"), titled(module.title, words), id=f"module-{number}")
    summary = element("div", prose(module.summary), class_="summary")
    return element("section", heading, summary, element("ol", *lessons))


def _lesson(lesson: Lesson, place: Place, words: Words, *, linked: bool) -> Html:
    number, title = f"{place[0]}.{place[1]}", titled(lesson.title, words)
    return entry(page_name(place), number, title) if linked else joined([numeral(number), title], "")


def _search(words: Words) -> Html:
    """Hidden until its script runs: without one it could do nothing."""
    attributes = {"lang": words.language, "dir": "ltr"} if words.foreign else {}
    label = element("label", text(words.search), for_="query")
    field = Html('<input id="query" name="q" type="search" autocomplete="off" spellcheck="false">')
    found = element("p", id="found", role="status", data_found=words.found, data_nothing=words.nothing_found)
    results = element("ol", id="results", dir="auto")
    return element(
        "form", label, field, found, results, id="search", role="search", class_="search", hidden="", **attributes
    )


def _search_data(course: Course, words: Words) -> str:
    entries = [
        [page_name(place), f"{place[0]}.{place[1]} {one_line(lesson.title) or words.untitled}", _searchable(lesson)]
        for place, lesson in _places(course)
    ]
    return json.dumps(entries, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _searchable(lesson: Lesson) -> str:
    """All the text a reader finds on the page, drafts not counted: they are not part of the course."""
    parts = list(lesson.objectives)
    if is_good(lesson) and (content := lesson.content) is not None:
        parts += [content.title, content.summary]
        for block in content.blocks:
            parts += [block.heading, *block.paragraphs, *block.bullets]
        parts += content.key_points
        for term in content.terms:
            parts += [term.term, term.definition]
    if (quiz := quiz_of(lesson)) is not None:
        parts += [question.question for question in quiz.questions]
    return unicodedata.normalize("NFC", " ".join(one_line(part) for part in parts))


# --- the way from page to page ----------------------------------------------------------------------


def _places(course: Course) -> Iterator[tuple[Place, Lesson]]:
    for number, module in enumerate(course.modules, start=1):
        for place, lesson in enumerate(module.lessons, start=1):
            yield (number, place), lesson


def _steps(before: tuple[Place, Lesson] | None, after: tuple[Place, Lesson] | None, words: Words) -> Html:
    links = [
        _step(before, words.previous, words),
        element("a", fixed(words.contents, words), href=_INDEX),
        _step(after, words.next, words),
    ]
    label = element("span", fixed(words.pages, words), id="pages", class_="unseen")
    return element("nav", label, joined(links), class_="steps", aria_labelledby="pages")


def _step(neighbour: tuple[Place, Lesson] | None, name: str, words: Words) -> Html:
    if neighbour is None:
        return element("span")
    place, lesson = neighbour
    title = joined([text(f"{place[0]}.{place[1]}"), titled(lesson.title, words)], " ")
    return element("a", fixed(name, words), text(": "), title, href=page_name(place))
