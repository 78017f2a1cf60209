"""Secrets at rest: sealed with AES-256-GCM under keys of the installation, bound to whose and which they are."""

import base64
import hashlib
import os
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_ID_BYTES: Final = 8


class Unsealable(Exception):
    """A sealed secret cannot be opened: its key is gone, or it is not the one that was sealed."""


class SecretBox:
    """Seals and opens. The first key seals, all keys open, so that keys can be rotated."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != _KEY_BYTES for key in keys):
            raise ValueError("LONGHAUL_SEALING_KEYS needs base64 keys of 32 bytes each, separated by commas")
        self._ciphers = {hashlib.sha256(key).digest()[:_ID_BYTES]: AESGCM(key) for key in keys}
        self._current = next(iter(self._ciphers))
        self._pepper = hashlib.sha256(b"fingerprint" + keys[0]).digest()

    def seal(self, secret: str, *, tenant_id: UUID, owner: UUID) -> bytes:
        """The secret, readable only as belonging to ``owner`` of that tenant."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(nonce, secret.encode(), tenant_id.bytes + owner.bytes)
        return self._current + nonce + sealed

    def open(self, sealed: bytes, *, tenant_id: UUID, owner: UUID) -> str:
        """The secret. Raises Unsealable."""
        cipher = self._ciphers.get(sealed[:_ID_BYTES])
        if cipher is None:
            raise Unsealable("the secret was sealed with a key that is not in LONGHAUL_SEALING_KEYS")
        nonce, body = sealed[_ID_BYTES : _ID_BYTES + _NONCE_BYTES], sealed[_ID_BYTES + _NONCE_BYTES :]
        try:
            return cipher.decrypt(nonce, body, tenant_id.bytes + owner.bytes).decode()
        except InvalidTag:
            raise Unsealable("the secret was changed, or belongs to somebody else") from None

    def fingerprint(self, secret: str) -> str:
        """A hash by which the same secret is known again, and which nobody without the key can compute."""
        return hashlib.blake2b(secret.encode(), key=self._pepper, digest_size=12).hexdigest()


def create_secret_box(keys: str) -> SecretBox:
    """The box for a comma-separated list of base64 keys, newest first. Raises ValueError."""
    return SecretBox([base64.b64decode(key.strip(), validate=True) for key in keys.split(",")])
