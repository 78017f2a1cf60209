"""The scene of federated learning: four devices teach a model to read, and no sample leaves them."""

import asyncio
import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from core.ids import new_id
from domain.federated_protocol import EXAMPLES, LOSS
from learning.families import get_family
from learning.family import Sample
from learning.weights import decode, encode
from services.demo.front_end import FrontEnd, announce

_DEVICES: Final = 4
_ROUNDS: Final = 3
_FAMILY: Final = "digits"
_API: Final = "/api/v1/federated"


async def play(front_end: FrontEnd) -> None:
    """A short cycle; then a prediction with what came of it, and the registry that tells how."""
    announce("Federated learning: the samples stay on four devices, their updates make one model")
    name = f"demo-{new_id().hex[-12:]}"
    holdout = b"\n".join(_line(sample) for sample in make_samples(seed=99, count=200))
    held = await front_end.send_bytes("POST", "/api/v1/artifacts", holdout)
    wish = {"name": name, "family": _FAMILY, "holdout_artifact_id": held["id"]}
    await front_end.send("POST", f"{_API}/models", wish)
    devices = [asyncio.create_task(_Device(front_end, name, number).take_part(_ROUNDS)) for number in range(_DEVICES)]
    try:
        cycle = {"model": name, "rounds": _ROUNDS, "goal": _DEVICES, "deadline_seconds": 60}
        job = await front_end.play("A cycle of three rounds", "federated.cycle", cycle)
        await asyncio.gather(*devices)
    finally:
        for device in devices:
            device.cancel()
        await asyncio.gather(*devices, return_exceptions=True)
    await _show(front_end, name, job)


async def _show(front_end: FrontEnd, name: str, job: Mapping[str, Any]) -> None:
    model = await front_end.ask(f"{_API}/models/{name}")
    for version in reversed(model["versions"]):
        accuracy, digest = version["metrics"].get("accuracy", 0.0), version["sha256"][:16]
        print(f"  version {version['version']}  {version['status']:<10} accuracy {accuracy:6.1%}  {digest}")
    sample = make_samples(seed=100, count=1)[0]
    asked = {"samples": [{"pixels": sample["pixels"]}]}
    answer = await front_end.send("POST", f"{_API}/models/{name}/predict", asked)
    print(f"  a {sample['digit']} is read as {answer['predictions'][0]['digit']} by version {answer['version']}")
    result = await front_end.ask(job["links"]["result"])
    for artifact in result["artifacts"]:
        await front_end.download(artifact)


class _Device:
    """A participant with samples of its own."""

    def __init__(self, front_end: FrontEnd, model: str, number: int) -> None:
        self._front_end = front_end
        self._model = model
        self._samples = make_samples(seed=number, count=120)

    async def take_part(self, rounds: int) -> None:
        """Enrol, then train in each round."""
        me = await self._front_end.send("POST", f"{_API}/participants", {"model": self._model})
        headers = {"Authorization": f"Bearer {me['key']}"}
        for number in range(1, rounds + 1):
            await self._train(await self._lease(headers, number), headers)

    async def _lease(self, headers: Mapping[str, str], number: int) -> dict[str, Any]:
        while True:
            lease = await self._front_end.send_or_none("POST", f"{_API}/leases", {}, headers)
            if lease is not None and lease["round"] == number:
                return lease
            # The server would have us wait longer; a demonstration is impatient.
            await asyncio.sleep(0.2)

    async def _train(self, lease: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        base = await self._front_end.fetch(f"{_API}/blobs/{lease['base_sha256']}", headers)
        plan = {"epochs": 3, "seed": lease["round"]}
        trained = await asyncio.to_thread(get_family(_FAMILY).train, decode(base), self._samples, plan)
        said = {EXAMPLES: str(trained.examples), LOSS: f"{trained.loss:.4f}"}
        update = encode(trained.weights, said)
        digest = base64.b64encode(hashlib.sha256(update).digest()).decode()
        more = {**headers, "Content-Digest": f"sha-256=:{digest}:", "Lease-Token": lease["token"]}
        await self._front_end.send_bytes("PUT", f"{_API}/updates/{lease['id']}", update, more)


def make_samples(*, seed: int, count: int) -> list[Sample]:
    """Made-up digits: ten fixed shapes of eight by eight, each time a little different."""
    shapes = np.random.default_rng(2026).uniform(0, 16, (10, 64))
    generator = np.random.default_rng(seed)
    digits = generator.integers(0, 10, count)
    pixels = np.clip(shapes[digits] + generator.normal(0, 4, (count, 64)), 0, 16)
    return [{"pixels": row.round(1).tolist(), "digit": int(digit)} for row, digit in zip(pixels, digits, strict=True)]


def _line(sample: Sample) -> bytes:
    pixels = ",".join(str(value) for value in sample["pixels"])
    return f'{{"pixels": [{pixels}], "digit": {sample["digit"]}}}'.encode()
