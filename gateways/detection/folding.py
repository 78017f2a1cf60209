"""A text as detectors read it: plain digits, plain dashes and spaces, and nothing that cannot be seen."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

_GONE: Final = "\0"
"""Stands for what is to be skipped; NUL itself is skipped as well."""
_SKIPPED: Final = frozenset({"Cf", "Me", "Mn", "Cs"})
"""Zero-width characters, direction marks, soft hyphens; combining marks, variation selectors, key caps."""
_NOT_PLAIN: Final = re.compile(r"[\0\t\v\f\r]")
"""What an ASCII text may have to be folded for."""
_SPACES: Final = "\t\v\f\x85\u2028\u2029"
"""Gaps that a reader sees as a space, and that a rendering may turn into one. ``\\n`` stays: it ends most things."""


class _Table(dict[int, str | int]):
    """One character for one, worked out when a character is met first."""

    def __missing__(self, code: int) -> str | int:
        folded = self[code] = _folded(chr(code))
        return folded


def _folded(char: str) -> str:
    category = unicodedata.category(char)
    if char == _GONE or category in _SKIPPED:
        return _GONE
    if category == "Nd":
        return str(unicodedata.decimal(char))
    if category == "Pd" or char == "\u2212":  # the minus sign is no dash to Unicode
        return "-"
    if category == "Zs" or char in _SPACES:
        return " "
    if char == "\r":
        return "\n"
    plain = unicodedata.normalize("NFKC", char)
    return plain if len(plain) == 1 else char


_TABLE: Final = _Table()


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded text that knows where its characters come from; ``places`` is None where each kept its place."""

    text: str
    places: tuple[int, ...] | None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The stretch of the original text for a stretch of this one, with what was skipped inside or behind it."""
        return (start, end) if self.places is None else (self.places[start], self.places[end])


def fold(text: str) -> Folded:
    """Fold ``text``, in time that grows with its length."""
    if text.isascii() and not _NOT_PLAIN.search(text):
        return Folded(text, None)
    folded = text.replace("\r\n", f"{_GONE}\n").translate(_TABLE)
    if _GONE not in folded:
        return Folded(folded, None)
    places = (*(place for place, char in enumerate(folded) if char != _GONE), len(text))
    return Folded(folded.replace(_GONE, ""), places)
