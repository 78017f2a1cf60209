"""What this process can do with weights: the families of ``learning``, as far as what they need is installed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from activities.federated.report import Drawing, Plotter, RoundFigures, no_plot
from domain.errors import FieldFault, InvalidInput, NoRuntime
from domain.federated_registry import CUSTOM, ModelRuntime
from learning import families
from learning.family import BadSample, Family, Sample
from learning.inference import Inference
from learning.weights import decode, encode


def create_runtime() -> ModelRuntime:
    """The runtime of this process."""
    return FamilyRuntime()


class FamilyRuntime:
    """Implements ``ModelRuntime``."""

    def __init__(self) -> None:
        self._inference = Inference()

    def initial(self, family: str, *, seed: int) -> bytes:
        """First weights. Raises NoRuntime and InvalidInput."""
        return encode(_family(family).init_weights(seed))

    def evaluate(self, family: str, weights: Path, holdout: Path) -> dict[str, float]:
        """How good the weights are on the samples of a JSONL file. Raises NoRuntime and InvalidInput."""
        try:
            found = _family(family).evaluate(decode(weights), read_samples(holdout))
        except BadSample as fault:
            raise _bad("/holdout_artifact_id", str(fault)) from fault
        return {name: float(value) for name, value in found.items()}

    def predict(self, model: str, family: str, weights: Path, samples: Sequence[Sample]) -> list[Any]:
        """One answer for each sample. Raises NoRuntime and InvalidInput."""
        _family(family)
        try:
            # Files are named by their digest: another head is another name, and is loaded then.
            return list(self._inference.predict(model, family, weights.name, weights.read_bytes, samples))
        except BadSample as fault:
            raise _bad("/samples", str(fault)) from fault


def read_samples(file: Path) -> list[Sample]:
    """The samples of a JSONL file. Raises InvalidInput."""
    samples: list[Sample] = []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                sample = orjson.loads(line)
            except orjson.JSONDecodeError:
                raise _bad("/holdout_artifact_id", f"line {number} is not JSON") from None
            if not isinstance(sample, dict):
                raise _bad("/holdout_artifact_id", f"line {number} is not an object")
            samples.append(sample)
    if not samples:
        raise _bad("/holdout_artifact_id", "holds no sample")
    return samples


def _family(name: str) -> Family:
    if name == CUSTOM:
        raise NoRuntime("a custom model is known to its participants only")
    try:
        return families.get_family(name)
    except families.UnknownFamily:
        known = ", ".join(sorted([*families.FAMILIES, CUSTOM]))
        raise _bad("/family", f"is not one of: {known}") from None
    except families.NoRuntime as fault:
        raise NoRuntime(str(fault)) from fault


def _bad(pointer: str, message: str) -> InvalidInput:
    return InvalidInput("the model cannot work with this", faults=[FieldFault(pointer, message)])


def create_plotter() -> Plotter:
    """Draws the rounds of a cycle where matplotlib is installed; elsewhere a cycle has no plot."""
    try:
        from learning.plots import RoundFigures as Figures  # noqa: PLC0415 - matplotlib is here only with the extra
        from learning.plots import plot_rounds  # noqa: PLC0415
    except ModuleNotFoundError:
        return no_plot

    def plot(model: str, rounds: Sequence[RoundFigures]) -> Sequence[Drawing]:
        figures = [
            Figures(number=one.number, accuracy=_accuracy(one), selected=one.leased, accepted=one.accepted)
            for one in rounds
        ]
        title = f"{model}: accuracy and participation"
        return [
            Drawing(name="rounds.png", media_type="image/png", body=plot_rounds(figures, title, form="png")),
            Drawing(name="rounds.svg", media_type="image/svg+xml", body=plot_rounds(figures, title, form="svg")),
        ]

    return plot


def _accuracy(one: RoundFigures) -> float | None:
    if one.state == "abandoned":
        return None
    return one.metrics.get("accuracy", one.metrics.get("reported_accuracy"))
