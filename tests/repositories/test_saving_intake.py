"""Writing records down: by COPY and in one round trip alike."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row
from sqlalchemy import event

from core.database import Database
from core.ids import new_id
from domain.saving_pieces import Piece
from repositories.saving.intake import (
    NewBatch,
    fields_of,
    inbox_row,
    lock_keys,
    row_prefix,
    write_batches,
    write_few,
)
from services.stack.postgres import EmbeddedPostgres
from tests.support.life import superuser

BODIES = (b'{"text":"a\\tb"}\n{"path":"C:\\\\temp\\\\new"}', "Приве́т\\n\r\n\t\\N".encode(), b"\\", b"\\t\\\\t")


def piece_of(body: bytes, *, index: int = 0, skipped: tuple[int, ...] = (), refused: bool = False) -> Piece:
    return Piece(first_index=index, records=1, body=body, refused=refused, skipped=skipped)


def batch_of(tenant_id: UUID, *pieces: Piece, key: str | None = None, collection: str = "messages") -> NewBatch:
    """A batch as the intake makes it."""
    batch_id = new_id()
    prefix = row_prefix(tenant_id, collection, 3, batch_id)
    return NewBatch(
        id=batch_id, tenant_id=tenant_id, collection=collection, shard=3, key=key,
        request_hash=None if key is None else b"\x00hash", received=len(pieces), rejected=1, refusals='[{"index": 4}]',
        rows=[inbox_row(prefix, piece) for piece in pieces],
    )  # fmt: skip


def written(postgres: EmbeddedPostgres, batch: NewBatch) -> tuple[Any, list[Any]]:
    """The row of a batch and its rows in the inbox, in order, without what differs from run to run."""
    with superuser(postgres) as connection, connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("SELECT * FROM record_batches WHERE id = %s", [batch.id]).fetchone()
        rows = cursor.execute("SELECT * FROM record_inbox WHERE batch_id = %s ORDER BY id", [batch.id]).fetchall()
    left_out = {"id", "batch_id", "created_at", "accepted_at"}

    def plain(found: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in found.items() if name not in left_out}

    return None if row is None else plain(row), [plain(one) for one in rows]


@settings(deadline=None, database=None)
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0")).map(str.encode),
    st.lists(st.integers(0, 9_999)),
    st.booleans(),
)
def test_the_fields_of_a_row_are_those_of_the_piece(body: bytes, skipped: list[int], refused: bool) -> None:
    row = inbox_row(
        row_prefix(new_id(), "messages", 0, new_id()), piece_of(body, skipped=tuple(skipped), refused=refused)
    )

    first, records, size, was_refused, left_out, text = fields_of(row)

    assert (first, records, size, was_refused) == ("0", "1", str(len(body)), "t" if refused else "f")
    assert left_out == ("{" + ",".join(map(str, skipped)) + "}" if skipped else None)
    assert text == body.decode()


@pytest.fixture(autouse=True)
def _left_empty(postgres: EmbeddedPostgres) -> Iterator[None]:
    """What is laid in here is nothing that could be brought home: no other test shall find it."""
    yield
    with superuser(postgres) as connection:
        connection.execute("DELETE FROM record_inbox WHERE shard = 3")


class TestOneRoundTrip:
    async def test_writes_what_copy_writes(
        self, database: Database, tenant_id: UUID, postgres: EmbeddedPostgres
    ) -> None:
        pieces = [
            piece_of(body, index=number * 7, skipped=(number, 9) if number % 2 else (), refused=number == 2)
            for number, body in enumerate(BODIES)
        ]
        copied, sent = batch_of(tenant_id, *pieces), batch_of(tenant_id, *pieces)
        async with database.driver() as driver:
            assert await write_batches(driver, [copied], bulk=False) == {copied.id}

        assert await write_few(database, [sent]) == ({sent.id}, set())
        row, rows = written(postgres, sent)
        assert (row, rows) == written(postgres, copied)
        assert [one["body"] for one in rows] == [body.decode() for body in BODIES]

    async def test_writes_the_same_where_statements_are_traced(
        self, database: Database, tenant_id: UUID, postgres: EmbeddedPostgres
    ) -> None:
        """Then it goes the usual way, statement by statement."""
        pieces = [piece_of(body, index=number) for number, body in enumerate(BODIES)]
        plain, traced = batch_of(tenant_id, *pieces), batch_of(tenant_id, *pieces, key="traced")
        await write_few(database, [plain])
        seen: list[str] = []

        def before(*given: Any) -> None:
            seen.append(given[2])

        event.listen(database.engine.sync_engine, "before_cursor_execute", before)
        try:
            assert await write_few(database, [traced]) == ({traced.id}, set())
        finally:
            event.remove(database.engine.sync_engine, "before_cursor_execute", before)
        assert len(seen) == 2
        assert written(postgres, traced)[1] == written(postgres, plain)[1]

    async def test_a_key_is_taken_once(self, database: Database, tenant_id: UUID, postgres: EmbeddedPostgres) -> None:
        """Also within one statement; and of a key that is taken nothing is laid in."""
        first, second, other = (batch_of(tenant_id, piece_of(b"{}"), key=key) for key in ("K", "K", "L"))
        new, busy = await write_few(database, [first, second, other])
        assert (len(new), other.id in new, busy) == (2, True, set())
        late = batch_of(tenant_id, piece_of(b"{}"), key="K")

        assert await write_few(database, [late]) == (set(), set())
        assert written(postgres, late) == (None, [])
        laid = [len(written(postgres, one)[1]) for one in (first, second, other)]
        assert sorted(laid) == [0, 1, 1]

    async def test_a_key_in_hand_is_busy_and_holds_up_nobody(self, database: Database, tenant_id: UUID) -> None:
        mine, theirs = batch_of(tenant_id, piece_of(b"{}"), key="K"), batch_of(tenant_id, piece_of(b"{}"), key="K")
        free = batch_of(tenant_id, piece_of(b"{}"))
        async with database.driver() as driver:
            assert await lock_keys(driver, [theirs]) == set()
            assert await write_few(database, [mine, free]) == ({free.id}, {mine.id})
        assert await write_few(database, [mine]) == ({mine.id}, set())

    async def test_the_other_way_round_as_well(self, database: Database, tenant_id: UUID) -> None:
        """The lock is the one that large bodies take, by the same name."""
        mine, theirs = batch_of(tenant_id, key="K"), batch_of(tenant_id, key="K")
        async with database.driver() as driver, database.driver() as another:
            assert await lock_keys(driver, [mine]) == set()
            assert await lock_keys(another, [theirs]) == {theirs.id}

    @pytest.mark.parametrize("few", [True, False])
    async def test_tells_how_much_came(
        self, database: Database, tenant_id: UUID, postgres: EmbeddedPostgres, *, few: bool
    ) -> None:
        batches = [batch_of(tenant_id, piece_of(b"{}"), piece_of(b"{}")), batch_of(tenant_id, piece_of(b"{}"))]
        with superuser(postgres) as listening:
            listening.execute("LISTEN longhaul_records")
            if few:
                await write_few(database, batches)
            else:
                async with database.driver() as driver:
                    await write_batches(driver, batches, bulk=False)
            heard = [notice.payload for notice in listening.notifies(timeout=5, stop_after=1)]
        assert heard == ["messages/3/3"]
