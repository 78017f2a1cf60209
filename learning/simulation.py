"""Whole federations in one process: how samples are spread, who drops out, who lies, and what the rounds bring.

For tests and benchmarks of accuracy. Updates go through files and :func:`learning.aggregation.aggregate`, as real ones.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from domain.federated import AggregationConfig
from learning.aggregation import UpdateRef, aggregate
from learning.family import Family, Metrics, Sample
from learning.weights import Weights, decode, encode

Attack = Callable[[Weights, Weights], Weights]
"""The parent and an honest update in; what is sent instead out."""


def sign_flip(strength: float) -> Attack:
    """An attack that sends the opposite of what was learned, ``strength`` times as far."""

    def attack(parent: Weights, update: Weights) -> Weights:
        factor = np.float32(strength)
        return {name: parent[name] - factor * (update[name] - parent[name]) for name in parent}

    return attack


def split_evenly(samples: Sequence[Sample], participants: int, seed: int) -> list[list[Sample]]:
    """Samples dealt out at random: independent and identically distributed."""
    order = np.random.default_rng(seed).permutation(len(samples))
    return [[samples[index] for index in part] for part in np.array_split(order, participants)]


def split_dirichlet(
    samples: Sequence[Sample], label: str, participants: int, alpha: float, seed: int
) -> list[list[Sample]]:
    """Samples dealt out by label, shares drawn from a Dirichlet distribution; drawn again until nobody is empty."""
    generator = np.random.default_rng(seed)
    labels = np.array([sample[label] for sample in samples])
    while True:
        parts: list[list[Sample]] = [[] for _ in range(participants)]
        for value in np.unique(labels):
            members = generator.permutation(np.flatnonzero(labels == value))
            cuts = (np.cumsum(generator.dirichlet(np.full(participants, alpha)))[:-1] * len(members)).astype(int)
            for part, chosen in zip(parts, np.split(members, cuts), strict=True):
                part.extend(samples[index] for index in chosen)
        if all(parts):
            return parts


@dataclass(frozen=True, slots=True)
class Federation:
    """What is simulated."""

    family: Family
    participants: Sequence[Sequence[Sample]]
    holdout: Sequence[Sample]
    config: AggregationConfig = field(default_factory=AggregationConfig)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    drop_out: float = 0.0
    """Share of the participants that vanish, drawn anew each round."""
    hostile: int = 0
    """The first so many participants carry out ``attack``."""
    attack: Attack = field(default_factory=lambda: sign_flip(5.0))


def run_rounds(federation: Federation, rounds: int, folder: Path, seed: int) -> tuple[Weights, list[Metrics]]:
    """The final weights, and the metrics after each round. ``folder`` takes the updates and is left full."""
    generator = np.random.default_rng(seed)
    data, state, history = encode(federation.family.init_weights(seed)), None, []
    for number in range(rounds):
        count = len(federation.participants)
        lost = set(generator.permutation(count)[: round(federation.drop_out * count)].tolist())
        updates = [
            _update(federation, data, member, seed=seed * 1_000_003 + number * 1_009 + member, folder=folder)
            for member in range(count)
            if member not in lost
        ]
        result = aggregate(federation.config, data, updates, state)
        data, state = result.weights, result.state
        history.append(federation.family.evaluate(decode(data), federation.holdout))
    return decode(data), history


def _update(federation: Federation, data: bytes, member: int, *, seed: int, folder: Path) -> UpdateRef:
    parent, samples = decode(data), federation.participants[member]
    trained = federation.family.train(parent, samples, {**federation.hyperparameters, "seed": seed})
    weights = federation.attack(parent, trained.weights) if member < federation.hostile else trained.weights
    encoded = encode(weights)
    digest = hashlib.sha256(encoded).hexdigest()
    path = folder / f"{digest}.safetensors"
    path.write_bytes(encoded)
    return UpdateRef(path, digest, trained.examples)
