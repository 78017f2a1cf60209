"""Runs a part of the tests: ``python -m tests.suite MARKERS [PYTEST ARGUMENTS]``.

Tests here use real servers, real clocks and real browsers on machines that may be busy with other things. What fails
beside others is therefore tried once more, alone, when it is no more than a few tests, and is named at the end either
way. What is broken fails alone as well.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

_FAILED: Final = Path(".pytest_cache/v/cache/lastfailed")
_MOST_TRIED_AGAIN: Final = 3
_SOME_FAILED: Final = 1  # pytest's exit code for that; others mean that the run itself is broken
_COVERED: Final = ["coverage", "run", "-m", "pytest"]


def main(markers: str, *more: str) -> int:
    """The exit code of the part: zero where every test has passed, at the latest alone."""
    command = [sys.executable, "-m", *(["pytest"] if markers == "chaos" else _COVERED), "-m", markers]
    _FAILED.unlink(missing_ok=True)
    code = subprocess.run([*command, "-n", "2", "--dist", "worksteal", *more], check=False).returncode
    failed = sorted(json.loads(_FAILED.read_text())) if _FAILED.exists() else []
    if code != _SOME_FAILED or not 0 < len(failed) <= _MOST_TRIED_AGAIN:
        return code
    print(f"== {len(failed)} failed beside others; once more, alone", flush=True)
    code = subprocess.run([*command, *failed], check=False).returncode
    if code == 0:
        print("== PASSED ONLY ALONE:", *failed, sep="\n   ", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
