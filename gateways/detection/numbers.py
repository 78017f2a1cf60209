"""Numbers with checksums: payment cards, bank accounts, national ids.

They are also found where a line ends inside them: a checksum, or the word beside them, tells them from other numbers.
"""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Final

from stdnum import iban, luhn, numdb
from stdnum.gb import nhs
from stdnum.ru import inn
from stdnum.us import ssn

from domain.guarding import FindingKind, Spot

_BEFORE: Final = 48
"""How far back from a number the word may stand that says what it is."""


def candidates(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Every match, also those that begin inside another: the next one is looked for right behind its first digit."""
    match = pattern.search(text)
    while match is not None:
        yield match
        match = pattern.search(text, match.start() + 1)


def said_before(words: re.Pattern[str], text: str, start: int) -> bool:
    """Whether one of the words stands shortly before a place."""
    return words.search(text, max(0, start - _BEFORE), start) is not None


def digits_of(text: str) -> str:
    """The digits alone."""
    return "".join(filter(str.isdigit, text))


# --- payment cards ----------------------------------------------------------------------------------

_CARD: Final = re.compile(
    r"(?<![\w.])(?<!\d[-/,])(?:"
    r"\d{4}(?:[ \n.-]{0,3}\d{4}){3}(?:[ \n.-]{0,3}\d{1,3})?"  # 4-4-4-4, with up to three more
    r"|\d{4}[ \n.-]{0,3}\d{6}[ \n.-]{0,3}\d{4,5}"  # American Express, Diners Club
    r")(?![\w@])(?![.,-]\d)"
)
_ISSUERS: Final = (
    (re.compile(r"4"), {16, 19}),  # Visa
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720"), {16}),  # Mastercard
    (re.compile(r"220[0-4]"), {16, 17, 18, 19}),  # Mir
    (re.compile(r"3[47]"), {15}),  # American Express
    (re.compile(r"30[0-5]|36|3[89]"), {14, 16, 19}),  # Diners Club
    (re.compile(r"6011|64[4-9]|65"), {16, 19}),  # Discover
    (re.compile(r"35(?:2[89]|[3-8]\d)"), {16, 19}),  # JCB
    (re.compile(r"62"), {16, 17, 18, 19}),  # UnionPay
    (re.compile(r"50|5[6-8]|6[379]"), {16, 18, 19}),  # Maestro
)


def find_cards(text: str) -> list[Spot]:
    """Numbers of a length that their issuer uses, with a good check digit."""
    return [
        Spot(FindingKind.CARD, match.start(), match.end(), 0.95, "luhn.card")
        for match in candidates(_CARD, text)
        if _is_card(digits_of(match[0]))
    ]


def _is_card(number: str) -> bool:
    issued = any(issuer.match(number) and len(number) in lengths for issuer, lengths in _ISSUERS)
    return issued and len(set(number)) > 1 and luhn.is_valid(number)


# --- bank accounts ----------------------------------------------------------------------------------

_IBAN: Final = re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}(?:[ \n-]?[A-Za-z0-9]){11,30}")
_PART: Final = re.compile(r"([0-9]+)!")


@functools.cache
def _iban_length(country: str) -> int:
    """How long the accounts of a country are; 0 where it has none."""
    ((_, known), *_) = numdb.get("iban").info(country.upper())
    parts = [int(count) for count in _PART.findall(known.get("bban", ""))]
    return len("DE89") + sum(parts) if parts else 0


def find_ibans(text: str) -> list[Spot]:
    """Accounts that exist by the rules of their country, also with other words right behind them."""
    return [spot for match in candidates(_IBAN, text) if (spot := _iban_in(match, text)) is not None]


def _iban_in(match: re.Match[str], text: str) -> Spot | None:
    length = _iban_length(match[0][:2])
    places = [place for place in range(match.start(), match.end()) if text[place].isalnum()]
    if not length or len(places) < length:
        return None
    end = places[length - 1] + 1
    glued = end < len(text) and (text[end].isalnum() or text[end] == "_")
    account = "".join(text[place] for place in places[:length])
    # The checksum alone first: the rules of countries take ten times as long.
    if glued or int("".join(str(int(char, 36)) for char in account[4:] + account[:4])) % 97 != 1:
        return None
    return Spot(FindingKind.IBAN, match.start(), end, 0.99, "stdnum.iban") if iban.is_valid(account) else None


# --- national ids -----------------------------------------------------------------------------------

_EDGES: Final = (r"(?<![\w.-])", r"(?![\w-])(?![.,]\d)")


def _number(shape: str) -> re.Pattern[str]:
    return re.compile(_EDGES[0] + shape + _EDGES[1])


def _words(*words: str) -> re.Pattern[str]:
    return re.compile(r"(?<!\w)(?:" + "|".join(words) + r")", re.IGNORECASE)


_INN: Final = _number(r"(?:\d{12}|\d{10})")
_INN_WORDS: Final = _words(r"ИНН(?!\w)", r"INN(?!\w)", "налогоплательщик", "taxpayer")
_SNILS_SHAPE: Final = _number(r"\d{3}-\d{3}-\d{3}[ \n-]\d{2}")
_SNILS: Final = _number(r"\d{3}[ \n-]?\d{3}[ \n-]?\d{3}[ \n-]?\d{2}")
_SNILS_WORDS: Final = _words(r"СНИЛС", r"SNILS", "страхово\\w+ (?:номер|свидетельств)")
_PASSPORT: Final = _number(r"\d{2}[ \n]?\d{2}[ \n,]{0,2}(?:(?:номер|№|No|N|n)\.?[ \n]{0,2})?\d{6}")
_PASSPORT_WORDS: Final = _words("паспорт", "passport", "серия")
_SSN_SHAPE: Final = _number(r"\d{3}-\n?\d{2}-\n?\d{4}")
_SSN: Final = _number(r"\d{3}[ \n]?\d{2}[ \n]?\d{4}")
_SSN_WORDS: Final = _words(r"SSN(?!\w)", "social security")
_NHS: Final = _number(r"\d{3}[ \n-]?\d{3}[ \n-]?\d{4}")
_NHS_WORDS: Final = _words(r"NHS(?!\w)")


def snils_is_valid(number: str) -> bool:
    """Whether the last two of eleven digits are the checksum of the others; numbers before 001-001-999 have none."""
    if number[:9] <= "001001998":
        return False
    return sum(int(digit) * (9 - place) for place, digit in enumerate(number[:9])) % 101 % 100 == int(number[9:])


_IDS: Final[tuple[tuple[str, float, re.Pattern[str], re.Pattern[str] | None, Callable[[str], bool]], ...]] = (
    ("checksum.ru.snils", 0.97, _SNILS_SHAPE, None, snils_is_valid),
    ("checksum.ru.snils", 0.97, _SNILS, _SNILS_WORDS, snils_is_valid),
    ("stdnum.ru.inn", 0.97, _INN, _INN_WORDS, inn.is_valid),
    ("pattern.ru.passport", 0.8, _PASSPORT, _PASSPORT_WORDS, lambda _number: True),
    ("stdnum.us.ssn", 0.85, _SSN_SHAPE, None, ssn.is_valid),
    ("stdnum.us.ssn", 0.9, _SSN, _SSN_WORDS, ssn.is_valid),
    ("stdnum.gb.nhs", 0.97, _NHS, _NHS_WORDS, nhs.is_valid),
)


def find_ids(text: str) -> list[Spot]:
    """National ids of Russia, the United States and the United Kingdom."""
    return [
        Spot(FindingKind.NATIONAL_ID, match.start(), match.end(), confidence, detector)
        for detector, confidence, shape, words, is_valid in _IDS
        if words is None or words.search(text)
        for match in candidates(shape, text)
        if (words is None or said_before(words, text, match.start())) and is_valid(digits_of(match[0]))
    ]
