"""Aggregates files of updates in a process of its own, for benchmarks/federated_compute.py: time and peak memory.

``python -m benchmarks.federated_aggregation FOLDER ROUNDS``: prints the best time of ROUNDS, and by how much the peak
of resident memory grew over the first of them, as JSON.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

from domain.federated import AggregationConfig
from learning.aggregation import UpdateRef, aggregate


def _peak_bytes() -> int:
    """The high-water mark of resident memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def _refs(folder: Path) -> list[UpdateRef]:
    paths = sorted(folder.glob("*.safetensors"))
    return [UpdateRef(path, path.stem.partition("-")[2], int(path.name[:3]) + 1) for path in paths]


def main() -> None:
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    parent, updates, config = folder / "parent", _refs(folder), AggregationConfig()
    # One update first: what libraries take when they are first used is not memory of the aggregation.
    small = folder / "small"
    digest = hashlib.sha256(small.read_bytes()).hexdigest()
    aggregate(config, small, [UpdateRef(small, digest, 1)])
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = _peak_bytes()
    began = time.perf_counter()
    result = aggregate(config, parent, updates)
    seconds, grown = [time.perf_counter() - began], _peak_bytes() - before
    for _ in range(rounds - 1):
        began = time.perf_counter()
        aggregate(config, parent, updates)
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": min(seconds), "grown_bytes": grown, "sha256": result.sha256}))


if __name__ == "__main__":
    main()
