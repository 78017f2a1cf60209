"""Records: taking them in by the million, and telling what became of them."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Header, Path, Query, Response
from pydantic import AfterValidator, Field
from starlette.convertors import Convertor, register_url_convertor

from api.documents import encode
from api.idempotency import parse_key
from api.inflate import inflated
from api.pages import cursor_of, id_of, moment_and_id_of, moment_cursor_of
from api.routes.jobs import Cursor, IdempotencyKey, Limit
from api.routing import Call, Family, Needs, problems
from api.schemas import (
    BatchAccepted,
    BatchDocument,
    DeadLetterPage,
    DialogPage,
    MessagePage,
    StatisticsDocument,
    UserPage,
)
from domain.errors import BodyTooLarge, FieldFault, InvalidInput, NotFound, UnsupportedMediaType
from domain.saving import OnError
from repositories.rows import AnyRow
from repositories.saving.batches import BatchRepository
from repositories.saving.reads import RecordReader
from services.saving.intake import get_collection
from services.tenants import Scope


class _TextConvertor(Convertor[str]):
    """Any text at the end of a path, as senders name their dialogs; ``path`` would stop at a line break."""

    regex = "(?s:.+)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("text", _TextConvertor())


def _expect_no_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("contains a NUL character")
    return text


router: Final = Family("records")

Reader = Annotated[Call, Depends(Needs(Scope.RECORDS_READ))]
Writer = Annotated[Call, Depends(Needs(Scope.RECORDS_WRITE))]
CollectionName = Annotated[str, Path(max_length=63, description="messages or users.")]
BatchID = Annotated[UUID, Path(description="The id of the batch.")]
LetterID = Annotated[UUID, Path(description="The id of the dead letter.")]
Name = Annotated[str, Query(min_length=1, max_length=128)]
AnyName = Annotated[str | None, Query(max_length=128)]
# So far from both ends of the calendar that the thirty days which begin or end there are days as well.
_CalendarDay = Annotated[date, Field(ge=date(1, 2, 1), le=date(9999, 11, 30))]
Day = Annotated[_CalendarDay | None, Query(description="A day in UTC.")]

_JSON: Final = "application/json"
_LINES: Final = frozenset({
    "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines", "text/plain",
})  # fmt: skip
_RETRY_AFTER: Final = "1"
_LONGEST_PERIOD_DAYS: Final = 400


@router.post(
    "/records/{collection}",
    status_code=202,
    response_model=BatchAccepted,
    responses=problems(400, 404, 408, 413, 415),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                _JSON: {"schema": {"anyOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}]}},
                "application/x-ndjson": {"schema": {"type": "string"}},
            },
        }
    },
)
async def save_records(
    call: Writer,
    collection: CollectionName,
    *,
    on_error: OnError = OnError.REJECT,
    content_type: Annotated[str | None, Header()] = None,
    content_encoding: Annotated[str | None, Header()] = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Take records in; the answer is given once every accepted one is committed."""
    settings = call.services.settings
    is_document = _is_document(content_type)
    most = settings.max_body_bytes if is_document else settings.saving_max_inflated_bytes
    body = inflated(_chunks(call), content_encoding, most_bytes=most)
    taken = await call.services.intake.take(
        call.tenant_id,
        collection,
        _bounded(body, most) if is_document else body,
        is_document=is_document,
        on_error=on_error,
        key=parse_key(idempotency_key),
    )
    url = call.services.links.batch(collection, taken.batch_id)
    document = {
        "batch_id": taken.batch_id,
        "received": taken.received,
        "accepted": taken.received - taken.rejected,
        "rejected": taken.refusals,
        "batch_url": url,
    }
    headers = {"location": url, "retry-after": _RETRY_AFTER}
    if taken.replayed:
        headers["idempotent-replayed"] = "true"
    return Response(encode(document), status_code=202, headers=headers, media_type=_JSON)


def _is_document(content_type: str | None) -> bool:
    media_type = (content_type or _JSON).partition(";")[0].strip().lower()
    if media_type == _JSON or media_type.endswith("+json"):
        return True
    if media_type in _LINES:
        return False
    raise UnsupportedMediaType("records come as application/json or application/x-ndjson")


async def _chunks(call: Call) -> AsyncIterator[bytes]:
    async for chunk in call.request.stream():
        if chunk:
            yield chunk


async def _bounded(chunks: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    length = 0
    async for chunk in chunks:
        length += len(chunk)
        if length > most:
            raise BodyTooLarge(f"a JSON body has at most {most} bytes; send lines (application/x-ndjson) instead")
        yield chunk


@router.get("/records/{collection}/batches/{batch_id}", response_model=BatchDocument, responses=problems(404))
async def get_batch(call: Reader, collection: CollectionName, batch_id: BatchID) -> Response:
    """The counters of a batch; received = saved + deduplicated + dead + pending at every instant."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        batch = await BatchRepository(connection).get_one(get_collection(collection).name, batch_id)
    return _answer(_batch_document(batch, call))


def _batch_document(batch: AnyRow, call: Call) -> dict[str, Any]:
    return {
        "batch_id": batch.id,
        "collection": batch.collection,
        "received": batch.received,
        "saved": batch.saved,
        "deduplicated": batch.deduplicated,
        "dead": batch.dead,
        "pending": batch.received - batch.saved - batch.deduplicated - batch.dead,
        "rejected": batch.rejected,
        "job_id": batch.job_id,
        "created_at": batch.created_at,
        "batch_url": call.services.links.batch(batch.collection, batch.id),
    }


@router.get("/records/{collection}/dead-letters", response_model=DeadLetterPage, responses=problems(404))
async def list_dead_letters(
    call: Reader,
    collection: CollectionName,
    batch_id: Annotated[UUID | None, Query()] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """Records that could not be saved, newest first, each with the reason."""
    name = get_collection(collection).name
    async with call.services.database.tenant(call.tenant_id) as connection:
        found = await BatchRepository(connection).get_dead_letters(
            name, batch_id=batch_id, limit=limit + 1, before=id_of(cursor)
        )
    items = [_letter_document(letter) for letter in found[:limit]]
    return _answer({"items": items, "next_cursor": cursor_of(found[limit - 1].id) if len(found) > limit else None})


def _letter_document(letter: AnyRow) -> dict[str, Any]:
    return {
        "id": letter.id,
        "batch_id": letter.batch_id,
        "index": letter.position,
        "code": letter.code,
        "sqlstate": letter.sqlstate,
        "message": letter.message,
        "record": letter.payload.decode(errors="replace"),
        "whole": letter.whole,
        "created_at": letter.created_at,
    }


@router.post(
    "/records/{collection}/dead-letters/{letter_id}/retry",
    status_code=202,
    response_model=BatchDocument,
    responses=problems(404, 409),
)
async def retry_dead_letter(call: Writer, collection: CollectionName, letter_id: LetterID) -> Response:
    """Put the record back into the inbox, after whatever was wrong is mended; its batch as it stands now."""
    batch = await call.services.dead_letters.retry(call.tenant_id, collection, letter_id)
    document = _batch_document(batch, call)
    headers = {"location": document["batch_url"], "retry-after": _RETRY_AFTER}
    return Response(encode(document), status_code=202, headers=headers, media_type=_JSON)


# --- reading ----------------------------------------------------------------------------------------


@router.get("/records/messages/dialogs", response_model=DialogPage, responses=problems())
async def list_dialogs(call: Reader, user_id: Name, limit: Limit = 20) -> Response:
    """A user's latest dialogs, the one with the newest message first."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        found = await RecordReader(connection, call.tenant_id).get_latest_dialogs(user_id, limit=limit)
    return _page(found)


@router.get("/records/messages/dialogs/{dialog_id:text}", response_model=MessagePage, responses=problems(404))
async def list_messages(
    call: Reader,
    dialog_id: Annotated[str, AfterValidator(_expect_no_nul), Path(max_length=128)],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """The messages of a dialog, newest first."""
    before = moment_and_id_of(cursor)
    async with call.services.database.tenant(call.tenant_id) as connection:
        reader = RecordReader(connection, call.tenant_id)
        found = await reader.get_messages(dialog_id, limit=limit + 1, before=before)
    if not found and before is None:
        raise NotFound("there is no such dialog")
    last = found[limit - 1] if len(found) > limit else None
    following = None if last is None else moment_cursor_of(last.created_at, last.id)
    return _page(found[:limit], next_cursor=following)


@router.get("/records/messages/slowest", response_model=MessagePage, responses=problems())
async def list_slowest(call: Reader, status: Name, limit: Limit = 20) -> Response:
    """Messages of a status by their processing time, the longest first."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        found = await RecordReader(connection, call.tenant_id).get_slowest(status, limit=limit)
    return _page(found)


@router.get("/records/messages/statistics/daily", response_model=StatisticsDocument, responses=problems())
async def get_daily_statistics(call: Reader, since: Day = None, until: Day = None) -> Response:
    """For each day: messages, how many of them users wrote, users, tokens. The last thirty days by default."""
    period = _period(since, until)
    async with call.services.database.tenant(call.tenant_id) as connection:
        found = await RecordReader(connection, call.tenant_id).get_daily_statistics(*period)
    return _statistics(found, period)


@router.get("/records/messages/statistics/users", response_model=StatisticsDocument, responses=problems())
async def get_tokens_by_user(
    call: Reader,
    since: Day = None,
    until: Day = None,
    user_id: AnyName = None,
    limit: Limit = 20,
) -> Response:
    """Tokens by user, who used most first; or of one user."""
    period = _period(since, until)
    async with call.services.database.tenant(call.tenant_id) as connection:
        reader = RecordReader(connection, call.tenant_id)
        if user_id is None:
            return _statistics(await reader.get_tokens_by_user(*period, limit=limit), period)
        used = await reader.get_tokens_of_user(user_id, *period)
    return _statistics([], period, more=[{"user_id": user_id, **_plain(used)}])


@router.get("/records/messages/statistics/models", response_model=StatisticsDocument, responses=problems())
async def get_tokens_by_model(call: Reader, since: Day = None, until: Day = None, model: AnyName = None) -> Response:
    """Tokens by model, or of one model."""
    period = _period(since, until)
    async with call.services.database.tenant(call.tenant_id) as connection:
        found = await RecordReader(connection, call.tenant_id).get_tokens_by_model(model, *period)
    return _statistics(found, period)


@router.get("/records/users/active", response_model=UserPage, responses=problems())
async def list_active_users(call: Reader, *, premium: Annotated[bool, Query()] = False, limit: Limit = 50) -> Response:
    """Users by when they were last active; with ``premium`` those who pay and are not blocked."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        found = await RecordReader(connection, call.tenant_id).get_active_users(limit=limit, premium=premium)
    return _page(found)


@router.get("/records/users/blocked", response_model=UserPage, responses=problems())
async def list_blocked_users(call: Reader, limit: Limit = 50, cursor: AnyName = None) -> Response:
    """Users who are blocked, by id."""
    async with call.services.database.tenant(call.tenant_id) as connection:
        found = await RecordReader(connection, call.tenant_id).get_blocked_users(limit=limit + 1, after=cursor)
    return _page(found[:limit], next_cursor=found[limit - 1].id if len(found) > limit else None)


def _period(since: date | None, until: date | None) -> tuple[date, date]:
    last = until or (datetime.now(UTC).date() if since is None else since + timedelta(days=29))
    first = since or last - timedelta(days=29)
    if not 0 <= (last - first).days < _LONGEST_PERIOD_DAYS:
        fault = FieldFault("/query/until", f"is not within {_LONGEST_PERIOD_DAYS} days from since")
        raise InvalidInput("the query is not valid", faults=[fault])
    return first, last


_HIDDEN: Final = frozenset({"tenant_id"})


def _plain(row: AnyRow) -> dict[str, Any]:
    # Names of columns are a subclass of str, which the encoder does not take.
    return {f"{name}": value for name, value in row._asdict().items() if name not in _HIDDEN}


def _page(rows: Any, *, next_cursor: str | None = None) -> Response:
    return _answer({"items": [_plain(row) for row in rows], "next_cursor": next_cursor})


def _statistics(rows: Any, period: tuple[date, date], *, more: Any = ()) -> Response:
    return _answer({"since": period[0], "until": period[1], "items": [*(_plain(row) for row in rows), *more]})


def _answer(document: Any) -> Response:
    return Response(encode(document), media_type=_JSON)
