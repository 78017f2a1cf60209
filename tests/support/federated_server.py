"""A server that speaks the participants' half of the HTTP API over a socket, and misbehaves when told to."""

import base64
import hashlib
import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID, uuid4

from domain.federated_protocol import LEASE_TOKEN_HEADER

TENANT_KEY = "tenant-key"
PARTICIPANT_KEY = "participant-key"


@dataclass
class StandIn:
    """What the server offers, what it was told to do wrong, and what happened."""

    base: bytes
    family: str = "digits"
    plan: dict[str, Any] = field(default_factory=dict)
    rounds: int = 1
    """How many leases it gives before it has nothing to do."""
    place: UUID | None = None
    """The one lease that it offers again and again; a new one each time where there is none."""
    faults: dict[str, deque[Any]] = field(default_factory=dict)
    """By name of the call: a status, ``(status, headers)``, or ``cut`` for each of the next calls."""
    calls: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    updates: dict[UUID, bytes] = field(default_factory=dict)
    ranges: list[str] = field(default_factory=list)
    enrolled: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    @property
    def base_sha256(self) -> str:
        return hashlib.sha256(self.base).hexdigest()

    def fail(self, call: str, *faults: Any) -> None:
        """Let the next calls of this name go wrong."""
        self.faults.setdefault(call, deque()).extend(faults)

    def count(self, call: str) -> int:
        """How often it was called."""
        return self.calls.count(call)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    standin: StandIn
    mute = False

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        parts = self.path.removeprefix("/api/v1/federated/").split("/")
        if parts[0] == "blobs":
            self._call("blob", lambda: self._blob(parts[1]))
        else:
            self._call("receipt", lambda: self._receipt(UUID(parts[1])))

    def do_POST(self) -> None:
        parts = self.path.removeprefix("/api/v1/federated/").split("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.standin.bodies.append(body)
        if parts == ["participants"]:
            self._call("enrol", lambda: self._enrol(json.loads(body)), key=TENANT_KEY)
        elif parts == ["leases"]:
            self._call("lease", self._lease)
        else:
            self._call("heartbeat", lambda: self._answer(200, {"deadline": _later().isoformat()}))

    def do_PUT(self) -> None:
        lease_id = UUID(self.path.rpartition("/")[2])
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.standin.bodies.append(body)
        self._call("upload", lambda: self._update(lease_id, body))

    def _call(self, name: str, work: Any, key: str = PARTICIPANT_KEY) -> None:
        with self.standin.lock:
            self.standin.calls.append(name)
            faults = self.standin.faults.get(name)
            fault = faults.popleft() if faults else None
        if self.headers.get("Authorization") != f"Bearer {key}":
            self._answer(401, {"code": "E.AUTH.INVALID", "detail": "the key is not known"})
        elif fault == "cut":
            self.close_connection = True
        elif fault == "half":
            self._half()
        elif fault == "after":
            self.mute = True  # done, but the answer is lost on the way
            work()
        elif isinstance(fault, tuple):
            self._answer(fault[0], {"code": "E.TEST", "detail": "told to"}, fault[1])
        elif fault is not None:
            self._answer(fault, {"code": "E.TEST", "detail": "told to"})
        else:
            work()

    def _half(self) -> None:
        """Begin with the weights and break off in the middle."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.standin.base)))
        self.end_headers()
        self.wfile.write(self.standin.base[: len(self.standin.base) // 2])
        self.close_connection = True

    def _enrol(self, body: dict[str, Any]) -> None:
        self.standin.enrolled.append(body)
        self._answer(201, {"id": str(uuid4()), "key": PARTICIPANT_KEY, "unknown_field": 1})

    def _lease(self) -> None:
        standin = self.standin
        with standin.lock:
            left = standin.rounds
            standin.rounds -= 1
        if left <= 0:
            self._answer(204, None, {"Retry-After": "3600"})
            return
        self._answer(
            200,
            {
                "id": str(standin.place or uuid4()), "token": "lease-token",
                "model": standin.family, "family": standin.family, "round": left,
                "base_sha256": standin.base_sha256, "deadline": _later().isoformat(), "plan": standin.plan,
            },
        )  # fmt: skip

    def _blob(self, sha256: str) -> None:
        if sha256 != self.standin.base_sha256:
            self._answer(404, {"code": "E.NOT_FOUND", "detail": "no such blob"})
            return
        span = self.headers.get("Range", "")
        self.standin.ranges.append(span)
        begin = int(span.removeprefix("bytes=").removesuffix("-") or 0)
        if begin >= len(self.standin.base):
            self._answer(416, {"code": "E.RANGE", "detail": "there is no more"})
            return
        self._answer(206 if span else 200, self.standin.base[begin:])

    def _update(self, lease_id: UUID, body: bytes) -> None:
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        if self.headers["Content-Digest"] != f"sha-256=:{digest}:" or self.headers[LEASE_TOKEN_HEADER] != "lease-token":
            self._answer(422, {"code": "E.FEDERATED.UPDATE", "detail": "digest or token"})
            return
        known = self.standin.updates.setdefault(lease_id, body)
        if known != body:
            self._answer(409, {"code": "E.FEDERATED.CONFLICT", "detail": "another update was accepted"})
            return
        self._receipt(lease_id)

    def _receipt(self, lease_id: UUID) -> None:
        body = self.standin.updates.get(lease_id)
        if body is None:
            self._answer(404, {"code": "E.NOT_FOUND", "detail": "no such update"})
        else:
            self._answer(201, {"id": str(lease_id), "sha256": hashlib.sha256(body).hexdigest(), "status": "accepted"})

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        if self.mute:
            self.close_connection = True
            return
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _later() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=5)


@contextmanager
def federated_server(standin: StandIn) -> Iterator[StandIn]:
    """The server, running inside the block on a free port."""
    handler = type("Handler", (_Handler,), {"standin": standin})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    standin.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield standin
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
