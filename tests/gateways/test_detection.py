"""What is personal is found, also in disguise; what only looks like it is left alone; hostile text takes no longer."""
# ruff: noqa: RUF001 - signs that look like others are meant

import random
import sys
from collections.abc import Callable
from typing import Final

import pytest

from domain.guarding import FindingKind
from gateways.detection import PersonalDataDetector
from gateways.detection.folding import fold
from gateways.detection.numbers import snils_is_valid

DETECTOR: Final = PersonalDataDetector()
EMAIL, PHONE, CARD, IBAN, ID = (
    FindingKind.EMAIL, FindingKind.PHONE, FindingKind.CARD, FindingKind.IBAN, FindingKind.NATIONAL_ID,
)  # fmt: skip


def found(text: str, language: str = "en") -> list[tuple[FindingKind, str]]:
    """What was found, and the stretch of the text that it was found in."""
    return [(spot.kind, text[spot.start : spot.end]) for spot in DETECTOR.find(text, language=language)]


PERSONAL: Final = [
    ("Write to anna.petrova+course@mail.example.org today.", EMAIL, "anna.petrova+course@mail.example.org"),
    ("(j_smith@uni-heidelberg.de)", EMAIL, "j_smith@uni-heidelberg.de"),
    ("mailto:help@shop.co.uk?subject=x", EMAIL, "help@shop.co.uk"),
    ("Пишите на почта@пример.рф.", EMAIL, "почта@пример.рф"),
    ("o'neill@example.com,", EMAIL, "o'neill@example.com"),
    ("git@company.example is a person's mailbox", EMAIL, "git@company.example"),
    ("Звоните: +7 (916) 123-45-67, доб. 5", PHONE, "+7 (916) 123-45-67"),
    ("Call +44 20 7946 0958 tomorrow", PHONE, "+44 20 7946 0958"),
    ("+49 30 901820 is the city hall", PHONE, "+49 30 901820"),
    ("tel:+14155552671", PHONE, "+14155552671"),
    ("My number is +1-555-123-4567.", PHONE, "+1-555-123-4567"),
    ("Заплатите на +7 916 123-45-67 100 рублей", PHONE, "+7 916 123-45-67"),
    ("8 (495) 123-45-67 работает до шести", PHONE, "8 (495) 123-45-67"),
    ("горячая линия 8-800-555-35-35", PHONE, "8-800-555-35-35"),
    ("моб. 89161234567", PHONE, "89161234567"),
    ("Reach us at (415) 555-2671 or by post", PHONE, "(415) 555-2671"),
    ("phone: 415.555.2671", PHONE, "415.555.2671"),
    ("Phone 020 7946 0958 and ask", PHONE, "020 7946 0958"),
    ("Pay with 4111 1111 1111 1111 now", CARD, "4111 1111 1111 1111"),
    ("card=5555555555554444;", CARD, "5555555555554444"),
    ("3782-822463-10005 is an Amex", CARD, "3782-822463-10005"),
    ("Карта МИР 2200 0000 0000 0004", CARD, "2200 0000 0000 0004"),
    ("1234 4111 1111 1111 1111", CARD, "4111 1111 1111 1111"),
    ("6011 1111 1111 1117", CARD, "6011 1111 1111 1117"),
    ("Transfer to DE89 3704 0044 0532 0130 00 by Friday", IBAN, "DE89 3704 0044 0532 0130 00"),
    ("IBAN GB82WEST12345698765432.", IBAN, "GB82WEST12345698765432"),
    ("fr1420041010050500013m02606", IBAN, "fr1420041010050500013m02606"),
    ("Мой СНИЛС 112-233-445 95", ID, "112-233-445 95"),
    ("СНИЛС: 11223344595", ID, "11223344595"),
    ("ИНН физлица 500100732259", ID, "500100732259"),
    ("ИНН 7707083893 банка", ID, "7707083893"),
    ("паспорт 45 08 123456 выдан", ID, "45 08 123456"),
    ("Паспорт: серия 4508 номер 123456", ID, "4508 номер 123456"),
    ("Her SSN is 219-45-6789.", ID, "219-45-6789"),
    ("social security number 219456789", ID, "219456789"),
    ("NHS number 943 476 5919", ID, "943 476 5919"),
    ("card 4111\t1111\t1111\t1111", CARD, "4111\t1111\t1111\t1111"),
    ("Карта 4111 1111\n1111 1111", CARD, "4111 1111\n1111 1111"),
    ("Карта 4111 1111\r\n1111 1111, действует", CARD, "4111 1111\r\n1111 1111"),
    ("card 4111\v1111\f1111\r1111", CARD, "4111\v1111\f1111\r1111"),
    ("Карта 4111\u20281111\u20291111\x851111", CARD, "4111\u20281111\u20291111\x851111"),
    ("Call +7\t916\t123-45-67", PHONE, "+7\t916\t123-45-67"),
    ("Transfer to DE89 3704 0044\r\n0532 0130 00 by Friday", IBAN, "DE89 3704 0044\r\n0532 0130 00"),
    ("Мой СНИЛС 112-233-445\n95", ID, "112-233-445\n95"),
    ("СНИЛС 112 233\n445 95", ID, "112 233\n445 95"),
    ("NHS number 943 476\n5919", ID, "943 476\n5919"),
    ("Паспорт 45 09\n123456 выдан", ID, "45 09\n123456"),
    ("Паспорт: серия 4509, номер\n123456", ID, "4509, номер\n123456"),
    ("Her SSN is 219 45\n6789.", ID, "219 45\n6789"),
    ("On file: 219-45-\n6789.", ID, "219-45-\n6789"),
    ("Call +44 20 7946\n0958 now", PHONE, "+44 20 7946\n0958"),
    ("Звоните +7 (912) 345-\r\n67-89.", PHONE, "+7 (912) 345-\r\n67-89"),
    ("Ours is +1 202 555 0143\n2026 was a good year", PHONE, "+1 202 555 0143"),
    ("Telephone, since 1904-1910: 020 7946 0958", PHONE, "020 7946 0958"),
]

INNOCENT: Final = [
    "ISBN 978-3-16-148410-0 and ISBN 0-306-40615-2 and ISBN 9785171183660",
    "Version 10.15.7, release 2024.11.21, build 20241121.1234, Python 3.11.7",
    "On 2026-11-21 at 11:41:20, between 1914-1918 and 1939-1945, on 21.11.2026",
    "Период с 01.01.2024 по 31.12.2024, время 10:30-12:45",
    "The population grew from 1 234 567 to 12 345 678 in 100 years, by 7 500 000 people.",
    "Население: 146 150 789 человек, бюджет 1 200 000 000 рублей, 8 900 тысяч",
    "pi = 3.14159265358979323846264338327950288",
    "A light year is 9 460 730 472 580 800 metres or 9460730472580800 m",
    "192.168.100.200, 10.0.0.1:8080, 2001:0db8:85a3:0000:0000:8a2e:0370:7334",
    "MAC 00:1B:44:11:3A:B7, UUID 123e4567-e89b-12d3-a456-426614174000",
    "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "Unix time 1700000000, in milliseconds 1700000000000, in microseconds 1700000000000000",
    "ids 1591234567890123456 and 1234567890123456789 and order 100000000000001",
    "git clone git@github.com:temporalio/samples-python.git; icon@2x.png, font@3x.svg",
    "@dataclass, npm install @scope/pkg@1.2.3, user@localhost, a@b, 5 @ 10 EUR, $x@y",
    "ГОСТ 7.0.100-2018, ОКПО 00032537, статья 1234567890, СНиП 2.04.05-91",
    "DOI 10.1000/182, arXiv:2401.12345, RFC 9457, ISSN 2049-3630, EAN 4006381333931",
    "x = 123-45-678; 12-34-5678; 666-45-6789; 000-12-3456; 987-65-4320",
    "The call 1234567890 times loop, phone models 3310 and 6110, iPhone 15",
    "телефонная станция на 10000 номеров, телефон стоит 12 990 рублей",
    "Latitude 55.755826, longitude 37.617300; 40.7128, -74.0060",
    "rows 1000-2000, pages 123-456, 2+2=4, 1+1, +5 points, +100 500, +20 000 km",
    "1111 1111 1111 1111 and 0000 0000 0000 0000 and 4111 1111 1111 1112",
    "паспорт прочности, паспорт изделия 2024 года, passport control at 10:30",
    "ИНН состоит из 10 или 12 цифр; СНИЛС — из 11; SSN has 9 digits, NHS numbers have 10",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25",
    "0101 0101 1100 1010 1111 0000 1010 0101; 0x4111111111111111; 1e10",
    "Table: 12 15 18 | 2019 2020 2021 2022 2023 | 100 200 300 400",
    "Fibonacci: 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181",
    "5,000,000,000 rows; 12.345.678,90 EUR; 1'234'567.89 CHF; $1,234,567.89",
    "Invoice 2024-000123456, SKU 123-456-7890123, part no. 90915-YZZF2, order #00123456789",
    "GR8 2024 BA1234 ABCDEFG; AB12 CDEF GHIJ; GB82 WEST 1234 5698 7654 33",
    "H2O at 273.15 K, 6.02214076e23, 299792458 m/s, 1.602176634e-19 C, 0.000000000066743",
    "The telephone spread: by 1904-1910 3 000 000 phones, and by 1920 13 000 000 telephones, were in use",
    "Телефон: к 1904–1910 3 000 000 аппаратов, к 1910 3 000 000",
    "Year\tPeople\tRoads\n1990\t4 500\t1200\n2000\t5 100\t1400\r\n2010\t6 300\t1700\n2020\t7 700\t2100",
    "1990\n1991\n1992\n1993\n1994\n1995\n1996\n1997\n1998\n1999\n2000\n2001\n2002\n2003\n2004\n2005",
    "In 1861, 23,000,000 serfs; 1812–1814; 07:00–19:00; §§ 1234–5678; 50–60 %",
]


class TestFindings:
    @pytest.mark.parametrize(("text", "kind", "thing"), PERSONAL, ids=[text for text, _, _ in PERSONAL])
    def test_what_is_personal_is_found(self, text: str, kind: FindingKind, thing: str) -> None:
        """Once, as what it is, and nothing beside it."""
        assert found(text) == [(kind, thing)]

    @pytest.mark.parametrize("text", INNOCENT)
    @pytest.mark.parametrize("language", ["en", "ru", "de-AT"])
    def test_what_only_looks_like_it_is_not(self, text: str, language: str) -> None:
        """A course full of marks would be useless."""
        assert found(text, language) == []

    def test_it_does_not_matter_what_stands_far_around_it(self) -> None:
        """Numbers are looked for where digits stand together; nothing gets lost at the edges of such places."""
        for filler in ("", "x", "Word by word, line by line. ", "One of 17, two of 1812. ", "я" * 20):
            for times in (1, 2, 3, 4, 5, 30):
                around = f" {filler * times} "
                text = around + around.join(text for text, _, _ in PERSONAL) + around
                things = [(kind, thing) for kind, thing in found(text)]
                missed = [(kind, thing) for _, kind, thing in PERSONAL if (kind, thing) not in things]
                assert not missed, (filler, times)

    def test_the_word_before_a_number_may_stand_as_far_away_as_ever(self) -> None:
        """Also where the text goes on long before it."""
        for gap in range(1, 45):
            said = f"{'Word by word. ' * 20}ИНН{' ' * gap}7707083893"
            assert found(said) == [(ID, "7707083893")], gap

    @pytest.mark.parametrize("account", ["GI16NWBKACCOUNTLETTER12", "KW22CBKUACCOUNTNUMBERABCDEFGHI"])
    def test_an_account_of_letters_is_found_where_no_other_number_is_near(self, account: str) -> None:
        """Most of an IBAN may be letters."""
        assert found(f"Pay to {account} today. {'Word by word. ' * 30} Order 1234567.") == [(IBAN, account)]
        assert found(f"Pay to {account} today.") == [(IBAN, account)]

    def test_a_whole_list_is_told_apart(self) -> None:
        """In the order of the text."""
        text = "anna@mail.ru, 4111111111111111, +7 916 123-45-67; DE89370400440532013000 / 219-45-6789"
        assert [kind for kind, _ in found(text, "ru")] == [EMAIL, CARD, PHONE, IBAN, ID]

    def test_a_number_in_an_address_is_the_address(self) -> None:
        """The surer finding wins, also where it is the longer one."""
        assert found("79161234567@mail.ru, тел. 8 916 123-45-67")[0] == (EMAIL, "79161234567@mail.ru")

    def test_the_region_of_the_language_decides(self) -> None:
        """A German number without its country code is one in a German course."""
        assert found("Telefon: 030 901820", "de") == [(PHONE, "030 901820")]
        assert found("Telephone: 0664 1234567", "de-AT") == [(PHONE, "0664 1234567")]


class TestDisguise:
    @pytest.mark.parametrize("disguise", [
        lambda text: text.translate({ord(digit): ord(digit) + 0xFEE0 for digit in "0123456789"}),
        lambda text: text.translate({ord(digit): 0x1D7D8 + int(digit) for digit in "0123456789"}),
        lambda text: text.translate({ord(digit): 0x0660 + int(digit) for digit in "0123456789"}),
        "\u200b".join,
        "\u2060\u00ad".join,
        lambda text: "\ufeff\u202a" + "\ufe0f\u20e3".join(text),
        lambda text: text.replace(" ", "\u00a0").replace("-", "\u2011"),
        lambda text: text.replace(" ", "\u202f").replace("-", "\u2212"),
        lambda text: text.replace(" ", "\u3000").replace("-", "–").replace("@", "＠").replace(".", "．"),
    ], ids=[
        "full-width", "double-struck", "arabic", "zero-width", "word-joiner", "key-caps", "nbsp", "narrow", "wide",
    ])  # fmt: skip
    @pytest.mark.parametrize(("thing", "kind"), [
        ("4111 1111 1111 1111", CARD), ("+7 916 123-45-67", PHONE), ("219-45-6789", ID),
        ("DE89 3704 0044 0532 0130 00", IBAN), ("anna@mail.ru", EMAIL),
    ])  # fmt: skip
    def test_tricks_of_unicode_hide_nothing(
        self, disguise: Callable[[str], str], thing: str, kind: FindingKind
    ) -> None:
        """The stretch that was found is the disguised one, in code points of the text as given."""
        hidden = disguise(thing)
        text = f"Вот: {hidden} — и всё."
        assert [kind for kind, _ in found(text)] == [kind]
        (spot,) = DETECTOR.find(text, language="en")
        rest = text[: spot.start] + text[spot.end :]
        assert not any(char.isdecimal() for char in rest)
        assert "anna" not in fold(rest).text

    def test_a_text_without_tricks_keeps_its_places(self) -> None:
        """Folding one for one needs no map."""
        folded = fold("Всё — «как есть», 5 – 7")
        assert (folded.text, folded.places) == ("Всё - «как есть», 5 - 7", None)


class TestChecksums:
    @pytest.mark.parametrize("place", range(16))
    def test_a_card_with_one_wrong_digit_is_none(self, place: int) -> None:
        number = "4539578763621486"
        assert found(number) == [(CARD, number)]
        wrong = str((int(number[place]) + 1) % 10)
        assert found(f"{number[:place]}{wrong}{number[place + 1 :]}") == []

    @pytest.mark.parametrize("place", range(11))
    def test_a_snils_with_one_wrong_digit_is_none(self, place: int) -> None:
        number = "11223344595"
        assert snils_is_valid(number)
        wrong = str((int(number[place]) + 1) % 10)
        assert not snils_is_valid(f"{number[:place]}{wrong}{number[place + 1 :]}")

    @pytest.mark.parametrize("number", ["08765430300", "08765430200", "08765430400"])
    def test_checksums_of_snils_around_a_hundred(self, number: str) -> None:
        """A remainder of a hundred is written 00."""
        body = sum(int(digit) * (9 - place) for place, digit in enumerate(number[:9]))
        assert snils_is_valid(number) is (body % 101 in {0, 100} and number.endswith("00"))


def _hostile() -> dict[str, str]:
    dice = random.Random(3)  # noqa: S311
    size = 300_000
    shapes = {
        "digits": "1", "pairs": "1 ", "plus": "+1 234 567 ", "at": "a@", "dots": "a.", "labels": "a@b.", "+": "+",
        "iban": "DE89 ", "iban run": "DE89A1B2C3D4", "parens": "(1", "dashes": "1-", "words": "тел. 123-45-67 ",
        "inn": "ИНН 1234567890 ", "cards": "4111 1111 1111 1112 ", "spaces": "1                ",
        "lines": "4111 1111\n", "tabs": "1910\t3\t000\t000\r\n",
        "passport": "паспорт 45 08 12345",
    }  # fmt: skip
    noise = "".join(dice.choices("0123456789 +-.()@aD", k=size))
    return {name: (shape * (size // len(shape) + 1))[:size] for name, shape in shapes.items()} | {"noise": noise}


class TestCost:
    @pytest.mark.parametrize("text", _hostile().values(), ids=_hostile())
    def test_work_grows_with_the_text_and_not_faster(self, text: str) -> None:
        """Counted in calls of functions, which do not depend on how busy the machine is.

        What a pattern does inside is bounded by its form; the time limit of the test would notice if it were not.
        """
        DETECTOR.find(text, language="en")  # the rules of a country are loaded when its first number turns up
        whole, half = _calls(text), _calls(text[: len(text) // 2])
        # Twice as much, and some: what libraries keep between calls depends on the tests before.
        assert whole <= 3 * half + 2_000

    def test_prose_is_not_even_looked_at_twice(self) -> None:
        """A text without digits and at signs costs a handful of calls, however long it is."""
        assert _calls("The moon pulls the sea, and the sea follows. " * 20_000) < 50


def _calls(text: str) -> int:
    """How many functions are called to search a text, those of C included."""
    count = 0

    def on_event(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        DETECTOR.find(text, language="en")
    finally:
        sys.setprofile(before)
    return count
