"""The stand-in as a server: calls in, faults on the way, webhooks out, and a control API for who plays the world."""

import asyncio
import hashlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Self

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateways.standin_heygen.faults import FAULTS, Call, Fault, FaultKind, FaultScript, Play
from gateways.standin_heygen.wire import IDEMPOTENCY_KEY
from gateways.standin_heygen.world import KEY, ApiError, Render, World
from gateways.unruly import Reset, UnrulyService, transport_of

_STALE_SECONDS: Final = 4_000
_POST_SECONDS: Final = 10.0
Doing = Callable[[], Awaitable[Response]]


class CutShort(Response):
    """Begins to answer, and breaks the connection in the middle."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send half of it."""
        head = [(b"content-type", b"video/mp4"), (b"content-length", str(len(self.body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        transport_of(scope).abort()
        while (await receive())["type"] != "http.disconnect":
            pass


class StandInHeyGen(UnrulyService):
    """Inside the context it listens at ``origin``; ``world`` is its state, ``faults`` its script.

    Where ``webhook_url`` is set, every render is posted about, signed with ``webhook_secret``; one that was ordered
    with a ``callback_url`` is posted about there as well, unsigned. ``call_log`` keeps every call in order of arrival.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        at_once: int = 10,
        play: Play | None = None,
        webhook_url: str | None = None,
        webhook_secret: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self.world = World(seed=seed, at_once=at_once, play=play or Play())
        self.faults = FaultScript()
        self.webhook_url = webhook_url
        self.webhook_secret = webhook_secret
        self.call_log: list[tuple[str, str]] = []
        self.posted: list[int | str] = []
        """What came of each post: a status, or the name of a fault."""
        self._posting: set[asyncio.Task[None]] = set()
        self._http = httpx.AsyncClient(timeout=_POST_SECONDS, trust_env=False)

    async def __aenter__(self) -> Self:
        """Listen."""
        return await super().__aenter__()

    async def __aexit__(self, *exc: object) -> None:
        """Stop posting, and stop."""
        for task in self._posting:
            task.cancel()
        await asyncio.gather(*self._posting, return_exceptions=True)
        await self._http.aclose()
        await super().__aexit__(*exc)

    async def until_posted(self) -> None:
        """Wait until everything that is to be posted was posted."""
        while self._posting:
            await asyncio.gather(*self._posting, return_exceptions=True)

    def application(self) -> Starlette:
        """The API below ``/v3``, the files, and the control API below ``/control``."""
        return Starlette(
            routes=[
                Route("/v3/videos", self._order, methods=["POST"]),
                Route("/v3/videos", self._list, methods=["GET"]),
                Route("/v3/videos/{video_id}", self._look, methods=["GET"]),
                Route("/v3/webhooks/events", self._events, methods=["GET"]),
                Route("/files/{video_id}.mp4", self._file, methods=["GET"]),
                Route("/control/renders", self._control_renders, methods=["GET"]),
                Route("/control/faults", self._control_faults, methods=["POST"]),
                Route("/control/play", self._control_play, methods=["POST"]),
                Route("/control/clock", self._control_clock, methods=["POST"]),
            ]
        )

    # --- the API ------------------------------------------------------------------------------------

    async def _order(self, request: Request) -> Response:
        raw = await request.body()
        key = request.headers.get("idempotency-key")
        try:
            self._admit(request)
            wish = json.loads(raw)
        except ApiError as fault:
            return _refusal(fault)
        except ValueError:
            wish = None
        if wish is None or (key is not None and re.fullmatch(IDEMPOTENCY_KEY, key) is None):
            return _refusal(ApiError(400, "invalid_parameter"))
        title = str(wish.get("title", "")) if isinstance(wish, dict) else ""
        self.call_log.append(("submit", title))
        # A key whose first send is being carried out, and one whose first answer is known.
        if key is not None and key in self.world.in_progress:
            return _refusal(ApiError(409, "request_in_progress"))
        if key is not None and key in self.world.answers:
            status, body = self.world.answers[key]
            return JSONResponse(body, status_code=status)
        return await self._carry_out(key, title, wish)

    async def _carry_out(self, key: str | None, title: str, wish: Any) -> Response:
        fault = self.faults.next("submit", title)
        if key is not None:
            self.world.in_progress.add(key)
        try:
            refused = await self._before(fault) if fault is not None and fault.kind in _BEFORE else None
            return refused or await self._sell(key, wish, fault)
        except ApiError as refusal:
            return _refusal(refusal)
        finally:
            if key is not None:
                self.world.in_progress.discard(key)

    async def _sell(self, key: str | None, wish: Any, fault: Fault | None) -> Response:
        """A render is ordered and paid for; what the caller hears of it is another matter. Raises ApiError."""
        status, body = 200, self.world.order(wish, key)
        render = self.world.renders[body["data"]["video_id"]]
        kind = None if fault is None else fault.kind
        if fault is not None and kind is FaultKind.STATUS_AFTER:
            status, body = fault.status, _error(fault.code or "internal_error")
        if key is not None:
            self.world.answers[key] = (status, body)
        if render.play.early:
            await self._post_about(render, "avatar_video.success", times=1)
        self._later(self._tell(render))
        if fault is not None and kind is FaultKind.DELAY_AFTER:
            await asyncio.sleep(fault.seconds)
        if kind is FaultKind.DROP_AFTER:
            return Reset()
        if fault is not None and kind is FaultKind.ERROR_IN_200_AFTER:
            return JSONResponse(_error(fault.code or "internal_error"))
        return JSONResponse(body, status_code=status)

    async def _before(self, fault: Fault) -> Response | None:
        if fault.kind is FaultKind.DELAY_BEFORE:
            await asyncio.sleep(fault.seconds)
            return None
        if fault.kind is FaultKind.DROP_BEFORE:
            return Reset()
        if fault.kind is FaultKind.ERROR_IN_200:
            return JSONResponse(_error(fault.code or "internal_error"))
        return _refusal(_scripted(fault))

    async def _list(self, request: Request) -> Response:
        wanted = request.query_params.get("title", "")
        limit = int(request.query_params.get("limit", "10"))
        start = int(request.query_params.get("token", "0"))

        async def answer() -> Response:
            found = self.world.of_title(wanted)
            page = [self.world.document(render, self.origin) for render in found[start : start + limit]]
            more = len(found) > start + limit
            return JSONResponse({"data": page, "has_more": more, "next_token": str(start + limit) if more else None})

        return await self._read("list", wanted, request, answer)

    async def _look(self, request: Request) -> Response:
        render = self.world.renders.get(request.path_params["video_id"])

        async def answer() -> Response:
            if render is None:
                return _refusal(ApiError(404, "not_found"))
            return JSONResponse({"data": self.world.document(render, self.origin)})

        return await self._read("look", "" if render is None else render.title, request, answer)

    async def _events(self, request: Request) -> Response:
        async def answer() -> Response:
            return JSONResponse({"data": self.world.events[-100:], "has_more": False, "next_token": None})

        return await self._read("events", "", request, answer)

    async def _read(self, call: Call, about: str, request: Request, answer: Doing) -> Response:
        """A call that changes nothing, with the fault that it meets."""
        self.call_log.append((call, about))
        try:
            self._admit(request)
        except ApiError as refusal:
            return _refusal(refusal)
        fault = self.faults.next(call, about)
        if fault is None:
            return await answer()
        if fault.kind in {FaultKind.DELAY_BEFORE, FaultKind.DELAY_AFTER}:
            await asyncio.sleep(fault.seconds)
            return await answer()
        if fault.kind in {FaultKind.DROP_BEFORE, FaultKind.DROP_AFTER}:
            return Reset()
        if fault.kind in {FaultKind.ERROR_IN_200, FaultKind.ERROR_IN_200_AFTER}:
            return JSONResponse(_error(fault.code or "internal_error"))
        return _refusal(_scripted(fault))

    async def _file(self, request: Request) -> Response:
        video_id = request.path_params["video_id"]
        render = self.world.renders.get(video_id)
        title = "" if render is None else render.title
        self.call_log.append(("file", title))
        fault = self.faults.next("file", title)
        if fault is not None and fault.kind is FaultKind.EXPIRED:
            return Response(status_code=403)
        if fault is not None and fault.kind in {FaultKind.DROP_BEFORE, FaultKind.DROP_AFTER}:
            return Reset()
        if fault is not None and fault.kind in {FaultKind.STATUS_BEFORE, FaultKind.STATUS_AFTER}:
            return Response(status_code=fault.status)
        given = request.query_params
        try:
            body = self.world.file(video_id, given.get("until", ""), given.get("signature", ""))
        except ApiError as refusal:
            return Response(status_code=refusal.status)
        if fault is not None and fault.kind is FaultKind.CUT_SHORT:
            return CutShort(body)
        return Response(body, media_type="video/mp4")

    def _admit(self, request: Request) -> None:
        if request.headers.get("x-api-key") != KEY:
            raise ApiError(401, "unauthorized")

    # --- webhooks -----------------------------------------------------------------------------------

    def _later(self, doing: Any) -> None:
        task = asyncio.create_task(doing)
        self._posting.add(task)
        task.add_done_callback(self._posting.discard)

    async def _tell(self, render: Render) -> None:
        """Post about a render as its play has it."""
        if render.play.forged:
            await self._post_about(render, "avatar_video.success", times=1, forged=True)
        if render.play.end == "stuck":
            return
        await asyncio.sleep(render.play.seconds + render.play.late_seconds + 0.005)
        event = "avatar_video.success" if render.play.end == "completed" else "avatar_video.fail"
        await self._post_about(render, event, times=render.play.posts)

    async def _post_about(self, render: Render, event: str, *, times: int, forged: bool = False) -> None:
        data = {"video_id": render.video_id, "callback_id": render.wish.callback_id}
        data |= {"url": self.world.address(render, self.origin)} if event.endswith("success") else {"msg": "failed"}
        body = json.dumps({"event_type": event, "event_data": data}).encode()
        self.world.events.append({
            "event_id": hashlib.sha256(body).hexdigest()[:16], "event_type": event, "event_data": data,
            "created_at": str(self.world.now()),
        })  # fmt: skip
        for _ in range(times):
            if self.webhook_url is not None:
                await self._post(self.webhook_url, body, self._headers(render, body, forged=forged))
            if render.wish.callback_url is not None and not forged:
                await self._post(render.wish.callback_url, body, {})

    def _headers(self, render: Render, body: bytes, *, forged: bool) -> Mapping[str, str]:
        secret = "somebody else's" if forged else self.webhook_secret or ""
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        if render.play.old_header:
            return {"Signature": signature}
        age = _STALE_SECONDS if render.play.stale else 0
        return {
            "Heygen-Signature": signature,
            "Heygen-Timestamp": str(int(self.world.now()) - age),
            "Heygen-Event-Id": hashlib.sha256(body).hexdigest()[:16],
        }

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        try:
            answer = await self._http.post(url, content=body, headers={"content-type": "application/json", **headers})
            self.posted.append(answer.status_code)
        except httpx.HTTPError as fault:
            self.posted.append(type(fault).__name__)

    # --- the control API ----------------------------------------------------------------------------

    async def _control_renders(self, _request: Request) -> Response:
        shown = [self.world.document(render, self.origin) for render in self.world.renders.values()]
        return JSONResponse({"renders": shown, "calls": len(self.call_log), "posted": self.posted})

    async def _control_faults(self, request: Request) -> Response:
        self.faults.add(*FAULTS.validate_json(await request.body()))
        return JSONResponse({})

    async def _control_play(self, request: Request) -> Response:
        self.world.play = Play.model_validate_json(await request.body())
        return JSONResponse({})

    async def _control_clock(self, request: Request) -> Response:
        self.world.ahead_seconds += float((await request.json())["advance_seconds"])
        return JSONResponse({"now": self.world.now()})


_BEFORE: Final = frozenset({
    FaultKind.DROP_BEFORE, FaultKind.STATUS_BEFORE, FaultKind.ERROR_IN_200, FaultKind.DELAY_BEFORE,
})  # fmt: skip
_CODES: Final = {
    400: "invalid_parameter", 401: "unauthorized", 402: "insufficient_credit", 403: "forbidden", 404: "not_found",
    409: "request_in_progress", 429: "rate_limit_exceeded",
}  # fmt: skip


def _scripted(fault: Fault) -> ApiError:
    code = fault.code or _CODES.get(fault.status, "internal_error")
    return ApiError(fault.status, code, retry_after=fault.retry_after)


def _error(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": "as scripted", "param": None, "doc_url": None}}


def _refusal(fault: ApiError) -> Response:
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return JSONResponse(_error(fault.code), status_code=fault.status, headers=headers)
