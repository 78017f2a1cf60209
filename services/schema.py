"""The schema of the database: which one this code needs, and how it gets there."""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from domain.errors import SchemaMismatch

_ROOT: Final = Path(__file__).resolve().parent.parent


def _config(url: str | None = None) -> Config:
    config = Config(_ROOT / "alembic.ini")
    config.set_main_option("script_location", str(_ROOT / "migrations"))
    config.attributes["url"] = url
    return config


def schema_head() -> str:
    """The revision that this code was written for."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def migrate(url: str, *, profile: str) -> None:
    """Bring the database to this code's revision and mark whose it is.

    Raises SchemaMismatch on another's mark, and where the database is at a revision that this code has never seen.
    """
    try:
        command.upgrade(_config(url), "head")
    except CommandError as fault:
        raise SchemaMismatch(f"the database cannot be brought to revision {schema_head()}: {fault}") from fault
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(_MARK, {"profile": profile})
        marked = connection.execute(text("SELECT profile FROM installation")).scalar_one()
    if marked != profile:
        raise SchemaMismatch(f"this database belongs to the profile {marked!r}, not to {profile!r}")


_MARK: Final = text("INSERT INTO installation (profile) VALUES (:profile) ON CONFLICT DO NOTHING")
