"""How much privacy was spent: Renyi differential privacy of the sampled Gaussian mechanism, composed over rounds.

Accounted as in Mironov, Talwar and Zhang, "Renyi Differential Privacy of the Sampled Gaussian Mechanism" (2019), at
integer orders, where their formula is closed; turned into (epsilon, delta) with Proposition 12 of Canonne, Kamath and
Steinke, "The Discrete Gaussian for Differential Privacy" (2020). The bound is that of the ideal mechanism: what
floating-point numbers leak of their own (Mironov 2012) is not in it.
"""

import hashlib
import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

ORDERS: Final = (*range(2, 65), 72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768, 1024)
"""The orders at which privacy loss is kept."""

Loss = NDArray[np.float64]
"""Renyi divergence at each of :data:`ORDERS`; the losses of rounds add up."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """What all private rounds of a model so far have spent."""

    loss: Loss = field(default_factory=lambda: np.zeros(len(ORDERS)))
    rounds: int = 0

    def after(self, loss: Loss) -> "Ledger":
        """The ledger after one more round."""
        return Ledger(self.loss + loss, self.rounds + 1)


def round_loss(noise_multiplier: float, sampling_rate: float) -> Loss:
    """What one round spends: Gaussian noise of ``noise_multiplier`` times the sensitivity, Poisson sampling."""
    return np.array([_divergence(order, noise_multiplier, sampling_rate) for order in ORDERS])


def _divergence(order: int, sigma: float, rate: float) -> float:
    if rate == 1.0:
        return order / (2 * sigma**2)
    terms = [
        math.log(math.comb(order, k)) + k * math.log(rate) + (order - k) * math.log1p(-rate)
        + k * (k - 1) / (2 * sigma**2)
        for k in range(order + 1)
    ]  # fmt: skip
    largest = max(terms)
    return (largest + math.log(math.fsum(math.exp(term - largest) for term in terms))) / (order - 1)


def epsilon(loss: Loss, delta: float) -> float:
    """The least epsilon for which ``loss`` is (epsilon, ``delta``)-private, never below zero."""
    orders = np.array(ORDERS, np.float64)
    bounds = loss + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(bounds.min()))


class Noise:
    """Gaussian noise that is the same whenever secret and content are, and unrelated otherwise.

    Bound to the content, so that a repeated round releases the same sample and another set of updates under the same
    secret does not: the difference of two releases would otherwise be free of noise.
    """

    def __init__(self, secret: bytes, content: str, deviation: float) -> None:
        key = hashlib.sha256(b"longhaul.noise\0" + hashlib.sha256(secret).digest() + content.encode()).digest()
        self._generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "big")))
        self._deviation = deviation

    def draw(self, count: int) -> NDArray[np.float64]:
        """The next ``count`` values."""
        return self._generator.standard_normal(count) * self._deviation
