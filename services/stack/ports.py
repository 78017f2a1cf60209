"""TCP ports on the loopback interface: is one free, and what to tell a person when it is not."""

import errno
import socket

from services.stack.errors import PortTaken

LOOPBACK = "127.0.0.1"


def port_is_free(port: int) -> bool:
    """Whether a server could listen on the port now; connections in TIME_WAIT do not count as taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    # macOS lets us bind beside a wildcard listener, so ask as a client too.
    return not port_answers(port)


def port_answers(port: int) -> bool:
    """Whether something accepts connections on the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((LOOPBACK, port)) == 0


def require_free(port: int, setting_name: str) -> None:
    """Raise `PortTaken`, which names the setting to change, unless the port is free."""
    if not port_is_free(port):
        raise PortTaken(port, setting_name)


def free_port() -> int:
    """Answer a port that was free a moment ago; the caller should bind it soon."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


__all__ = ["LOOPBACK", "PortTaken", "free_port", "port_answers", "port_is_free", "require_free"]
