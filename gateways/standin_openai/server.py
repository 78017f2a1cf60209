"""The stand-in as a server: sockets, the work that outlives its caller, the accounts, and the control API."""

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TextIO

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from domain.model import Frozen
from gateways.standin_openai import wire
from gateways.standin_openai.moderation import moderation, read_moderation
from gateways.standin_openai.script import (
    BEFORE_WORK,
    RULES,
    Action,
    Delay,
    Hang,
    MalformedJson,
    Rule,
    Script,
    SlowBytes,
    Status429,
)
from gateways.unruly import Reset, Silence, UnrulyProtocol, UnrulyServer, transport_of

MODELS: Final = ("gpt-x", "gpt-x-mini", "gpt-x-2026-01-01")
_DEFAULT_PAGE: Final = 20
_MAX_PAGE: Final = 100
_CONTROL_PREFIX: Final = "/control"


# --- accounts ---------------------------------------------------------------------------------------


class CallRecord(Frozen):
    """One call of ``POST /v1/chat/completions`` as the stand-in saw it."""

    number: int
    at: datetime
    request_id: str
    op: str | None = None
    model: str | None = None
    schema_name: str | None = None
    action: str | None = None
    """The fault that the script chose, if any."""
    outcome: str
    """``completed``, the kind of the fault, or the status for a request that was refused by itself."""
    billed: bool = False
    stored: bool = False
    completion_id: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    concurrency: int = 0
    """How many calls were being worked on when this one began, itself included; 0 where no work was begun."""
    client_gone: bool = False
    """Whether the caller had left before the work was done."""


class _Stored(Frozen):
    """A completion kept under ``store: true``."""

    requested_model: str
    completion: dict[str, Any]
    messages: list[dict[str, Any]]


class _State:
    """Everything that a reset forgets; work begun before a reset still reports to the state it began under."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.calls: list[CallRecord] = []
        self.requests: list[dict[str, Any]] = []
        self.stored: dict[str, _Stored] = {}
        self.moderations: list[tuple[str, ...]] = []
        self.arrived = 0
        self.in_flight = 0
        self.high_water = 0

    def stats(self) -> dict[str, Any]:
        """The sums over all calls; ``paid_more_than_once`` names the ops that a careful caller keeps empty."""
        billed = [call for call in self.calls if call.billed]
        paid = Counter(call.op for call in billed if call.op is not None)
        return {
            "arrived": self.arrived,
            "calls": len(self.calls),
            "billed": len(billed),
            "stored": len(self.stored),
            "moderations": len(self.moderations),
            "in_flight": self.in_flight,
            "concurrency_high_water": self.high_water,
            "outcomes": dict(Counter(call.outcome for call in self.calls)),
            "paid_more_than_once": {op: times for op, times in paid.items() if times > 1},
            "prompt_tokens": sum(call.prompt_tokens for call in billed),
            "cached_tokens": sum(call.cached_tokens for call in billed),
            "completion_tokens": sum(call.completion_tokens for call in billed),
        }


# --- sockets that misbehave -------------------------------------------------------------------------


async def _dribble(body: bytes, action: SlowBytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), action.size):
        yield body[start : start + action.size]
        await asyncio.sleep(action.interval)


# --- the stand-in -----------------------------------------------------------------------------------


class StandInOpenAI:
    """The stand-in as an asynchronous context manager; inside it listens at ``base_url``.

    A call takes ``delay`` seconds of work, from its arrival on. Work once begun is finished, billed and stored whether
    or not the caller waits. ``log`` receives one JSON line per call, flushed before the answer goes out. ``snapshot``
    is the date that the answer adds to an undated model name; None leaves names alone.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        delay: float = 0.0,
        faults: Iterable[Rule] = (),
        log: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        snapshot: str | None = "2026-01-01",
    ) -> None:
        self._seed = seed
        self._delay = delay
        self._faults = tuple(faults)
        self._log_path = log
        self._log: TextIO | None = None
        self._address = (host, port)
        self._snapshot = snapshot
        self._state = _State(Script(self._faults, seed=seed))
        self._changed = asyncio.Event()
        self._work: set[asyncio.Task[Response]] = set()
        self._server: UnrulyServer | None = None
        self._serving: asyncio.Task[None] | None = None

    # --- life ---

    async def __aenter__(self) -> Self:
        self._log = _open_log(self._log_path)
        listener = socket.create_server(self._address, backlog=2048)
        self._address = listener.getsockname()[:2]
        config = uvicorn.Config(
            self._app(),
            http=UnrulyProtocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            timeout_keep_alive=75,  # longer than clients keep idle connections, so that no fault is unscripted
            timeout_graceful_shutdown=2,
        )
        self._server = UnrulyServer(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait({up, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        assert self._serving is not None
        self._server.should_exit = True
        for connection in tuple(self._server.server_state.connections):
            connection.transport.abort()
        for task in tuple(self._work):
            task.cancel()
        await self._serving
        if self._log is not None:
            self._log.close()

    @property
    def origin(self) -> str:
        """``http://host:port``, under which the control API lives."""
        host, port = self._address
        return f"http://{host}:{port}"

    @property
    def base_url(self) -> str:
        """What a client of the vendor takes for its base URL."""
        return f"{self.origin}/v1"

    # --- control, in process ---

    @property
    def calls(self) -> tuple[CallRecord, ...]:
        """Every call decided so far, in the order of deciding."""
        return tuple(self._state.calls)

    @property
    def requests(self) -> tuple[dict[str, Any], ...]:
        """The bodies of all completions asked for that were JSON objects, as sent."""
        return tuple(self._state.requests)

    @property
    def moderations(self) -> tuple[tuple[str, ...], ...]:
        """The texts of every call of ``POST /v1/moderations`` that arrived, in order."""
        return tuple(self._state.moderations)

    @property
    def stats(self) -> dict[str, Any]:
        """The same as ``GET /control/stats``."""
        return self._state.stats()

    def play(self, *rules: Rule) -> None:
        """Replace the script; counters start anew, accounts stay."""
        self._state.script = Script(rules, seed=self._seed)

    def reset(self) -> None:
        """Forget calls and completions, and go back to the script of the beginning."""
        self._state = _State(Script(self._faults, seed=self._seed))
        self._notify()

    async def until(self, condition: Callable[[dict[str, Any]], bool], *, within: float = 10.0) -> None:
        """Wait until ``condition`` holds for the stats. Raises TimeoutError."""
        async with asyncio.timeout(within):
            while not condition(self.stats):
                await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # --- the application ---

    def _app(self) -> Starlette:
        stored = "/v1/chat/completions/{completion_id}"
        routes = [
            Route("/v1/chat/completions", self._create, methods=["POST"]),
            Route("/v1/chat/completions", self._list_stored, methods=["GET"]),
            Route(stored, self._get_stored, methods=["GET"]),
            Route(f"{stored}/messages", self._list_messages, methods=["GET"]),
            Route("/v1/moderations", self._moderate, methods=["POST"]),
            Route("/v1/models", self._list_models, methods=["GET"]),
            Route("/v1/models/{model}", self._get_model, methods=["GET"]),
            Route(f"{_CONTROL_PREFIX}/calls", self._control_calls, methods=["GET"]),
            Route(f"{_CONTROL_PREFIX}/stats", self._control_stats, methods=["GET"]),
            Route(f"{_CONTROL_PREFIX}/script", self._control_script, methods=["POST"]),
            Route(f"{_CONTROL_PREFIX}/reset", self._control_reset, methods=["POST"]),
        ]
        return Starlette(routes=routes, exception_handlers={wire.ApiError: _error_response})

    async def _create(self, request: Request) -> Response:
        state = self._state
        request.state.arrived = time.perf_counter()
        state.arrived += 1
        record = CallRecord(
            number=state.arrived,
            at=datetime.now(UTC),
            request_id=f"req_{self._seed:x}{state.arrived:06d}",
            outcome="completed",
        )
        try:
            chat = await self._admitted(request, state)
        except wire.ApiError as exc:
            self._record(state, record, outcome=f"status_{exc.status}")
            return _error_response(request, exc, request_id=record.request_id)
        action = state.script.decide(schema_name=chat.schema_name, op=chat.op)
        record = record.model_copy(
            update={
                "op": chat.op,
                "model": chat.model,
                "schema_name": chat.schema_name,
                "action": action.kind if action else None,
            }
        )
        if action is not None and (action.kind in BEFORE_WORK or action == Hang(billed=False)):
            self._record(state, record, outcome=action.kind)
            return _unworked(request, action, record.request_id)
        return await self._worked(request, chat, action, record, state)

    async def _admitted(self, request: Request, state: _State) -> wire.ChatRequest:
        body = await request.body()
        wire.check_key(request.headers.get("authorization"))
        chat = wire.read_request(body)
        state.requests.append(json.loads(body))
        return chat

    async def _worked(
        self, request: Request, chat: wire.ChatRequest, action: Action | None, record: CallRecord, state: _State
    ) -> Response:
        """Answer with work done in a task of its own, so that nothing that befalls the caller stops it."""
        task = asyncio.create_task(self._do_work(request, chat, action, record, state))
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        await asyncio.wait({task})
        return Silence() if task.cancelled() else task.result()

    async def _do_work(
        self, request: Request, chat: wire.ChatRequest, action: Action | None, record: CallRecord, state: _State
    ) -> Response:
        state.in_flight += 1
        state.high_water = max(state.high_water, state.in_flight)
        record = record.model_copy(update={"concurrency": state.in_flight})
        self._notify()
        due = request.state.arrived + self._delay + (action.seconds if isinstance(action, Delay) else 0.0)
        try:
            try:
                # Our own thinking is part of the time that a call takes, and does not come on top of it.
                answer = wire.think(chat, action=action, seed=self._seed)
            finally:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
        except wire.ApiError as exc:
            self._record(state, record, outcome=f"status_{exc.status}")
            return _error_response(request, exc, request_id=record.request_id)
        finally:
            state.in_flight -= 1
            self._notify()
        completion = self._bill(request, chat, answer, record, state)
        milliseconds = int((time.perf_counter() - request.state.arrived) * 1000)
        return _delivery(completion, action, _headers(record.request_id, milliseconds))

    def _bill(
        self, request: Request, chat: wire.ChatRequest, answer: wire.Answer, record: CallRecord, state: _State
    ) -> dict[str, Any]:
        """Charge the work, keep it where asked to, and write it down: one step, before anybody hears of it."""
        completion = wire.completion(
            chat,
            answer,
            identifier=f"chatcmpl-{self._seed:x}{record.number:08d}",
            created=int(time.time()),
            seed=self._seed,
            snapshot=self._snapshot,
        )
        if chat.store:
            kept = {**completion, "metadata": chat.metadata or {}, "request_id": record.request_id}
            messages = [message.model_dump() for message in chat.messages]
            state.stored[completion["id"]] = _Stored(requested_model=chat.model, completion=kept, messages=messages)
        used = completion["usage"]
        self._record(
            state,
            record,
            outcome=record.action or "completed",
            billed=True,
            stored=bool(chat.store),
            completion_id=completion["id"],
            prompt_tokens=used["prompt_tokens"],
            cached_tokens=used["prompt_tokens_details"]["cached_tokens"],
            completion_tokens=used["completion_tokens"],
            client_gone=transport_of(request.scope).is_closing(),
        )
        return completion

    def _record(self, state: _State, record: CallRecord, **changes: Any) -> None:
        final = record.model_copy(update=changes)
        state.calls.append(final)
        if self._log is not None:
            self._log.write(f"{final.model_dump_json()}\n")
            self._log.flush()
        self._notify()

    # --- moderation ---

    async def _moderate(self, request: Request) -> Response:
        """Judge texts. It is free and quick, and its faults are those of rules that name this endpoint."""
        state = self._state
        body = await request.body()
        wire.check_key(request.headers.get("authorization"))
        wished = read_moderation(body)
        state.moderations.append(tuple(wished.texts))
        self._notify()
        request_id = f"req_mod{len(state.moderations):06d}"
        action = state.script.decide(endpoint="moderations")
        if action is not None and (action.kind in BEFORE_WORK or action == Hang(billed=False)):
            return _unworked(request, action, request_id)
        if isinstance(action, Delay):
            await asyncio.sleep(action.seconds)
        judged = moderation(wished, identifier=f"modr-{self._seed:x}{len(state.moderations):08d}", seed=self._seed)
        return _delivery(judged, action, _headers(request_id))

    # --- what is stored ---

    async def _list_stored(self, request: Request) -> Response:
        wire.check_key(request.headers.get("authorization"))
        wanted = {key[len("metadata[") : -1]: value for key, value in request.query_params.items() if _is_filter(key)}
        model = request.query_params.get("model")
        found = [
            kept.completion
            for kept in self._state.stored.values()
            if wanted.items() <= kept.completion["metadata"].items()
            and model in {None, kept.requested_model, kept.completion["model"]}
        ]
        return _page(request, found)

    async def _get_stored(self, request: Request) -> Response:
        return JSONResponse(self._kept(request).completion, headers=_headers("req_get"))

    async def _list_messages(self, request: Request) -> Response:
        kept = self._kept(request)
        identifier = kept.completion["id"]
        return _page(
            request,
            [
                {"id": f"{identifier}-{index}", "name": None, "content_parts": None, **message}
                for index, message in enumerate(kept.messages)
            ],
        )

    def _kept(self, request: Request) -> _Stored:
        wire.check_key(request.headers.get("authorization"))
        identifier = request.path_params["completion_id"]
        if identifier not in self._state.stored:
            raise wire.not_found(f"No chat completion found with id '{identifier}'.")
        return self._state.stored[identifier]

    async def _list_models(self, request: Request) -> Response:
        wire.check_key(request.headers.get("authorization"))
        return JSONResponse({"object": "list", "data": [_model(name) for name in MODELS]}, headers=_headers("req_get"))

    async def _get_model(self, request: Request) -> Response:
        wire.check_key(request.headers.get("authorization"))
        if request.path_params["model"] == wire.MISSING_MODEL:
            raise wire.not_found("The model does not exist.", code="model_not_found")
        return JSONResponse(_model(request.path_params["model"]), headers=_headers("req_get"))

    # --- control, over HTTP ---

    async def _control_calls(self, _: Request) -> Response:
        calls = [call.model_dump(mode="json") for call in self.calls]
        return JSONResponse({"calls": calls, "concurrency_high_water": self._state.high_water})

    async def _control_stats(self, _: Request) -> Response:
        return JSONResponse(self.stats)

    async def _control_script(self, request: Request) -> Response:
        try:
            rules = RULES.validate_json(await request.body())
        except ValidationError as exc:
            return Response(exc.json(include_url=False), status_code=400, media_type="application/json")
        self.play(*rules)
        return JSONResponse({"rules": len(rules)})

    async def _control_reset(self, _: Request) -> Response:
        self.reset()
        return JSONResponse({})


# --- answers ----------------------------------------------------------------------------------------


def _headers(request_id: str, milliseconds: int = 1) -> dict[str, str]:
    return {
        "x-request-id": request_id,
        "openai-processing-ms": str(milliseconds),
        "openai-version": "2020-10-01",
        "openai-organization": "stand-in",
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-limit-tokens": "2000000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-remaining-tokens": "1999000",
        "x-ratelimit-reset-requests": "6ms",
        "x-ratelimit-reset-tokens": "30ms",
    }


def _error_response(_: Request, exc: Exception, *, request_id: str = "req_get") -> Response:
    assert isinstance(exc, wire.ApiError)
    return JSONResponse(exc.document, status_code=exc.status, headers=_headers(request_id))


def _unworked(request: Request, action: Action, request_id: str) -> Response:
    """The answers for which no work is begun."""
    if action.kind == "reset":
        return Reset()
    if action.kind == "hang":
        return Silence()
    if action.kind == "error_in_200":
        return JSONResponse(wire.server_error().document, headers=_headers(request_id))
    if isinstance(action, Status429):
        return _too_many(action, request_id)
    fault = wire.out_of_quota() if action.kind == "insufficient_quota" else wire.server_error()
    return _error_response(request, fault, request_id=request_id)


def _too_many(action: Status429, request_id: str) -> Response:
    told = {
        "retry-after": action.retry_after,
        "retry-after-ms": action.retry_after_ms,
        "x-ratelimit-reset-requests": action.reset,
        "x-ratelimit-remaining-requests": 0 if action.reset is not None else None,
    }
    usual = {name: value for name, value in _headers(request_id).items() if not name.startswith("x-ratelimit-")}
    headers = usual | {name: str(value) for name, value in told.items() if value is not None}
    return JSONResponse(wire.rate_limited(action.code).document, status_code=429, headers=headers)


def _delivery(completion: dict[str, Any], action: Action | None, headers: dict[str, str]) -> Response:
    """The answers that come after the work was done, good and bad."""
    kind = action.kind if action is not None else None
    if kind == "reset_after":
        return Reset()
    if kind == "hang":
        return Silence()
    if kind == "status_500_after":
        return JSONResponse(wire.server_error().document, status_code=500, headers=headers)
    body = json.dumps(completion, ensure_ascii=False).encode()
    if isinstance(action, MalformedJson) and action.where == "body":
        body = body[: len(body) // 2]
    if isinstance(action, SlowBytes):
        length = {"content-length": str(len(body))}
        return StreamingResponse(_dribble(body, action), headers=headers | length, media_type="application/json")
    return Response(body, headers=headers, media_type="application/json")


def _page(request: Request, items: list[dict[str, Any]]) -> Response:
    """One page of ``items`` by the vendor's rules: ``order``, ``after`` and ``limit``."""
    query = request.query_params
    items = items[::-1] if query.get("order", "asc") == "desc" else items
    if "after" in query:
        identifiers = [item["id"] for item in items]
        if query["after"] not in identifiers:
            raise wire.invalid("The cursor given as 'after' is not known.", param="after")
        items = items[identifiers.index(query["after"]) + 1 :]
    limit = query.get("limit", str(_DEFAULT_PAGE))
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit) <= _MAX_PAGE:
        raise wire.invalid("'limit' has to be between 1 and 100.", param="limit")
    shown = items[: int(limit)]
    document = {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(items) > len(shown),
    }
    return JSONResponse(document, headers=_headers("req_list"))


def _is_filter(key: str) -> bool:
    return key.startswith("metadata[") and key.endswith("]")


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_767_225_600, "owned_by": "stand-in"}


def _open_log(path: Path | None) -> TextIO | None:
    return None if path is None else path.open("a", encoding="utf-8")
