"""The alert rules of evaluation: about series that exist, and firing when they should."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import CollectorRegistry

from core.evaluation_metrics import EvaluationMetrics
from core.metrics import WorkerMetrics

RULES: Final = Path(__file__).resolve().parents[2] / "deploy" / "alerts" / "evaluation.rules.yml"
PROMTOOL: Final = shutil.which("promtool")


@pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (Debian: prometheus), so the alert rules were NOT checked"
)
@pytest.mark.parametrize("command", [["check", "rules", RULES.name], ["test", "rules", "evaluation.test.yml"]])
def test_promtool_agrees(command: list[str]) -> None:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *command], cwd=RULES.parent, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_they_speak_of_series_that_exist() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    EvaluationMetrics(registry)
    known = {f"{family.name}_total" for family in registry.collect() if family.type == "counter"}
    used = set(re.findall(r"\blonghaul_[a-z_]+_total\b", RULES.read_text()))
    assert len(used) == 3
    assert used <= known
