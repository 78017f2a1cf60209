"""The alert rules: valid, firing when they should and not otherwise, about series that exist."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import CollectorRegistry

from core.metrics import WorkerMetrics
from core.settings import Settings

ALERTS: Final = Path(__file__).resolve().parents[2] / "deploy" / "alerts"
RULES: Final = sorted(ALERTS.glob("*.rules.yml"))
PROMTOOL: Final = shutil.which("promtool")

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (Debian: prometheus), so the alert rules were NOT checked"
)


def promtool(*arguments: str) -> None:
    """Run promtool; what it says where it fails."""
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], cwd=ALERTS, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.name)
def test_the_rules_are_valid(rules: Path) -> None:
    promtool("check", "rules", rules.name)


@needs_promtool
def test_they_fire_when_they_should() -> None:
    promtool("test", "rules", "longhaul.test.yml")


def test_they_speak_of_series_and_settings_that_exist() -> None:
    """Also where promtool is not there: a series that was renamed makes a rule that never fires."""
    text = (ALERTS / "longhaul.rules.yml").read_text()
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    known = {f"{family.name}_total" for family in registry.collect() if family.type == "counter"}
    used = set(re.findall(r"\b(?:longhaul|gen_ai)_[a-z_]+_total\b", text))
    assert used
    assert used <= known
    settings = {f"LONGHAUL_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"\bLONGHAUL_[A-Z_]+\b", text)) <= settings
