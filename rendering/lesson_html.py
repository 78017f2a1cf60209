"""One lesson as HTML, finished or draft, on a page with others or on one of its own."""

from domain.generation import DraftNote, Lesson, LessonBlock, LessonContent
from rendering.course_parts import is_good, one_line
from rendering.course_words import Words
from rendering.html_pieces import badge, fixed, flow, headed_list, listed, numeral, prose, titled
from rendering.markup import NOTHING, Html, element, joined, text
from rendering.quiz_html import quiz_section


def lesson_article(lesson: Lesson, place: tuple[int, int], words: Words, *, level: int) -> Html:
    """The lesson at ``place`` (module and lesson, counted from one); its title is a heading of that level."""
    module, number = place
    heading = element(
        f"h{level}",
        numeral(f"{module}.{number}"),
        titled(lesson.title, words),
        badge(lesson, words),
        id=f"lesson-{module}-{number}",
    )
    below = level + 1
    objectives = headed_list(words.objectives, lesson.objectives, words, level=below, class_="objectives")
    if is_good(lesson) and lesson.content is not None:
        opening = _opening(lesson.content, lesson.title, words)
        questions = quiz_section(lesson, place, words, level=below)
        return element("article", heading, opening, objectives, _content(lesson.content, words, below), questions)
    return element("article", heading, _draft(lesson, words), objectives)


# --- a finished lesson ------------------------------------------------------------------------------


def _opening(content: LessonContent, planned_title: str, words: Words) -> Html:
    renamed = one_line(content.title) != one_line(planned_title)
    subtitle = element("p", titled(content.title, words), class_="subtitle") if renamed else NOTHING
    return joined([subtitle, element("div", prose(content.summary), class_="summary")])


def _content(content: LessonContent, words: Words, level: int) -> Html:
    return joined(
        [
            *(_block(block, words, level) for block in content.blocks),
            headed_list(words.key_points, content.key_points, words, level=level, class_="key-points"),
            _terms(content, words, level),
        ]
    )


def _block(block: LessonBlock, words: Words, level: int) -> Html:
    heading = element(f"h{level}", titled(block.heading, words))
    return joined([heading, *(prose(paragraph) for paragraph in block.paragraphs), listed(block.bullets)])


def _terms(content: LessonContent, words: Words, level: int) -> Html:
    if not content.terms:
        return NOTHING
    entries = (
        joined([element("dt", titled(term.term, words)), element("dd", flow(term.definition))])
        for term in content.terms
    )
    return element(
        "div", element(f"h{level}", fixed(words.terms, words)), element("dl", joined(entries)), class_="terms"
    )


# --- a draft ----------------------------------------------------------------------------------------


def _draft(lesson: Lesson, words: Words) -> Html:
    """A marked box which says that this is no finished lesson, and why, with the raw answer folded away inside."""
    notice = element("p", element("strong", fixed(words.draft, words)))
    reason = element("p", fixed(words.reason(lesson), words))
    note = _note(lesson.draft, words) if lesson.draft is not None else NOTHING
    return element("div", notice, reason, note, class_="draft", role="note")


def _note(note: DraftNote, words: Words) -> Html:
    faults = (
        element("li", element("code", text(one_line(path))), text(": "), flow(message)) for path, message in note.errors
    )
    named = joined([element("p", fixed(words.faults, words), text(":")), element("ul", joined(faults))])
    raw = element("pre", element("code", text(note.raw)), dir="auto")
    folded = element("details", element("summary", fixed(words.raw, words)), raw)
    return joined([named if note.errors else NOTHING, folded])
