"""Dividing a row of things, in order: into neighbourhoods, or places among its members."""

from bisect import bisect_left
from collections.abc import Sequence
from functools import reduce
from itertools import accumulate
from typing import Final

_REACH: Final = 12
_MISSING_MEMBER: Final = 0.5

Span = tuple[int, int]
"""From the first member up to, not including, the last."""


def cut(weights: Sequence[float], reluctance: Sequence[float], parts: int, *, wanted: int = 1) -> list[Span]:
    """Cut a row into ``parts`` spans, none empty, alike in weight and if possible of ``wanted`` members or more.

    ``reluctance[i]`` says how bad it is to cut in front of member ``i``; 1 is as bad as a part of double weight.
    """
    sums = [0.0, *accumulate(weights)]
    share = sums[-1] / parts
    # Each round holds, for every place the latest border may have, the cost so far and the borders behind it.
    reached: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for number in range(1, parts + 1):
        options = _options(sums, number, parts)
        reached = {
            border: min(
                (
                    cost
                    + _misfit(sums[border] - sums[last], share)
                    + _shortage(border - last, wanted)
                    + _price(reluctance, border),
                    (*path, border),
                )
                for last, (cost, path) in reached.items()
                if last < border
            )
            for border in options
            if any(last < border for last in reached)
        }
    _, borders = reached[len(weights)]
    return list(zip((0, *borders), borders, strict=False))


def allocate(weights: Sequence[float], places: int) -> list[int]:
    """Give out ``places``, at least one to each member, the rest by weight. There are places enough for all."""
    given = [1] * len(weights)
    total = sum(weights) or 1.0
    wanted = [weight / total * places for weight in weights]
    rest = places - len(weights)
    extra = [max(want - 1, 0.0) for want in wanted]
    scale = rest / sum(extra) if sum(extra) else 0.0
    shares = [share * scale for share in extra]
    given = [one + int(share) for one, share in zip(given, shares, strict=True)]
    left = places - sum(given)
    by_remainder = sorted(range(len(weights)), key=lambda at: (int(shares[at]) - shares[at], at))
    for turn in range(left):
        given[by_remainder[turn % len(given)]] += 1
    return given


def shared_prefix(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The headings that all paths begin with."""
    return reduce(_common, paths) if paths else ()


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    return one[:same]


def _options(sums: Sequence[float], number: int, parts: int) -> list[int]:
    """Where the border after part ``number`` may lie: nearest to its share of the weight, and one sure place."""
    size = len(sums) - 1
    if number == parts:
        return [size]
    target = sums[-1] * number / parts
    middle = bisect_left(sums, target)
    first = max(number, middle - _REACH)
    last = min(size - (parts - number), middle + _REACH)
    # An even split by number leaves no part empty, so there is always a way through.
    return sorted({*range(first, last + 1), number * size // parts})


def _misfit(weight: float, share: float) -> float:
    return ((weight - share) / share) ** 2 if share else 0.0


def _shortage(members: int, wanted: int) -> float:
    return _MISSING_MEMBER * max(wanted - members, 0)


def _price(reluctance: Sequence[float], border: int) -> float:
    return reluctance[border] if border < len(reluctance) else 0.0
