"""The updates of one round become one model: a function of their contents, never of the order they came in.

Updates are complete weights, as a participant has them after training; what counts is their difference to the parent.
They are read in stretches of one tensor, summed in float64 in the order of their digests, and rounded once. Memory is
that of the new model and its optimizer state, however many updates there are.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from domain.federated import (
    AggregationConfig,
    Bulyan,
    DifferentialPrivacy,
    Krum,
    Median,
    MultiKrum,
    Strategy,
    TrimmedMean,
)
from learning.members import (
    Member,
    Rows,
    UpdateRef,
    Values,
    WeightedSum,
    admit,
    measure,
    refuse_not_finite,
    usable,
)
from learning.optimizers import step_of
from learning.privacy import Ledger, Noise, epsilon, round_loss
from learning.robust import add_squared_distances, coordinate_reduce, krum_ranking, least_updates, selection_size
from learning.server_state import ForeignState, ServerState, StateWriter
from learning.weights import BLOCK_VALUES, Block, BlockReader, BlockWriter, Source, block_reader, blocks, sum_of_squares

__all__ = [
    "AggregateResult",
    "AggregationRefused",
    "Impossible",
    "PrivacySpent",
    "StrategyConfig",
    "UpdateOutcome",
    "UpdateRef",
    "aggregate",
    "memo_key",
]

StrategyConfig = AggregationConfig
"""How updates are aggregated; the model itself lives in ``domain/federated.py``."""

_Combine = Callable[[Block, Values], Values]
"""A block and the parent's values in it in; the mean difference to them out."""

_MATRIX_VALUES: Final = 524_288  # four megabytes of float64, shared by all rows


class Impossible(StrEnum):
    """Why there is no model; short and stable."""

    TOO_FEW = "too_few"
    NOT_FINITE = "not_finite"
    STATE = "state"
    PRIVACY = "privacy"


class AggregationRefused(Exception):
    """These updates give no model; ``reason`` is for programs, ``detail`` for people. Trying again changes nothing."""

    def __init__(self, reason: Impossible, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class UpdateOutcome:
    """What became of one update."""

    sha256: str
    examples: int
    norm: float | None
    """L2 norm of the difference to the parent, before clipping; none where the update was refused."""
    share: float
    """With which weight it entered the mean, clipping aside; zero where it was refused or not selected."""
    clipped: bool
    refused: str | None
    """Why it was left out although it had been accepted; none where nothing was wrong with it."""


@dataclass(frozen=True, slots=True)
class PrivacySpent:
    """What all private rounds so far have cost together."""

    epsilon: float
    delta: float
    rounds: int


@dataclass(frozen=True, slots=True)
class AggregateResult:
    """One new model. ``state`` belongs with it and is handed in again for its child; none where none is needed."""

    weights: bytes
    sha256: str
    state: bytes | None
    delta_norm: float
    """How far the model moved (L2)."""
    updates: tuple[UpdateOutcome, ...]
    """One for each update handed in, in the order of their digests."""
    privacy: PrivacySpent | None


def memo_key(
    config: AggregationConfig, parent_sha256: str, updates: Iterable[tuple[str, int]], state_sha256: str | None
) -> str:
    """The digest of everything the result depends on but the secret of the noise: equal keys, equal models.

    ``updates`` are their digests with their numbers of examples, in any order.
    """
    parts = [config.model_dump_json(), parent_sha256, state_sha256 or ""]
    parts += [f"{sha256}:{examples}" for sha256, examples in sorted(updates)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def aggregate(
    config: AggregationConfig,
    parent: Source,
    updates: Sequence[UpdateRef],
    state: bytes | None = None,
    *,
    noise_secret: bytes | None = None,
    verify_digests: bool = False,
    spent: Ledger | None = None,
) -> AggregateResult:
    """Make one model of ``parent`` and its ``updates``.

    An update that cannot be read, has another schema, no examples or a value that is not finite is left out and says
    so in its outcome.

    Args:
        config: How.
        parent: The weights the participants started from; trusted.
        updates: In any order; the result is the same to the last bit.
        state: What the parent's result gave as ``state``; moments of another strategy start anew, privacy spent stays.
        noise_secret: Fixed once a round and told to nobody; needed for privacy. A repeated call releases the same
            noise.
        spent: What all private rounds of the model have spent, where somebody keeps it: also those whose models were
            not taken, of which ``state`` knows nothing. The ledger in ``state`` where left out.
        verify_digests: Read every file once more and leave out those whose bytes are not what their digest says.

    Raises:
        AggregationRefused: too few usable updates for the strategy, a model that would not be finite, a state that
            does not belong to the parent, or a privacy limit that the round would exceed.
        OSError: a file cannot be read.
        ValueError: privacy is asked for without ``noise_secret``.
    """
    ordered = _in_order(updates)
    with block_reader(parent) as base:
        before = _restore(config, base, state)
        ledger = _spend(config.privacy, before.ledger if spent is None else spent)
        members = admit(ordered, base.layout.specs, verify_digests=verify_digests)
        if _needs_norms(config):
            measure(members, base)
        noise = _noise(config.privacy, noise_secret, ordered)
        weights, after, moved = _settle(config, base, members, lambda: StateWriter(before, ledger), noise)
    return AggregateResult(
        weights=weights,
        sha256=hashlib.sha256(weights).hexdigest(),
        state=after,
        delta_norm=moved,
        updates=tuple(map(_outcome, members)),
        privacy=_spent(config.privacy, ledger),
    )


def _in_order(updates: Sequence[UpdateRef]) -> list[UpdateRef]:
    return sorted(updates, key=lambda update: (update.sha256, update.examples))


def _outcome(member: Member) -> UpdateOutcome:
    return UpdateOutcome(
        sha256=member.ref.sha256,
        examples=member.ref.examples,
        norm=None if member.refused else math.sqrt(member.squares),
        share=member.share,
        clipped=member.clip_factor != 1.0,
        refused=member.refused,
    )


# --- state and privacy --------------------------------------------------------------------------------


def _restore(config: AggregationConfig, base: BlockReader, state: bytes | None) -> ServerState:
    try:
        return ServerState(config.strategy, base.layout.specs, state)
    except ForeignState as fault:
        raise AggregationRefused(Impossible.STATE, f"the state does not belong to the parent: {fault}") from fault


def _spend(privacy: DifferentialPrivacy | None, before: Ledger | None) -> Ledger | None:
    """The ledger after this round. Raises :class:`AggregationRefused` beyond the limit."""
    if privacy is None:
        return before
    after = (before or Ledger()).after(round_loss(privacy.noise_multiplier, privacy.sampling_rate))
    spent = epsilon(after.loss, privacy.delta)
    if privacy.epsilon_limit is not None and spent > privacy.epsilon_limit:
        detail = f"epsilon would be {spent:.4g}, more than {privacy.epsilon_limit:.4g}"
        raise AggregationRefused(Impossible.PRIVACY, detail)
    return after


def _spent(privacy: DifferentialPrivacy | None, ledger: Ledger | None) -> PrivacySpent | None:
    if privacy is None or ledger is None:
        return None
    return PrivacySpent(epsilon(ledger.loss, privacy.delta), privacy.delta, ledger.rounds)


def _noise(
    privacy: DifferentialPrivacy | None, secret: bytes | None, updates: Sequence[UpdateRef]
) -> Callable[[], Noise | None]:
    """What makes the noise of this round, from its beginning."""
    if privacy is None:
        return lambda: None
    if not secret:
        raise ValueError("privacy needs a secret for its noise")
    content = "\n".join(update.sha256 for update in updates)
    deviation = privacy.noise_multiplier * privacy.clip_norm / privacy.denominator
    return lambda: Noise(secret, content, deviation)


# --- who counts, and how much ---------------------------------------------------------------------------


def _clip_norm(config: AggregationConfig) -> float | None:
    return config.clip_norm if config.privacy is None else config.privacy.clip_norm


def _needs_norms(config: AggregationConfig) -> bool:
    """Whether lengths must be known before values are combined; a plain mean finds them on the way."""
    robust = isinstance(config.strategy, Median | TrimmedMean | Krum | MultiKrum | Bulyan)
    return robust or _clip_norm(config) is not None


def _choose(config: AggregationConfig, base: BlockReader, members: Sequence[Member]) -> list[Member]:
    """The members whose values are combined, with their shares. Raises :class:`AggregationRefused` for too few."""
    strategy, chosen = config.strategy, usable(members)
    if len(chosen) < least_updates(strategy):
        need = least_updates(strategy)
        raise AggregationRefused(Impossible.TOO_FEW, f"{strategy.name} needs {need} updates and has {len(chosen)}")
    for member in chosen:
        member.clip_factor = _clip_factor(_clip_norm(config), member.squares)
    if isinstance(strategy, Krum | MultiKrum | Bulyan):
        chosen = _select(strategy, base, chosen)
    total = sum(member.ref.examples for member in chosen)
    for member in chosen:
        member.share = _share(config, member, total, len(chosen))
    return chosen


def _clip_factor(limit: float | None, squares: float) -> float:
    return 1.0 if limit is None or squares <= limit**2 else limit / math.sqrt(squares)


def _share(config: AggregationConfig, member: Member, total: int, count: int) -> float:
    if config.privacy is not None:
        return 1 / config.privacy.denominator
    if isinstance(config.strategy, Median | TrimmedMean | Bulyan):
        return 1 / count
    return member.ref.examples / total


def _select(strategy: Krum | MultiKrum | Bulyan, base: BlockReader, members: list[Member]) -> list[Member]:
    """The members that lie closest to their neighbours, in the order of their digests."""
    distances, rows, buffer = np.zeros((len(members), len(members))), Rows(members), bytearray(BLOCK_VALUES * 8)
    for block in blocks(base.layout.specs, _block_values(len(members))):
        add_squared_distances(distances, rows(block, base.read(block, buffer).astype(np.float64)))
    best = krum_ranking(distances, strategy.malicious)[: selection_size(strategy, len(members))]
    return [members[index] for index in sorted(best)]


def _block_values(rows: int) -> int:
    """How wide a matrix of so many rows may be."""
    return max(1, min(BLOCK_VALUES, _MATRIX_VALUES // rows))


# --- the new values -------------------------------------------------------------------------------------


def _settle(
    config: AggregationConfig,
    base: BlockReader,
    members: Sequence[Member],
    new_state: Callable[[], StateWriter],
    new_noise: Callable[[], Noise | None],
) -> tuple[bytes, bytes | None, float]:
    """The new weights, the state with them, and how far the model moved.

    A plain mean learns on the way that a member is not finite; it then begins again without it.
    """
    strategy = config.strategy
    combine: _Combine
    while True:
        chosen, state = _choose(config, base, members), new_state()
        if isinstance(strategy, Median | TrimmedMean | Bulyan):
            combine, width = _reduced(strategy, chosen), _block_values(len(chosen))
        else:
            combine, width = WeightedSum(chosen), BLOCK_VALUES
        noisy = _noisy(combine, new_noise())
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is looked for, not stumbled over
            weights, moved = _write(base, blocks(base.layout.specs, width), noisy, state, config.strategy)
        if refuse_not_finite(chosen):
            continue
        if not math.isfinite(moved):
            raise AggregationRefused(Impossible.NOT_FINITE, "the new model would have values that are not finite")
        return weights, state.finish(), math.sqrt(moved)


def _reduced(strategy: Median | TrimmedMean | Bulyan, members: Sequence[Member]) -> _Combine:
    rows, reduce = Rows(members), coordinate_reduce(strategy)
    return lambda block, parent: reduce(rows(block, parent))


def _noisy(combine: _Combine, noise: Noise | None) -> _Combine:
    if noise is None:
        return combine
    return lambda block, parent: combine(block, parent) + noise.draw(len(parent))


def _write(
    base: BlockReader, pieces: Iterable[Block], combine: _Combine, state: StateWriter, strategy: Strategy
) -> tuple[bytes, float]:
    """The new weights, and the square of how far they are from the parent."""
    writer, step = BlockWriter(base.layout.specs), step_of(strategy, state.rounds_before)
    buffer, moved = bytearray(BLOCK_VALUES * 8), 0.0
    for block in pieces:
        parent = base.read(block, buffer).astype(np.float64)
        mean, moments = combine(block, parent), state.moments(block)
        new = parent + (step(mean, moments) if moments else mean)
        state.keep(block, moments)
        values = writer.view(block)
        _round_into(values, new)
        moved += sum_of_squares(np.subtract(values, parent, out=new))
    return writer.finish(), moved


def _round_into(target: NDArray[Any], values: Values) -> None:
    """Write ``values`` as the type of ``target``: the one rounding there is."""
    if target.dtype.kind == "f":
        target[...] = values
        return
    limits = np.iinfo(target.dtype)
    target[...] = np.clip(np.rint(values), limits.min, limits.max)
