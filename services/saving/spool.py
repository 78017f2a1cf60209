"""Where the rows of one request wait for the end of its body: in memory while they are few, else in a file."""

import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Final, Self

from domain.saving_pieces import PIECE_BYTES, Piece
from repositories.saving.intake import inbox_row

IN_MEMORY_BYTES: Final = 2 * PIECE_BYTES


class Spool:
    """Rows of the inbox in their order. The file has no name, so nothing is left of it whatever happens."""

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix
        self._rows: list[bytes] = []
        self._file: IO[bytes] | None = None
        self.length = 0

    @property
    def is_large(self) -> bool:
        """Whether the rows went to a file."""
        return self._file is not None

    def add(self, piece: Piece) -> None:
        """Keep a piece. Raises OSError where the disk is full."""
        row = inbox_row(self._prefix, piece)
        self.length += len(row)
        if self._file is None and self.length <= IN_MEMORY_BYTES:
            self._rows.append(row)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="longhaul-records-")  # noqa: SIM115 - closed by __exit__
            self._file.writelines(self._rows)
            self._rows = []
        self._file.write(row)

    def clear(self) -> None:
        """Forget everything: the request will not be taken."""
        self._rows = []
        self.length = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def __iter__(self) -> Iterator[bytes]:
        if self._file is None:
            yield from self._rows
            return
        self._file.seek(0)
        while part := self._file.read(PIECE_BYTES):
            yield part

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
