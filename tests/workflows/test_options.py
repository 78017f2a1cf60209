"""No activity is called without one of the presets, and each preset bounds how long a run may take."""

import ast
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from activities.generation.calls import SETTLING_MARGIN_SECONDS
from core.settings import Settings
from workflows import options

ROOM: Final = Path(options.__file__).parent
PRESETS: Final[dict[str, Any]] = {name: value for name, value in vars(options).items() if name.isupper()}
MINUTE: Final = timedelta(minutes=1)


def activity_calls(source: str) -> Iterator[ast.Call]:
    """Every call that makes Temporal run an activity."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name.startswith(
                ("execute_activity", "execute_local_activity", "start_activity", "start_local_activity")
            ):
                yield node


def _bounded(value: ast.expr) -> ast.expr:
    """The preset in ``within(PRESET, longest)``, or what else there is."""
    by_name = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "within"
    return value.args[0] if by_name and isinstance(value, ast.Call) else value


def is_bound(call: ast.Call) -> bool:
    """Whether a preset is spread into the call, bounded more at most, and nothing of it is overridden."""
    spread = [_bounded(keyword.value) for keyword in call.keywords if keyword.arg is None]
    named = {keyword.arg for keyword in call.keywords}
    presets = [value for value in spread if isinstance(value, ast.Name) and value.id in PRESETS]
    return len(presets) == len(spread) == 1 and not named & {key for preset in PRESETS.values() for key in preset}


class TestCalls:
    @pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.name)
    def test_each_passes_a_preset(self, path: Path) -> None:
        """By name, so that a reader knows where to look and an operator what to change."""
        unbound = [call.lineno for call in activity_calls(path.read_text(encoding="utf-8")) if not is_bound(call)]
        assert not unbound, f"{path.name}, lines {unbound}"

    def test_they_are_found(self) -> None:
        """The search itself is not blind."""
        calls = [call for path in ROOM.glob("*.py") for call in activity_calls(path.read_text(encoding="utf-8"))]
        assert len(calls) >= 7

    @pytest.mark.parametrize(
        ("source", "bound"),
        [
            ("workflow.execute_activity_method(A.b, c, summary='s', **COMPUTE)", True),
            ("workflow.execute_activity_method(A.b, c, **within(COMPUTE, left))", True),
            ("workflow.execute_activity_method(A.b, c, **within(mine, left))", False),
            ("workflow.execute_activity_method(A.b, c, **other(COMPUTE, left))", False),
            ("workflow.execute_activity(b, c)", False),
            ("workflow.execute_activity(b, c, start_to_close_timeout=x)", False),
            ("workflow.start_local_activity(b, c, **mine)", False),
            ("workflow.execute_local_activity(b, c, **RECORD, start_to_close_timeout=x)", False),
        ],
    )
    def test_the_rule(self, source: str, *, bound: bool) -> None:
        """What counts as bound."""
        (call,) = activity_calls(source)
        assert is_bound(call) is bound


class TestPresets:
    @pytest.mark.parametrize("name", PRESETS)
    def test_each_bounds_a_run(self, name: str) -> None:
        """A start-to-close time-out always; a heartbeat where a run may take longer than a minute."""
        preset = PRESETS[name]
        assert preset["start_to_close_timeout"] > timedelta(0)
        if preset["start_to_close_timeout"] > MINUTE:
            assert preset["heartbeat_timeout"] <= MINUTE

    @pytest.mark.parametrize("name", PRESETS)
    def test_each_says_how_it_is_retried(self, name: str) -> None:
        """With a longest pause, so that nobody waits for hours after an outage."""
        policy = PRESETS[name]["retry_policy"]
        assert policy.maximum_interval is not None
        assert policy.initial_interval <= policy.maximum_interval <= MINUTE

    def test_a_call_in_doubt_leaves_room_for_those_that_follow(self) -> None:
        """An answer is looked for, asked for and repaired in one run, with a wait for a slot before each call."""
        silence = Settings(_env_file=None).http_read_timeout_seconds
        longest = (silence + SETTLING_MARGIN_SECONDS) + 2 * (silence + silence)
        assert options.MODEL_CALL["start_to_close_timeout"] > timedelta(seconds=longest)

    def test_records_are_never_given_up(self) -> None:
        """How a job ended is written down however long the database is away."""
        assert options.RECORD["retry_policy"].maximum_attempts == 0
        assert "schedule_to_close_timeout" not in options.RECORD
