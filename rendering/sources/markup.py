"""HTML into a script: the main text of a page, without what surrounds it."""

from typing import Any, Final

from lxml import etree, html  # type: ignore[import-untyped]

from rendering.sources.script import Script

# lxml is an untyped library; its elements are Any wherever they pass.
_Element = Any

_NO_TEXT: Final = (
    "script",
    "style",
    "nav",
    "noscript",
    "template",
    "svg",
    "math",
    "head",
    "footer",
    "form",
    "button",
    "select",
    "textarea",
    "iframe",
    "object",
    "pre",
    "figure",
    "audio",
    "video",
    "canvas",
    "dialog",
)
_NOISE: Final = " | ".join(
    [
        *(f"//{tag}" for tag in _NO_TEXT),
        "//*[@hidden]",
        "//a[contains(@class, 'headerlink') or contains(@class, 'anchor')][string-length(normalize-space()) < 2]",
        "//sup[contains(@class, 'reference')]",
        "//li[a[starts-with(@href, '#')] and count(*) = 1 and not(text()[normalize-space()])]",
    ]
)
_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}
_ITEMS: Final = frozenset({"li", "dt", "dd"})
_CELLS: Final = frozenset({"td", "th"})
_BLOCKS: Final = frozenset(
    {
        *_HEADINGS,
        *_ITEMS,
        *_CELLS,
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "caption",
        "center",
        "details",
        "div",
        "dl",
        "fieldset",
        "figcaption",
        "header",
        "hgroup",
        "hr",
        "html",
        "main",
        "ol",
        "p",
        "section",
        "summary",
        "table",
        "tbody",
        "tfoot",
        "thead",
        "tr",
        "ul",
    }
)
_BLOCK_IN_CELL: Final = ("p", "ul", "ol", "table", *_HEADINGS)


def read_html(text: str, script: Script) -> None:
    """Write headings, paragraphs, list items and table rows of a page into ``script``."""
    tree = _parse(text)
    if tree is None:
        return
    title = tree.findtext(".//title") or ""
    _drop_noise(tree)
    mains = tree.xpath("//main") or tree.xpath("//article")
    root = mains[0] if len(mains) == 1 else tree
    if title.strip() and not root.xpath(".//h1"):
        script.heading(1, title)
    _ElementReader(script).walk(root)


def read_html_fragment(text: str, script: Script) -> None:
    """The same for a piece of HTML inside another format."""
    tree = _parse(text)
    if tree is not None:
        _drop_noise(tree)
        _ElementReader(script).walk(tree)


def _parse(text: str) -> _Element | None:
    # Bytes, because lxml refuses a str that declares an encoding of its own.
    parser = html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=True)
    try:
        return html.document_fromstring(text.encode(), parser=parser)
    except etree.ParserError:
        return None  # nothing but comments or white space


def _drop_noise(tree: _Element) -> None:
    for element in tree.xpath(_NOISE):
        if element.getparent() is not None:
            element.drop_tree()


class _ElementReader:
    """Collects inline text until a block begins or ends, then files it under what it is inside of."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._text: list[str] = []
        self._level = 0
        self._items = 0
        self._cell: list[str] | None = None
        self._row: list[str] = []
        self._header: tuple[str, ...] = ()

    def walk(self, root: _Element) -> None:
        for event, element in etree.iterwalk(root, events=("start", "end")):
            tag = element.tag if isinstance(element.tag, str) else ""
            if event == "start":
                self._open(tag, element)
                self._text.append(element.text or "")
            else:
                self._close(tag, element)
                self._text.append(element.tail or "" if element is not root else "")
        self._flush()

    def _open(self, tag: str, element: _Element) -> None:
        if tag == "br":
            self._text.append("\n")
        if tag not in _BLOCKS:
            return
        self._flush()
        if tag in _HEADINGS:
            self._level = _HEADINGS[tag]
        elif tag in _ITEMS:
            self._items += 1
        elif tag in _CELLS and next(element.iter(*_BLOCK_IN_CELL), None) is None:
            self._cell = []
        elif tag == "table":
            self._header = ()

    def _close(self, tag: str, element: _Element) -> None:
        if tag not in _BLOCKS:
            return
        self._flush()
        if tag in _HEADINGS:
            self._level = 0
        elif tag in _ITEMS:
            self._items -= 1
        elif tag in _CELLS and self._cell is not None:
            self._row.append(" ".join(self._cell))
            self._cell = None
        elif tag == "tr":
            self._close_row(element)

    def _close_row(self, element: _Element) -> None:
        row, self._row = self._row, []
        if row and not self._header and all(cell.tag == "th" for cell in element):
            self._header = tuple(row)
        elif row:
            self._script.row(row, self._header)

    def _flush(self) -> None:
        text, self._text = "".join(self._text), []
        if not text.strip():
            return
        if self._cell is not None:
            self._cell.append(text)
        elif self._level:
            self._script.heading(self._level, text)
        elif self._items:
            self._script.bullet(text)
        else:
            self._script.paragraph(text)
