"""Markdown into a script: CommonMark with tables, and the extras that lesson texts carry."""

import re
from collections.abc import Sequence
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

from rendering.sources.markup import read_html_fragment
from rendering.sources.script import Script

_PARSER: Final = MarkdownIt("commonmark").enable(["table", "strikethrough"])
_FRONT_MATTER: Final = re.compile(
    r"\A\s*(?P<fence>---|\+\+\+)[ \t]*\n(?P<body>.*?)^(?P=fence)[ \t]*$\n?", re.DOTALL | re.MULTILINE
)
_TITLE: Final = re.compile(r"^title\s*[:=]\s*(?P<quote>[\"']?)(?P<title>.+?)(?P=quote)\s*$", re.MULTILINE)
_KEY: Final = re.compile(r"^[\w.-]+\s*[:=]|^\[", re.MULTILINE)
# Fences of admonitions (:::), attribute lists ({: .class}) and template tags carry no text of their own.
_DIRECTIVE: Final = re.compile(r"^[ \t>]*(?::{3,}.*|\{[:%].*\})[ \t]*$", re.MULTILINE)
_ATTRIBUTES: Final = re.compile(r"\{[#.:][^{}]*\}$")
_LEFTOVER: Final = re.compile(r"\*\*+|\[\^[^\]\s]{1,80}\]:?|\[!(?:NOTE|TIP|IMPORTANT|WARNING|CAUTION)\]")
_CHECKBOX: Final = re.compile(r"^\[[ xX]\]\s+")


def read_markdown(text: str, script: Script) -> None:
    """Write headings, paragraphs, list items and table rows of ``text`` into ``script``."""
    body = _without_front_matter(text, script)
    reader = _TokenReader(script)
    for token in _PARSER.parse(_DIRECTIVE.sub("", body)):
        reader.read(token)


def _without_front_matter(text: str, script: Script) -> str:
    found = _FRONT_MATTER.match(text)
    if found is None or (found["body"].strip() and not _KEY.search(found["body"])):
        return text
    if title := _TITLE.search(found["body"]):
        script.heading(1, title["title"])
    return text[found.end() :]


class _TokenReader:
    """Follows the flat token stream and remembers what it is inside of."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._level = 0
        self._items = 0
        self._row: list[str] = []
        self._header: tuple[str, ...] = ()
        self._in_table = False

    def read(self, token: Token) -> None:
        match token.type:
            case "heading_open" | "heading_close":
                self._level = int(token.tag[1:]) if token.nesting > 0 else 0
            case "list_item_open" | "list_item_close":
                self._items += token.nesting
            case "table_open" | "table_close":
                self._in_table = token.nesting > 0
                self._header = ()
            case "thead_close":
                self._header, self._row = tuple(self._row), []
            case "tr_close" if self._header:
                self._script.row(self._row, self._header)
                self._row = []
            case "inline":
                self._inline(token)
            case "html_block":
                read_html_fragment(token.content, self._script)

    def _inline(self, token: Token) -> None:
        children = token.children or []
        text = _text_of(children)
        if self._in_table:
            self._row.append(text)
        elif self._level:
            self._script.heading(self._level, _without_attributes(text))
        elif self._items:
            if not _only_points_into_page(children):
                self._script.bullet(_CHECKBOX.sub("", text))
        elif _looks_like_rows(token.content):
            self._loose_rows(text)
        else:
            self._script.paragraph(_without_attributes(text))

    def _loose_rows(self, text: str) -> None:
        """Rows of a table whose delimiter line is missing: a parser takes them for a paragraph."""
        for line in text.splitlines():
            cells = [cell for cell in line.strip().strip("|").split("|") if cell.strip(" -:")]
            self._script.row(cells, ())


def _text_of(children: Sequence[Token]) -> str:
    return "".join(_piece(child) for child in children)


def _piece(child: Token) -> str:
    match child.type:
        case "text" | "text_special":
            return _LEFTOVER.sub("", child.content)
        case "code_inline":
            return child.content
        case "softbreak" | "hardbreak":
            return "\n"
        case "html_inline" if child.content.lower().startswith("<br"):
            return "\n"
    return ""


def _without_attributes(text: str) -> str:
    return _ATTRIBUTES.sub("", text.rstrip())


def _only_points_into_page(children: Sequence[Token]) -> bool:
    """Whether the item is an entry of a table of contents."""
    if not children or children[0].type != "link_open" or children[-1].type != "link_close":
        return False
    links = [child for child in children if child.type == "link_open"]
    return len(links) == 1 and str(links[0].attrGet("href")).startswith("#")


def _looks_like_rows(content: str) -> bool:
    return all(line.lstrip().startswith("|") for line in content.splitlines())
