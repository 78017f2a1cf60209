"""Phone numbers: international ones wherever they stand, national ones by their shape or a word beside them.

A line may end inside an international one; national ones would be found in columns of figures then.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

import phonenumbers

from domain.guarding import FindingKind, Spot
from gateways.detection.numbers import candidates, said_before

_INTERNATIONAL: Final = re.compile(r"(?<![\w+])\+ ?\(?\d(?:[ \n.()/-]{0,3}\d){6,16}(?![\w@])")
_RUSSIAN: Final = re.compile(
    r"(?<![\w+.-])[78](?:[ -]|[ -]?\(| ?)\d{3}(?:\) ?|[ -])\d{3}[ -]?\d{2}[ -]?\d{2}(?![\w@])(?!-\d)"
)
_AMERICAN: Final = re.compile(r"(?<![\w+.-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4}(?![\w@])(?![.-]\d)")
_YEAR: Final = r"(?:1[5-9]|20)\d\d"
_NO_YEARS: Final = (
    rf"(?!{_YEAR}-{_YEAR}(?!\d))(?!(?<={_YEAR}-){_YEAR}(?!\d))"  # 1904-1910, and no number begins at its end
    rf"(?!(?:{_YEAR} )?\d{{1,3}}(?: 000){{2,}}(?!\d))"  # by 1910 3 000 000 telephones
)
_ANY: Final = re.compile(rf"(?<![\w+]){_NO_YEARS}\(?\d(?:[ .()/-]{{0,3}}\d){{6,14}}(?![\w@])")
_WORDS: Final = re.compile(
    r"(?<!\w)(?:тел(?=[.:\s])|телефон|моб(?=[.:\s])|мобильн|сотов|звони|позвони|whatsapp|вотсап|viber|факс"
    r"|phone|telephone|tel[eé]fon|tél(?=[.:\s])|tel(?=[.:\s])|mobile|cell|fax(?=[.:\s])"
    r"|call (?:me|us|him|her|them|now|at|on))",
    re.IGNORECASE,
)
_LAST_DIGITS: Final = re.compile(r"\d(?=[ \n.()/-]+\d|$)")
_MOST_CUTS: Final = 3

_REGION_OF: Final = {
    "en": "US", "ru": "RU", "de": "DE", "fr": "FR", "es": "ES", "it": "IT", "pt": "PT", "nl": "NL", "pl": "PL",
    "uk": "UA", "be": "BY", "kk": "KZ", "tr": "TR", "cs": "CZ", "sv": "SE", "fi": "FI", "ja": "JP", "zh": "CN",
}  # fmt: skip
_ALWAYS: Final = ("RU", "US", "GB")


def find_phones(text: str, language: str) -> list[Spot]:
    """Every phone number in a folded text."""
    regions = _regions(language)
    judged: dict[str, float] = {}  # what repeats nearby is judged once
    found = [
        *_sought(_INTERNATIONAL, text, judged, (None,)),
        *_sought(_RUSSIAN, text, judged, ("RU",)),
        *_sought(_AMERICAN, text, judged, ("US",)),
    ]
    if _WORDS.search(text):
        near = (match for match in candidates(_ANY, text) if said_before(_WORDS, text, match.start()))
        found += _judged(near, judged, regions)
    return found


def _regions(language: str) -> Sequence[str]:
    parts = language.split("-")
    named = [part.upper() for part in parts[1:] if len(part) == len("US") and part.isalpha()]
    return tuple(dict.fromkeys([*named, *filter(None, [_REGION_OF.get(parts[0].lower())]), *_ALWAYS]))


def _sought(pattern: re.Pattern[str], text: str, judged: dict[str, float], regions: Sequence[str | None]) -> list[Spot]:
    return list(_judged(candidates(pattern, text), judged, regions))


def _judged(
    matches: Iterator[re.Match[str]], judged: dict[str, float], regions: Sequence[str | None]
) -> Iterator[Spot]:
    for match in matches:
        for candidate in _cut(match[0]):
            if candidate not in judged:
                judged[candidate] = max(_confidence(candidate, region) for region in regions)
            if judged[candidate]:
                end = match.start() + len(candidate)
                yield Spot(FindingKind.PHONE, match.start(), end, judged[candidate], "phonenumbers.phone")
                break


def _cut(candidate: str) -> Iterator[str]:
    """The candidate, and shorter ones: other numbers may stand right behind a phone number."""
    ends = [match.end() for match in _LAST_DIGITS.finditer(candidate)]
    for end in reversed(ends[-_MOST_CUTS:]):
        yield candidate[:end]


def _confidence(candidate: str, region: str | None) -> float:
    """How sure it is that this is a phone number; 0 where it is none."""
    try:
        number = phonenumbers.parse(candidate.replace("\n", " "), region)
    except phonenumbers.NumberParseException:
        return 0.0
    if phonenumbers.is_valid_number(number):
        return 0.95
    # Written like a phone number, and as long as one of its country: examples use ranges that are not in service.
    spaced = any(mark in candidate for mark in " -.(")
    written = candidate.startswith("+") or "(" in candidate
    return 0.6 if written and spaced and phonenumbers.is_possible_number(number) else 0.0
