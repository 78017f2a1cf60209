"""Pages of lists: opaque cursors, and filters by label."""

import base64
import binascii
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from fastapi import Request
from pydantic import TypeAdapter, ValidationError

from api.pointers import query_pointer
from api.routing import LABEL_PREFIX
from domain.errors import FieldFault, InvalidInput
from domain.jobs import Labels

_UUID_BYTES: Final = 16
_MOMENT_BYTES: Final = 8
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_LABELS: Final = 20


def cursor_of(item_id: UUID) -> str:
    """The cursor of the page after this item."""
    return base64.urlsafe_b64encode(item_id.bytes).decode().rstrip("=")


def id_of(cursor: str | None) -> UUID | None:
    """The item that a cursor stands for. Raises InvalidInput."""
    if cursor is None:
        return None
    return UUID(bytes=_decoded(cursor, _UUID_BYTES))


def moment_cursor_of(moment: datetime, item_id: UUID) -> str:
    """The cursor of the page after an item of a list that is sorted by a moment, then by id."""
    micros = (moment - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(micros.to_bytes(_MOMENT_BYTES, signed=True) + item_id.bytes).decode().rstrip("=")


def moment_and_id_of(cursor: str | None) -> tuple[datetime, UUID] | None:
    """The moment and the item that a cursor stands for. Raises InvalidInput."""
    if cursor is None:
        return None
    raw = _decoded(cursor, _MOMENT_BYTES + _UUID_BYTES)
    try:
        moment = _EPOCH + timedelta(microseconds=int.from_bytes(raw[:_MOMENT_BYTES], signed=True))
    except OverflowError:
        raise _bad("cursor", "is not a cursor of this list") from None
    return moment, UUID(bytes=raw[_MOMENT_BYTES:])


def key_cursor_of(key: str) -> str:
    """The cursor of the page after an item of a list that is sorted by a text."""
    return base64.urlsafe_b64encode(b"." + key.encode()).decode().rstrip("=")


def key_of(cursor: str | None) -> str | None:
    """The text that a cursor stands for. Raises InvalidInput."""
    if cursor is None:
        return None
    try:
        marked = _decoded(cursor).decode()
    except UnicodeDecodeError:
        marked = ""
    if not marked.startswith(".") or "\x00" in marked:
        raise _bad("cursor", "is not a cursor of this list")
    return marked[1:]


def _decoded(cursor: str, length: int | None = None) -> bytes:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if length is not None and len(raw) != length:
        raise _bad("cursor", "is not a cursor of this list")
    return raw


def label_filters(request: Request) -> dict[str, str]:
    """The ``label.NAME`` parameters of a query. Raises InvalidInput."""
    given = {
        name.removeprefix(LABEL_PREFIX): value
        for name, value in request.query_params.items()
        if name.startswith(LABEL_PREFIX)
    }
    if len(given) > _MOST_LABELS:
        raise _bad(LABEL_PREFIX, f"at most {_MOST_LABELS} labels can be asked for")
    for name, value in given.items():
        try:
            TypeAdapter(Labels).validate_python({name: value})
        except ValidationError:
            raise _bad(LABEL_PREFIX + name, "is not a label that a job can have") from None
    return given


def _bad(parameter: str, message: str) -> InvalidInput:
    return InvalidInput("the query is not valid", faults=[FieldFault(query_pointer("query", parameter), message)])
