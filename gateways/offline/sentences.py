"""Where sentences end: by rules, for English and Russian, with the usual traps of technical prose."""

# ruff: noqa: RUF001
# Russian abbreviations are written in Cyrillic.

import re
from typing import Final

from gateways.offline.words import word_set

# An end mark, what closes after it, then white space; the full-width marks need none.
_END: Final = re.compile(r"(?:[.!?…]+[\"'»”’)\]]*(?=\s)|[。！？]+[」』”）]*)")
_LAST_TOKEN: Final = re.compile(r"\S+$")
_OPENERS: Final = "\"'«“‘([—–-*_ "
_IDENTIFIER: Final = re.compile(r"[^\W\d_]\w*(?:[._/:-]+\w+|\(\))|\w*\d\w*|/\w")
_MAX_ASIDE_CHARS: Final = 240

# Never the end of a sentence.
_INNER: Final = word_set("""
    e.g i.e cf vs viz approx mr mrs ms dr prof st gov capt figs eqs eds incl nos pp resp
    т.е т.к т.н т.о т.ч см ср напр ул проф акад рис табл стр англ лат греч фр франц обл просп пр-т корп соч зам и.о д-р
    г-н г-жа
""")
# Not the end of a sentence when a number follows.
_BEFORE_DIGIT: Final = word_set("""
    no p fig eq sec vol ed art ch col v ver jan feb mar apr jun jul aug sep sept oct nov dec ca
    п пп ст с гл д кв вып ред тел № т
""")
# Short for something, unless a number stands before: then it is a unit, and may end its sentence.
_UNITS: Final = word_set("г гг в вв ч с м д п л см")
# What may stand before the second half of an abbreviation in two words ("и т. д.", "до н. э.").
_FIRST_HALVES: Final = ("т.", "н.")


def split_sentences(text: str) -> list[str]:
    """Cut running text into sentences. Nothing is changed but the white space between them."""
    sentences: list[str] = []
    start = 0
    for found in _END.finditer(text):
        if _ends(text, start, found):
            sentences.append(text[start : found.end()].strip())
            start = found.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _ends(text: str, start: int, mark: re.Match[str]) -> bool:
    following = text[mark.end() : mark.end() + 60].lstrip()
    if not following or mark[0].startswith(("。", "！", "？")):
        return True
    if _continues(following) or _inside_aside(text, start, mark.end()):
        return False
    bare = mark[0].rstrip("\"'»”’)]")
    if len(bare) != 1 or bare in "!?…":
        return True
    return not _is_abbreviation(text[start : mark.start()], following, closed=len(mark[0]) > 1)


def _continues(following: str) -> bool:
    """Whether what follows cannot begin a sentence: a small letter that is not the name of a file or function."""
    bare = following.lstrip(_OPENERS)
    return bool(bare) and (bare[0].islower() or bare[0] in ",;:)") and not _IDENTIFIER.match(bare)


def _inside_aside(text: str, start: int, end: int) -> bool:
    before = text.count("(", start, end) - text.count(")", start, end)
    return before > 0 and text.find(")", end, end + _MAX_ASIDE_CHARS) >= 0


def _is_abbreviation(before: str, following: str, *, closed: bool) -> bool:
    found = _LAST_TOKEN.search(before)
    if found is None:
        return False
    token = found[0].lstrip("\"'«“‘([")
    word = token.lower()
    if not before[: found.start()].strip() and word.rstrip(")").isdigit():
        return True  # "1. First": the number of an item
    if closed:
        return False
    if word in _BEFORE_DIGIT and following[0].isdigit():
        return True
    return _stands_for_more(token, word, before[: found.start()].rstrip())


def _stands_for_more(token: str, word: str, before: str) -> bool:
    if word in _UNITS:
        return not before[-1:].isdigit() and not before.endswith(_FIRST_HALVES)
    if word in _INNER:
        return True
    # Initials, also set without a space between them.
    pieces = [piece for piece in token.split(".") if piece]
    return bool(pieces) and all(len(piece) == 1 and piece.isupper() and piece.isalpha() for piece in pieces)
