"""Rows of a CSV file as the JSON documents that a collection takes. Pure functions of bytes."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import inspect

from domain.errors import InvalidInput
from domain.saving_records import Collection

_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]*)")
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}
_QUOTED: Final = re.compile(rb'"[^"]*+(?:""[^"]*+)*+"')
_BREAK_OR_QUOTE: Final = re.compile(rb'\n|,"')


def cut_rows(data: bytes, *, at_end: bool, most_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Whole rows of ``data``, which begins with one, each with the place where the next one begins.

    A quoted field may hold line breaks. A quote is one only at the beginning of a field, and where it is not closed
    within ``most_bytes`` its row ends with its line, so that it takes no others with it. Where ``at_end`` is true what
    is left over is a row as well.
    """
    begin = 0
    while begin < len(data):
        end = _end_of_row(data, begin, at_end=at_end, most_bytes=most_bytes)
        if end is None:
            return
        yield data[begin:end].removesuffix(b"\r"), min(end + 1, len(data))
        begin = end + 1


def _end_of_row(data: bytes, begin: int, *, at_end: bool, most_bytes: int) -> int | None:
    """Where the row ends that begins there; None where that is not to be seen yet."""
    line_end = data.find(b"\n", begin)
    if line_end < 0:
        return len(data) if at_end else None
    if data.find(b'"', begin, line_end) < 0:
        return line_end
    last = min(begin + most_bytes, len(data))
    end = _end_outside_quotes(data, begin, last)
    if end is not None and (end < last or (at_end and last == len(data))):
        return end
    return line_end if at_end or last - begin == most_bytes else None


def _end_outside_quotes(data: bytes, begin: int, last: int) -> int | None:
    """The first line break that is in no quoted field, or ``last``; None where a quoted field is open there."""
    position, is_quoted = begin, data.startswith(b'"', begin)
    while True:
        if is_quoted:
            field = _QUOTED.match(data, position, last)
            if field is None:
                return None
            position = field.end()
        found = _BREAK_OR_QUOTE.search(data, position, last)
        if found is None:
            return last
        if found[0] == b"\n":
            return found.start()
        position, is_quoted = found.end() - 1, True


class CsvShape:
    """The header of a file: which column is which member of a record, and of what type."""

    def __init__(self, collection: Collection, header: bytes) -> None:
        """Read the header. Raises InvalidInput where it is none."""
        self._names = _values(header.removeprefix(b"\xef\xbb\xbf")) or ()
        if not self._names or len(set(self._names)) < len(self._names):
            raise InvalidInput("the first line of a CSV file names the columns, each once; lines end with LF or CR LF")
        self._readers = [_READERS.get(_kind(collection, name), _text) for name in self._names]

    def to_json(self, row: bytes) -> bytes:
        """The row as a JSON document; empty fields are left out.

        What is no row, or fits no column, makes it unacceptable later on, and is in it. Bytes that are no UTF-8 come
        back as they are, but on one line, which is no JSON either.
        """
        try:
            values = _values(row)
        except UnicodeDecodeError:
            return row.replace(b"\n", b" ")
        if values is None:
            return msgspec.json.encode({"malformed row": row.decode()})
        document: dict[str, Any] = {
            name: read(value)
            for name, read, value in zip(self._names, self._readers, values, strict=False)
            if value != ""
        }
        if len(values) > len(self._names):
            document["more values than columns"] = values[len(self._names) :]
        return msgspec.json.encode(document)


def _values(row: bytes) -> Sequence[str] | None:
    """The fields of a row; None where it is none, or more than one. Raises UnicodeDecodeError."""
    csv.field_size_limit(max(csv.field_size_limit(), len(row)))  # whoever judges the record says what is too long
    try:
        rows = list(csv.reader(io.StringIO(row.decode(), newline=""), strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def _kind(collection: Collection, name: str) -> type[Any]:
    shape = inspect.type_info(collection.model)
    assert isinstance(shape, inspect.StructType)
    for field in shape.fields:
        if field.encode_name == name:
            kinds = field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,)
            return next((type(kind) for kind in kinds if not isinstance(kind, inspect.NoneType)), inspect.StrType)
    return inspect.StrType


def _text(value: str) -> Any:
    return value


def _integer(value: str) -> Any:
    return int(value) if _INTEGER.fullmatch(value) and len(value) <= _LONGEST_INTEGER else value


def _boolean(value: str) -> Any:
    return _BOOLEANS.get(value.lower(), value)


def _document(value: str) -> Any:
    text = value.encode()
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return value
    return msgspec.Raw(text.replace(b"\n", b" "))  # in JSON a line break is white space wherever it may stand


_LONGEST_INTEGER: Final = 20
_READERS: Final[dict[type[Any], Callable[[str], Any]]] = {
    inspect.IntType: _integer,
    inspect.BoolType: _boolean,
    inspect.DictType: _document,
}
