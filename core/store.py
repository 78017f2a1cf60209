"""The object store: bytes under their tenant and digest, on a laptop's disk or in a cloud, through one library."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import UUID

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from core.ids import new_id
from domain.artifacts import store_key
from domain.errors import BodyTooLarge, NotFound, StoreUnavailable

_CHUNK_BYTES: Final = 1_048_576


class ArtifactStore:
    """Content-addressed bytes. Writing the same bytes twice is harmless and keeps one copy.

    Every method raises StoreUnavailable where the store cannot be reached.
    """

    def __init__(self, store: ObjectStore, *, root: Path | None) -> None:
        self._store = store
        self._root = root

    async def put(self, tenant_id: UUID, body: bytes) -> str:
        """Keep the bytes; their sha256 in hex. They are on stable storage when this returns."""
        sha256 = hashlib.sha256(body).hexdigest()
        key = store_key(tenant_id, sha256)
        try:
            await obstore.put_async(self._store, key, body)
        except BaseError as fault:
            raise StoreUnavailable("the object store refused to keep an artifact") from fault
        await self._flush_to_disk(key)
        return sha256

    async def put_stream(self, tenant_id: UUID, chunks: AsyncIterator[bytes], *, max_bytes: int) -> tuple[str, int]:
        """Keep what comes in without holding it in memory; sha256 and length. Raises BodyTooLarge."""
        incoming = f"{tenant_id}/incoming/{new_id()}"
        digest, length = hashlib.sha256(), 0

        async def measured() -> AsyncIterator[bytes]:
            nonlocal length
            async for chunk in chunks:
                length += len(chunk)
                if length > max_bytes:
                    raise BodyTooLarge(f"an artifact has at most {max_bytes} bytes")
                digest.update(chunk)
                yield chunk

        try:
            await obstore.put_async(self._store, incoming, measured())
            sha256 = digest.hexdigest()
            await obstore.rename_async(self._store, incoming, store_key(tenant_id, sha256))
        except BaseError as fault:
            raise StoreUnavailable("the object store refused to keep an artifact") from fault
        await self._flush_to_disk(store_key(tenant_id, sha256))
        return sha256, length

    async def get(self, key: str) -> bytes:
        """All bytes under a key. Raises NotFound."""
        try:
            found = await obstore.get_async(self._store, key)
            return bytes(await found.bytes_async())
        except (NotFoundError, FileNotFoundError):
            raise NotFound("the bytes of this artifact are gone from the store") from None
        except BaseError as fault:
            raise StoreUnavailable("the object store did not hand out an artifact") from fault

    async def measure(self, key: str) -> int:
        """How many bytes lie under a key. Raises NotFound."""
        try:
            return int((await obstore.head_async(self._store, key))["size"])
        except (NotFoundError, FileNotFoundError):
            raise NotFound("there is nothing of that name in the store") from None
        except BaseError as fault:
            raise StoreUnavailable("the object store did not tell about an object") from fault

    async def stream(self, key: str, *, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from ``start`` up to, not including, ``end``, piece by piece."""
        for offset in range(start, end, _CHUNK_BYTES):
            try:
                piece = await obstore.get_range_async(
                    self._store, key, start=offset, end=min(offset + _CHUNK_BYTES, end)
                )
            except (NotFoundError, FileNotFoundError):
                raise NotFound("the bytes of this artifact are gone from the store") from None
            except BaseError as fault:
                raise StoreUnavailable("the object store did not hand out an artifact") from fault
            yield bytes(piece)

    async def put_file(self, tenant_id: UUID, file: Path) -> str:
        """Keep the bytes of a file without holding them in memory; their sha256."""
        sha256, _ = await self.put_stream(tenant_id, _pieces(file), max_bytes=file.stat().st_size)  # noqa: ASYNC240
        return sha256

    async def fetch(self, key: str, folder: Path) -> Path:
        """A file with the bytes under a key: the store's own where it is on this disk, else a copy in ``folder``.

        A copy that is there already is used; keys are digests, so it cannot be stale. Raises NotFound.
        """
        if self._root is not None:
            file = self._root / key
            if not await asyncio.to_thread(file.exists):
                raise NotFound("the bytes of this artifact are gone from the store")
            return file
        copy = _copy_of(key, folder)
        if not await asyncio.to_thread(copy.exists):
            await self._copy(key, copy)
        return copy

    async def drop_copy(self, key: str, folder: Path) -> None:
        """Forget the copy that :meth:`fetch` has made in ``folder``, if there is one, so that it is made anew."""
        if self._root is None:
            await asyncio.to_thread(_copy_of(key, folder).unlink, missing_ok=True)

    async def _copy(self, key: str, copy: Path) -> None:
        partial = copy.with_name(f"{copy.name}.{new_id()}")
        try:
            found = await obstore.get_async(self._store, key)
            await asyncio.to_thread(copy.parent.mkdir, parents=True, exist_ok=True)
            with await asyncio.to_thread(partial.open, "wb") as target:
                async for piece in found.stream(min_chunk_size=_CHUNK_BYTES):
                    await asyncio.to_thread(target.write, piece)
            # What has the name of a digest is believed: it has to be whole, also after a power cut.
            await asyncio.to_thread(_fsync, partial)
            await asyncio.to_thread(partial.replace, copy)
        except (NotFoundError, FileNotFoundError):
            raise NotFound("the bytes of this artifact are gone from the store") from None
        except BaseError as fault:
            raise StoreUnavailable("the object store did not hand out an artifact") from fault
        finally:
            await asyncio.to_thread(partial.unlink, missing_ok=True)

    async def _flush_to_disk(self, key: str) -> None:
        # The library leaves local files in the page cache; an acknowledged artifact has to survive a power cut.
        if self._root is not None:
            await asyncio.to_thread(_fsync, self._root / key)


def _copy_of(key: str, folder: Path) -> Path:
    return folder / key.rpartition("/")[2]


async def _pieces(file: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(file.open, "rb") as source:
        while piece := await asyncio.to_thread(source.read, _CHUNK_BYTES):
            yield piece


def _fsync(path: Path) -> None:
    for target, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(target, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def create_artifact_store(url: str) -> ArtifactStore:
    """The store behind a URL: ``file:///folder``, ``s3://bucket/prefix``, ``gs://``, ``az://``."""
    if url.startswith("file:"):
        root = Path(url2pathname(urlsplit(url).path))
        return ArtifactStore(LocalStore(root, mkdir=True), root=root)
    return ArtifactStore(from_url(url), root=None)
