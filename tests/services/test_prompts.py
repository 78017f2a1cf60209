import asyncio

import pytest
from sqlalchemy import select

from core.database import Database
from core.ids import new_id
from domain.errors import PromptDrift
from prompts.prompt import Prompt
from prompts.registry import PROMPTS
from repositories.tables import prompts
from services.prompts import record_prompts


def prompt(identity: str, **changes: str) -> Prompt:
    """A prompt of a test."""
    facts = {"id": identity, "version": "1", "owner": "tests", "system": "Be brief.", "user": "Say {what}."} | changes
    return Prompt(changelog=("1: first",), **facts)


@pytest.fixture
def identity() -> str:
    """A name of its own."""
    return f"test-{new_id()}"


async def recorded(database: Database, identity: str) -> list[tuple[str, str]]:
    """Versions and texts on record."""
    async with database.system() as connection:
        query = select(prompts.c.version, prompts.c.text).where(prompts.c.id == identity).order_by(prompts.c.version)
        return [(row.version, row.text) for row in await connection.execute(query)]


class TestRecord:
    async def test_writes_down_what_is_new(self, database: Database, identity: str) -> None:
        await record_prompts(database, [prompt(identity)])
        assert await recorded(database, identity) == [("1", "Be brief.\n\n---\n\nSay {what}.")]

    async def test_every_process_may_record_the_same(self, database: Database, identity: str) -> None:
        await asyncio.gather(*(record_prompts(database, [prompt(identity)]) for _ in range(8)))
        assert len(await recorded(database, identity)) == 1

    @pytest.mark.parametrize("part", ["system", "user"])
    async def test_a_changed_text_under_the_same_version_is_refused(
        self, database: Database, identity: str, part: str
    ) -> None:
        """And nothing else of the same start is written down either."""
        await record_prompts(database, [prompt(identity)])
        other = f"{identity}-other"
        with pytest.raises(PromptDrift, match=f"{identity} has changed but is still version 1"):
            await record_prompts(database, [prompt(other), prompt(identity, **{part: "Be long."})])
        assert await recorded(database, other) == []
        assert len(await recorded(database, identity)) == 1

    async def test_a_new_version_stands_beside_the_old(self, database: Database, identity: str) -> None:
        await record_prompts(database, [prompt(identity)])
        await record_prompts(database, [prompt(identity, version="2", user="Say {what} twice.")])
        assert [version for version, _ in await recorded(database, identity)] == ["1", "2"]

    async def test_ours_can_be_recorded(self, database: Database) -> None:
        await record_prompts(database, PROMPTS)
        assert all([await recorded(database, ours.id) for ours in PROMPTS])
        assert len({(ours.id, ours.version) for ours in PROMPTS}) == len(PROMPTS)
