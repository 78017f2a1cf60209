"""What was trained and not yet acknowledged: on disk before the first attempt to send it, gone after the receipt."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import UUID

from pydantic import ValidationError

from domain.model import Frozen

_LETTER: Final = ".json"
_WEIGHTS: Final = ".safetensors"
_UNFINISHED: Final = ".part"


class Parcel(Frozen):
    """One update waiting to be sent."""

    lease_id: UUID
    lease_token: str
    sha256: str
    size_bytes: int


def write_durably(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file so that it is there completely or not at all, also after a loss of power."""
    unfinished = path.with_name(path.name + _UNFINISHED)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Outbox:
    """A folder of parcels. The letter is written after the weights, so that a letter means a whole parcel."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a crash left half-written."""
        for path in self._folder.iterdir():
            orphan = path.suffix == _WEIGHTS and not path.with_suffix(_LETTER).exists()
            if path.suffix == _UNFINISHED or orphan:
                path.unlink()

    def put(self, lease_id: UUID, lease_token: str, weights: bytes) -> Parcel:
        """Keep an update; when this returns it survives anything but the disk. Raises OSError."""
        digest = hashlib.sha256(weights).hexdigest()
        parcel = Parcel(lease_id=lease_id, lease_token=lease_token, sha256=digest, size_bytes=len(weights))
        write_durably(self.weights_of(parcel), weights)
        write_durably(self.weights_of(parcel).with_suffix(_LETTER), parcel.model_dump_json().encode())
        return parcel

    def pending(self) -> list[Parcel]:
        """All parcels, always in the same order, which is that of the ids of their leases and of no time."""
        return sorted(self._read(), key=lambda parcel: parcel.lease_id)

    def _read(self) -> Iterator[Parcel]:
        for path in self._folder.glob(f"*{_LETTER}"):
            # A letter that cannot be read is kept for a person to look at; it stops nothing else.
            with contextlib.suppress(ValidationError):
                yield Parcel.model_validate_json(path.read_bytes())

    def weights_of(self, parcel: Parcel) -> Path:
        """Where the weights of ``parcel`` are."""
        return self._folder / f"{parcel.lease_id}{_WEIGHTS}"

    def remove(self, parcel: Parcel) -> None:
        """Forget a parcel that was acknowledged, or will never be accepted."""
        self.weights_of(parcel).with_suffix(_LETTER).unlink(missing_ok=True)
        sync_folder(self._folder)
        self.weights_of(parcel).unlink(missing_ok=True)
