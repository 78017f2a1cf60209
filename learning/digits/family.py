"""A perceptron with one hidden layer, 64-64-10, in numpy alone: predicts and trains where torch is not installed."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from learning.family import BadSample, Hyperparameters, Metrics, Sample, Trained, batches, parse
from learning.weights import Weights

_PIXELS: Final = 64
_HIDDEN: Final = 64
_DIGITS: Final = 10
_BRIGHTEST: Final = 16.0

_Matrix = NDArray[np.float32]


class DigitInput(BaseModel):
    """A picture, row by row, from 0 (paper) to 16 (ink)."""

    pixels: Annotated[
        tuple[Annotated[float, Field(ge=0, le=_BRIGHTEST)], ...], Field(min_length=_PIXELS, max_length=_PIXELS)
    ]


class DigitSample(DigitInput):
    """A picture and what it shows."""

    digit: Annotated[int, Field(ge=0, lt=_DIGITS)]


class DigitsHyperparameters(Hyperparameters):
    """Plain stochastic gradient descent."""

    epochs: Annotated[int, Field(ge=1, le=1_000)] = 5
    batch_size: Annotated[int, Field(ge=1, le=10_000)] = 10
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.05


class DigitsFamily:
    """Digits from pictures."""

    name = "digits"

    def init_weights(self, seed: int) -> Weights:
        """Uniform in plus or minus one over the root of the inputs."""
        generator = np.random.default_rng(seed)

        def layer(outputs: int, inputs: int) -> tuple[_Matrix, _Matrix]:
            bound = inputs**-0.5
            weight = generator.uniform(-bound, bound, (outputs, inputs)).astype(np.float32)
            return weight, generator.uniform(-bound, bound, outputs).astype(np.float32)

        hidden, output = layer(_HIDDEN, _PIXELS), layer(_DIGITS, _HIDDEN)
        return {
            "hidden.weight": hidden[0], "hidden.bias": hidden[1],
            "output.weight": output[0], "output.bias": output[1],
        }  # fmt: skip

    def train(self, weights: Weights, samples: Sequence[Sample], hyperparameters: Mapping[str, Any]) -> Trained:
        """Train a copy of ``weights``. Raises :class:`BadSample`."""
        plan = parse(DigitsHyperparameters, hyperparameters, "hyperparameters")
        pixels, digits = _arrays(samples)
        own = {name: np.array(value, np.float32) for name, value in weights.items()}
        generator, total = np.random.default_rng(plan.seed), 0.0
        for _ in range(plan.epochs):
            total = 0.0
            for batch in batches(len(digits), plan.batch_size, generator):
                total += _descend(own, pixels[batch], digits[batch], np.float32(plan.learning_rate)) * len(batch)
        return Trained(own, len(digits), total / len(digits))

    def evaluate(self, weights: Weights, holdout: Sequence[Sample]) -> Metrics:
        """Accuracy and loss. Raises :class:`BadSample`."""
        pixels, digits = _arrays(holdout)
        _, chances = _forward(weights, pixels)
        right = chances.argmax(axis=1) == digits
        return {"accuracy": float(right.mean()), "loss": _loss(chances, digits), "samples": float(len(digits))}

    def predict(self, weights: Weights, inputs: Sequence[Sample]) -> list[dict[str, Any]]:
        """The likeliest digit and how likely it is. Raises :class:`BadSample`."""
        pixels = [parse(DigitInput, value, f"input {number}").pixels for number, value in enumerate(inputs)]
        _, chances = _forward(weights, _scaled(pixels))
        return [{"digit": int(row.argmax()), "probability": float(row.max())} for row in chances]


def _arrays(samples: Sequence[Sample]) -> tuple[_Matrix, NDArray[np.int64]]:
    if not samples:
        raise BadSample("there are no samples")
    parsed = [parse(DigitSample, sample, f"sample {number}") for number, sample in enumerate(samples)]
    return _scaled([sample.pixels for sample in parsed]), np.array([sample.digit for sample in parsed])


def _scaled(pixels: Sequence[tuple[float, ...]]) -> _Matrix:
    return np.array(pixels, np.float32).reshape(-1, _PIXELS) / np.float32(_BRIGHTEST)


def _forward(weights: Weights, pixels: _Matrix) -> tuple[_Matrix, _Matrix]:
    """The hidden layer and the chances of each digit; not numbers where the weights are too large for any."""
    with np.errstate(over="ignore", invalid="ignore"):
        hidden = np.maximum(pixels @ weights["hidden.weight"].T + weights["hidden.bias"], 0)
        scores = hidden @ weights["output.weight"].T + weights["output.bias"]
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return hidden, powers / powers.sum(axis=1, keepdims=True)


def _loss(chances: _Matrix, digits: NDArray[np.int64]) -> float:
    """Mean cross-entropy."""
    return float(-np.log(np.maximum(chances[np.arange(len(digits)), digits], 1e-12)).mean())


def _descend(weights: dict[str, Any], pixels: _Matrix, digits: NDArray[np.int64], rate: np.float32) -> float:
    """One step down the gradient of the mean loss of a batch; that loss."""
    hidden, chances = _forward(weights, pixels)
    loss = _loss(chances, digits)
    chances[np.arange(len(digits)), digits] -= 1
    slope = chances * (rate / np.float32(len(digits)))
    back = (slope @ weights["output.weight"]) * (hidden > 0)
    weights["output.weight"] -= slope.T @ hidden
    weights["output.bias"] -= slope.sum(axis=0)
    weights["hidden.weight"] -= back.T @ pixels
    weights["hidden.bias"] -= back.sum(axis=0)
    return loss
