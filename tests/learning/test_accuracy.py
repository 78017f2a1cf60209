"""What federations reach: the gates of benchmarks/federated_compute.py, in small."""

from pathlib import Path

import pytest

from domain.federated import AggregationConfig, FedAvg, Median, Strategy
from learning.digits.data import load_samples
from learning.families import get_family
from learning.family import Sample
from learning.simulation import Federation, run_rounds, split_dirichlet, split_evenly
from learning.swipe.keyboard import vocabulary
from learning.swipe.synthetic import make_samples

ROUNDS = 15


@pytest.fixture(scope="module")
def digits() -> tuple[list[Sample], list[Sample]]:
    return load_samples()


def reached(federation: Federation, rounds: int, folder: Path, seed: int = 0) -> float:
    _, history = run_rounds(federation, rounds, folder, seed)
    return history[-1]["accuracy"]


def test_evenly_spread_digits_are_learned(digits: tuple[list[Sample], list[Sample]], tmp_path: Path) -> None:
    family, (samples, holdout) = get_family("digits"), digits
    assert reached(Federation(family, split_evenly(samples, 10, 0), holdout), ROUNDS, tmp_path) >= 0.93


def test_drop_out_costs_little(digits: tuple[list[Sample], list[Sample]], tmp_path: Path) -> None:
    family, (samples, holdout) = get_family("digits"), digits
    people = split_dirichlet(samples, "digit", 10, 0.5, 0)
    without = reached(Federation(family, people, holdout), ROUNDS, tmp_path)
    with_drop_out = reached(Federation(family, people, holdout, drop_out=0.3), ROUNDS, tmp_path)
    assert with_drop_out >= without - 0.03


@pytest.mark.parametrize(("strategy", "low", "high"), [(Median(), 0.90, 1.0), (FedAvg(), 0.0, 0.30)])
def test_liars_break_the_mean_and_not_the_median(
    strategy: Strategy, low: float, high: float, digits: tuple[list[Sample], list[Sample]], tmp_path: Path
) -> None:
    family, (samples, holdout) = get_family("digits"), digits
    people = split_evenly(samples, 10, 0)
    config = AggregationConfig(strategy=strategy)
    assert low <= reached(Federation(family, people, holdout, config, hostile=2), ROUNDS, tmp_path) <= high


def test_federated_swipes_come_close_to_central_ones(tmp_path: Path) -> None:
    family, words = get_family("swipe"), vocabulary()[:30]
    people = [make_samples(words, 6, seed) for seed in range(4)]
    holdout = [sample for seed in range(100, 104) for sample in make_samples(words, 2, seed)]
    pooled = [sample for person in people for sample in person]
    central = family.train(family.init_weights(0), pooled, {"epochs": 20}).weights
    federated = reached(Federation(family, people, holdout, hyperparameters={"epochs": 3}), 8, tmp_path)
    assert federated >= family.evaluate(central, holdout)["accuracy"] - 0.05
    assert federated > 0.85
