"""Make the golden files with Flower and Google's dp-accounting, in an environment of their own.

    python -m venv .data/golden
    .data/golden/bin/pip install flwr==1.41.0 dp-accounting==0.6.0 numpy
    .data/golden/bin/python tests/learning/golden/make.py

Neither may enter our environment: Flower pins FastAPI, dp-accounting pins an old attrs. Flower's strategies are called
on ready replies, without server or network.
"""

import json
from pathlib import Path

import numpy as np
from dp_accounting.dp_event import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.rdp import RdpAccountant
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
)

HERE = Path(__file__).parent
SHAPES = {"hidden.weight": (13, 7), "hidden.bias": (7,), "scale": ()}
UPDATES, ROUNDS = 11, 3
ORDERS = [*range(2, 65), 72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768, 1024]


class Reply:
    """What a strategy asks of a message."""

    def __init__(self, weights, examples):
        self.content = RecordDict(
            {
                "arrays": ArrayRecord({name: Array(np.asarray(value)) for name, value in weights.items()}),
                "metrics": MetricRecord({"num-examples": examples}),
            }
        )

    def has_error(self):
        return False


def make_round(rng, parent):
    """Updates around ``parent``, the last two of them far away."""
    updates = []
    for index in range(UPDATES):
        spread = 0.1 if index < UPDATES - 2 else 3.0
        updates.append(
            {
                name: np.asarray(value + spread * rng.standard_normal(value.shape), np.float32)
                for name, value in parent.items()
            }
        )
    return updates


def run(strategy, server_round, updates, examples):
    replies = [Reply(update, count) for update, count in zip(updates, examples, strict=True)]
    arrays, _ = strategy.aggregate_train(server_round, replies)
    return {name: np.asarray(array.numpy(), np.float32) for name, array in arrays.items()}


def record(weights):
    return ArrayRecord({name: Array(value) for name, value in weights.items()})


def make_aggregates():
    rng = np.random.default_rng(20_261_120)
    parent = {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in SHAPES.items()}
    rounds = [make_round(rng, parent) for _ in range(ROUNDS)]
    examples = [int(count) for count in rng.integers(1, 500, UPDATES)]
    once = {
        "fedavg": FedAvg(),
        "median": FedMedian(),
        "trimmed_mean": FedTrimmedAvg(beta=0.2),
        "krum": Krum(num_malicious_nodes=2),
        "multi_krum": MultiKrum(num_malicious_nodes=2, num_nodes_to_select=5),
        "bulyan": Bulyan(num_malicious_nodes=2),
    }
    out = {f"parent/{name}": value for name, value in parent.items()}
    out["examples"] = np.array(examples)
    for number, updates in enumerate(rounds):
        for index, update in enumerate(updates):
            out |= {f"update/{number}/{index:02}/{name}": value for name, value in update.items()}
    for name, strategy in once.items():
        out |= {f"{name}/0/{key}": value for key, value in run(strategy, 1, rounds[0], examples).items()}
    clipped = DifferentialPrivacyServerSideFixedClipping(
        FedAvg(), noise_multiplier=0.0, clipping_norm=0.5, num_sampled_clients=UPDATES
    )
    clipped.current_arrays = record(parent)
    result = run(clipped, 1, rounds[0], examples)
    del result["scale"]  # Flower clips in place, which leaves scalars unclipped
    out |= {f"clipped/0/{key}": value for key, value in result.items()}
    chains = {
        "fedavgm": FedAvgM(server_learning_rate=0.5, server_momentum=0.9),
        "fedadam": FedAdam(eta=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3),
        "fedyogi": FedYogi(eta=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3),
        "fedadagrad": FedAdagrad(eta=0.1, tau=1e-3),
    }
    for name, strategy in chains.items():
        current = parent
        for number, updates in enumerate(rounds):
            strategy.current_arrays = record(current) if name == "fedavgm" else dict(current)
            current = run(strategy, number + 1, updates, examples)
            out |= {f"{name}/{number}/{key}": value for key, value in current.items()}
    np.savez_compressed(HERE / "aggregates.npz", **out)


def make_epsilons():
    rows = []
    for noise, rate, rounds, delta in [
        (1.0, 1.0, 1, 1e-5), (1.0, 1.0, 100, 1e-5), (4.0, 1.0, 30, 1e-6), (0.6, 1.0, 3, 1e-5),
        (1.1, 0.01, 1_000, 1e-5), (0.8, 0.1, 50, 1e-6), (2.0, 0.5, 200, 1e-7), (20.0, 0.001, 10, 1e-5),
    ]:  # fmt: skip
        event = PoissonSampledDpEvent(rate, GaussianDpEvent(noise)) if rate < 1 else GaussianDpEvent(noise)
        accountant = RdpAccountant(ORDERS)
        accountant.compose(SelfComposedDpEvent(event, rounds))
        row = {"noise_multiplier": noise, "sampling_rate": rate, "rounds": rounds, "delta": delta}
        rows.append({**row, "epsilon": float(accountant.get_epsilon(delta))})
    (HERE / "epsilons.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    make_aggregates()
    make_epsilons()
