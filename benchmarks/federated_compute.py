"""What aggregation costs beside Flower's, and what federations reach: no stack, the processor alone, one thread.

Flower pins versions that ours cannot live with, so it is measured in an environment of its own, made like this and
named by ``LONGHAUL_FLOWER_PYTHON``; without it that comparison is left out, loudly::

    python -m venv .data/flower && .data/flower/bin/pip install flwr==1.41.0 numpy
"""

import asyncio
import hashlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.support import ROOT, Bench, Finding
from domain.federated import AggregationConfig, FedAvg, Median, Strategy
from learning.aggregation import UpdateRef, aggregate
from learning.family import Sample
from learning.weights import encode

UPDATES: Final = 50
VALUES: Final = 1_000_000
MODEL_BYTES: Final = VALUES * 4
_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


async def run(bench: Bench) -> list[Finding]:
    """Cost first, then accuracy."""
    with tempfile.TemporaryDirectory(prefix="longhaul-federated-") as name:
        folder = Path(name)
        refs = await asyncio.to_thread(_write_updates, folder)
        findings = await _cost(bench, folder)
        findings.append(await asyncio.to_thread(_order, bench, folder, refs))
    findings += await asyncio.to_thread(_digits, bench)
    findings += await asyncio.to_thread(_swipes, bench)
    return findings


# --- cost ---------------------------------------------------------------------------------------------


def _write_updates(folder: Path) -> list[UpdateRef]:
    """A parent, a small one, and the updates: as we read them, and raw for Flower."""
    generator = np.random.default_rng(0)
    parent = generator.standard_normal(VALUES).astype(np.float32)
    (folder / "parent").write_bytes(encode({"w": parent}))
    (folder / "small").write_bytes(encode({"w": parent[:10]}))
    refs = []
    for number in range(UPDATES):
        values = parent + 0.01 * generator.standard_normal(VALUES).astype(np.float32)
        data = encode({"w": values})
        digest = hashlib.sha256(data).hexdigest()
        path = folder / f"{number:03}-{digest}.safetensors"
        path.write_bytes(data)
        values.tofile(folder / f"{number:03}.raw")
        refs.append(UpdateRef(path, digest, number + 1))
    return refs


async def _program(*argv: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *argv, cwd=ROOT, env={**os.environ, **_ONE_THREAD}, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{argv[1:3]} ended with {process.returncode}")
    answer: dict[str, Any] = json.loads(out)
    return answer


async def _cost(bench: Bench, folder: Path) -> list[Finding]:
    """Ours and Flower's in turn, in the same minutes."""
    flower = os.environ.get("LONGHAUL_FLOWER_PYTHON")
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for _ in range(2 if bench.quick else 5):
        ours.append(await _program(sys.executable, "-m", "benchmarks.federated_aggregation", str(folder), "5"))
        if flower:
            script = str(ROOT / "benchmarks" / "federated_flower.py")
            theirs.append(await _program(flower, script, str(folder), str(UPDATES), "5"))
    grown = max(one["grown_bytes"] for one in ours) / MODEL_BYTES
    seconds = statistics.median(one["seconds"] for one in ours)
    findings = [
        Finding("50 updates of 1 M parameters: extra memory", grown, "models", at_most=3),
        Finding("time, finiteness and norms checked", seconds * 1_000, "ms"),
    ]
    if not flower:
        bench.say("SKIPPED: no comparison with Flower, as LONGHAUL_FLOWER_PYTHON names no environment with flwr in it")
        return findings
    ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(ours, theirs, strict=True))
    return [*findings, Finding("time beside Flower's FedAvg in memory", ratio, "x", at_most=4)]


def _order(bench: Bench, folder: Path, refs: Sequence[UpdateRef]) -> Finding:
    """Bits that differ over arrival orders."""
    parent, shuffler = folder / "parent", np.random.default_rng(1)
    first = np.frombuffer(aggregate(AggregationConfig(), parent, refs).weights, np.uint8)
    bits = 0
    for _ in range(5 if bench.quick else 20):
        order = shuffler.permutation(len(refs))
        again = aggregate(AggregationConfig(), parent, [refs[index] for index in order]).weights
        bits += int(np.bitwise_count(np.bitwise_xor(first, np.frombuffer(again, np.uint8))).sum())
    return Finding("bits that differ over arrival orders", bits, at_most=0, note="5 orders" if bench.quick else "20")


# --- accuracy -----------------------------------------------------------------------------------------


def _reached(
    people: Sequence[Sequence[Sample]], holdout: Sequence[Sample], rounds: int, seed: int, **more: Any
) -> float:
    """Accuracy in percent after so many rounds of digits."""
    # Imported late: the benchmarks of other families run without the extra.
    from learning.families import get_family  # noqa: PLC0415
    from learning.simulation import Federation, run_rounds  # noqa: PLC0415

    plan: Mapping[str, Any] = {"epochs": 5, "batch_size": 10, "learning_rate": 0.05}
    with tempfile.TemporaryDirectory(prefix="longhaul-federated-") as folder:
        federation = Federation(get_family("digits"), people, holdout, hyperparameters=plan, **more)
        _, history = run_rounds(federation, rounds, Path(folder), seed)
    return 100 * history[-1]["accuracy"]


def _digits(bench: Bench) -> list[Finding]:
    from learning.digits.data import load_samples  # noqa: PLC0415
    from learning.simulation import split_dirichlet, split_evenly  # noqa: PLC0415

    samples, holdout = load_samples()
    rounds, seeds = (15, 1) if bench.quick else (30, 3)
    found: dict[str, list[float]] = {name: [] for name in ("even", "skewed", "drop-out", "median", "mean")}

    def attacked(seed: int, strategy: Strategy) -> float:
        people = split_dirichlet(samples, "digit", 10, 1.0, seed)
        return _reached(people, holdout, rounds, seed, hostile=2, config=AggregationConfig(strategy=strategy))

    for seed in range(seeds):
        bench.say(f"digits, seed {seed}")
        skewed = split_dirichlet(samples, "digit", 10, 0.5, seed)
        found["even"].append(_reached(split_evenly(samples, 10, seed), holdout, rounds, seed))
        found["skewed"].append(_reached(skewed, holdout, rounds, seed))
        found["drop-out"].append(_reached(skewed, holdout, rounds, seed, drop_out=0.3))
        found["median"].append(attacked(seed, Median()))
        found["mean"].append(attacked(seed, FedAvg()))
    mean = {name: statistics.mean(values) for name, values in found.items()}
    note = f"mean of {seeds}, round {rounds}"
    return [
        Finding("digits, evenly spread", mean["even"], "%", at_least=94, note=note),
        Finding("digits, Dirichlet 0.5", mean["skewed"], "%", note=note),
        Finding("what 30 % drop-out costs there", mean["skewed"] - mean["drop-out"], "points", at_most=2, note=note),
        Finding("median, 2 of 10 flip signs", mean["median"], "%", at_least=92, note=note),
        Finding("FedAvg, 2 of 10 flip signs", mean["mean"], "%", at_most=30, note=note),
    ]


def _swipes(bench: Bench) -> list[Finding]:
    from learning.families import get_family  # noqa: PLC0415
    from learning.simulation import Federation, run_rounds  # noqa: PLC0415
    from learning.swipe.keyboard import vocabulary  # noqa: PLC0415
    from learning.swipe.synthetic import make_samples  # noqa: PLC0415

    family, words = get_family("swipe"), vocabulary()[: 40 if bench.quick else 200]
    bench.say(f"swipes, {len(words)} words")
    people = [make_samples(words, 2, seed) for seed in range(10)]
    holdout = [sample for seed in range(100, 110) for sample in make_samples(words, 1, seed)]
    pooled = [sample for person in people for sample in person]
    rounds = 12
    central = family.train(family.init_weights(0), pooled, {"epochs": 3 * rounds}).weights
    plan: Mapping[str, Any] = {"epochs": 3}
    with tempfile.TemporaryDirectory(prefix="longhaul-federated-") as folder:
        federation = Federation(family, people, holdout, hyperparameters=plan)
        _, history = run_rounds(federation, rounds, Path(folder), 0)
    alone, together = 100 * family.evaluate(central, holdout)["accuracy"], 100 * history[-1]["accuracy"]
    return [
        Finding("SwipeLSTM, federated", together, "%", note=f"{len(words)} words, 10 people, strangers' swipes"),
        Finding("behind the same model trained centrally", alone - together, "points", at_most=3),
    ]
