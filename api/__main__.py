"""The API process: ``python -m api``."""

import sys

from api.app import app_from_environment
from api.serving import create_server
from core.process import leave, settle
from core.settings import ConfigurationError, load_settings


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    try:
        settings = load_settings()
        app = app_from_environment(settings)
    except ConfigurationError as fault:
        print(fault, file=sys.stderr)  # noqa: T201 - logging is configured by the settings that could not be read
        return 2
    settle()
    create_server(
        app, host=settings.api_host, port=settings.api_port, grace_seconds=settings.shutdown_grace_seconds
    ).run()
    return 0


if __name__ == "__main__":
    leave(main())
