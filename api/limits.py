"""How many requests a key may make, counted in a store that replicas can share."""

import time
from datetime import timedelta
from math import ceil

import structlog
from limits import parse
from limits.aio.storage import Storage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import StorageError
from limits.storage import storage_from_string

from api.asgi import RawHeaders
from domain.errors import RateLimited

_log = structlog.get_logger(__name__)


class RateLimiter:
    """One policy for every key, and what the headers say about it."""

    def __init__(self, policy: str, *, storage_url: str) -> None:
        storage = storage_from_string(storage_url, wrap_exceptions=True)
        if not isinstance(storage, Storage):
            raise ValueError("LONGHAUL_RATE_LIMIT_STORAGE_URL must begin with async+")  # noqa: TRY004 - a setting
        self._item = parse(policy)
        self._window = FixedWindowRateLimiter(storage)
        name = f'"default";q={self._item.amount};w={self._item.get_expiry()}'
        self._policy = (b"ratelimit-policy", name.encode())

    async def hit(self, who: str) -> RawHeaders:
        """Count one request; the headers that say how many are left. Raises RateLimited.

        Where the store is away nobody is held back: being open matters more than being exact.
        """
        try:
            allowed = await self._window.hit(self._item, who)
            reset, left = await self._window.get_window_stats(self._item, who)
        except StorageError as fault:
            _log.warning("rate_limit.storage_away", fault=type(fault.storage_error).__name__)
            return []
        seconds = max(ceil(reset - time.time()), 1)
        headers = self._headers(left, seconds)
        if not allowed:
            raise Exhausted(headers, retry_after=timedelta(seconds=seconds))
        return headers

    def _headers(self, left: int, seconds: int) -> RawHeaders:
        return [self._policy, (b"ratelimit", f'"default";r={left};t={seconds}'.encode())]


class Exhausted(RateLimited):
    """Too many requests; knows the headers that say so."""

    def __init__(self, headers: RawHeaders, *, retry_after: timedelta) -> None:
        super().__init__("too many requests with this key; see Retry-After", retry_after=retry_after)
        self.headers = headers
