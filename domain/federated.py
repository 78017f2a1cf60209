"""Federated learning: how the updates of one round become one model."""

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from domain.model import Frozen

FAMILY = "federated"

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Decay = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
_Malicious = Annotated[int, Field(ge=0, le=10_000)]


# --- strategies: what is computed from the updates ----------------------------------------------------


class FedAvg(Frozen):
    """The mean of the updates, weighted by their examples (McMahan et al. 2017)."""

    name: Literal["fedavg"] = "fedavg"


class FedAvgM(Frozen):
    """FedAvg with momentum on the server (Hsu et al. 2019)."""

    name: Literal["fedavgm"] = "fedavgm"
    server_learning_rate: _Positive = 1.0
    server_momentum: _Decay = 0.9


class FedOpt(Frozen):
    """An adaptive optimizer on the server, fed with the mean update (Reddi et al. 2021)."""

    name: Literal["fedadam", "fedyogi", "fedadagrad"]
    eta: _Positive = 0.1
    """Learning rate of the server."""
    beta_1: _Decay = 0.9
    """Decay of the first moment; FedAdagrad reads it as zero, as the paper does."""
    beta_2: _Decay = 0.99
    """Decay of the second moment; without meaning for FedAdagrad."""
    tau: _Positive = 1e-3
    """Degree of adaptivity, added to the square root of the second moment."""


class Median(Frozen):
    """The median of every coordinate; examples do not count (Yin et al. 2018)."""

    name: Literal["median"] = "median"


class TrimmedMean(Frozen):
    """The mean of every coordinate without its extremes; examples do not count (Yin et al. 2018)."""

    name: Literal["trimmed_mean"] = "trimmed_mean"
    beta: Annotated[float, Field(ge=0, lt=0.5)] = 0.2
    """Share of the values cut off on each side, rounded down to whole values."""


class Krum(Frozen):
    """The one update that lies closest to its neighbours (Blanchard et al. 2017)."""

    name: Literal["krum"] = "krum"
    malicious: _Malicious = 0
    """How many hostile participants are withstood; needs ``2 * malicious + 3`` updates."""


class MultiKrum(Frozen):
    """The mean, weighted by examples, of the updates that Krum ranks first (Blanchard et al. 2017)."""

    name: Literal["multi_krum"] = "multi_krum"
    malicious: _Malicious = 0
    selected: Annotated[int, Field(ge=1, le=10_000)] = 1


class Bulyan(Frozen):
    """The updates that Krum ranks first, and of each coordinate the mean of what lies around their median.

    El Mhamdi et al. 2018, with the selection made in one pass, as in Flower.
    """

    name: Literal["bulyan"] = "bulyan"
    malicious: _Malicious = 0
    """How many hostile participants are withstood; needs ``4 * malicious + 3`` updates."""


Strategy = Annotated[
    FedAvg | FedAvgM | FedOpt | Median | TrimmedMean | Krum | MultiKrum | Bulyan, Field(discriminator="name")
]
"""What is computed from the updates of a round."""

MEANS: Final = frozenset({"fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"})
"""Strategies that need nothing of the updates but their mean."""


# --- privacy ------------------------------------------------------------------------------------------


class DifferentialPrivacy(Frozen):
    """DP-FedAvg (McMahan et al. 2018): each update clipped, all counted alike, Gaussian noise on the sum.

    What is protected is the whole contribution of one participant (add or remove one).
    """

    clip_norm: _Positive
    """No participant moves the sum by more than this (L2)."""
    noise_multiplier: Annotated[float, Field(gt=0, le=1_000)]
    """Standard deviation of the noise on the sum, in units of ``clip_norm``."""
    denominator: Annotated[int, Field(ge=1, le=1_000_000)]
    """By what the sum is divided: a number fixed beforehand, usually the goal of the round."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """The delta for which epsilon is stated; smaller than one over the number of participants."""
    sampling_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Chance of a participant to be in a round. Below 1 only where each one is drawn independently (Poisson) and in
    secret; where participants come by themselves, 1 is the truth."""
    epsilon_limit: _Positive | None = None
    """A round that would exceed it is refused before anything is computed."""


class AggregationConfig(Frozen):
    """How the updates of one round become one model."""

    strategy: Strategy = FedAvg()
    clip_norm: _Positive | None = None
    """Updates further from their parent than this (L2) are scaled back to it."""
    privacy: DifferentialPrivacy | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "AggregationConfig":
        if self.privacy is None:
            return self
        if self.strategy.name not in MEANS:
            raise ValueError(f"privacy is accounted for means only, and {self.strategy.name} is none")
        if self.clip_norm is not None:
            raise ValueError("privacy brings a clip_norm of its own")
        return self
