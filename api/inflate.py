"""Bodies with a Content-Encoding, inflated as they come and never by more than is asked for at once."""

import sys
import zlib
from collections.abc import AsyncIterator
from typing import Final, Protocol

from domain.errors import BodyTooLarge, MalformedBody, UnsupportedMediaType

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

_AT_ONCE_BYTES: Final = 262_144
_MOST_RATIO: Final = 200
_FREE_BYTES: Final = 4_194_304  # a little of anything may be as compressible as it likes
_GZIP: Final = 31
_WINDOW: Final[dict[int, int]] = {DecompressionParameter.window_log_max: 23}  # 8 MiB, all that RFC 9659 allows
_NOT_ZSTD: Final = "the body is no zstd, or no zstd for HTTP: its window has at most 8 MiB (RFC 9659)"


class _Inflater(Protocol):
    def feed(self, data: bytes) -> bytes:
        """Take compressed bytes in, or none; some of what they stand for, or nothing where more is needed."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether what came in ends where a stream ends."""
        ...


class _Gzip:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP)
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        self._rest += data
        while True:
            if self._stream.eof and self._rest:  # members may follow each other, and may be empty
                self._stream = zlib.decompressobj(_GZIP)
            out = self._stream.decompress(self._rest, _AT_ONCE_BYTES)
            self._rest = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            if out or not (self._stream.eof and self._rest):
                return out

    @property
    def is_complete(self) -> bool:
        return self._stream.eof and not self._rest


class _Zstd:
    def __init__(self) -> None:
        self._stream = ZstdDecompressor(options=_WINDOW)

    def feed(self, data: bytes) -> bytes:
        while True:
            if self._stream.eof:  # frames may follow each other, and may be empty
                data = self._stream.unused_data + data
                if not data:
                    return b""
                self._stream = ZstdDecompressor(options=_WINDOW)
            out = self._stream.decompress(data, _AT_ONCE_BYTES)
            if out or not self._stream.eof:
                return out
            data = b""

    @property
    def is_complete(self) -> bool:
        return self._stream.eof and not self._stream.unused_data


async def inflated(chunks: AsyncIterator[bytes], encoding: str | None, *, most_bytes: int) -> AsyncIterator[bytes]:
    """The body itself. Raises UnsupportedMediaType, MalformedBody and, before it is too late, BodyTooLarge."""
    name = (encoding or "identity").strip().lower()
    if name == "identity":
        async for chunk in chunks:
            yield chunk
        return
    if name not in {"gzip", "x-gzip", "zstd"}:
        raise UnsupportedMediaType("Content-Encoding is one of: identity, gzip, zstd")
    stream: _Inflater = _Zstd() if name == "zstd" else _Gzip()
    taken = given = 0
    async for chunk in chunks:
        taken += len(chunk)
        data = chunk
        while out := _fed(stream, data):
            given += len(out)
            _expect_sane(taken, given, most_bytes)
            yield out
            data = b""
    if not stream.is_complete:
        raise MalformedBody(f"the body is no complete {name} stream")


def _fed(stream: _Inflater, data: bytes) -> bytes:
    try:
        return stream.feed(data)
    except zlib.error:
        raise MalformedBody("the body is not what its Content-Encoding says") from None
    except ZstdError:
        raise MalformedBody(_NOT_ZSTD) from None


def _expect_sane(taken: int, given: int, most_bytes: int) -> None:
    if given > most_bytes:
        raise BodyTooLarge(f"the inflated body has more than {most_bytes} bytes")
    if given > _FREE_BYTES and given > taken * _MOST_RATIO:
        raise BodyTooLarge(f"the body inflates to more than {_MOST_RATIO} times its size")
