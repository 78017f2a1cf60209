"""Our aggregation against Flower's, our epsilon against dp-accounting's; the files are made by golden/make.py."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from domain.federated import (
    AggregationConfig,
    Bulyan,
    FedAvg,
    FedAvgM,
    FedOpt,
    Krum,
    Median,
    MultiKrum,
    Strategy,
    TrimmedMean,
)
from learning.aggregation import UpdateRef, aggregate
from learning.privacy import epsilon, round_loss
from learning.weights import decode, encode
from tests.support.federated import stored

GOLDEN = Path(__file__).parent / "golden"
ONCE: dict[str, AggregationConfig] = {
    "fedavg": AggregationConfig(),
    "median": AggregationConfig(strategy=Median()),
    "trimmed_mean": AggregationConfig(strategy=TrimmedMean(beta=0.2)),
    "krum": AggregationConfig(strategy=Krum(malicious=2)),
    "multi_krum": AggregationConfig(strategy=MultiKrum(malicious=2, selected=5)),
    "bulyan": AggregationConfig(strategy=Bulyan(malicious=2)),
    "clipped": AggregationConfig(strategy=FedAvg(), clip_norm=0.5),
}
CHAINS: dict[str, Strategy] = {
    "fedavgm": FedAvgM(server_learning_rate=0.5, server_momentum=0.9),
    "fedadam": FedOpt(name="fedadam", eta=0.1),
    "fedyogi": FedOpt(name="fedyogi", eta=0.1),
    "fedadagrad": FedOpt(name="fedadagrad", eta=0.1),
}


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    return dict(np.load(GOLDEN / "aggregates.npz"))


def part(golden: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    found = {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}
    assert found
    return found


def updates(golden: dict[str, NDArray[Any]], folder: Path, number: int) -> list[UpdateRef]:
    return [
        stored(folder, part(golden, f"update/{number}/{index:02}/"), int(count))
        for index, count in enumerate(golden["examples"])
    ]


def agree(ours: bytes, theirs: dict[str, NDArray[Any]]) -> None:
    decoded = decode(ours)
    assert decoded.keys() - {"scale"} == theirs.keys() - {"scale"}
    for name, value in theirs.items():
        assert decoded[name].shape == value.shape
        np.testing.assert_allclose(decoded[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ONCE)
def test_one_round_agrees_with_flower(name: str, golden: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    parent = encode(part(golden, "parent/"))
    result = aggregate(ONCE[name], parent, updates(golden, tmp_path, 0))
    agree(result.weights, part(golden, f"{name}/0/"))


@pytest.mark.parametrize("name", CHAINS)
def test_an_optimizer_agrees_with_flower_over_rounds(
    name: str, golden: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    weights, state = encode(part(golden, "parent/")), None
    for number in range(3):
        result = aggregate(AggregationConfig(strategy=CHAINS[name]), weights, updates(golden, tmp_path, number), state)
        agree(result.weights, part(golden, f"{name}/{number}/"))
        weights, state = result.weights, result.state


@pytest.mark.parametrize("row", json.loads((GOLDEN / "epsilons.json").read_text()))
def test_epsilon_agrees_with_dp_accounting(row: dict[str, float]) -> None:
    loss = round_loss(row["noise_multiplier"], row["sampling_rate"]) * row["rounds"]
    assert epsilon(loss, row["delta"]) == pytest.approx(row["epsilon"], rel=1e-6)
