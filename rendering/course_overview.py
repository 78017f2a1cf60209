"""What surrounds the lessons of a course in HTML: its head, its table of contents, its sources, how it was made."""

from collections.abc import Iterable

from domain.generation import Course, Lesson, Module, Provenance
from rendering.course_parts import all_provenance, money, one_line, stamp, totals, unfinished
from rendering.course_words import Words
from rendering.html_pieces import badge, entry, fact_list, fixed, listed, moment, prose, titled
from rendering.markup import NOTHING, Html, element, joined, text


def header(course: Course, words: Words) -> Html:
    """The title of the course, what it is about, and whether it is complete."""
    facts = (
        (words.audience, text(one_line(course.audience))),
        (words.level, _level(course, words)),
        (words.topic, text(one_line(course.topic))),
    )
    return element(
        "header",
        element("h1", titled(course.title, words)),
        element("div", prose(course.description), class_="lead"),
        fact_list(facts, words),
        _incomplete(course, words),
    )


def _level(course: Course, words: Words) -> Html:
    known = words.levels.get(course.level)
    return text(one_line(course.level)) if known is None else fixed(known, words)


def _incomplete(course: Course, words: Words) -> Html:
    if not (waiting := unfinished(course)):
        return NOTHING
    lessons = sum(len(module.lessons) for module in course.modules)
    sentence = words.incomplete.format(unfinished=waiting, lessons=lessons)
    return element("p", fixed(sentence, words), class_="incomplete")


def navigation(course: Course, words: Words) -> Html:
    """The table of contents of a page that holds the whole course."""
    entries = (_module_entry(module, number, words) for number, module in enumerate(course.modules, start=1))
    heading = element("summary", element("h2", fixed(words.contents, words), id="contents"))
    tree = element("details", heading, element("ol", *entries), open="")
    return element("nav", tree, aria_labelledby="contents")


def _module_entry(module: Module, number: int, words: Words) -> Html:
    lessons = (_lesson_entry(lesson, number, place, words) for place, lesson in enumerate(module.lessons, start=1))
    link = entry(f"#module-{number}", f"{number}", titled(module.title, words))
    return element("li", link, element("ol", *lessons))


def _lesson_entry(lesson: Lesson, number: int, place: int, words: Words) -> Html:
    link = entry(f"#lesson-{number}-{place}", f"{number}.{place}", titled(lesson.title, words))
    return element("li", link, badge(lesson, words))


# --- the end of the page: sources and provenance ----------------------------------------------------


def source_list(course: Course, words: Words) -> Html:
    """What the course was made from."""
    if not course.sources:
        return NOTHING
    heading = element("h2", fixed(words.sources, words), id="sources")
    return element("section", heading, listed(course.sources), class_="sources")


def footer(course: Course, words: Words) -> Html:
    """How the course was made: in total, lesson by lesson, and by which prompts."""
    summary = element("summary", element("h2", fixed(words.provenance, words), id="provenance"))
    body = joined([_totals(course, words), _ledger(course, words), _prompts(course, words)])
    return element("footer", element("details", summary, body))


def _totals(course: Course, words: Words) -> Html:
    total = totals(course)
    shown = ((status, count) for status, count in total.lessons_by_status.items() if count)
    statuses = (joined([fixed(words.statuses[status], words), text(f": {count}")], "") for status, count in shown)
    facts = (
        (words.identifier, text(str(course.id))),
        (words.generated, moment(stamp(course.generated_at))),
        (words.status, joined(statuses, "<br>\n")),
        (words.tokens_in, text(words.number(total.input_tokens))),
        (words.tokens_out, text(words.number(total.output_tokens))),
        (words.calls, text(words.number(total.calls))),
        (words.cost, text(money(total.cost_usd))),
    )
    return fact_list(facts, words)


def _ledger(course: Course, words: Words) -> Html:
    names = (words.lesson, words.model, words.prompt, words.tokens_in, words.tokens_out, words.cost, words.calls)
    head = _row("th", [fixed(name, words) for name in (*names, words.cached, words.generated)])
    rows = [_ledger_row(fixed(words.outline, words), course.outline_provenance, words)]
    for number, module in enumerate(course.modules, start=1):
        for place, lesson in enumerate(module.lessons, start=1):
            label = joined([text(f"{number}.{place}"), badge(lesson, words)], "")
            rows.append(_ledger_row(label, lesson.provenance, words))
            rows += _part_rows(lesson, f"{number}.{place}", words)
    return _table(head, rows)


def _part_rows(lesson: Lesson, number: str, words: Words) -> list[Html]:
    parts = ((words.slides, lesson.slides_provenance), (words.quiz, lesson.quiz_provenance))
    return [
        _ledger_row(joined([text(number), fixed(name, words)], " "), origin, words)
        for name, origin in parts
        if origin is not None
    ]


def _ledger_row(label: Html, provenance: Provenance, words: Words) -> Html:
    cells = [
        text(f"{one_line(provenance.provider)}: {one_line(provenance.model)}"),
        text(f"{one_line(provenance.prompt_id)} {one_line(provenance.prompt_version)}"),
        text(words.number(provenance.input_tokens)),
        text(words.number(provenance.output_tokens)),
        text(money(provenance.cost_usd)),
        text(words.number(provenance.calls)),
        fixed(words.yes if provenance.cached else words.no, words),
        moment(stamp(provenance.generated_at)),
    ]
    return _row("td", cells, label=label)


def _prompts(course: Course, words: Words) -> Html:
    """Each prompt once, with the checksum by which its exact text is found."""
    used = dict.fromkeys((item.prompt_id, item.prompt_version, item.prompt_sha256) for item in all_provenance(course))
    head = _row("th", [*(fixed(name, words) for name in (words.prompt, words.version)), text("SHA-256")])
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
