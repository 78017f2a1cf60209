"""Tenants and their API keys: making them, ending them, and finding out whose a key is."""

import asyncio
import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy.exc import IntegrityError

from core.database import Database
from core.ids import new_id
from domain.errors import DatabaseUnavailable, FieldFault, InvalidInput, NotFound, Unauthenticated
from domain.text import single_line, storable
from repositories.rows import AnyRow
from repositories.tenants import TenantRepository

_log = structlog.get_logger(__name__)

_PREFIX_CHARS: Final = 12
_SECRET_BYTES: Final = 32
_KEY: Final = re.compile(r"lh_([a-z0-9]{12})_[A-Za-z0-9_-]{43}")
_ALPHABET: Final = string.ascii_lowercase + string.digits
_LONGEST_NAME: Final = 200
_NO_HASH: Final = bytes(hashlib.sha256().digest_size)
_REFUSED: Final = "the API key is missing, unknown, expired or revoked"

_KEEP_VERIFIED: Final = timedelta(seconds=30)
_TOUCH_EVERY: Final = timedelta(minutes=1)
_MOST_VERIFIED: Final = 10_000


class Scope(StrEnum):
    """What a key may be allowed to do."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    ARTIFACTS_READ = "artifacts:read"
    ARTIFACTS_WRITE = "artifacts:write"
    RECORDS_READ = "records:read"
    RECORDS_WRITE = "records:write"
    FEDERATED_READ = "federated:read"
    FEDERATED_WRITE = "federated:write"
    FEDERATED_PARTICIPATE = "federated:participate"
    PUBLISHING_READ = "publishing:read"
    PUBLISHING_WRITE = "publishing:write"
    WEBHOOKS_MANAGE = "webhooks:manage"
    POLICIES_MANAGE = "policies:manage"


ALL_SCOPES: Final = tuple(Scope)


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key. ``text`` is the key itself: it is shown this once and kept nowhere."""

    id: UUID
    prefix: str
    text: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking, by a verified key, which may expire."""

    tenant_id: UUID
    key_id: UUID
    prefix: str
    scopes: frozenset[str]
    expires_at: datetime | None = None


class TenantService:
    """Use cases on tenants and keys, for operators."""

    def __init__(self, database: Database, *, pepper: str) -> None:
        self._database = database
        self._pepper = pepper.encode()

    async def create_tenant(self, name: str) -> UUID:
        """A new tenant. Raises InvalidInput where the name is taken or not acceptable."""
        tenant_id = new_id()
        name = _checked_name(name)
        try:
            async with self._database.system() as connection:
                await TenantRepository(connection).add(tenant_id=tenant_id, name=name)
        except IntegrityError:
            raise InvalidInput("the name is taken", faults=[FieldFault("/name", "is taken")]) from None
        return tenant_id

    async def find_tenant(self, name: str) -> UUID:
        """The tenant of that name. Raises NotFound."""
        async with self._database.system() as connection:
            found = await TenantRepository(connection).get_by_name_or_none(name)
        if found is None:
            raise NotFound("there is no tenant of that name")
        tenant_id: UUID = found.id
        return tenant_id

    async def limit(self, tenant_id: UUID, *, kind: str, most: int) -> None:
        """Let the tenant have at most ``most`` jobs of a kind running; what runs already goes on."""
        if most < 0:
            raise InvalidInput("the limit is not possible", faults=[FieldFault("/most", "is negative")])
        async with self._database.system() as connection:
            await TenantRepository(connection).set_limit(tenant_id, kind=kind, most=most)

    async def create_key(
        self,
        tenant_id: UUID,
        *,
        name: str,
        scopes: Sequence[str] = ALL_SCOPES,
        expires_at: datetime | None = None,
    ) -> IssuedKey:
        """A new key of the tenant; older ones stay good. Raises InvalidInput and NotFound."""
        unknown = sorted(set(scopes) - set(ALL_SCOPES))
        if unknown or not scopes:
            message = f"is not one of: {', '.join(ALL_SCOPES)}"
            raise InvalidInput("the scopes are not known", faults=[FieldFault("/scopes", message)])
        issued = _issue()
        try:
            async with self._database.system() as connection:
                await TenantRepository(connection).add_key(
                    key_id=issued.id,
                    tenant_id=tenant_id,
                    prefix=issued.prefix,
                    key_hash=_digest(self._pepper, issued.text),
                    name=_checked_name(name),
                    scopes=[str(scope) for scope in scopes],
                    expires_at=expires_at,
                )
        except IntegrityError:
            raise NotFound("there is no such tenant") from None
        return issued

    async def list_keys(self, tenant_id: UUID) -> Sequence[AnyRow]:
        """All keys of a tenant, ended ones too, without anything that could be used as a key."""
        async with self._database.system() as connection:
            return await TenantRepository(connection).get_keys(tenant_id)

    async def revoke_key(self, prefix: str) -> None:
        """End a key; every API process refuses it, and ends its streams, within a second.

        Raises NotFound where there is no live one.
        """
        async with self._database.system() as connection:
            ended = await TenantRepository(connection).revoke_key(prefix)
        if not ended:
            raise NotFound("there is no live key with that prefix")


def _checked_name(name: str) -> str:
    try:
        name = single_line(storable(name)).strip()
    except ValueError as fault:
        raise InvalidInput("the name is not acceptable", faults=[FieldFault("/name", str(fault))]) from None
    if not 0 < len(name) <= _LONGEST_NAME:
        message = f"has between 1 and {_LONGEST_NAME} characters"
        raise InvalidInput("the name is not acceptable", faults=[FieldFault("/name", message)])
    return name


def _issue() -> IssuedKey:
    prefix = "".join(secrets.choice(_ALPHABET) for _ in range(_PREFIX_CHARS))
    return IssuedKey(id=new_id(), prefix=prefix, text=f"lh_{prefix}_{secrets.token_urlsafe(_SECRET_BYTES)}")


def _digest(pepper: bytes, key: str) -> bytes:
    # A fast hash is right here: a key has 256 random bits, so there is nothing to guess.
    return hmac.digest(pepper, key.encode(), "sha256")


@dataclass(frozen=True, slots=True)
class _Verified:
    digest: bytes
    caller: Caller
    until: datetime


class Authenticator:
    """Finds the caller behind a key, from memory where that is safe.

    ``is_told`` says whether this process hears of revoked keys at this moment; while it does not, every key is looked
    up afresh.
    """

    def __init__(self, database: Database, *, pepper: str, is_told: Callable[[], bool]) -> None:
        self._database = database
        self._pepper = pepper.encode()
        self._is_told = is_told
        self._verified: dict[str, _Verified] = {}
        self._epoch = 0
        self._touched: dict[UUID, datetime] = {}
        self._touches: set[asyncio.Task[None]] = set()

    async def authenticate(self, key: str) -> Caller:
        """Whose key this is. Raises Unauthenticated, with the same words whatever is wrong."""
        shape = _KEY.fullmatch(key)
        if shape is None:
            raise Unauthenticated(_REFUSED)
        prefix, digest = shape.group(1), _digest(self._pepper, key)
        known = self._verified.get(prefix) if self._is_told() else None
        if known is None or known.until <= datetime.now(UTC):
            known = await self._look_up(prefix, digest)
        elif not hmac.compare_digest(known.digest, digest):
            raise Unauthenticated(_REFUSED)
        self._touch(known.caller.key_id)
        return known.caller

    async def confirm(self, prefix: str) -> None:
        """For answers that take long: a key that was good is good still. Raises Unauthenticated where it is not."""
        known = self._verified.get(prefix) if self._is_told() else None
        if known is None or known.until <= datetime.now(UTC):
            await self._look_up(prefix, None)

    def forget(self, prefix: str) -> None:
        """A key has changed."""
        self._epoch += 1
        self._verified.pop(prefix, None)

    def forget_all(self) -> None:
        """Any key may have changed."""
        self._epoch += 1
        self._verified.clear()

    async def close(self) -> None:
        """Wait for what is still being written down."""
        await asyncio.gather(*self._touches)

    async def _look_up(self, prefix: str, digest: bytes | None) -> _Verified:
        """The key with that prefix, if it is live and has this digest; None: its digest was compared before."""
        epoch, told = self._epoch, self._is_told()
        async with self._database.system() as connection:
            row = await TenantRepository(connection).get_live_key_or_none(prefix)
        # Compared also where there is no such key, so that time does not tell which prefixes exist.
        kept = _NO_HASH if row is None else bytes(row.key_hash)
        same = hmac.compare_digest(kept, kept if digest is None else digest)
        if row is None or not same:
            raise Unauthenticated(_REFUSED)
        until = datetime.now(UTC) + _KEEP_VERIFIED
        if row.expires_at is not None:
            until = min(until, row.expires_at)
        caller = Caller(row.tenant_id, row.id, prefix, frozenset(row.scopes), row.expires_at)
        found = _Verified(digest=kept, caller=caller, until=until)
        # A revocation that came in while we were asking would otherwise be forgotten again right here.
        if told and epoch == self._epoch:
            if len(self._verified) >= _MOST_VERIFIED:
                self._verified.clear()
            self._verified[prefix] = found
        return found

    def _touch(self, key_id: UUID) -> None:
        now = datetime.now(UTC)
        last = self._touched.get(key_id)
        if last is not None and now - last < _TOUCH_EVERY:
            return
        if len(self._touched) >= _MOST_VERIFIED:
            self._touched.clear()
        self._touched[key_id] = now
        task = asyncio.create_task(self._write_touch(key_id), name="touch-key")
        self._touches.add(task)
        task.add_done_callback(self._touches.discard)

    async def _write_touch(self, key_id: UUID) -> None:
        try:
            async with self._database.system() as connection:
                await TenantRepository(connection).touch_key(key_id)
        except DatabaseUnavailable as fault:
            _log.info("key.touch_missed", key_id=str(key_id), fault=fault.detail)
