"""Programs that judge what we write. A test that needs one skips, and says so, where the program is missing."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

_MDX: Final = "@mdx-js/mdx@3"
_FOLDER: Final = Path(tempfile.gettempdir()) / f"longhaul-judges-{os.getuid()}"


def program(*names: str) -> str:
    """The first of these programs that is installed; skips the test where none is."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"NOT JUDGED: none of {', '.join(names)} is installed")
    return found


def python_with(package: str, version: str) -> str:
    """A Python that has a vendor's package, in an environment of its own, made once and kept; skips where that fails.

    Such a package brings an HTTP stack and dozens of requirements, which have no business beside ours.
    """
    folder = _FOLDER / f"python-{package}"
    python = folder / "bin" / "python"
    asked = [str(python), "-c", f"import {package}"]
    if not python.exists() or subprocess.run(asked, capture_output=True, timeout=120, check=False).returncode:
        installing = [str(python), "-m", "pip", "install", "-q", f"{package}=={version}"]
        for command in ([sys.executable, "-m", "venv", str(folder)], installing):
            try:
                done = subprocess.run(command, capture_output=True, timeout=240, check=False, text=True)
            except (OSError, subprocess.TimeoutExpired) as fault:
                pytest.skip(f"NOT JUDGED: {package} could not be installed: {type(fault).__name__}")
            if done.returncode:
                pytest.skip(f"NOT JUDGED: {package} could not be installed: {done.stderr[-300:]}")
    return str(python)


def mdx_folder() -> Path:
    """A folder in which Node finds the MDX compiler, installed from npm once and kept; skips where that fails."""
    npm = program("npm")
    program("node")
    if not (_FOLDER / "node_modules" / "@mdx-js" / "mdx").is_dir():
        _FOLDER.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", _MDX]
        done = subprocess.run(command, cwd=_FOLDER, capture_output=True, timeout=120, check=False, text=True)
        if done.returncode:
            pytest.skip(f"NOT JUDGED: npm could not install {_MDX}: {done.stderr[-300:]}")
    return _FOLDER


def _browser(profile: Path) -> list[str]:
    browser = program("chromium", "chromium-browser", "google-chrome")
    return [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]


@contextmanager
def visiting(address: str, profile: Path) -> Iterator[None]:
    """Chromium is on that page, in real time, until the block ends."""
    command = [*_browser(profile), "--remote-debugging-port=0", "--window-size=1000,600", address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            yield
        finally:
            browser.terminate()


def page_in_browser(address: str, profile: Path) -> str:
    """The HTML of a page as Chromium holds it after the page's scripts ran."""
    command = [*_browser(profile), "--virtual-time-budget=3000", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, timeout=90, check=False, text=True)
    if done.returncode:
        pytest.skip(f"NOT JUDGED: {command[0]} did not start: {done.stderr[-300:]}")
    return done.stdout
