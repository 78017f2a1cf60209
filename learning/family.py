"""What a model family is: everything the platform and a participant need to know about a kind of model.

A sample is a JSON object, one line of a participant's file. Weights are arrays by name. What lies between is the
family's own affair.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from domain.model import Frozen
from learning.weights import Weights

Sample = Mapping[str, Any]
"""One sample or one question to predict, as JSON has it."""

Metrics = dict[str, float]
"""Figures by name; ``accuracy`` and ``loss`` are always among them."""


class BadSample(ValueError):
    """A sample, an input or a hyperparameter is not what the family asks for."""


class Hyperparameters(Frozen):
    """What every family trains by; a family's own may have more, and other values to begin with."""

    epochs: int = 1
    batch_size: int = 10
    learning_rate: float = 0.05
    seed: int = 0
    """Fixes the order of the samples: equal weights, samples and hyperparameters give equal updates."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a participant's training gave."""

    weights: Weights
    examples: int
    loss: float
    """Mean loss over the last epoch."""


class Family(Protocol):
    """A kind of model. Implementations hold no state but constants."""

    name: str

    def init_weights(self, seed: int) -> Weights:
        """Fresh weights, the same for the same ``seed``."""
        ...

    def train(self, weights: Weights, samples: Sequence[Sample], hyperparameters: Mapping[str, Any]) -> Trained:
        """Train a copy of ``weights``. Raises :class:`BadSample`."""
        ...

    def evaluate(self, weights: Weights, holdout: Sequence[Sample]) -> Metrics:
        """How good ``weights`` are on samples that they were not trained on. Raises :class:`BadSample`."""
        ...

    def predict(self, weights: Weights, inputs: Sequence[Sample]) -> list[dict[str, Any]]:
        """An answer for each input, a JSON object. Raises :class:`BadSample`."""
        ...


_Model = TypeVar("_Model", bound=BaseModel)


def parse(model: type[_Model], value: Mapping[str, Any], what: str) -> _Model:
    """``value`` as ``model``. Raises :class:`BadSample` that names the first fault, and no value."""
    try:
        return model.model_validate(value)
    except ValidationError as fault:
        first = fault.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise BadSample(f"{what}: {where}: {first['msg']}") from fault


def batches(count: int, size: int, generator: np.random.Generator) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    """The numbers below ``count`` in random order, ``size`` at a time."""
    order = generator.permutation(count)
    for begin in range(0, count, size):
        yield order[begin : begin + size]
