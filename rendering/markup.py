"""HTML that is escaped by construction, and an allow-list behind it in case construction was wrong.

``Html`` is a type of its own: mypy refuses a plain ``str`` where markup is expected, so no text gets in unescaped.
"""

import html
import re
from collections.abc import Iterable
from typing import NewType

import nh3

from rendering.course_parts import visible

Html = NewType("Html", str)
"""Well-formed markup. Made by the functions of this module and by nothing else."""

NOTHING = Html("")

_TAGS = {
    *("a", "article", "aside", "br", "code", "dd", "details", "div", "dl", "dt", "footer", "h1", "h2", "h3", "h4"),
    *("header", "li", "main", "nav", "ol", "p", "pre", "section", "span", "strong", "summary", "table", "tbody", "td"),
    *("th", "thead", "time", "tr", "ul"),
}
_ATTRIBUTES = {
    "*": {"class", "dir", "id", "lang"},
    "a": {"href"},
    "details": {"open"},
    "div": {"aria-labelledby", "role", "tabindex"},
    "main": {"tabindex"},
    "nav": {"aria-labelledby"},
    "section": {"aria-labelledby"},
    "th": {"scope"},
    "time": {"datetime"},
}
_NAME = re.compile(r"[a-z][a-z0-9-]*")
_SHAPES = {
    "aria-labelledby": _NAME,
    "class": re.compile(r"[a-z][a-z0-9 -]*"),
    "datetime": re.compile(r"[0-9TZ:.-]+"),
    "dir": re.compile(r"auto|ltr"),
    "href": re.compile(  # places on this page and pages of this package, and no others
        r"#[a-z][a-z0-9-]*|(?:index|lesson-[0-9]+-[0-9]+)\.html"
    ),
    "id": _NAME,
    "lang": re.compile(r"[A-Za-z0-9-]+"),
    "open": re.compile(r""),
    "role": re.compile(r"note|region"),
    "scope": re.compile(r"col|row"),
    "tabindex": re.compile(r"0|-1"),
}


def text(value: str) -> Html:
    """The text itself, whatever it looks like."""
    return Html(html.escape(visible(value)))


def element(name: str, /, *children: Html, **attributes: str) -> Html:
    """One element. ``class_`` and ``aria_label`` stand for ``class`` and ``aria-label``."""
    written = "".join(f' {_attribute(key)}="{html.escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{written}>{''.join(children)}</{name}>")


def joined(parts: Iterable[Html], separator: str = "\n") -> Html:
    """The parts one after the other, white space or a void element between them."""
    return Html(separator.join(parts))


def sanitised(markup: Html) -> Html:
    """The markup without any tag, attribute or address that our pages do not use themselves."""
    return Html(
        nh3.clean(
            markup,
            tags=_TAGS,
            attributes=_ATTRIBUTES,
            attribute_filter=_allowed,
            url_schemes=set(),
            link_rel=None,
        )
    )


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _allowed(_tag: str, attribute: str, value: str) -> str | None:
    """The value, or None where it must go. Never raises: nh3 drops an exception and keeps the attribute."""
    shape = _SHAPES.get(attribute)
    return value if shape is not None and shape.fullmatch(value) else None
