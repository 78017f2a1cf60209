"""Aggregation that withstands hostile updates: who lies close to whom, and what is the middle of each coordinate.

All of it works on a matrix of float64 differences to the parent, a row for each update, a column for each coordinate.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from domain.federated import Bulyan, Krum, Median, MultiKrum, Strategy, TrimmedMean

Matrix = NDArray[np.float64]

Reduce = Callable[[Matrix], Matrix]
"""A matrix in, one value a column out. May reorder the matrix."""


def least_updates(strategy: Strategy) -> int:
    """How many updates ``strategy`` needs to hold what it promises."""
    if isinstance(strategy, Bulyan):
        return 4 * strategy.malicious + 3
    if isinstance(strategy, MultiKrum):
        return max(2 * strategy.malicious + 3, strategy.selected + strategy.malicious)
    return 2 * strategy.malicious + 3 if isinstance(strategy, Krum) else 1


def add_squared_distances(total: Matrix, rows: Matrix) -> None:
    """Add the squared distances between the rows to ``total``.

    The differences are formed before they are squared: products of rows would cancel where updates are close.
    """
    for index in range(len(rows) - 1):
        squares = np.square(rows[index + 1 :] - rows[index]).sum(axis=1)
        total[index, index + 1 :] += squares
        total[index + 1 :, index] += squares


def krum_ranking(distances: Matrix, malicious: int) -> list[int]:
    """Rows by their score, best first: the sum of squared distances to the nearest ``n - malicious - 2`` others."""
    count = len(distances)
    neighbours = max(1, count - malicious - 2)
    others = distances + np.diag(np.full(count, np.inf))
    scores = np.sort(others, axis=1)[:, :neighbours].sum(axis=1)
    return [int(index) for index in np.argsort(scores, kind="stable")]


def selection_size(strategy: Krum | MultiKrum | Bulyan, count: int) -> int:
    """How many of ``count`` updates are selected."""
    if isinstance(strategy, Bulyan):
        return count - 2 * strategy.malicious
    return strategy.selected if isinstance(strategy, MultiKrum) else 1


def coordinate_reduce(strategy: Median | TrimmedMean | Bulyan) -> Reduce:
    """What makes one value of the values of a coordinate."""
    if isinstance(strategy, Median):
        return lambda rows: np.median(rows, axis=0, overwrite_input=True)
    if isinstance(strategy, TrimmedMean):
        return lambda rows: _trimmed_mean(rows, strategy.beta)
    return lambda rows: _around_median(rows, len(rows) - 2 * strategy.malicious)


def _trimmed_mean(rows: Matrix, beta: float) -> Matrix:
    cut = int(beta * len(rows))
    rows.sort(axis=0)
    mean: Matrix = rows[cut : len(rows) - cut].mean(axis=0)
    return mean


def _around_median(rows: Matrix, kept: int) -> Matrix:
    distances = np.abs(rows - np.median(rows, axis=0))
    nearest = np.argsort(distances, axis=0, kind="stable")[:kept]
    mean: Matrix = np.take_along_axis(rows, nearest, axis=0).mean(axis=0)
    return mean
