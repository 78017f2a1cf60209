"""Posting to addresses of tenants: resolved once, checked, and connected to at the very address that was checked."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlunsplit

import httpx

from domain.webhooks import Address, AddressRefused, Posted, check_address, check_url, literal_address

Resolver = Callable[[str, int], Awaitable[Sequence[Address]]]
"""All addresses of a host. Raises OSError."""


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
        return await self._call("POST", url, headers={"content-type": "application/json", **headers}, body=body)

    async def fault(self, url: str) -> str | None:
        """What is wrong with a link; None where something answers, be it a redirect."""
        seen = await self._call("GET", url, headers={}, body=None)
        if seen.error is not None:
            return seen.error
        return f"answers {seen.status}" if seen.status in {404, 410} else None

    @asynccontextmanager
    async def stream(self, url: str) -> AsyncIterator[httpx.Response]:
        """The answer to a GET, its body still to be read; a redirect is an answer like any other.

        Raises AddressRefused, OSError where the name cannot be resolved, ValueError and what httpx raises. How long
        reading may take is for the caller to say.
        """
        async with asyncio.timeout(self._timeout):
            request = await self._request("GET", url, headers={}, body=None)
            answer = await self._client.send(request, stream=True, follow_redirects=False)
        try:
            yield answer
        finally:
            await answer.aclose()

    async def _call(self, method: str, url: str, *, headers: dict[str, str], body: bytes | None) -> Posted:
        try:
            async with asyncio.timeout(self._timeout):
                request = await self._request(method, url, headers=headers, body=body)
                answer = await self._client.send(request, stream=True, follow_redirects=False)
                try:
                    return Posted(status=answer.status_code)
                finally:
                    await answer.aclose()
        except AddressRefused as fault:
            return Posted(error=f"the address {fault}")
        except TimeoutError:
            return Posted(error="no answer in time")
        except OSError:
            return Posted(error="the name cannot be resolved")
        except (httpx.HTTPError, httpx.InvalidURL) as fault:
            return Posted(error=type(fault).__name__)
        except ValueError:
            # Whatever a spelling brings to light in the parsers and codecs below, it is the address that is at fault.
            return Posted(error="the address makes no sense")

    async def _request(self, method: str, url: str, *, headers: dict[str, str], body: bytes | None) -> httpx.Request:
        parts = check_url(url, exempt=self._exempt)
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
