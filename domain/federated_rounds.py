"""Cycles and their rounds: what is asked for, whom a round waits for and how long, and when it counts.

Plain arithmetic without a clock: moments and history come in, decisions go out.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from math import ceil
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import Field, model_validator

from domain.federated import AggregationConfig
from domain.federated_protocol import ModelName
from domain.jobs import StepPlan
from domain.model import Frozen

MOST_STEPS: Final = 50
"""A cycle shows at most so many steps; with more rounds a step is several of them."""

PHASES: Final = 5
"""The parts of a round in its job's progress: open, collect, aggregate, evaluate, publish."""

_LEAST_RATE: Final = 0.2
_SLACK: Final = 1.5

Seconds = Annotated[float, Field(gt=0, le=604_800, allow_inf_nan=False)]
Tag = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9_.:-]+$")]


class RoundState(StrEnum):
    """The life of a round. The last three are final."""

    OPEN = "open"
    CLOSED = "closed"
    AGGREGATED = "aggregated"
    EVALUATED = "evaluated"
    PUBLISHED = "published"
    REJECTED = "rejected"  # the gate said no; the head stays
    ABANDONED = "abandoned"  # below quorum, or no model could be made; the head stays


FINAL: Final = frozenset({RoundState.PUBLISHED, RoundState.REJECTED, RoundState.ABANDONED})


class Limits(Frozen):
    """What an update may be at most."""

    max_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 10_000.0
    """How far an update may lie from the weights it started from (L2); any distance where it is null."""
    max_examples: Annotated[int, Field(ge=1, le=1_000_000_000)] = 10_000
    """With how many samples an update may weigh."""


class Gate(Frozen):
    """What a version must be to become the head."""

    metric: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """The metric that must not get worse; by default what the model's family is judged by."""
    higher_is_better: bool | None = None
    delta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.02
    """By how much it may be worse than the parent's all the same."""


class FederatedCycleInput(Frozen):
    """Input of ``federated.cycle``."""

    model: ModelName
    rounds: Annotated[int, Field(ge=1, le=1_000)] = 1
    goal: Annotated[int, Field(ge=1, le=100_000)] = 10
    """With how many updates a round closes."""
    quorum: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """With how many it counts when its time is over; four fifths of the goal by default."""
    over_selection: Annotated[float, Field(ge=1, le=10)] = 1.3
    """How many more participants are asked than are needed."""
    deadline_seconds: Seconds = 600.0
    """How long a round waits for its goal at most."""
    min_deadline_seconds: Seconds = 10.0
    adaptive: bool = True
    """Whether later rounds wait only as long as earlier ones have taken, and half as long again."""
    lease_seconds: Seconds | None = None
    """How long a participant has, from its last sign of life; as long as the round by default."""
    tags: Annotated[tuple[Tag, ...], Field(max_length=20)] = ()
    """Only participants that have all of these labels are asked (``name:value``)."""
    plan: Annotated[dict[str, Any], Field(max_length=50)] = Field(default_factory=dict)
    """Hyperparameters of local training, passed on to participants as they are."""
    aggregation: AggregationConfig = AggregationConfig()
    limits: Limits = Limits()
    gate: Gate = Gate()

    @model_validator(mode="after")
    def _consistent(self) -> "FederatedCycleInput":
        if self.quorum is not None and self.quorum > self.goal:
            raise ValueError("quorum must not be above goal")
        if self.min_deadline_seconds > self.deadline_seconds:
            raise ValueError("min_deadline_seconds must not be above deadline_seconds")
        return self

    @property
    def least(self) -> int:
        """With how many updates a round counts."""
        return self.quorum if self.quorum is not None else max(1, ceil(self.goal * 0.8))


class RoundHistory(Frozen):
    """What an earlier round of the cycle tells about the next."""

    handed_out: int
    accepted: int
    goal: int
    seconds: float
    """From its opening to its closing."""


def selection_size(wanted: FederatedCycleInput, history: Sequence[RoundHistory]) -> int:
    """How many participants to ask: more than the goal, and more still where few came back before."""
    asked = sum(one.handed_out for one in history)
    came = sum(one.accepted for one in history)
    # The goal closes a round early, so those who had no time to come back are no drop-outs of a full round.
    full = bool(history) and all(one.accepted >= one.goal for one in history)
    rate = 1.0 if not asked or full else min(1.0, max(came / asked, _LEAST_RATE))
    return max(wanted.goal, ceil(wanted.over_selection * wanted.goal / rate))


def round_seconds(wanted: FederatedCycleInput, history: Sequence[RoundHistory]) -> float:
    """How long the next round waits: half as long again as the slowest of the last three took.

    As long as allowed where there was none, or one of those three did not reach its goal.
    """
    recent = list(history)[-3:]
    if not wanted.adaptive or not recent or any(one.accepted < one.goal for one in recent):
        return wanted.deadline_seconds
    slowest = max(one.seconds for one in recent)
    return min(wanted.deadline_seconds, max(wanted.min_deadline_seconds, _SLACK * slowest))


def pace_seconds(*, busy: bool, waiting: int, chance: float) -> int:
    """After how many seconds a participant without work should ask again; ``chance`` is drawn from [0, 1).

    So that of ``waiting`` participants about fifty ask in a second, and each about every other second while a cycle is
    at work (``busy``), when there may be a place soon, or twice a minute while there is none.
    """
    base = max(2.0 if busy else 30.0, waiting / 50)
    return max(1, round(base * (0.5 + chance)))


# --- steps ------------------------------------------------------------------------------------------


def _rounds_per_step(rounds: int) -> int:
    return ceil(rounds / MOST_STEPS)


def step_of(number: int, rounds: int) -> str:
    """The step of a job that a round, counted from one, belongs to."""
    # Rounds that a retry runs again come after the last one, and belong to the last step.
    return f"rounds-{(min(number, rounds) - 1) // _rounds_per_step(rounds) + 1:02}"


def cycle_steps(rounds: int) -> tuple[StepPlan, ...]:
    """The steps of a cycle, and the report at its end."""
    size = _rounds_per_step(rounds)
    steps = []
    for first in range(1, rounds + 1, size):
        last = min(first + size - 1, rounds)
        title = f"Round {first}" if first == last else f"Rounds {first} to {last}"
        count = last - first + 1
        steps.append(
            StepPlan(name=step_of(first, rounds), title=title, weight=0.98 * count / rounds, total=PHASES * count)
        )
    return (*steps, StepPlan(name=REPORT_STEP, title="Report", weight=0.02))


REPORT_STEP: Final = "report"


# --- what workflow and activities say to each other -------------------------------------------------


class OpenRound(Frozen):
    """A round as its workflow knows it: never who takes part, only how many."""

    number: int
    rounds: int
    state: RoundState
    goal: int
    deadline: datetime
    last: bool = False
    """Whether the cycle is over after it."""
    full: bool = False
    """Whether the goal was reached before this was asked."""


class ClosedRound(Frozen):
    """How a round was closed."""

    state: RoundState
    accepted: int


class MadeVersion(Frozen):
    """The version that a round has made; none where its updates gave no model."""

    version_id: UUID | None


class Decision(Frozen):
    """What became of a round."""

    state: RoundState
    reason: str


def goal_reached(accepted: int, goal: int) -> bool:
    """Whether this update is the one that closes the round."""
    return accepted == goal


def lease_ends(now: datetime, *, lease_seconds: float | None, deadline: datetime) -> datetime:
    """Until when a participant has its place: from its last sign of life on, never past the round."""
    if lease_seconds is None:
        return deadline
    return min(deadline, now + timedelta(seconds=lease_seconds))
