"""Lock the extra ``federated`` into requirements/federated.txt: ``make lock-federated``.

Not uv alone, because the wheel of torch for processors only is not on the public index under its plain version; pip
finds it wherever this machine's settings say. pip therefore resolves, bound to the versions in requirements/dev.txt; uv
adds the hashes of all files of all platforms. Of torch only the file for this platform and Python is known and locked:
elsewhere, make the lock anew.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TORCH = "torch"


def main() -> None:
    """Resolve, add hashes, write."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    found = _resolve([*project["optional-dependencies"]["federated"], *_numpy(project["dependencies"])])
    torch = found.pop(TORCH)
    version = torch["metadata"]["version"].partition("+")[0]
    digest = torch["download_info"]["archive_info"]["hashes"]["sha256"]
    pins = "".join(f"{name}=={one['metadata']['version']}\n" for name, one in sorted(found.items()))
    lines = [_with_hashes(pins), f"{TORCH}=={version} \\\n", f"    --hash=sha256:{digest}\n"]
    (HERE / "federated.txt").write_text("".join(lines))


def _numpy(requirements: list[str]) -> list[str]:
    return [requirement for requirement in requirements if requirement.startswith("numpy")]


def _resolve(requirements: list[str]) -> dict[str, Any]:
    """What pip would install, by name in lower case."""
    pins = re.findall(r"^([A-Za-z0-9_.-]+==[^ ;\\]+)", (HERE / "dev.txt").read_text(), re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder) / "constraints.txt", Path(folder) / "report.json"
        constraints.write_text("\n".join(pins) + "\n")
        command = ["install", "--quiet", "--dry-run", "--ignore-installed", "--report", str(report)]
        _run("-m", "pip", *command, "-c", str(constraints), *requirements)
        return {one["metadata"]["name"].lower(): one for one in json.loads(report.read_text())["install"]}


def _with_hashes(pins: str) -> str:
    options = ["--universal", "--no-deps", "--generate-hashes", "--no-header", "--no-emit-index-url", "--no-annotate"]
    return _run("-m", "uv", "pip", "compile", "--quiet", *options, "-", given=pins)


def _run(*arguments: str, given: str = "") -> str:
    done = subprocess.run([sys.executable, *arguments], input=given, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


if __name__ == "__main__":
    main()
