"""One real job of every family, watched on the terminal from the first event to the result. One scene a family."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from core.settings import Settings
from services.demo import diagnostics, federated, generation, publishing, saving
from services.demo.front_end import DemoFailed, FrontEnd

SCENES: Final[Sequence[Callable[[FrontEnd], Awaitable[None]]]] = (
    diagnostics.play,
    generation.play,
    saving.play,
    federated.play,
    publishing.play,
)
"""Every family's scene, in the order of the show."""

__all__ = ["DemoFailed", "run_demo"]


async def run_demo(settings: Settings, key: str) -> None:
    """Play every scene with this API key. Raises DemoFailed where a job does not succeed."""
    async with FrontEnd.opened(settings, key) as front_end:
        for scene in SCENES:
            await scene(front_end)
