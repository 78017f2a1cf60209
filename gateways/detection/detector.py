"""The detector: every search over one folded text, and who is right where two of them overlap."""

import re
from collections.abc import Sequence
from typing import Final

from domain.guarding import Spot
from gateways.detection.folding import fold
from gateways.detection.mail import find_mail
from gateways.detection.numbers import find_cards, find_ibans, find_ids
from gateways.detection.phones import find_phones

_SOME_DIGITS: Final = re.compile(r"\d(?:\D{0,12}+\d){5,}+")
"""Nothing personal but an IBAN has fewer digits, or some of them further from each other; most prose has not even
these. Possessive, because a backtracking point for each digit costs memory."""
_AROUND: Final = 80
"""How much of the text around them is looked at: the word that says what they are stands there."""


class PersonalDataDetector:
    """A ``TextDetector`` that asks nobody: patterns to find candidates, libraries to judge them.

    What has a checksum has to pass it. What ordinary numbers look like as well, such as the digits of an INN, is
    only found next to a word that says so, in English or Russian.
    """

    def find(self, text: str, *, language: str) -> Sequence[Spot]:
        """Every thing found, in order and without overlaps."""
        folded = fold(text)
        plain = folded.text
        # In this order: what is surest first.
        found = [*find_mail(plain), *find_ibans(plain)]
        for start, end in _numeric(plain):
            piece = plain[start:end]
            numbers = [*find_cards(piece), *find_ids(piece), *find_phones(piece, language)]
            found += [_moved(spot, start + spot.start, start + spot.end) for spot in numbers]
        taken = _without_overlaps(found)
        return [_moved(spot, *folded.span(spot.start, spot.end)) for spot in taken]


def _numeric(text: str) -> list[tuple[int, int]]:
    """Where digits stand close together, with what is around them; in order, and apart from each other."""
    places: list[tuple[int, int]] = []
    for match in _SOME_DIGITS.finditer(text):
        start, end = max(0, match.start() - _AROUND), match.end() + _AROUND
        if places and start <= places[-1][1]:
            start = places.pop()[0]
        places.append((start, end))
    return places


def _moved(spot: Spot, start: int, end: int) -> Spot:
    return Spot(spot.kind, start, end, spot.confidence, spot.detector)


def _without_overlaps(found: Sequence[Spot]) -> list[Spot]:
    """Of two that overlap the one that came first in ``found`` stays; the result is in the order of the text."""
    ranks = {id(spot): rank for rank, spot in enumerate(found)}
    taken: list[Spot] = []
    for spot in sorted(found, key=lambda spot: (spot.start, ranks[id(spot)])):
        while taken and taken[-1].end > spot.start and ranks[id(spot)] < ranks[id(taken[-1])]:
            taken.pop()
        if not taken or taken[-1].end <= spot.start:
            taken.append(spot)
    return taken
