"""A course as one self-contained, accessible HTML page: no script, no request, nothing but the file itself."""

from domain.generation import Course, Module
from rendering.course_overview import footer, header, navigation, source_list
from rendering.course_parts import Profile, one_line, shows_quiz
from rendering.course_words import Words, words_for
from rendering.html_pieces import fixed, language_of, numeral, page, prose, template, titled
from rendering.lesson_html import lesson_article
from rendering.markup import NOTHING, Html, element, joined, sanitised
from rendering.quiz_html import quiz_css


def course_html(course: Course, *, profile: Profile) -> bytes:
    """The course as a UTF-8 page ending in a newline; equal courses give equal bytes.

    Everything from the course is escaped where it enters, and the body as a whole passes an allow-list afterwards.
    """
    language = language_of(course.language)
    words = words_for(language)
    return page(
        language=language,
        title=one_line(course.title) or words.untitled,
        css=template("course.css") + (quiz_css() if shows_quiz(course) else ""),
        body=sanitised(_body(course, profile, words)),
    )


def _body(course: Course, profile: Profile, words: Words) -> Html:
    modules = (_module(module, number, words) for number, module in enumerate(course.modules, start=1))
    skip = element("a", fixed(words.skip, words), class_="skip", href="#main")
    main = element("main", *modules, source_list(course, words), id="main", tabindex="-1")
    made = footer(course, words) if profile == "full" else NOTHING
    parts = (header(course, words), navigation(course, words), main, made)
    return joined([skip, element("div", joined(parts), class_="page")])


def _module(module: Module, number: int, words: Words) -> Html:
    lessons = (
        lesson_article(lesson, (number, place), words, level=3) for place, lesson in enumerate(module.lessons, start=1)
    )
    heading = element("h2", numeral(f"{number}"), titled(module.title, words), id=f"module-{number}")
    summary = element("div", prose(module.summary), class_="summary")
    return element("section", heading, summary, *lessons, class_="module")
