"""How Alembic reaches the database: with the URL of the role that owns the schema."""

from alembic import context
from sqlalchemy import Connection, create_engine, pool

from core.settings import load_settings
from repositories.tables import metadata


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _run_on_database() -> None:
    url = context.config.attributes.get("url") or load_settings().require_migration_url()
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        _run(connection)


if context.is_offline_mode():
    raise SystemExit("offline migrations are not supported: they cannot take locks safely")
_run_on_database()
