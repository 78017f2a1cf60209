"""Flower's FedAvg in memory, for benchmarks/federated_compute.py: runs in Flower's environment, imports none of ours.

``python federated_flower.py FOLDER COUNT ROUNDS``: reads COUNT raw float32 files, prints the best time of ROUNDS
aggregations in seconds and the digest of the result, as JSON.
"""

import hashlib
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg


class _Reply:
    def __init__(self, values: Any, examples: int) -> None:
        arrays = ArrayRecord({"w": Array(values)})
        self.content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": examples})})

    def has_error(self) -> bool:
        return False


def main() -> None:
    logging.disable()
    folder, count, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    updates = [np.fromfile(folder / f"{number:03}.raw", np.float32) for number in range(count)]
    seconds, digest = [], ""
    for _ in range(rounds):
        replies: Any = [_Reply(values, number + 1) for number, values in enumerate(updates)]
        began = time.perf_counter()
        arrays, _ = FedAvg().aggregate_train(1, replies)
        seconds.append(time.perf_counter() - began)
        assert arrays is not None
        digest = hashlib.sha256(arrays["w"].numpy().tobytes()).hexdigest()
    print(json.dumps({"seconds": min(seconds), "sha256": digest}))


if __name__ == "__main__":
    main()
