import math

from domain.federated_registry import judge
from domain.federated_rounds import Gate


class TestJudge:
    def test_what_is_not_finite_is_never_published(self) -> None:
        """However it is told: as a number, as the null that JSON makes of it, or by its name."""
        for mine in ({"loss": math.nan}, {"loss": math.inf}, {"loss": None}):
            verdict = judge(Gate(), mine=mine, parents={})
            assert (verdict.publish, verdict.reason) == (False, "not finite: loss")
        verdict = judge(Gate(), mine={"accuracy": 0.5}, parents={"accuracy": 0.1}, not_finite=["loss"])
        assert (verdict.publish, verdict.reason) == (False, "not finite: loss")

    def test_a_parent_without_a_number_is_no_obstacle(self) -> None:
        assert judge(Gate(), mine={"loss": 1.0}, parents={"loss": None}).publish
        assert not judge(Gate(), mine={"loss": 1.0}, parents={"loss": 0.5}).publish
