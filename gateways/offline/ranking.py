"""How central a sentence is to its text: TextRank by power iteration."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import log, sqrt
from typing import Final

_DAMPING: Final = 0.85
_ROUNDS: Final = 30
_SETTLED: Final = 1e-6

Vector = Mapping[str, float]


def vectors_of(bags: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    """One vector of unit length for each bag of stems, rare stems weighing more."""
    spread = Counter(stem for bag in bags for stem in dict.fromkeys(bag))
    weight = {stem: log(1 + len(bags) / count) for stem, count in spread.items()}
    return [_unit({stem: count * weight[stem] for stem, count in Counter(bag).items()}) for bag in bags]


def rank(vectors: Sequence[Vector]) -> list[float]:
    """TextRank over the cosine similarity of ``vectors``; the highest is 1.

    The matrix of similarities is never built: a round goes through the terms, which keeps it linear in the text.
    """
    size = len(vectors)
    own = [sum(value * value for value in vector.values()) for vector in vectors]
    totals = _sum(vectors, [1.0] * size)
    degrees = [max(_dot(vector, totals) - own[at], 0.0) for at, vector in enumerate(vectors)]
    scores = [1.0 / size] * size if size else []
    for _ in range(_ROUNDS):
        shares = [score / degree if degree > _SETTLED else 0.0 for score, degree in zip(scores, degrees, strict=True)]
        flow = _sum(vectors, shares)
        fresh = [
            (1 - _DAMPING) / size + _DAMPING * (_dot(vector, flow) - own[at] * shares[at])
            for at, vector in enumerate(vectors)
        ]
        moved = sum(abs(new - old) for new, old in zip(fresh, scores, strict=True))
        scores = fresh
        if moved < _SETTLED:
            break
    top = max(scores, default=0.0)
    return [score / top for score in scores] if top > 0 else scores


def similarity(one: Vector, other: Vector) -> float:
    """The cosine of two vectors of unit length."""
    return _dot(one, other) if len(one) <= len(other) else _dot(other, one)


def _unit(vector: dict[str, float]) -> dict[str, float]:
    length = sqrt(sum(value * value for value in vector.values()))
    return {stem: value / length for stem, value in vector.items()} if length else {}


def _sum(vectors: Iterable[Vector], factors: Iterable[float]) -> dict[str, float]:
    total: dict[str, float] = {}
    for vector, factor in zip(vectors, factors, strict=True):
        for stem, value in vector.items():
            total[stem] = total.get(stem, 0.0) + factor * value
    return total


def _dot(vector: Vector, other: Vector) -> float:
    return sum(value * other.get(stem, 0.0) for stem, value in vector.items())
