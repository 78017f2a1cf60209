"""The stand-in as a server: calls in, faults and limits on the way, and a control API for whoever plays the world."""

import asyncio
import json
import time
from collections import deque
from typing import Any, Final, Self
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from domain.model import Frozen
from gateways.standin_telegram.faults import FAULTS, Fault, FaultKind, FaultScript
from gateways.standin_telegram.world import ApiError, World
from gateways.unruly import Reset, UnrulyService

_WRITES: Final = frozenset({
    "sendMessage", "sendPhoto", "sendVideo", "sendDocument", "sendMediaGroup", "forwardMessage", "forwardMessages",
    "copyMessage",
})  # fmt: skip
_POLL_SECONDS: Final = 0.05


class Limits(Frozen):
    """How many messages may be sent; more are answered by 429 until a window has passed."""

    chat_per_second: int = 1
    chat_per_minute: int = 20
    token_per_second: int = 30


class StandInTelegram(UnrulyService):
    """Inside the context it listens at ``origin``; ``world`` is its state, ``faults`` its script.

    ``call_log`` keeps the method of every call in the order of arrival. No limits are enforced where ``limits`` is
    None.
    """

    def __init__(
        self, *, seed: int = 0, gaps: float = 0.3, limits: Limits | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        super().__init__(host=host, port=port)
        self.world = World(seed=seed, gaps=gaps)
        self.faults = FaultScript()
        self.limits = limits
        self.call_log: list[tuple[str, str]] = []
        self._sent: dict[tuple[str, float], deque[float]] = {}

    async def __aenter__(self) -> Self:
        """Listen."""
        return await super().__aenter__()

    def application(self) -> Starlette:
        """The Bot API at ``/bot<token>/<method>``, the public preview, and the control API below ``/control``."""
        return Starlette(
            routes=[
                Route("/bot{token}/{method}", self._answer, methods=["GET", "POST"]),
                Route("/control/chats", self._control_chats, methods=["GET", "POST"]),
                Route("/control/chats/{chat_id}/rights", self._control_rights, methods=["POST"]),
                Route("/control/chats/{chat_id}/messages", self._control_write, methods=["POST"]),
                Route("/control/chats/{chat_id}/messages/{message_id}", self._control_delete, methods=["DELETE"]),
                Route("/control/faults", self._control_faults, methods=["POST"]),
                Route("/control/clock", self._control_clock, methods=["POST"]),
                Route("/control/say", self._control_say, methods=["POST"]),
                Route("/{username}/{message_id:int}", self._preview),
            ]
        )

    # --- the Bot API --------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> Response:
        token, method = request.path_params["token"], request.path_params["method"]
        arguments = await _arguments(request)
        chat_id = str(arguments.get("chat_id", ""))
        self.call_log.append((method, chat_id))
        fault = self.faults.next(method, chat_id)
        if fault is not None:
            return await self._fail(fault, token, method, arguments)
        return await self._do(token, method, arguments)

    async def _fail(self, fault: Fault, token: str, method: str, arguments: dict[str, Any]) -> Response:
        match fault.kind:
            case FaultKind.DROP_BEFORE:
                return Reset()
            case FaultKind.STATUS_BEFORE:
                return _refusal(_scripted(fault))
            case FaultKind.DELAY_BEFORE:
                await asyncio.sleep(fault.seconds)
                return await self._do(token, method, arguments)
            case FaultKind.PARTIAL_ALBUM:
                return await self._do(token, method, {**arguments, "_most_items": fault.done})
        done = await self._do(token, method, arguments)
        if fault.kind is FaultKind.DELAY_AFTER:
            await asyncio.sleep(fault.seconds)
            return done
        return Reset() if fault.kind is FaultKind.DROP_AFTER else _refusal(_scripted(fault))

    async def _do(self, token: str, method: str, arguments: dict[str, Any]) -> Response:
        try:
            windows = self._windows(token, str(arguments.get("chat_id", ""))) if method in _WRITES else []
            result = self.world.call(token, method, arguments)
            for sent in windows:  # what is refused puts nothing into the chat
                sent.append(time.monotonic())
            deadline = time.monotonic() + min(int(arguments.get("timeout") or 0), 50)
            while method == "getUpdates" and not result and time.monotonic() < deadline:
                await asyncio.sleep(_POLL_SECONDS)
                result = self.world.call(token, method, arguments)
        except ApiError as fault:
            return _refusal(fault)
        return JSONResponse({"ok": True, "result": result})

    def _windows(self, token: str, chat_id: str) -> list[deque[float]]:
        """What was sent lately, in every window that the next message counts in. Raises ApiError where one is full."""
        if self.limits is None:
            return []
        now = time.monotonic()
        windows = [(chat_id, 1.0, self.limits.chat_per_second), (chat_id, 60.0, self.limits.chat_per_minute)]
        windows.append((f"bot{token}", 1.0, self.limits.token_per_second))
        queues = []
        for name, seconds, most in windows:
            sent = self._sent.setdefault((name, seconds), deque())
            while sent and sent[0] <= now - seconds:
                sent.popleft()
            if len(sent) >= most:
                wait = max(1, round(sent[0] + seconds - now))
                raise ApiError(429, f"Too Many Requests: retry after {wait}", retry_after=wait)
            queues.append(sent)
        return queues

    # --- the public preview -------------------------------------------------------------------------

    async def _preview(self, request: Request) -> Response:
        return HTMLResponse(self.world.preview(request.path_params["username"], request.path_params["message_id"]))

    # --- the control API ----------------------------------------------------------------------------

    async def _control_chats(self, request: Request) -> Response:
        if request.method == "POST":
            wanted = await request.json()
            chat = self.world.add_chat(
                int(wanted["id"]), title=wanted.get("title", ""), username=wanted.get("username"),
                kind=wanted.get("type", "channel"), admins=wanted.get("admins", ()),
                protected=bool(wanted.get("protected")),
            )  # fmt: skip
            return JSONResponse(chat.brief(), status_code=201)
        chats = {
            str(chat.id): {
                **chat.brief(),
                "messages": [message.document() for message in chat.messages.values()],
                "posted": [message.document() for message in chat.posted],
                "pinned": chat.pinned,
            }
            for chat in self.world.chats.values()
        }
        return JSONResponse(chats)

    async def _control_rights(self, request: Request) -> Response:
        wanted = await request.json()
        chat = self.world.chats[int(request.path_params["chat_id"])]
        chat.rights = {int(bot): set(rights) for bot, rights in wanted.items()}
        return JSONResponse({})

    async def _control_write(self, request: Request) -> Response:
        text = (await request.json())["text"]
        return JSONResponse(self.world.write(int(request.path_params["chat_id"]), text).document(), status_code=201)

    async def _control_delete(self, request: Request) -> Response:
        chat = self.world.chats[int(request.path_params["chat_id"])]
        chat.messages.pop(int(request.path_params["message_id"]), None)
        return JSONResponse({})

    async def _control_faults(self, request: Request) -> Response:
        self.faults.add(*FAULTS.validate_json(await request.body()))
        return JSONResponse({})

    async def _control_clock(self, request: Request) -> Response:
        self.world.ahead_seconds += float((await request.json())["advance_seconds"])
        return JSONResponse({"now": self.world.now()})

    async def _control_say(self, request: Request) -> Response:
        said = await request.json()
        update = self.world.say(said["token"], chat_id=said["chat_id"], sender=said["chat_id"], text=said["text"])
        return JSONResponse(update)


async def _arguments(request: Request) -> dict[str, Any]:
    """The arguments of a call, as JSON, as a form, or in the query; nested values of a form are JSON in text."""
    given: dict[str, Any] = dict(request.query_params)
    body = await request.body()
    if request.headers.get("content-type", "").startswith("application/json"):
        return given | dict(json.loads(body or b"{}"))
    form = dict(parse_qsl(body.decode(), keep_blank_values=True))
    return given | {name: json.loads(value) if value[:1] in {"[", "{"} else value for name, value in form.items()}


def _scripted(fault: Fault) -> ApiError:
    parameters = {"retry_after": fault.retry_after} if fault.retry_after is not None else {}
    said = "Too Many Requests: retry after" if fault.status == 429 else "Internal Server Error: restart"  # noqa: PLR2004
    return ApiError(fault.status, said, **parameters)


def _refusal(fault: ApiError) -> Response:
    body: dict[str, Any] = {"ok": False, "error_code": fault.status, "description": fault.description}
    if fault.parameters:
        body["parameters"] = fault.parameters
    return JSONResponse(body, status_code=fault.status)
