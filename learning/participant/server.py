"""The HTTP API as a participant sees it: one method a call, every answer turned into a value or an error."""

import base64
import hashlib
import os
from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

import httpx
from pydantic import ValidationError

from domain.federated_protocol import (
    LEASE_TOKEN_HEADER,
    Answer,
    Enrolment,
    EnrolmentRequest,
    Heartbeat,
    Lease,
    LeaseRequest,
    Receipt,
)
from learning.participant.outbox import Parcel, sync_folder

_BASE: Final = "/api/v1/federated"
_RETRYABLE: Final = frozenset({408, 425, 429})
_CHUNK_BYTES: Final = 1_048_576
_MOST_RETRY_SECONDS: Final = 3_600.0
_A = TypeVar("_A", bound=Answer)


class TryLater(Exception):
    """Nobody knows whether it worked, or the server asks to wait; every call here may be repeated."""

    def __init__(self, detail: str, after_seconds: float | None = None) -> None:
        super().__init__(detail)
        self.after_seconds = after_seconds


class Refused(Exception):
    """The server understood and said no; the same call will not be answered otherwise."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status


class NothingToDo(Exception):
    """There is no lease now; ask again after so many seconds."""

    def __init__(self, after_seconds: float) -> None:
        super().__init__(f"no lease for {after_seconds:.0f} s")
        self.after_seconds = after_seconds


class Server:
    """A connection to the server. Raises :class:`TryLater` and :class:`Refused` from every method."""

    def __init__(self, url: str, *, timeout_seconds: float = 30.0) -> None:
        self._http = httpx.Client(base_url=url.rstrip("/") + _BASE, timeout=timeout_seconds)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def enrol(self, tenant_key: str, request: EnrolmentRequest) -> Enrolment:
        """Become a participant."""
        body = request.model_dump(mode="json")
        return _parse(Enrolment, self._send("POST", "/participants", _bearer(tenant_key), json=body))

    def lease(self, key: str, request: LeaseRequest) -> Lease:
        """Ask for a part in a round. Raises :class:`NothingToDo` as well."""
        answer = self._send("POST", "/leases", _bearer(key), json=request.model_dump(mode="json"))
        if answer.status_code == HTTPStatus.NO_CONTENT:
            raise NothingToDo(_retry_after(answer) or 60.0)
        return _parse(Lease, answer)

    def heartbeat(self, key: str, lease: Lease) -> Heartbeat:
        """Say that training goes on."""
        return _parse(Heartbeat, self._send("POST", f"/leases/{lease.id}/heartbeat", _lease_headers(key, lease.token)))

    def fetch_weights(self, key: str, sha256: str, folder: Path) -> bytes:
        """The weights ``sha256``: those in ``folder``, or fetched into it, from where the last attempt broke off."""
        whole, part = folder / f"{sha256}.safetensors", folder / f"{sha256}.part"
        if not whole.exists():
            self._download(key, sha256, part)
            if _digest(part) != sha256:
                part.unlink()
                raise TryLater("the weights arrived damaged")
            part.replace(whole)
            sync_folder(folder)
        return whole.read_bytes()

    def _download(self, key: str, sha256: str, part: Path) -> None:
        have = part.stat().st_size if part.exists() else 0
        headers = _bearer(key) | ({"Range": f"bytes={have}-"} if have else {})
        try:
            with self._http.stream("GET", f"/blobs/{sha256}", headers=headers) as answer:
                if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return  # everything is here already; the digest tells
                if answer.is_error:
                    answer.read()
                _check(answer)
                resumed = answer.status_code == HTTPStatus.PARTIAL_CONTENT
                with part.open("ab" if resumed else "wb") as file:
                    for chunk in answer.iter_bytes():  # as they come: what has arrived is kept
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
        except httpx.TransportError as fault:
            raise TryLater(f"the weights did not arrive: {type(fault).__name__}") from fault

    def upload(self, key: str, parcel: Parcel, weights: Path) -> Receipt:
        """Hand in an update; again with the same bytes as often as need be. The receipt is for these very bytes."""
        digest = base64.b64encode(bytes.fromhex(parcel.sha256)).decode()
        headers = _lease_headers(key, parcel.lease_token) | {
            "Content-Digest": f"sha-256=:{digest}:",
            "Content-Type": "application/octet-stream",
            "Content-Length": str(parcel.size_bytes),
        }
        answer = self._send("PUT", f"/updates/{parcel.lease_id}", headers, content=_chunks(weights))
        return _acknowledged(_parse(Receipt, answer), parcel)

    def receipt(self, key: str, lease_id: UUID) -> Receipt:
        """The receipt for an update that was handed in before."""
        return _parse(Receipt, self._send("GET", f"/updates/{lease_id}", _bearer(key)))

    def _send(self, method: str, path: str, headers: dict[str, str], **body: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, headers=headers, **body)
        except httpx.TransportError as fault:
            raise TryLater(f"{method} did not come through: {type(fault).__name__}") from fault
        _check(answer)
        return answer


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _lease_headers(key: str, token: str) -> dict[str, str]:
    return _bearer(key) | {LEASE_TOKEN_HEADER: token}


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(answer: httpx.Response) -> None:
    """Raise what a status means."""
    status = answer.status_code
    if status in _RETRYABLE or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise TryLater(f"the server answered {status}", _retry_after(answer))
    if not answer.is_success:
        raise Refused(status, _detail(answer))


def _detail(answer: httpx.Response) -> str:
    """What a problem document says, or nothing."""
    try:
        problem = answer.json()
    except ValueError:
        return ""
    if not isinstance(problem, dict):
        return ""
    return " ".join(str(problem[field])[:500] for field in ("code", "detail") if field in problem)


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds that the server asks to wait, an hour at most; none where it does not say."""
    text = answer.headers.get("Retry-After", "")
    if text.isdigit():
        return min(float(text), _MOST_RETRY_SECONDS)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return min(max(0.0, (moment - datetime.now(moment.tzinfo)).total_seconds()), _MOST_RETRY_SECONDS)


def _parse(model: type[_A], answer: httpx.Response) -> _A:
    try:
        return model.model_validate_json(answer.content)
    except ValidationError as fault:
        raise TryLater("the server answered something else") from fault


def _acknowledged(receipt: Receipt, parcel: Parcel) -> Receipt:
    if receipt.sha256 != parcel.sha256:
        raise Refused(HTTPStatus.CONFLICT, "the receipt is for other bytes")
    return receipt
