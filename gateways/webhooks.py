"""Calls to addresses of strangers: resolved once, checked, and connected to at the very address that was checked."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import SplitResult, urlunsplit

import httpx

from domain.errors import Outcome, ProviderError
from domain.webhooks import Address, AddressRefused, Posted, check_address, check_link, check_url, literal_address

Resolver = Callable[[str, int], Awaitable[Sequence[Address]]]
"""All addresses of a host. Raises OSError."""

# Whatever a spelling brings to light in the parsers and codecs below is a ValueError: the address is at fault.
_FAULTS: Final = (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL)
_NO_SUCH_NAME: Final = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA") if hasattr(socket, name)
)


async def resolve(host: str, port: int) -> Sequence[Address]:
    """Ask the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [literal_address(str(sockaddr[0])) for *_, sockaddr in found]
    return [address for address in addresses if address is not None]


class GuardedClient:
    """An HTTP client for addresses that strangers chose.

    Each call resolves anew, refuses any answer that is not of the public internet, and connects to the address that was
    checked with the name kept for TLS and the Host header, so that a name that changes meanwhile leads nowhere else.
    """

    def __init__(
        self, client: httpx.AsyncClient, *, exempt: Sequence[str] = (), timeout_seconds: float = 20.0,
        resolver: Resolver = resolve,
    ) -> None:  # fmt: skip
        self._client = client
        self._exempt = tuple(exempt)
        self._timeout = timeout_seconds
        self._resolver = resolver

    async def post(self, url: str, *, headers: dict[str, str], body: bytes) -> Posted:
        """Post once. A redirect is an answer like any other; the caller counts it as a failure."""
        named = {"content-type": "application/json", **headers}
        try:
            parts = check_url(url, exempt=self._exempt)
            return Posted(status=await self._status("POST", parts, headers=named, body=body))
        except _FAULTS as fault:
            return Posted(error=_in_words(fault))

    async def fault(self, url: str) -> str | None:
        """What is wrong with a link, be it http or https, on whatever port; None where something answers.

        Only what is certain is a fault: an address that nothing may be asked at, a name that does not exist, 404 and
        410. Raises ProviderError, to be tried again, where nothing answered: that may have been our own doing.
        """
        try:
            parts = check_link(url, exempt=self._exempt)
            status = await self._status("GET", parts, headers={}, body=None)
        except _FAULTS as fault:
            if _is_certain(fault):
                return _in_words(fault)
            raise ProviderError(
                _in_words(fault), code="E.ORDER.LINKS", outcome=Outcome.UNKNOWN, retryable=True
            ) from None
        return f"answers {status}" if status in {404, 410} else None

    @asynccontextmanager
    async def stream(self, url: str) -> AsyncIterator[httpx.Response]:
        """The answer to a GET, its body still to be read; a redirect is an answer like any other.

        Raises AddressRefused, OSError where the name cannot be resolved, ValueError and what httpx raises. How long
        reading may take is for the caller to say.
        """
        async with asyncio.timeout(self._timeout):
            parts = check_url(url, exempt=self._exempt)
            request = await self._request("GET", parts, headers={}, body=None)
            answer = await self._client.send(request, stream=True, follow_redirects=False)
        try:
            yield answer
        finally:
            await answer.aclose()

    async def _status(self, method: str, parts: SplitResult, *, headers: dict[str, str], body: bytes | None) -> int:
        """What is answered to one call. Raises one of _FAULTS."""
        async with asyncio.timeout(self._timeout):
            request = await self._request(method, parts, headers=headers, body=body)
            answer = await self._client.send(request, stream=True, follow_redirects=False)
            try:
                return answer.status_code
            finally:
                await answer.aclose()

    async def _request(
        self, method: str, parts: SplitResult, *, headers: dict[str, str], body: bytes | None
    ) -> httpx.Request:
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        where = httpx.URL(urlunsplit(parts))
        extensions = {}
        if f"{host}:{port}" not in self._exempt:
            where = where.copy_with(host=str(await self._checked(host, port)))
            extensions = {"sni_hostname": host}
        named = {"host": parts.netloc, **headers}
        return self._client.build_request(method, where, headers=named, content=body, extensions=extensions)

    async def _checked(self, host: str, port: int) -> Address:
        literal = literal_address(host)
        addresses = [literal] if literal is not None else await self._resolver(host, port)
        if not addresses:
            raise AddressRefused("has no address")
        for address in addresses:
            check_address(address)
        return addresses[0]


def _is_certain(fault: Exception) -> bool:
    """Whether it is the address that is at fault, and not perhaps a network, ours or theirs, that will be back."""
    if isinstance(fault, socket.gaierror):
        return fault.errno in _NO_SUCH_NAME
    return isinstance(fault, ValueError | httpx.InvalidURL)


def _in_words(fault: Exception) -> str:
    if isinstance(fault, AddressRefused):
        return f"the address {fault}"
    if isinstance(fault, TimeoutError):
        return "no answer in time"
    if isinstance(fault, OSError):
        return "the name cannot be resolved"
    if isinstance(fault, httpx.HTTPError | httpx.InvalidURL):
        return type(fault).__name__
    return "the address makes no sense"
