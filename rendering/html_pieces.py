"""The pieces every HTML page is made of: titles, prose, lists, facts, and the frame around a body."""

import base64
import functools
import hashlib
import html
from collections.abc import Iterable
from pathlib import Path
from string import Template

from domain.generation import Lesson
from domain.text import check_language
from rendering.course_parts import is_good, one_line, paragraphs, visible
from rendering.course_words import Words
from rendering.markup import NOTHING, Html, element, joined, text

_TEMPLATES = Path(__file__).with_name("templates")
_RIGHT_TO_LEFT = frozenset(
    {"ar", "ckb", "dv", "fa", "he", "ps", "sd", "ug", "ur", "yi", "arab", "hebr", "thaa", "nkoo"}
)
_UNDETERMINED = "und"


@functools.cache
def template(name: str) -> str:
    """The text of one of our templates."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def language_of(tag: str) -> str:
    """The tag itself, or ``und`` where it is none."""
    try:
        return check_language(tag)
    except ValueError:
        return _UNDETERMINED


def is_right_to_left(language: str) -> bool:
    """Whether the language, or the script that its tag names, runs from right to left."""
    return not _RIGHT_TO_LEFT.isdisjoint(language.lower().split("-"))


def page(*, language: str, title: str, css: str, body: Html, script: str = "", data: str = "") -> bytes:
    """A whole page, which may apply this style sheet, run this script, and load nothing at all.

    ``script`` is ours and fixed. ``data`` is JSON for it, in which no ``<`` may stand.
    """
    tail = f'<script type="application/json" id="data">{data}</script>\n' if data else ""
    tail += f"<script>{script}</script>\n" if script else ""
    return (
        Template(template("course.html"))
        .substitute(
            lang=html.escape(language),
            dir="rtl" if is_right_to_left(language) else "ltr",
            csp=html.escape(_policy(css, script)),
            title=html.escape(title),
            css=css,
            body=body,
            tail=tail,
        )
        .encode()
    )


def _policy(css: str, script: str) -> str:
    """A policy that lets the browser apply exactly this style sheet, run exactly this script, and load nothing."""
    scripts = f"script-src '{_digest(script)}'; " if script else ""
    return f"default-src 'none'; style-src '{_digest(css)}'; {scripts}base-uri 'none'; form-action 'none'"


def _digest(code: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}"


# --- pieces -------------------------------------------------------------------------------------


def fixed(words_of_ours: str, words: Words) -> Html:
    """Words that are not the course's; marked with their language where they stand in for missing ones."""
    escaped = text(words_of_ours)
    return element("span", escaped, lang=words.language, dir="ltr") if words.foreign else escaped


def titled(value: str, words: Words) -> Html:
    """A title on one line, or the words for a missing one."""
    return text(one_line(value)) or fixed(words.untitled, words)


def numeral(number: str) -> Html:
    """The number before a title."""
    return joined([element("span", text(number), class_="number"), NOTHING], " ")


def entry(href: str, number: str, title: Html) -> Html:
    """A line of a table of contents."""
    return element("a", numeral(number), element("span", title), href=href)


def moment(stamped: str) -> Html:
    """A moment, given as ``stamp`` writes it."""
    return element("time", text(stamped.replace("T", " ").replace("Z", " UTC")), datetime=stamped)


def fact_list(facts: Iterable[tuple[str, Html]], words: Words) -> Html:
    """Names of ours with their values."""
    pairs = (element("div", element("dt", fixed(name, words)), element("dd", value)) for name, value in facts)
    return element("dl", *pairs, class_="facts")


def headed_list(heading: str, items: tuple[str, ...], words: Words, *, level: int, class_: str) -> Html:
    """A list under a heading of ours, or nothing."""
    if not items:
        return NOTHING
    return element("div", element(f"h{level}", fixed(heading, words)), listed(items), class_=class_)


def listed(items: Iterable[str]) -> Html:
    """A list of the items in which there is something to read."""
    entries = [element("li", flow(item)) for item in items if visible(item).strip()]
    return element("ul", joined(entries)) if entries else NOTHING


def prose(value: str) -> Html:
    """Paragraphs."""
    return joined(element("p", _lines(lines)) for lines in paragraphs(value))


def flow(value: str) -> Html:
    """Prose inside an item: one paragraph goes without its own element, which keeps lists tight."""
    parts = paragraphs(value)
    return _lines(parts[0]) if len(parts) == 1 else prose(value)


def _lines(lines: tuple[str, ...]) -> Html:
    return joined((text(line) for line in lines), "<br>\n")


def badge(lesson: Lesson, words: Words) -> Html:
    """The mark of a lesson that is not finished."""
    if is_good(lesson):
        return NOTHING
    return joined([NOTHING, element("span", fixed(words.statuses[lesson.status], words), class_="badge")], " ")
