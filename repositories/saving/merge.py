"""The statement that brings records of a collection home: made from its table, so that a new collection needs none."""

from functools import cache
from typing import Final, Literal

from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import Text

from domain.saving_records import COLLECTIONS, Keep
from repositories.tables import metadata

Source = Literal["inbox", "lines"]

_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]
_OURS: Final = frozenset({"tenant_id", "batch_id"})
_SOURCES: Final[dict[Source, str]] = {
    "inbox": """
        SELECT piece.batch_id, piece.id AS piece, line.place, line.text::jsonb AS doc
        FROM tenant_record_inbox AS piece,
             LATERAL string_to_table(piece.body, E'\\n') WITH ORDINALITY AS line (text, place)
        WHERE piece.id = ANY(%(pieces)s)
    """,
    "lines": """
        SELECT line.batch_id, 0 AS piece, line.place, line.text::jsonb AS doc
        FROM unnest(%(batches)s::uuid[], %(lines)s::text[]) WITH ORDINALITY AS line (batch_id, text, place)
    """,
}


@cache
def merge_statement(collection: str, source: Source) -> str:
    """Merge records and count them in their batches, in one statement.

    Of several records with one id the first or the newest stays, as the collection wants it, and the others are
    counted as deduplicated. Rows are written in the order of their ids, so that two merges cannot wait for each other
    in a circle.
    """
    keep, table = COLLECTIONS[collection].keep, metadata.tables[collection]
    columns = [column for column in table.columns if column.name not in _OURS]
    names = ", ".join(_quoted(column) for column in columns)
    fields = ", ".join(f"{_extracted(column)} AS {_quoted(column)}" for column in columns)
    newest_first = "version DESC, " if keep is Keep.NEWEST else ""
    return f"""
        WITH line AS MATERIALIZED ({_SOURCES[source]}),
        chosen AS (
            SELECT DISTINCT ON (id) * FROM (SELECT batch_id, piece, place, {fields} FROM line) AS field
            ORDER BY id, {newest_first}piece, place
        ),
        merged AS (
            INSERT INTO {table.name} AS there (tenant_id, {names}, batch_id)
            SELECT %(tenant)s::uuid, {names}, batch_id FROM chosen
            ON CONFLICT (tenant_id, id) {_on_conflict(table, keep)}
            RETURNING batch_id
        ),
        seen AS (SELECT batch_id, count(*) AS records FROM line GROUP BY batch_id),
        saved AS (SELECT batch_id, count(*) AS records FROM merged GROUP BY batch_id)
        UPDATE record_batches AS batch
        SET saved = batch.saved + coalesce(saved.records, 0),
            deduplicated = batch.deduplicated + seen.records - coalesce(saved.records, 0)
        FROM seen LEFT JOIN saved USING (batch_id)
        WHERE batch.id = seen.batch_id
        RETURNING seen.records, coalesce(saved.records, 0)
    """  # noqa: S608 - made of our own table's names


def _on_conflict(table: Table, keep: Keep) -> str:
    if keep is Keep.FIRST:
        return "DO NOTHING"
    changed = [column for column in table.columns if column.name not in {"tenant_id", "id"}]
    values = ", ".join(f"{_quoted(column)} = excluded.{_quoted(column)}" for column in changed)
    return f"DO UPDATE SET {values} WHERE excluded.version > there.version"


def _extracted(column: "Column[object]") -> str:
    """How a column is read from the document; what is not there is NULL, or the default of the table."""
    if isinstance(column.type, JSONB):
        return f"nullif(doc -> '{column.name}', 'null'::jsonb)"
    value = f"doc ->> '{column.name}'"
    if not isinstance(column.type, Text):
        value = f"({value})::{column.type.compile(_DIALECT)}"
    default = column.server_default
    if default is None:
        return value
    return f"coalesce({value}, {default.arg.text})"  # type: ignore[attr-defined]


def _quoted(column: "Column[object]") -> str:
    return f'"{column.name}"'
