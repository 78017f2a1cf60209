"""Sources of a course: bytes into text, text into sections.

Markdown, HTML and plain text come out the same way: sections in reading order, each with the headings it
stands under, clean running text and list items. Code blocks and images are no running text and are left out.
"""

import codecs
import unicodedata
from collections.abc import Callable, Sequence
from typing import Final

from domain.errors import SourceEmpty, SourceNotText
from domain.generation import Corpus, Section
from domain.model import Frozen
from rendering.sources.markdown import read_markdown
from rendering.sources.markup import read_html
from rendering.sources.plain import read_plain
from rendering.sources.script import Script

__all__ = ["SourceText", "build_corpus", "decode_source", "parse_source"]

_Reader = Callable[[str, Script], None]

_BY_MEDIA_TYPE: Final[dict[str, _Reader]] = {
    "text/markdown": read_markdown,
    "text/x-markdown": read_markdown,
    "text/html": read_html,
    "application/xhtml+xml": read_html,
}
_BY_ENDING: Final[dict[str, _Reader]] = {
    "md": read_markdown,
    "markdown": read_markdown,
    "mdx": read_markdown,
    "rmd": read_markdown,
    "html": read_html,
    "htm": read_html,
    "xhtml": read_html,
}
_CONTROL_SHARE: Final = 0.1


class SourceText(Frozen):
    """One source as text. The media type decides the format, else the ending of the name, else it is plain."""

    name: str
    media_type: str | None = None
    text: str


def decode_source(raw: bytes, *, name: str) -> str:
    """Turn the bytes of a source into text: UTF-8, or UTF-16 with a byte order mark.

    Raises SourceEmpty where there is nothing to read and SourceNotText where it is something else than text.
    """
    if not raw:
        raise SourceEmpty(f"{name} is empty")
    utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = raw.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        raise SourceNotText(f"{name} is not UTF-8 text") from None
    if "\x00" in text or _control_share(text) > _CONTROL_SHARE:
        raise SourceNotText(f"{name} holds binary data")
    if not text.strip():
        raise SourceEmpty(f"{name} has no text")
    return text


def parse_source(*, name: str, media_type: str | None, text: str) -> tuple[Section, ...]:
    """Cut one source into sections in reading order, numbered ``s1``, ``s2`` ..."""
    return _read(SourceText(name=name, media_type=media_type, text=text), first=1)


def build_corpus(sources: Sequence[SourceText]) -> Corpus:
    """Cut all sources into sections; the ids run through the whole corpus."""
    sections: list[Section] = []
    for source in sources:
        sections.extend(_read(source, first=len(sections) + 1))
    return Corpus(sections=tuple(sections))


def _read(source: SourceText, *, first: int) -> tuple[Section, ...]:
    script = Script(source.name)
    _reader_for(source)(_legible(source.text), script)
    return script.sections(first=first)


def _reader_for(source: SourceText) -> _Reader:
    media_type = (source.media_type or "").partition(";")[0].strip().lower()
    ending = source.name.rpartition(".")[2].lower()
    return _BY_MEDIA_TYPE.get(media_type) or _BY_ENDING.get(ending) or read_plain


def _legible(text: str) -> str:
    """Without the characters that nothing downstream can hold; line ends made one kind."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(char for char in text if char in "\t\n\f" or unicodedata.category(char) not in {"Cc", "Cs"})


def _control_share(text: str) -> float:
    if not text:
        return 0.0
    odd = sum(char not in "\t\n\r\f" and unicodedata.category(char) == "Cc" for char in text)
    return odd / len(text)
