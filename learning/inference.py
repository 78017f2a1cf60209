"""Prediction with the published head: one model in memory for each name, changed the moment another is published."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from learning.families import get_family
from learning.family import Sample
from learning.weights import Weights, decode


@dataclass(frozen=True, slots=True)
class _Loaded:
    sha256: str
    weights: Weights


class Inference:
    """Predicts with whatever version it is asked for; keeps the latest one of each model.

    Safe to use from several threads. Computes in the caller's: an event loop hands it to a thread of its own.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, _Loaded] = {}
        self._lock = threading.Lock()

    def predict(
        self, model: str, family: str, sha256: str, read: Callable[[], bytes], inputs: Sequence[Sample]
    ) -> list[dict[str, Any]]:
        """Predict with the weights ``sha256`` of ``model``; ``read`` is called only where they are not loaded yet.

        Those who predict with the version before finish with it.

        Raises:
            BadSample: an input is not what the family asks for.
            NoRuntime: the family needs what is not installed here.
            UnknownFamily: there is no such family.
            WeightsRefused: the weights cannot be read.
        """
        implementation = get_family(family)
        loaded = self._loaded.get(model)
        if loaded is None or loaded.sha256 != sha256:
            loaded = self._load(model, sha256, read)
        return implementation.predict(loaded.weights, inputs)

    def _load(self, model: str, sha256: str, read: Callable[[], bytes]) -> _Loaded:
        """Load once, however many ask at the same time."""
        with self._lock:
            loaded = self._loaded.get(model)
            if loaded is None or loaded.sha256 != sha256:
                loaded = self._loaded[model] = _Loaded(sha256, decode(read()))
        return loaded
