"""The data set that scikit-learn brings along: 1,797 digits written by 43 people (UCI, Alpaydin and Kaynak 1998)."""

from typing import Any

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from learning.family import Sample


def load_samples(*, holdout_share: float = 0.2, seed: int = 0) -> tuple[list[Sample], list[Sample]]:
    """All samples, split into those to train on and those held out; every digit has its share in both."""
    pixels, labels = load_digits(return_X_y=True)
    train, held, train_labels, held_labels = train_test_split(
        pixels, labels, test_size=holdout_share, random_state=seed, stratify=labels
    )
    return _samples(train, train_labels), _samples(held, held_labels)


def _samples(pixels: Any, labels: Any) -> list[Sample]:
    return [
        {"pixels": row.astype(int).tolist(), "digit": int(label)} for row, label in zip(pixels, labels, strict=True)
    ]
