"""The scene of diagnostics."""

from services.demo.front_end import FrontEnd


async def play(front_end: FrontEnd) -> None:
    """A job that does nothing."""
    await front_end.play("A probe: nothing, through every part of the platform", "diagnostics.noop", {})
