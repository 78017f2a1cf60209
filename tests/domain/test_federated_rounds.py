from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from domain.federated_registry import judge
from domain.federated_rounds import (
    MOST_STEPS,
    PHASES,
    FederatedCycleInput,
    Gate,
    RoundHistory,
    cycle_steps,
    goal_reached,
    lease_ends,
    pace_seconds,
    round_seconds,
    selection_size,
    step_of,
)


def cycle(**more: Any) -> FederatedCycleInput:
    return FederatedCycleInput.model_validate({"model": "toy", **more})


def past(handed_out: int, accepted: int, *, goal: int = 10, seconds: float = 20.0) -> RoundHistory:
    return RoundHistory(handed_out=handed_out, accepted=accepted, goal=goal, seconds=seconds)


class TestSelection:
    def test_more_than_the_goal(self) -> None:
        assert selection_size(cycle(goal=10), []) == 13
        assert selection_size(cycle(goal=10, over_selection=1.0), []) == 10

    def test_more_still_where_few_came_back(self) -> None:
        assert selection_size(cycle(goal=10), [past(20, 8)]) == 33  # 1.3 * 10 / 0.4
        assert selection_size(cycle(goal=10), [past(100, 1)]) == 65  # the rate counts as a fifth at least

    def test_full_rounds_had_no_drop_outs(self) -> None:
        assert selection_size(cycle(goal=10), [past(13, 10)]) == 13


class TestDeadline:
    def test_adapts_to_full_rounds(self) -> None:
        wanted = cycle(deadline_seconds=600)
        assert round_seconds(wanted, []) == 600
        assert round_seconds(wanted, [past(13, 10, seconds=20), past(13, 10, seconds=40)]) == 60
        assert round_seconds(wanted, [past(13, 10, seconds=1)]) == 10
        assert round_seconds(wanted, [past(13, 10, seconds=500)]) == 600

    def test_waits_as_long_as_allowed_after_a_round_that_was_not_full(self) -> None:
        assert round_seconds(cycle(), [past(13, 9, seconds=20)]) == 600
        assert round_seconds(cycle(adaptive=False), [past(13, 10, seconds=20)]) == 600

    def test_a_lease_never_outlasts_its_round(self) -> None:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        soon, late = now + timedelta(seconds=30), now + timedelta(hours=1)
        assert lease_ends(now, lease_seconds=60, deadline=soon) == soon
        assert lease_ends(now, lease_seconds=60, deadline=late) == now + timedelta(seconds=60)
        assert lease_ends(now, lease_seconds=None, deadline=late) == late


class TestPace:
    def test_spreads_those_who_wait(self) -> None:
        waits = {pace_seconds(busy=False, waiting=10, chance=chance / 10) for chance in range(10)}
        assert (min(waits), max(waits)) == (15, 42)

    def test_many_wait_longer(self) -> None:
        assert pace_seconds(busy=True, waiting=10, chance=0.5) == 2
        assert pace_seconds(busy=True, waiting=100_000, chance=0.5) == 2_000


class TestInput:
    def test_quorum_is_four_fifths_by_default(self) -> None:
        assert [cycle(goal=goal).least for goal in (1, 4, 10)] == [1, 4, 8]
        assert cycle(goal=10, quorum=1).least == 1

    @pytest.mark.parametrize(
        "bad",
        [
            {"goal": 2, "quorum": 3}, {"deadline_seconds": 5, "min_deadline_seconds": 6}, {"model": "No"},
            {"rounds": 0}, {"rounds": 1_001}, {"goal": 0}, {"over_selection": 0.5}, {"deadline_seconds": "inf"},
            {"nonsense": 1}, {"limits": {"max_norm": 0}}, {"aggregation": {"strategy": {"name": "nix"}}},
        ],
    )  # fmt: skip
    def test_refused(self, bad: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            cycle(**bad)

    def test_goal_is_reached_once(self) -> None:
        assert [goal_reached(count, 3) for count in (2, 3, 4)] == [False, True, False]


class TestSteps:
    @pytest.mark.parametrize("rounds", [1, 7, 50, 51, 120, 1_000])
    def test_every_round_has_a_step(self, rounds: int) -> None:
        steps = {step.name: step for step in cycle_steps(rounds)}
        assert len(steps) <= MOST_STEPS + 1
        assert sum(step.weight for step in steps.values()) == pytest.approx(1)
        counted = [step_of(number, rounds) for number in range(1, rounds + 1)]
        assert {name: PHASES * counted.count(name) for name in counted} == {
            name: step.total for name, step in steps.items() if name != "report"
        }

    def test_rounds_that_are_run_again_belong_to_the_last(self) -> None:
        assert step_of(4, 3) == step_of(3, 3)


class TestGate:
    @pytest.mark.parametrize(
        ("gate", "mine", "parents", "published"),
        [
            ({}, {"accuracy": 0.9}, {"accuracy": 0.91}, True),
            ({}, {"accuracy": 0.88}, {"accuracy": 0.91}, False),
            ({"delta": 0}, {"accuracy": 0.91}, {"accuracy": 0.91}, True),
            ({"delta": 0}, {"accuracy": 0.9099}, {"accuracy": 0.91}, False),
            ({}, {"loss": 1.0}, {"loss": 0.5}, False),
            ({}, {"loss": 0.5}, {"loss": 1.0}, True),
            ({"metric": "my_loss"}, {"my_loss": 1.0}, {"my_loss": 0.5}, False),
            ({"metric": "f1"}, {"f1": 0.2}, {"f1": 0.9}, False),
            ({"metric": "f1", "higher_is_better": False}, {"f1": 0.2}, {"f1": 0.9}, True),
            ({"metric": "f1"}, {"accuracy": 1.0}, {}, False),
            ({}, {"accuracy": 0.1}, {}, True),
            ({}, {}, {}, True),
            ({}, {"accuracy": float("nan")}, {"accuracy": 0.9}, False),
            ({}, {"accuracy": 0.99, "loss": float("inf")}, {"accuracy": 0.9}, False),
            ({}, {"accuracy": 0.1}, {"accuracy": float("nan")}, True),
        ],
    )
    def test_verdict(
        self, gate: dict[str, Any], mine: dict[str, float], parents: dict[str, float], published: bool
    ) -> None:
        verdict = judge(Gate.model_validate(gate), mine=mine, parents=parents)
        assert verdict.publish is published
        assert verdict.reason
