"""A course as one self-contained, accessible HTML page: no script, no request, nothing but the file itself."""

import base64
import functools
import hashlib
import html
from collections.abc import Iterable
from pathlib import Path
from string import Template

from domain.generation import Course, DraftNote, Lesson, LessonBlock, LessonContent, Module, Provenance
from domain.text import check_language
from rendering.course_parts import (
    Profile,
    all_provenance,
    is_good,
    money,
    one_line,
    paragraphs,
    stamp,
    totals,
    unfinished,
    visible,
)
from rendering.course_words import Words, words_for
from rendering.markup import NOTHING, Html, element, joined, sanitised, text

_TEMPLATES = Path(__file__).with_name("templates")
_RIGHT_TO_LEFT = frozenset(
    {"ar", "ckb", "dv", "fa", "he", "ps", "sd", "ug", "ur", "yi", "arab", "hebr", "thaa", "nkoo"}
)
_UNDETERMINED = "und"


def course_html(course: Course, *, profile: Profile) -> bytes:
    """The course as a UTF-8 page ending in a newline; equal courses give equal bytes.

    Everything from the course is escaped where it enters, and the body as a whole passes an allow-list afterwards.
    """
    language = _language(course.language)
    css = _template("course.css")
    page = Template(_template("course.html")).substitute(
        lang=html.escape(language),
        dir="rtl" if _RIGHT_TO_LEFT & set(language.lower().split("-")) else "ltr",
        csp=html.escape(_policy(css)),
        title=html.escape(one_line(course.title)) or html.escape(words_for(language).untitled),
        css=css,
        body=sanitised(_body(course, profile, words_for(language))),
    )
    return page.encode()


@functools.cache
def _template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _language(tag: str) -> str:
    try:
        return check_language(tag)
    except ValueError:
        return _UNDETERMINED


def _policy(css: str) -> str:
    """A policy that lets the browser apply exactly this style sheet and load or run nothing at all."""
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


# --- the page, from the outside in ------------------------------------------------------------------


def _body(course: Course, profile: Profile, words: Words) -> Html:
    modules = (_module(module, number, words) for number, module in enumerate(course.modules, start=1))
    skip = element("a", _fixed(words.skip, words), class_="skip", href="#main")
    main = element("main", *modules, _sources(course, words), id="main", tabindex="-1")
    footer = _footer(course, words) if profile == "full" else NOTHING
    parts = (_header(course, words), _navigation(course, words), main, footer)
    return joined([skip, element("div", joined(parts), class_="page")])


def _header(course: Course, words: Words) -> Html:
    facts = (
        (words.audience, text(one_line(course.audience))),
        (words.level, _level(course, words)),
        (words.topic, text(one_line(course.topic))),
    )
    return element(
        "header",
        element("h1", _title(course.title, words)),
        element("div", _prose(course.description), class_="lead"),
        _facts(facts, words),
        _incomplete(course, words),
    )


def _incomplete(course: Course, words: Words) -> Html:
    if not (waiting := unfinished(course)):
        return NOTHING
    lessons = sum(len(module.lessons) for module in course.modules)
    sentence = words.incomplete.format(unfinished=waiting, lessons=lessons)
    return element("p", _fixed(sentence, words), class_="incomplete")


def _navigation(course: Course, words: Words) -> Html:
    entries = (_module_entry(module, number, words) for number, module in enumerate(course.modules, start=1))
    heading = element("summary", element("h2", _fixed(words.contents, words), id="contents"))
    tree = element("details", heading, element("ol", *entries), open="")
    return element("nav", tree, aria_labelledby="contents")


def _module_entry(module: Module, number: int, words: Words) -> Html:
    lessons = (_lesson_entry(lesson, number, place, words) for place, lesson in enumerate(module.lessons, start=1))
    link = _link(f"module-{number}", f"{number}", _title(module.title, words))
    return element("li", link, element("ol", *lessons))


def _lesson_entry(lesson: Lesson, number: int, place: int, words: Words) -> Html:
    link = _link(f"lesson-{number}-{place}", f"{number}.{place}", _title(lesson.title, words))
    return element("li", link, _badge(lesson, words))


def _module(module: Module, number: int, words: Words) -> Html:
    lessons = (_lesson(lesson, number, place, words) for place, lesson in enumerate(module.lessons, start=1))
    heading = element("h2", _number(f"{number}"), _title(module.title, words), id=f"module-{number}")
    summary = element("div", _prose(module.summary), class_="summary")
    return element("section", heading, summary, *lessons, class_="module")


def _lesson(lesson: Lesson, number: int, place: int, words: Words) -> Html:
    heading = element(
        "h3",
        _number(f"{number}.{place}"),
        _title(lesson.title, words),
        _badge(lesson, words),
        id=f"lesson-{number}-{place}",
    )
    objectives = _headed_list(words.objectives, lesson.objectives, words, class_="objectives")
    if is_good(lesson) and lesson.content is not None:
        opening = _opening(lesson.content, lesson.title, words)
        return element("article", heading, opening, objectives, _content(lesson.content, words))
    return element("article", heading, _draft(lesson, words), objectives)


# --- a finished lesson ------------------------------------------------------------------------------


def _opening(content: LessonContent, planned_title: str, words: Words) -> Html:
    renamed = one_line(content.title) != one_line(planned_title)
    subtitle = element("p", _title(content.title, words), class_="subtitle") if renamed else NOTHING
    return joined([subtitle, element("div", _prose(content.summary), class_="summary")])


def _content(content: LessonContent, words: Words) -> Html:
    return joined(
        [
            *(_block(block, words) for block in content.blocks),
            _headed_list(words.key_points, content.key_points, words, class_="key-points"),
            _terms(content, words),
        ]
    )


def _block(block: LessonBlock, words: Words) -> Html:
    heading = element("h4", _title(block.heading, words))
    return joined([heading, *(_prose(paragraph) for paragraph in block.paragraphs), _list(block.bullets)])


def _terms(content: LessonContent, words: Words) -> Html:
    if not content.terms:
        return NOTHING
    entries = (
        joined([element("dt", _title(term.term, words)), element("dd", _flow(term.definition))])
        for term in content.terms
    )
    return element("div", element("h4", _fixed(words.terms, words)), element("dl", joined(entries)), class_="terms")


# --- a draft ----------------------------------------------------------------------------------------


def _draft(lesson: Lesson, words: Words) -> Html:
    """A marked box which says that this is no finished lesson, and why, with the raw answer folded away inside."""
    notice = element("p", element("strong", _fixed(words.draft, words)))
    reason = element("p", _fixed(words.reason(lesson), words))
    note = _note(lesson.draft, words) if lesson.draft is not None else NOTHING
    return element("div", notice, reason, note, class_="draft", role="note")


def _note(note: DraftNote, words: Words) -> Html:
    faults = (
        element("li", element("code", text(one_line(path))), text(": "), _flow(message))
        for path, message in note.errors
    )
    listed = joined([element("p", _fixed(words.faults, words), text(":")), element("ul", joined(faults))])
    raw = element("pre", element("code", text(note.raw)), dir="auto")
    folded = element("details", element("summary", _fixed(words.raw, words)), raw)
    return joined([listed if note.errors else NOTHING, folded])


def _badge(lesson: Lesson, words: Words) -> Html:
    if is_good(lesson):
        return NOTHING
    return joined([NOTHING, element("span", _fixed(words.statuses[lesson.status], words), class_="badge")], " ")


# --- the end of the page: sources and provenance ----------------------------------------------------


def _sources(course: Course, words: Words) -> Html:
    if not course.sources:
        return NOTHING
    heading = element("h2", _fixed(words.sources, words), id="sources")
    return element("section", heading, _list(course.sources), class_="sources")


def _footer(course: Course, words: Words) -> Html:
    summary = element("summary", element("h2", _fixed(words.provenance, words), id="provenance"))
    body = joined([_totals(course, words), _ledger(course, words), _prompts(course, words)])
    return element("footer", element("details", summary, body))


def _totals(course: Course, words: Words) -> Html:
    total = totals(course)
    shown = ((status, count) for status, count in total.lessons_by_status.items() if count)
    statuses = (joined([_fixed(words.statuses[status], words), text(f": {count}")], "") for status, count in shown)
    facts = (
        (words.identifier, text(str(course.id))),
        (words.generated, _time(stamp(course.generated_at))),
        (words.status, joined(statuses, "<br>\n")),
        (words.tokens_in, text(words.number(total.input_tokens))),
        (words.tokens_out, text(words.number(total.output_tokens))),
        (words.calls, text(words.number(total.calls))),
        (words.cost, text(money(total.cost_usd))),
    )
    return _facts(facts, words)


def _ledger(course: Course, words: Words) -> Html:
    names = (words.lesson, words.model, words.prompt, words.tokens_in, words.tokens_out, words.cost, words.calls)
    head = _row("th", [_fixed(name, words) for name in (*names, words.cached, words.generated)])
    rows = [_ledger_row(_fixed(words.outline, words), course.outline_provenance, words)]
    for number, module in enumerate(course.modules, start=1):
        for place, lesson in enumerate(module.lessons, start=1):
            label = joined([text(f"{number}.{place}"), _badge(lesson, words)], "")
            rows.append(_ledger_row(label, lesson.provenance, words))
    return _table(head, rows)


def _ledger_row(label: Html, provenance: Provenance, words: Words) -> Html:
    cells = [
        text(f"{one_line(provenance.provider)}: {one_line(provenance.model)}"),
        text(f"{one_line(provenance.prompt_id)} {one_line(provenance.prompt_version)}"),
        text(words.number(provenance.input_tokens)),
        text(words.number(provenance.output_tokens)),
        text(money(provenance.cost_usd)),
        text(words.number(provenance.calls)),
        _fixed(words.yes if provenance.cached else words.no, words),
        _time(stamp(provenance.generated_at)),
    ]
    return _row("td", cells, label=label)


def _prompts(course: Course, words: Words) -> Html:
    """Each prompt once, with the checksum by which its exact text is found."""
    used = dict.fromkeys((item.prompt_id, item.prompt_version, item.prompt_sha256) for item in all_provenance(course))
    head = _row("th", [*(_fixed(name, words) for name in (words.prompt, words.version)), text("SHA-256")])
    rows = [
        _row("td", [text(version), element("code", text(sha256))], label=text(name)) for name, version, sha256 in used
    ]
    return _table(head, rows)


def _table(head: Html, rows: list[Html]) -> Html:
    """A table that scrolls in itself, also by keyboard, where the window is narrower than it is."""
    table = element("table", element("thead", head), element("tbody", joined(rows)))
    return element("div", table, class_="scroll", role="region", tabindex="0", aria_labelledby="provenance")


def _row(name: str, cells: Iterable[Html], *, label: Html | None = None) -> Html:
    scope = {"scope": "col"} if name == "th" else {}
    head = NOTHING if label is None else element("th", label, scope="row")
    return element("tr", head, joined(element(name, cell, **scope) for cell in cells))


# --- the pieces -------------------------------------------------------------------------------------


def _fixed(words_of_ours: str, words: Words) -> Html:
    """Words that are not the course's; marked with their language where they stand in for missing ones."""
    escaped = text(words_of_ours)
    return element("span", escaped, lang=words.language, dir="ltr") if words.foreign else escaped


def _level(course: Course, words: Words) -> Html:
    known = words.levels.get(course.level)
    return text(one_line(course.level)) if known is None else _fixed(known, words)


def _title(value: str, words: Words) -> Html:
    return text(one_line(value)) or _fixed(words.untitled, words)


def _number(number: str) -> Html:
    return joined([element("span", text(number), class_="number"), NOTHING], " ")


def _link(place: str, number: str, title: Html) -> Html:
    return element("a", _number(number), element("span", title), href=f"#{place}")


def _time(moment: str) -> Html:
    return element("time", text(moment.replace("T", " ").replace("Z", " UTC")), datetime=moment)


def _facts(facts: Iterable[tuple[str, Html]], words: Words) -> Html:
    pairs = (element("div", element("dt", _fixed(name, words)), element("dd", value)) for name, value in facts)
    return element("dl", *pairs, class_="facts")


def _headed_list(heading: str, items: tuple[str, ...], words: Words, *, class_: str) -> Html:
    if not items:
        return NOTHING
    return element("div", element("h4", _fixed(heading, words)), _list(items), class_=class_)


def _list(items: Iterable[str]) -> Html:
    """A list of the items in which there is something to read."""
    entries = [element("li", _flow(item)) for item in items if visible(item).strip()]
    return element("ul", joined(entries)) if entries else NOTHING


def _prose(value: str) -> Html:
    return joined(element("p", _lines(lines)) for lines in paragraphs(value))


def _flow(value: str) -> Html:
    """Prose inside an item: one paragraph goes without its own element, which keeps lists tight."""
    parts = paragraphs(value)
    return _lines(parts[0]) if len(parts) == 1 else _prose(value)


def _lines(lines: tuple[str, ...]) -> Html:
    return joined((text(line) for line in lines), "<br>\n")
