"""Jobs that only prove that the platform works."""

from domain.model import Frozen


class NoopInput(Frozen):
    """Input of ``diagnostics.noop``: there is none."""
