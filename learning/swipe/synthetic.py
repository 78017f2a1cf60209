"""Synthetic swipes: made, not recorded. Nobody's fingers are in this data.

A swipe goes from key to key as people's do: it misses the centre of each key by a Gaussian error, cuts corners, slows
down in bends and at both ends, and is sampled at the uneven pace of a touch screen. Every person has a hand of their
own (offset, slant, precision, pace), so that participants differ as real ones do. The error of about a quarter of a
key and the minimum-jerk speed follow what is published on gesture keyboards (Kristensson and Zhai 2004; Quinn and Zhai
2018); accuracy on this data says that training works, not how well it would work on phones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from learning.family import Sample
from learning.swipe.keyboard import KEYS

_FINE: Final = 24
"""Steps in which the way between two keys is drawn before it is sampled."""

_Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Hand:
    """How one person swipes. Lengths are in keys."""

    offset: tuple[float, float]
    slant: float
    error: float
    """Standard deviation of the miss at a key."""
    smoothing: int
    """How many fine steps are averaged where corners are cut; odd."""
    keys_per_second: float
    samples_per_second: float


def random_hand(generator: np.random.Generator) -> Hand:
    """A person."""
    return Hand(
        offset=(float(generator.normal(0, 0.12)), float(generator.normal(0, 0.10))),
        slant=float(generator.normal(0, 0.03)),
        error=float(generator.uniform(0.12, 0.28)),
        smoothing=2 * int(generator.integers(2, 6)) + 1,
        keys_per_second=float(generator.uniform(6, 14)),
        samples_per_second=float(generator.choice([60.0, 90.0, 120.0])),
    )


def swipe(word: str, hand: Hand, generator: np.random.Generator) -> Sample:
    """One swipe of ``word``: ``{"word", "points": [[milliseconds, x, y], ...]}``."""
    path = _path(word, hand, generator)
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    seconds = max(0.15, lengths[-1] / hand.keys_per_second * float(generator.lognormal(0, 0.15)))
    count = max(8, int(seconds * hand.samples_per_second))
    progress = _progress(path, count, lengths)
    times = np.linspace(0, seconds * 1_000, count) + generator.uniform(0, 2, count)
    points = np.stack([np.interp(progress, lengths, path[:, axis]) for axis in range(2)], axis=1)
    points += generator.normal(0, 0.02, points.shape)
    rows = np.column_stack([times - times[0], points])
    return {"word": word, "points": [[round(value, 3) for value in row] for row in rows.tolist()]}


def _path(word: str, hand: Hand, generator: np.random.Generator) -> _Points:
    """The way of the finger in fine steps, corners cut."""
    letters = [letter for letter, before in zip(word, " " + word, strict=False) if letter != before]
    keys = np.array([KEYS[letter] for letter in letters]) + generator.normal(0, hand.error, (len(letters), 2))
    keys[:, 0] += hand.offset[0] + hand.slant * keys[:, 1]
    keys[:, 1] += hand.offset[1]
    steps = np.arange(0, len(keys) - 1 + 1e-9, 1 / _FINE)
    drawn = np.stack([np.interp(steps, np.arange(len(keys)), keys[:, axis]) for axis in range(2)], axis=1)
    half = hand.smoothing // 2
    padded = np.pad(drawn, ((half, half), (0, 0)), mode="edge")
    window = np.full(hand.smoothing, 1 / hand.smoothing)
    return np.stack([np.convolve(padded[:, axis], window, mode="valid") for axis in range(2)], axis=1)


def _progress(path: _Points, count: int, lengths: _Points) -> _Points:
    """How far along the way the finger is at each sample: slow in bends, slow at both ends."""
    directions = np.diff(path, axis=0)
    angles = np.unwrap(np.arctan2(directions[:, 1], directions[:, 0]))
    bends = np.abs(np.gradient(angles)) if len(angles) > 1 else np.zeros(len(angles))
    hurry = 1 / (1 + 4 * np.minimum(bends, 1))
    clock = np.concatenate([[0.0], np.cumsum(np.diff(lengths) / hurry)])
    moment = np.linspace(0, 1, count)
    eased = moment**3 * (10 - 15 * moment + 6 * moment**2)  # minimum jerk
    mixed = 0.5 * moment + 0.5 * eased
    moved: _Points = np.interp(mixed * clock[-1], clock, lengths)
    return moved


def make_samples(words: Sequence[str], repeats: int, seed: int) -> list[Sample]:
    """The swipes of one person: each word so many times, in random order."""
    generator = np.random.default_rng(seed)
    hand = random_hand(generator)
    wanted: list[Any] = [word for word in words for _ in range(repeats)]
    generator.shuffle(wanted)
    return [swipe(word, hand, generator) for word in wanted]
