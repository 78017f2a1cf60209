"""The programs in docs/federated-models.md run as they stand there."""

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learning.digits.data import load_samples
from learning.families import get_family
from learning.family import Hyperparameters, Trained, parse
from learning.weights import check, encode
from tests.support.federated_server import TENANT_KEY, StandIn, federated_server

DOCUMENT = Path(__file__).parents[2] / "docs" / "federated-models.md"


class Asleep(Exception):
    """The device has nothing to do any more."""


def programs() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("refused", "uploads", "accepted"), [([], 2, 2), ([422], 1, 0)])
def test_the_device_takes_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: list[int], uploads: int, accepted: int
) -> None:
    """Until there is nothing to do; what is refused for good makes it wait."""
    samples, _ = load_samples()
    monkeypatch.chdir(tmp_path)
    Path("samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples[:30]))

    def sleep(_: float) -> None:
        raise Asleep

    monkeypatch.setattr(time, "sleep", sleep)
    program = programs()[0]
    assert len(program.splitlines()) <= 30
    namespace: dict[str, Any] = {}
    with federated_server(StandIn(encode(get_family("digits").init_weights(0)), rounds=2)) as standin:
        standin.fail("upload", *refused)
        here = program.replace("https://longhaul.example", standin.url).replace("KEY", TENANT_KEY)
        with pytest.raises(Asleep):
            exec(here, namespace)  # noqa: S102 - our own document
        namespace["http"].close()
    assert (standin.count("upload"), len(standin.updates)) == (uploads, accepted)
    assert all(check(update, parent=standin.base).norm > 0.1 for update in standin.updates.values())


def test_the_family_learns() -> None:
    names: dict[str, Any] = {"np": np, "parse": parse, "Hyperparameters": Hyperparameters, "Trained": Trained}
    exec(programs()[1], names)  # noqa: S102 - our own document
    family = names["Slope"]()
    samples = [{"x": x, "y": 3 * x} for x in (1.0, 2.0, 0.5)]
    trained = family.train(family.init_weights(0), samples, {"epochs": 200})
    assert family.evaluate(trained.weights, samples)["accuracy"] == 1.0
    assert family.predict(trained.weights, [{"x": 10}])[0]["y"] == pytest.approx(30, abs=0.1)
