"""Prompts are on record before they are used, and never change under the same version."""

from collections.abc import Iterable

from core.database import Database
from domain.errors import PromptDrift
from prompts.prompt import Prompt
from repositories.generation import PromptRepository


async def record_prompts(database: Database, prompts: Iterable[Prompt]) -> None:
    """Write every prompt down. Raises PromptDrift where a text changed without a new version."""
    async with database.system() as connection:
        repository = PromptRepository(connection)
        for prompt in prompts:
            recorded = await repository.record(
                {
                    "id": prompt.id,
                    "version": prompt.version,
                    "sha256": prompt.sha256,
                    "owner": prompt.owner,
                    "changelog": "\n".join(prompt.changelog),
                    "text": prompt.text,
                }
            )
            if recorded != prompt.sha256:
                raise PromptDrift(
                    f"the prompt {prompt.id} has changed but is still version {prompt.version}; "
                    "give it a new version and a line in its changelog"
                )
