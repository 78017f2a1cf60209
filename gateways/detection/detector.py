"""The detector: every search over one folded text, and who is right where two of them overlap."""

import re
from collections.abc import Sequence
from typing import Final

from domain.guarding import Spot
from gateways.detection.folding import fold
from gateways.detection.mail import find_mail
from gateways.detection.numbers import find_cards, find_ibans, find_ids
from gateways.detection.phones import find_phones

_SOME_DIGITS: Final = re.compile(r"\d(?:\D{0,12}\d){5}")
"""Nothing personal has fewer digits, and most prose not even these."""


class PersonalDataDetector:
    """A ``TextDetector`` that asks nobody: patterns to find candidates, libraries to judge them.

    What has a checksum has to pass it. What ordinary numbers look like as well, such as the digits of an INN, is
    only found next to a word that says so, in English or Russian.
    """

    def find(self, text: str, *, language: str) -> Sequence[Spot]:
        """Every thing found, in order and without overlaps."""
        folded = fold(text)
        plain = folded.text
        found = find_mail(plain)
        if _SOME_DIGITS.search(plain):
            # In this order: what is surest first.
            found += [*find_ibans(plain), *find_cards(plain), *find_ids(plain), *find_phones(plain, language)]
        taken = _without_overlaps(found)
        return [_moved(spot, *folded.span(spot.start, spot.end)) for spot in taken]


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
