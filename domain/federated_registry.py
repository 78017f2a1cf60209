"""Models and their versions: how one becomes the head, and who may say what it is worth."""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Protocol
from uuid import UUID

from pydantic import Field, StringConstraints

from domain.federated_protocol import ModelName
from domain.federated_rounds import Gate
from domain.model import Frozen
from domain.text import Prose

CUSTOM: Final = "custom"
"""The family of models that only their participants know: their own metrics judge them."""


class VersionStatus(StrEnum):
    """What a version is to its model."""

    CANDIDATE = "candidate"
    PUBLISHED = "published"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"


class Action(StrEnum):
    """What is decided about a version."""

    CREATED = "created"
    PUBLISHED = "published"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"


class NewModel(Frozen):
    """A model to begin with: of a family that makes its own first weights, or with weights from an artifact."""

    name: ModelName
    family: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")] = CUSTOM
    weights_artifact_id: UUID | None = None
    """The first weights, as safetensors."""
    holdout_artifact_id: UUID | None = None
    """Samples that no participant has, one JSON object a line: every version is judged by them."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Rollback(Frozen):
    """Back to an earlier version; to the head's parent where none is named."""

    version: Annotated[int, Field(ge=1)] | None = None
    expected_head: Annotated[int, Field(ge=1)] | None = None
    """The version that is to be left: nothing is done where another is the head, so that a repeated request goes back
    once."""
    reason: Annotated[Prose, Field(max_length=500)] = "asked for"


class Verdict(Frozen):
    """What the gate says."""

    publish: bool
    reason: str


_PREFERRED: Final = (("accuracy", True), ("loss", False))


def finite(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Those that are numbers, and not infinite: only they can be kept, as JSON knows no others."""
    return {name: value for name, value in metrics.items() if value is not None and math.isfinite(value)}


def judge(
    gate: Gate, *, mine: Mapping[str, float | None], parents: Mapping[str, float | None], not_finite: Sequence[str] = ()
) -> Verdict:
    """Whether a version with metrics ``mine`` may follow one with ``parents``.

    ``not_finite`` names what was measured and could not be kept; None among metrics means the same.
    """
    kept, compared_with = finite(mine), finite(parents)
    if bad := sorted({*not_finite, *(mine.keys() - kept.keys())}):
        return Verdict(publish=False, reason=f"not finite: {', '.join(bad)}")
    return _compare(gate, kept, compared_with)


def _compare(gate: Gate, mine: Mapping[str, float], parents: Mapping[str, float]) -> Verdict:
    metric, higher = _metric(gate, mine)
    if metric is None:
        return Verdict(publish=True, reason="no metric to be judged by")
    if metric not in mine:
        return Verdict(publish=False, reason=f"there is no metric {metric}")
    if metric not in parents:
        return Verdict(publish=True, reason=f"{metric} {mine[metric]:.4f}, the parent has none")
    worse = parents[metric] - mine[metric] if higher else mine[metric] - parents[metric]
    compared = f"{metric} {mine[metric]:.4f} after {parents[metric]:.4f}"
    if worse > gate.delta:
        return Verdict(publish=False, reason=f"{compared}, worse by more than {gate.delta:g}")
    return Verdict(publish=True, reason=compared)


def _metric(gate: Gate, mine: Mapping[str, float]) -> tuple[str | None, bool]:
    if gate.metric is not None:
        higher = gate.higher_is_better
        return gate.metric, ("loss" not in gate.metric and "error" not in gate.metric) if higher is None else higher
    return next(((name, higher) for name, higher in _PREFERRED if name in mine), (None, True))


class ModelRuntime(Protocol):
    """What can be done with weights where their family is known. Blocking: call it off the event loop.

    Every method raises NoRuntime for a family that this process cannot serve, and InvalidInput for samples that
    the family does not take.
    """

    def initial(self, family: str, *, seed: int) -> bytes:
        """First weights, as safetensors; a function of its arguments."""
        ...

    def evaluate(self, family: str, weights: Path, holdout: Path) -> dict[str, float]:
        """How good these weights are on held-out samples, one JSON object a line."""
        ...

    def predict(self, model: str, family: str, weights: Path, samples: Sequence[Mapping[str, Any]]) -> list[Any]:
        """One answer for each sample; ``model`` names the one whose latest weights are kept at hand."""
        ...
