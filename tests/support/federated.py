"""Weights and updates for tests."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learning.members import UpdateRef
from learning.weights import Weights, encode


def random_weights(seed: int, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, NDArray[Any]]:
    """Weights of some shapes, float32."""
    generator = np.random.default_rng(seed)
    wanted = shapes or {"hidden.weight": (13, 7), "hidden.bias": (7,), "scale": ()}
    return {name: np.asarray(generator.standard_normal(shape), np.float32) for name, shape in wanted.items()}


def near(weights: Weights, seed: int, spread: float = 0.1) -> dict[str, NDArray[Any]]:
    """Weights a little away from others."""
    generator = np.random.default_rng(seed)
    return {
        name: np.asarray(value + spread * generator.standard_normal(value.shape), value.dtype)
        for name, value in weights.items()
    }


def stored(folder: Path, weights: Weights | bytes, examples: int = 1) -> UpdateRef:
    """An update on disk, named by its digest."""
    data = weights if isinstance(weights, bytes) else encode(weights)
    digest = hashlib.sha256(data).hexdigest()
    (folder / digest).write_bytes(data)
    return UpdateRef(folder / digest, digest, examples)
