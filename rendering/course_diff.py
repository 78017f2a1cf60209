"""What is different between two versions of a course, as a page for people."""

from typing import Final

from domain.course_diff import Change, CourseDiff, Difference, Run
from rendering.course_parts import one_line
from rendering.html_pieces import page, template
from rendering.markup import NOTHING, Html, element, joined, text

_NAMES: Final = {
    Change.ADDED: "Added",
    Change.REMOVED: "Removed",
    Change.MOVED: "Moved",
    Change.CHANGED: "Changed",
}
_MARKS: Final = {"insert": ("ins", "inserted: "), "delete": ("del", "deleted: ")}


def course_diff_html(diff: CourseDiff, *, title: str, before: int, after: int) -> bytes:
    """A whole page: how much is different, then each piece in reading order.

    What came and what went is said in words as well as shown, for those who hear the page; nothing is loaded.
    """
    heading = f"{one_line(title)}: version {before} and version {after}"
    counts = [
        element("li", text(f"{_NAMES[change]}: {diff.counts[change.value]}"))
        for change in Change
        if diff.counts[change.value]
    ]
    summary = element("ul", joined(counts)) if counts else element("p", text("Nothing is different."))
    body = element(
        "main",
        element("h1", text(heading)),
        summary,
        element("p", text(f"Unchanged: {diff.unchanged}")),
        joined(_article(difference, number) for number, difference in enumerate(diff.differences, start=1)),
    )
    return page(language="en", title=heading, css=template("course_diff.css"), body=body)


def _article(difference: Difference, number: int) -> Html:
    name = f"difference-{number}"
    heading = element(
        "h2",
        element("span", text(_NAMES[difference.change]), class_="kind"),
        text(" "),
        element("bdi", text(one_line(difference.title))),
        id=name,
    )
    text_before = difference.title_before
    renamed = NOTHING if text_before is None else element("p", text("Before: "), element("bdi", text(text_before)))
    words = (
        element("div", *(_run(run) for run in difference.words), class_="text", dir="auto")
        if difference.words
        else NOTHING
    )
    return element("article", heading, element("p", text(_place(difference))), renamed, words, aria_labelledby=name)


def _place(difference: Difference) -> str:
    before, after = difference.before, difference.after
    if before is None or after is None or before == after:
        return f"{difference.kind.capitalize()} {after or before}"
    moved = ", moved" if difference.moved and difference.change is Change.CHANGED else ""
    return f"{difference.kind.capitalize()} {after}, before: {before}{moved}"


def _run(run: Run) -> Html:
    if run.op == "equal":
        return text(run.text)
    name, mark = _MARKS[run.op]
    return element(name, element("span", text(mark), class_="mark"), text(run.text))
