"""Where the rows of one request wait for the end of its body: in memory while they are few, else in a file."""

import contextlib
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Final, Self

from domain.errors import StoreUnavailable
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

    @property
    def held_bytes(self) -> int:
        """How many bytes of rows are in memory."""
        return 0 if self.is_large else self.length

    def add(self, piece: Piece, *, in_memory: bool) -> None:
        """Keep a piece, in memory where that is allowed and the rows are few.

        Raises StoreUnavailable where the disk is full.
        """
        row = inbox_row(self._prefix, piece)
        if self._file is None and in_memory and self.length + len(row) <= IN_MEMORY_BYTES:
            self._rows.append(row)
        else:
            with _on_disk():
                self._open_file().write(row)
        self.length += len(row)

    def _open_file(self) -> IO[bytes]:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="longhaul-records-")  # noqa: SIM115 - closed by __exit__
            self._file.writelines(self._rows)
            self._rows = []
        return self._file

    def clear(self) -> None:
        """Forget everything: the request will not be taken."""
        self._rows = []
        self.length = 0
        if self._file is not None:
            # What it still had to write is not wanted any more, and it is closed even where it cannot write that.
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def __iter__(self) -> Iterator[bytes]:
        """The rows, in parts of any size. Raises StoreUnavailable where the disk is full: what is added is buffered."""
        if self._file is None:
            yield from self._rows
            return
        with _on_disk():
            self._file.seek(0)
        while part := self._read():
            yield part

    def _read(self) -> bytes:
        assert self._file is not None
        with _on_disk():
            return self._file.read(PIECE_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()


@contextlib.contextmanager
def _on_disk() -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise StoreUnavailable("there is no room for a body that is being received") from fault
