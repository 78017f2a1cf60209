import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
from obstore.store import MemoryStore

from core.ids import new_id
from core.store import ArtifactStore, create_artifact_store
from domain.artifacts import store_key
from domain.errors import BodyTooLarge, NotFound, StoreUnavailable


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    """A body as it comes in from the network."""
    for part in parts:
        yield part


async def collect(stream: AsyncIterator[bytes]) -> bytes:
    """All of a stream."""
    return b"".join([piece async for piece in stream])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the store lies."""
    return tmp_path / "artifacts"


@pytest.fixture
def own_store(folder: Path) -> ArtifactStore:
    """A store of one's own."""
    return create_artifact_store(folder.as_uri())


class TestPut:
    async def test_keeps_bytes_under_tenant_and_digest(self, own_store: ArtifactStore, folder: Path) -> None:
        tenant_id = new_id()
        sha256 = await own_store.put(tenant_id, b"body")
        assert sha256 == hashlib.sha256(b"body").hexdigest()
        assert (folder / str(tenant_id) / sha256[:2] / sha256).read_bytes() == b"body"
        assert await own_store.get(store_key(tenant_id, sha256)) == b"body"

    async def test_the_same_bytes_again_are_one_copy(self, own_store: ArtifactStore, folder: Path) -> None:
        tenant_id = new_id()
        assert await own_store.put(tenant_id, b"x") == await own_store.put(tenant_id, b"x")
        assert len([path for path in folder.rglob("*") if path.is_file()]) == 1

    async def test_tenants_share_nothing(self, own_store: ArtifactStore) -> None:
        sha256 = await own_store.put(new_id(), b"secret")
        with pytest.raises(NotFound):
            await own_store.get(store_key(new_id(), sha256))

    async def test_refusal_of_the_disk_is_the_store_being_away(self, own_store: ArtifactStore, folder: Path) -> None:
        tenant_id = new_id()
        (folder / str(tenant_id)).write_bytes(b"a file where a folder has to be")
        with pytest.raises(StoreUnavailable):
            await own_store.put(tenant_id, b"x")


class TestPutStream:
    @pytest.mark.parametrize("parts", [(b"",), (b"one", b"two"), (b"x" * 3_000_000, b"y" * 9_000_000)])
    async def test_keeps_what_comes_in(self, own_store: ArtifactStore, parts: tuple[bytes, ...]) -> None:
        tenant_id, whole = new_id(), b"".join(parts)
        sha256, length = await own_store.put_stream(tenant_id, pieces(*parts), max_bytes=len(whole))
        assert (sha256, length) == (hashlib.sha256(whole).hexdigest(), len(whole))
        assert await own_store.get(store_key(tenant_id, sha256)) == whole

    async def test_too_much_is_refused_and_leaves_nothing(self, own_store: ArtifactStore, folder: Path) -> None:
        with pytest.raises(BodyTooLarge, match="at most 5 bytes"):
            await own_store.put_stream(new_id(), pieces(b"123", b"456"), max_bytes=5)
        assert [path for path in folder.rglob("*") if path.is_file()] == []

    async def test_a_body_that_breaks_off_leaves_nothing(self, own_store: ArtifactStore, folder: Path) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"1"
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await own_store.put_stream(new_id(), broken(), max_bytes=5)
        assert [path for path in folder.rglob("*") if path.is_file()] == []


class TestStream:
    @pytest.fixture
    async def key(self, own_store: ArtifactStore) -> str:
        """Three and a half chunks."""
        tenant_id: UUID = new_id()
        return store_key(tenant_id, await own_store.put(tenant_id, bytes(range(256)) * 14_336))

    @pytest.mark.parametrize(("start", "end"), [(0, 10), (5, 5), (1_048_575, 1_048_577), (0, 3_670_016)])
    async def test_hands_out_any_range(self, own_store: ArtifactStore, key: str, start: int, end: int) -> None:
        whole = bytes(range(256)) * 14_336
        assert await collect(own_store.stream(key, start=start, end=end)) == whole[start:end]

    async def test_missing_bytes_are_not_found(self, own_store: ArtifactStore) -> None:
        with pytest.raises(NotFound):
            await collect(own_store.stream("none/00/00", start=0, end=1))


class TestCopies:
    async def test_one_that_is_not_what_it_should_be_is_fetched_anew(self, tmp_path: Path) -> None:
        """The copy of a store that is not on this disk; what the store itself has on this disk is never removed."""
        store, tenant_id = ArtifactStore(MemoryStore(), root=None), new_id()
        key = store_key(tenant_id, await store.put(tenant_id, b"bytes"))
        copy = await store.fetch(key, tmp_path)
        copy.write_bytes(b"torn")
        await store.drop_copy(key, tmp_path)
        assert (await store.fetch(key, tmp_path)).read_bytes() == b"bytes"
        assert [file.name for file in tmp_path.iterdir()] == [copy.name]
        await store.drop_copy(key, tmp_path)
        await store.drop_copy(key, tmp_path)

    async def test_the_bytes_of_the_store_itself_stay(self, own_store: ArtifactStore, tmp_path: Path) -> None:
        tenant_id = new_id()
        key = store_key(tenant_id, await own_store.put(tenant_id, b"bytes"))
        await own_store.drop_copy(key, tmp_path)
        assert await own_store.get(key) == b"bytes"
