"""How much room text takes on a slide, estimated for a wide fallback font."""

import re
import unicodedata
from typing import Final

LINE_UNITS: Final = 72
"""How many letters of middling width stand on one line of a slide's body."""
BODY_LINES: Final = 12.0
"""How many lines of text the body of a slide holds."""
GAP_LINES: Final = 0.35
"""The space before each paragraph of the body."""

_CAPITAL_UNITS: Final = 1.35
_ELLIPSIS: Final = "\N{HORIZONTAL ELLIPSIS}"
_WORD: Final = re.compile(r"\S*\s*")


def wrapped(text: str, units: float = LINE_UNITS) -> list[str]:
    """The rows on which the text stands; together they are the text. A word longer than a row is cut."""
    rows, row, used = [], "", 0.0
    for word in _WORD.findall(text):
        size = width(word.rstrip())
        if used + size > units and row:
            rows.append(row)
            row, used = "", 0.0
        if size > units:
            *whole, word = _chopped(word, units)  # noqa: PLW2901 - what is left of it goes on as a word
            rows += whole
        row += word
        used += width(word)
    return [*rows, row] if row else rows


def _chopped(word: str, units: float) -> list[str]:
    pieces, piece, used = [], "", 0.0
    for char in word:
        size = width(char)
        if used + size > units:
            pieces.append(piece)
            piece, used = "", 0.0
        piece += char
        used += size
    return [*pieces, piece]


def cut(text: str, units: float) -> str:
    """The text, or its beginning with an ellipsis where it is too wide."""
    if width(text) <= units:
        return text
    return _chopped(text, units - 1)[0].rstrip() + _ELLIPSIS


def width(text: str) -> float:
    """How wide the text is, in letters of middling width."""
    if text.isascii() and text.islower():
        return len(text)
    return sum(map(_char_width, text))


def _char_width(char: str) -> float:
    if unicodedata.combining(char):
        return 0.0
    if unicodedata.east_asian_width(char) in "WF":
        return 2.0
    return _CAPITAL_UNITS if char.isupper() else 1.0
