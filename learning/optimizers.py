"""Optimizers of the server: what becomes of the mean update, block by block.

Each follows its paper and Flower's reading of it. Moments are kept as float32 tensors named ``m.<tensor>`` and
``v.<tensor>``; tensors of whole numbers (counters) simply take the mean.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from domain.federated import FedAvgM, FedOpt, Strategy
from learning.weights import Schema, TensorSpec

Values = NDArray[np.float64]
Moments = Mapping[str, Values]
"""Moments of one block by their letter; the step changes them in place."""

Step = Callable[[Values, Moments], Values]
"""The mean update of a block and its moments in; what is to be added to the model out."""


def moments_of(strategy: Strategy) -> str:
    """The letters of the moments that ``strategy`` keeps; empty where it keeps none."""
    if isinstance(strategy, FedAvgM):
        return "m"
    return "mv" if isinstance(strategy, FedOpt) else ""


def moment_schema(strategy: Strategy, schema: Schema) -> dict[str, TensorSpec]:
    """The tensors in which the moments for a model of ``schema`` are kept."""
    return {
        f"{letter}.{name}": TensorSpec("F32", spec.shape)
        for letter in moments_of(strategy)
        for name, spec in schema.items()
        if spec.dtype.startswith("F")
    }


def step_of(strategy: Strategy, rounds_before: int) -> Step:
    """The step of ``strategy`` after so many rounds with it."""
    if isinstance(strategy, FedAvgM):
        return _momentum(strategy)
    if isinstance(strategy, FedOpt):
        return _adaptive(strategy, rounds_before)
    return lambda mean, _: mean


def _momentum(strategy: FedAvgM) -> Step:
    def step(mean: Values, moments: Moments) -> Values:
        velocity = moments["m"]
        velocity *= strategy.server_momentum
        velocity += mean
        return velocity * strategy.server_learning_rate

    return step


def _adaptive(strategy: FedOpt, rounds_before: int) -> Step:
    first_decay = 0.0 if strategy.name == "fedadagrad" else strategy.beta_1
    rate = strategy.eta
    if strategy.name == "fedadam":
        exponent = rounds_before + 2  # Flower counts rounds from one and corrects for one more
        rate *= math.sqrt(1 - strategy.beta_2**exponent) / (1 - strategy.beta_1**exponent)
    second = _SECOND_MOMENTS[strategy.name]

    def step(mean: Values, moments: Moments) -> Values:
        velocity = moments["m"]
        velocity *= first_decay
        velocity += (1 - first_decay) * mean
        second(moments["v"], np.square(mean), strategy.beta_2)
        return rate * velocity / (np.sqrt(moments["v"]) + strategy.tau)

    return step


def _adam(moment: Values, squares: Values, beta: float) -> None:
    moment *= beta
    moment += (1 - beta) * squares


def _yogi(moment: Values, squares: Values, beta: float) -> None:
    moment -= (1 - beta) * squares * np.sign(moment - squares)


def _adagrad(moment: Values, squares: Values, _: float) -> None:
    moment += squares


_SECOND_MOMENTS: Final = {"fedadam": _adam, "fedyogi": _yogi, "fedadagrad": _adagrad}
