"""Outgoing webhooks as Standard Webhooks 1.0.0 describes them: signatures, the schedule of tries, addresses."""

import base64
import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Protocol
from urllib.parse import SplitResult, urlsplit

from pydantic_core import Url

from domain.model import Frozen

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - says what a secret looks like
_SECRET_BYTES: Final = 32
KEEP_PREVIOUS: Final = timedelta(hours=24)
"""How long the old secret signs beside the new one."""

SCHEDULE: Final = tuple(
    timedelta(seconds=seconds)
    for seconds in (0, 5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
)
"""The pause before each try; after the last one a delivery has failed."""

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_UNICAST: Final = ipaddress.ip_network("2000::/3")
# What some version of Python still takes for public: documentation (RFC 9637) and anycast of 6to4 relays (RFC 7526).
_NOT_PUBLIC: Final = (ipaddress.ip_network("3fff::/20"), ipaddress.ip_network("192.88.99.0/24"))
_LONGEST_NAME: Final = 253
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_BEYOND_ASCII: Final = re.compile(r"[a-z0-9._\-\u0080-\U0010ffff]+")
_INNER_NAMES: Final = ("localhost", "local", "internal", "localdomain", "home.arpa", "intranet", "lan")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class AddressRefused(ValueError):
    """Nothing may be sent to this address; the message says why."""


def new_secret() -> str:
    """A fresh signing secret, ``whsec_`` and base64."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def sign(secret: str, *, message_id: str, timestamp: int, body: bytes) -> str:
    """One signature, ``v1,`` and base64, over id, time and body."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def signed_headers(keys: Sequence[str], *, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers; while a secret is rotated both sign."""
    signatures = [sign(key, message_id=message_id, timestamp=timestamp, body=body) for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


def hex_signature_is_good(body: bytes, signature: str, *, secret: str) -> bool:
    """Whether a provider signed these very bytes: hex HMAC-SHA256 of the raw body, compared in constant time."""
    expected = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), signature.strip().lower().encode())


def pause_before(tries: int) -> timedelta | None:
    """How long to wait after ``tries`` tries; None where there is to be no other."""
    return SCHEDULE[tries] if tries < len(SCHEDULE) else None


# --- addresses --------------------------------------------------------------------------------------


def check_url(url: str, *, exempt: Sequence[str] = ()) -> SplitResult:
    """The parts of an address that may be sent to, as far as its spelling tells. Raises AddressRefused.

    The host comes back as it goes over the wire: in ASCII, however it was written, and without a dot at the end.
    ``exempt`` names ``host:port`` pairs that are taken as they are, for development.
    """
    parts, host, port = _parts_of(url)
    if f"{host}:{port}" in exempt:
        return parts
    if parts.scheme != "https":
        raise AddressRefused("is not an https address")
    if port not in {443, 8443}:
        raise AddressRefused("has a port other than 443 and 8443")
    _check_host(host)
    return parts


def check_link(url: str, *, exempt: Sequence[str] = ()) -> SplitResult:
    """The same for an address that is only looked at, because readers are to follow it. Raises AddressRefused.

    It may be http, and have any port: nothing of ours is sent there. Where it leads has to be as public.
    """
    parts, host, port = _parts_of(url)
    if f"{host}:{port}" not in exempt:
        _check_host(host)
    return parts


def _parts_of(url: str) -> tuple[SplitResult, str, int]:
    """An address of the web in parts, with its host and port as they go over the wire. Raises AddressRefused."""
    try:
        parts = urlsplit(url)
        port = (443 if parts.scheme == "https" else 80) if parts.port is None else parts.port
    except ValueError:
        raise AddressRefused("is not an address") from None
    host = _wire_host((parts.hostname or "").rstrip("."))
    if parts.scheme not in {"http", "https"} or not host:
        raise AddressRefused("is not an https address")
    if port == 0:
        raise AddressRefused("has a port that nobody listens on")
    if parts.username is not None or parts.password is not None:
        raise AddressRefused("carries a user name")
    return parts._replace(netloc=_netloc(host, parts.port)), host, port


def _wire_host(host: str) -> str:
    """The host in ASCII. Raises AddressRefused where it is neither a name nor an address."""
    if not host or literal_address(host) is not None:
        return host.partition("%")[0]
    if not host.isascii():
        host = _in_ascii(host).rstrip(".")
    if len(host) > _LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise AddressRefused("has a host that is not a name")
    return host


def _in_ascii(host: str) -> str:
    try:
        return (_BEYOND_ASCII.fullmatch(host) and Url(f"https://{host}/").host) or ""
    except ValueError:
        return ""


def _netloc(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"


def _check_host(host: str) -> None:
    if any(host == name or host.endswith(f".{name}") for name in _INNER_NAMES):
        raise AddressRefused("is a name inside a network")
    literal = literal_address(host)
    if literal is not None:
        check_address(literal)
    elif "." not in host:
        raise AddressRefused("is a name inside a network")
    elif host.rpartition(".")[2].lower().removeprefix("0x").isalnum() and host.rpartition(".")[2][0].isdigit():
        # Decimal, octal and hexadecimal spellings that a resolver may take for an address.
        raise AddressRefused("is a number in disguise")


def literal_address(host: str) -> Address | None:
    """The address that a host spells out, if it does."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def check_address(address: Address) -> None:
    """Raise AddressRefused unless an address, and whatever it wraps, is one of the public internet."""
    for one in _unwrapped(address):
        private = one.is_private or one.is_loopback or one.is_link_local or one.is_unspecified
        if private or not one.is_global or one.is_multicast or one.is_reserved or _is_outside(one):
            raise AddressRefused("is not an address of the public internet")


def _is_outside(address: Address) -> bool:
    """Whether an address lies where nothing public is, whatever the tables of this Python say."""
    is_special = any(address in network for network in _NOT_PUBLIC if network.version == address.version)
    return is_special or (isinstance(address, ipaddress.IPv6Address) and address not in _UNICAST)


def _unwrapped(address: Address) -> Sequence[Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    found: list[Address] = [address]
    low = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64:
        return [low]
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found += address.teredo
    return found


# --- the port ---------------------------------------------------------------------------------------


class Posted(Frozen):
    """What came of one try: a status, or in a few words why there is none."""

    status: int | None = None
    error: str | None = None

    @property
    def delivered(self) -> bool:
        """Whether the receiver has it. A redirect is a refusal."""
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004 - success

    @property
    def gone(self) -> bool:
        """Whether the receiver asks never to be called again."""
        return self.status == 410  # noqa: PLR2004 - Gone


class WebhookPoster(Protocol):
    """Whoever can post to an address of a tenant, after looking where it leads."""

    async def post(self, url: str, *, headers: dict[str, str], body: bytes) -> Posted:
        """Post once, to the very address that was checked, and follow no redirect. Never raises."""
        ...
