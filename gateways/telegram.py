"""The Telegram Bot API on httpx: posting with a known outcome, and looking for what was posted in doubt.

The token is a part of every address, so no address and no exception of httpx leaves this module.
"""

import asyncio
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import httpx

from core.http import classify_exception
from domain.errors import Outcome, ProviderError
from domain.publishing.channels import Change, ChannelFacts, Probe, SendReport, Sight, Target
from domain.publishing.content import Entity, Rendered

_LOOK_AHEAD: Final = 12
_MOST_LOOKS: Final = 60
_CLOCKS_APART: Final = timedelta(seconds=60)
_MOST_WAITS: Final = 10
_LONGEST_WAIT: Final = timedelta(seconds=30)
_UNDERSTOOD: Final = frozenset({"message is not modified"})
_NOT_THERE: Final = ("message to delete not found", "message to edit not found", "message to pin not found",
                     "message to unpin not found", "message to forward not found", "message_id_invalid")  # fmt: skip
_RIGHTS: Final = ("not enough rights", "need administrator rights", "can't be deleted", "have no rights",
                  "can't be edited", "chat not found", "chat_admin_required")  # fmt: skip
_PARTIAL_ALBUM: Final = "failed to send message #"
_SERVER_FAULT: Final = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from one call, whether or not an answer arrived at all."""

    outcome: Outcome
    result: Any = None
    code: str | None = None
    detail: str = ""
    retry_after: timedelta | None = None
    migrated_to: str | None = None

    def error(self) -> ProviderError:
        """The same as an error, for calls that may simply be tried again."""
        retryable = self.outcome is not Outcome.REJECTED
        return ProviderError(
            self.detail or "Telegram did not answer",
            code=self.code or "E.TELEGRAM.UNAVAILABLE",
            outcome=self.outcome,
            retryable=retryable,
            retry_after=self.retry_after,
        )


def classify_answer(status: int, body: Any) -> Answer:
    """Say what an HTTP status and a decoded body mean; anything not understood may have happened all the same."""
    if not isinstance(body, Mapping) or not isinstance(body.get("ok"), bool):
        return Answer(Outcome.UNKNOWN, code="E.TELEGRAM.PROTOCOL", detail=f"an answer of status {status} made no sense")
    if body["ok"]:
        if status == httpx.codes.OK and "result" in body:
            return Answer(Outcome.DONE, result=body["result"])
        return Answer(Outcome.UNKNOWN, code="E.TELEGRAM.PROTOCOL", detail=f"ok with status {status}")
    return _refusal(status, str(body.get("description", ""))[:300], _parameters(body))


def _parameters(body: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = body.get("parameters")
    return parameters if isinstance(parameters, Mapping) else {}


def _refusal(status: int, description: str, parameters: Mapping[str, Any]) -> Answer:
    said = description.lower()
    if _PARTIAL_ALBUM in said:
        # A part of the album is out, whatever the status says.
        return Answer(Outcome.UNKNOWN, code="E.TELEGRAM.PARTIAL", detail=description)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return Answer(
            Outcome.NOT_SENT, code="E.TELEGRAM.RATE_LIMITED", detail=description, retry_after=_wait(parameters)
        )
    if status >= _SERVER_FAULT or status < httpx.codes.BAD_REQUEST:
        return Answer(Outcome.UNKNOWN, code="E.TELEGRAM.UNAVAILABLE", detail=description)
    migrated = parameters.get("migrate_to_chat_id")
    if migrated is not None:
        return Answer(Outcome.REJECTED, code="E.TELEGRAM.MIGRATED", detail=description, migrated_to=str(int(migrated)))
    return Answer(Outcome.REJECTED, code=_refusal_code(status, said), detail=description)


def _wait(parameters: Mapping[str, Any]) -> timedelta:
    seconds = parameters.get("retry_after")
    return timedelta(seconds=min(max(seconds, 1), 86_400) if isinstance(seconds, int | float) else 5)


def _refusal_code(status: int, said: str) -> str:
    if status == httpx.codes.UNAUTHORIZED or (status == httpx.codes.NOT_FOUND and said.startswith("not found")):
        return "E.TELEGRAM.AUTH"
    if status == httpx.codes.FORBIDDEN or any(sign in said for sign in _RIGHTS):
        return "E.TELEGRAM.RIGHTS"
    return "E.TELEGRAM.REJECTED"


class TelegramGateway:
    """The Bot API. ``http`` keeps no idle connections where posts go through it: see ``create_http_client``."""

    name = "telegram"
    deletes_within_48_hours = True

    def __init__(self, *, client: httpx.AsyncClient, base_url: str) -> None:
        self._client = client
        self._base_url = base_url.rstrip("/")

    # --- what cannot be taken back ------------------------------------------------------------------

    async def post(self, secret: str, target: Target, content: Rendered) -> SendReport:
        """Publish a text, a picture or an album; one call, one report."""
        method, arguments = _post_call(target.chat_id, content)
        answer = await self._call(secret, method, arguments)
        return _report(answer, expected=content.messages)

    async def tell(self, secret: str, target: Target, text: str) -> SendReport:
        """Send a plain message."""
        return _report(await self._call(secret, "sendMessage", {"chat_id": target.chat_id, "text": text}), expected=1)

    # --- looking ------------------------------------------------------------------------------------

    async def look_at(self, secret: str, target: Target) -> ChannelFacts:
        """Who the channel is and what the bot may do there; a silent message, deleted at once, shows where ids stand.

        With an audit chat the message is forwarded there first: what cannot be forwarded could not be found in doubt.
        Raises ProviderError.
        """
        me = await self._result(secret, "getMe", {})
        chat = await self._result(secret, "getChat", {"chat_id": target.chat_id})
        chat_id = str(chat["id"])
        member = await self._result(secret, "getChatMember", {"chat_id": chat_id, "user_id": me["id"]})
        rights = {name: _may(member, name) for name in _WANTED}
        faults = [f"the bot lacks the right {name}" for name, granted in rights.items() if not granted]
        if target.audit_chat_id is not None:
            faults += await self._audit_faults(secret, target.audit_chat_id)
            if chat.get("has_protected_content"):
                faults.append(_PROTECTED)
        last = 0
        if not faults:
            last, sights = await self._where_ids_stand(secret, target.at(chat_id))
            faults += sights
        return ChannelFacts(
            chat_id=chat_id,
            title=str(chat.get("title", ""))[:255],
            username=chat.get("username"),
            can_post=rights["can_post_messages"],
            can_edit=rights["can_edit_messages"],
            can_delete=rights["can_delete_messages"],
            can_pin=rights["can_edit_messages"],
            last_message_id=last,
            faults=tuple(faults),
        )

    async def _audit_faults(self, secret: str, audit_chat_id: str) -> list[str]:
        answer = await self._call(secret, "getChat", {"chat_id": audit_chat_id})
        if answer.outcome is Outcome.DONE:
            return []
        if answer.outcome is not Outcome.REJECTED:
            raise answer.error()
        return ["the bot cannot see the audit chat"]

    async def _where_ids_stand(self, secret: str, target: Target) -> tuple[int, list[str]]:
        arguments = {"chat_id": target.chat_id, "text": "\N{WHITE HEAVY CHECK MARK}", "disable_notification": True}
        sent = int((await self._result(secret, "sendMessage", arguments))["message_id"])
        seen = await self._forwarded(secret, target, sent) if target.audit_chat_id is not None else {}
        await self._result(secret, "deleteMessage", {"chat_id": target.chat_id, "message_id": sent})
        if seen is None or seen == _CANNOT_BE_FORWARDED:
            return sent, [_PROTECTED]
        return sent, [f"the audit chat does not take copies: {seen}"] if isinstance(seen, str) else []

    async def find(
        self, secret: str, target: Target, content: Rendered, *, after: int, known: frozenset[int],
        since: datetime | None = None,
    ) -> Probe:  # fmt: skip
        """Forward what lies behind ``after`` to the audit chat, one by one, and compare it with the content.

        The ids of a channel have gaps, so nothing but a dozen ids in a row with nothing behind them ends a look that
        saw everything. Whatever stands in the way of certainty makes the look blind: too much to look at, a message
        that cannot be forwarded, and one that is not accounted for, does not match, and is no older than ``since``.
        A post without letters looks like anybody's: it is never found, and what looks like it makes the look blind.
        """
        if target.audit_chat_id is None:
            return Probe(sight=Sight.BLIND, source="none", looked_from=after + 1, detail="there is no audit chat")
        if after <= 0:
            return Probe(sight=Sight.BLIND, source="forward", detail="nobody knows where the ids of the channel stand")
        look = _Look(content, since)
        empty, message_id = 0, after
        while empty < _LOOK_AHEAD and message_id - after < _MOST_LOOKS and not look.is_over:
            message_id += 1
            if message_id in known:
                empty = 0
                continue
            seen = await self._forwarded(secret, target, message_id)
            empty = empty + 1 if seen is None else 0
            look.take(message_id, seen)
        if empty < _LOOK_AHEAD:
            look.doubt = look.doubt or f"there are more than {_MOST_LOOKS} ids to look at"
        return look.probe(after + 1, message_id)

    async def _patiently(self, secret: str, method: str, arguments: Mapping[str, Any]) -> Answer:
        """A call of a look: where the audit chat is full for now, the look goes on when it is not."""
        for _ in range(_MOST_WAITS):
            answer = await self._call(secret, method, arguments)
            if answer.retry_after is None or answer.retry_after > _LONGEST_WAIT:
                break
            await asyncio.sleep(answer.retry_after.total_seconds())
        return answer

    async def _forwarded(self, secret: str, target: Target, message_id: int) -> Mapping[str, Any] | str | None:
        """The message as its copy in the audit chat shows it; None where there is none; words where one cannot see."""
        arguments = {
            "chat_id": target.audit_chat_id, "from_chat_id": target.chat_id, "message_id": message_id,
            "disable_notification": True,
        }  # fmt: skip
        answer = await self._patiently(secret, "forwardMessage", arguments)
        if answer.outcome is Outcome.DONE and isinstance(answer.result, Mapping):
            return answer.result
        said = answer.detail.lower()
        if answer.outcome is Outcome.REJECTED and "to forward not found" in said:
            return None
        if answer.outcome is Outcome.REJECTED and "can't be forwarded" in said:
            return _CANNOT_BE_FORWARDED
        return answer.code or "the look failed"

    async def is_there(self, secret: str, target: Target, message_id: int) -> bool | None:
        """Whether the message can still be forwarded; None where that cannot be seen."""
        if target.audit_chat_id is None:
            return None
        seen = await self._forwarded(secret, target, message_id)
        return None if isinstance(seen, str) else seen is not None

    # --- what may be repeated -----------------------------------------------------------------------

    async def pin(self, secret: str, target: Target, message_id: int) -> Change:
        """Pin without a sound."""
        arguments = {"chat_id": target.chat_id, "message_id": message_id, "disable_notification": True}
        return await self._change(secret, "pinChatMessage", arguments)

    async def unpin(self, secret: str, target: Target, message_id: int) -> Change:
        """Unpin."""
        arguments = {"chat_id": target.chat_id, "message_id": message_id}
        return await self._change(secret, "unpinChatMessage", arguments)

    async def remove(self, secret: str, target: Target, message_id: int) -> Change:
        """Delete."""
        arguments = {"chat_id": target.chat_id, "message_id": message_id}
        return await self._change(secret, "deleteMessage", arguments)

    async def replace(self, secret: str, target: Target, message_id: int, text: str, *, caption: bool) -> Change:
        """Edit the text or the caption."""
        name = "caption" if caption else "text"
        arguments = {"chat_id": target.chat_id, "message_id": message_id, name: text}
        return await self._change(secret, "editMessageCaption" if caption else "editMessageText", arguments)

    async def _change(self, secret: str, method: str, arguments: Mapping[str, Any]) -> Change:
        answer = await self._call(secret, method, arguments)
        said = answer.detail.lower()
        if answer.outcome is Outcome.DONE or any(sign in said for sign in _UNDERSTOOD):
            return Change.DONE
        if answer.outcome is Outcome.REJECTED and any(sign in said for sign in _NOT_THERE):
            return Change.GONE
        if answer.outcome is Outcome.REJECTED:
            return Change.DENIED
        raise answer.error()

    # --- updates ------------------------------------------------------------------------------------

    async def get_updates(self, secret: str, *, offset: int, wait_seconds: int) -> list[Mapping[str, Any]]:
        """Updates from ``offset`` on, by long polling. Raises ProviderError."""
        arguments = {"offset": offset, "timeout": wait_seconds, "allowed_updates": ["message"]}
        result = await self._result(secret, "getUpdates", arguments)
        return [update for update in result if isinstance(update, Mapping)] if isinstance(result, list) else []

    # --- the wire -----------------------------------------------------------------------------------

    async def _result(self, secret: str, method: str, arguments: Mapping[str, Any]) -> Any:
        answer = await self._call(secret, method, arguments)
        if answer.outcome is not Outcome.DONE:
            raise answer.error()
        return answer.result

    async def _call(self, secret: str, method: str, arguments: Mapping[str, Any]) -> Answer:
        try:
            response = await self._client.post(f"{self._base_url}/bot{secret}/{method}", json=dict(arguments))
        except (httpx.HTTPError, httpx.InvalidURL) as fault:
            # The kind of the exception says all that may be said: its words hold the token.
            outcome = classify_exception(fault)
            return Answer(outcome, code=_CODES[outcome], detail=f"the call ended in {type(fault).__name__}")
        try:
            body = response.json()
        except ValueError:
            body = None
        return classify_answer(response.status_code, body)


_CODES: Final = {Outcome.NOT_SENT: "E.TELEGRAM.CONNECTION", Outcome.UNKNOWN: "E.TELEGRAM.TIMEOUT"}
_CANNOT_BE_FORWARDED: Final = "a message cannot be forwarded"
_PROTECTED: Final = "the channel protects its content: what cannot be forwarded cannot be found again"
_WANTED: Final = ("can_post_messages", "can_edit_messages", "can_delete_messages")


def _may(member: Mapping[str, Any], right: str) -> bool:
    return member.get("status") == "creator" or (member.get("status") == "administrator" and bool(member.get(right)))


def _post_call(chat_id: str, content: Rendered) -> tuple[str, dict[str, Any]]:
    entities = [_entity(entity) for entity in content.entities]
    if not content.media:
        return "sendMessage", {"chat_id": chat_id, "text": content.text, "entities": entities, **_markup(content)}
    if len(content.media) == 1:
        item = content.media[0]
        caption = {"caption": content.text, "caption_entities": entities}
        method = f"send{item.type.capitalize()}"
        return method, {"chat_id": chat_id, item.type: item.url, **caption, **_markup(content)}
    items: list[dict[str, Any]] = [{"type": item.type, "media": item.url} for item in content.media]
    items[0] |= {"caption": content.text, "caption_entities": entities}
    return "sendMediaGroup", {"chat_id": chat_id, "media": items}


def _markup(content: Rendered) -> dict[str, Any]:
    if not content.buttons:
        return {}
    return {"reply_markup": {"inline_keyboard": [[button.model_dump()] for button in content.buttons]}}


def _entity(entity: Entity) -> dict[str, Any]:
    return entity.model_dump(exclude_none=True)


def _report(answer: Answer, *, expected: int) -> SendReport:
    if answer.outcome is Outcome.DONE:
        sent = answer.result if isinstance(answer.result, list) else [answer.result]
        ids = [message.get("message_id") for message in sent if isinstance(message, Mapping)]
        # 0 stands for a message that the server is still making; a count that is off, for one not understood.
        if len(ids) != expected or not all(isinstance(one, int) and one > 0 for one in ids):
            return SendReport(
                outcome=Outcome.UNKNOWN, code="E.TELEGRAM.PROTOCOL", detail="sent, but not under which id"
            )
        return SendReport(outcome=Outcome.DONE, message_ids=tuple(ids))
    limited = answer.code == "E.TELEGRAM.RATE_LIMITED"
    return SendReport(
        outcome=answer.outcome,
        code=answer.code,
        detail=answer.detail,
        retry_after=answer.retry_after,
        # The words do not say whose limit it was; nearly always it is the chat's. See PublishingDesk.freeze.
        frozen="chat" if limited else None,
        migrated_to=answer.migrated_to,
    )


@dataclass(slots=True)
class _Look:
    """What one look has seen so far; ``doubt`` is the first thing that keeps it from proving an absence."""

    content: Rendered
    since: datetime | None
    found: list[int] = field(default_factory=list)
    doubt: str = ""
    failed: bool = False

    @property
    def is_over(self) -> bool:
        return self.failed or len(self.found) == self.content.messages

    def take(self, message_id: int, seen: Mapping[str, Any] | str | None) -> None:
        """Account for one id: a copy, nothing, or why there is no seeing it."""
        if seen is None:
            return
        if isinstance(seen, str):
            self.doubt = self.doubt or seen
            # A single message may be beyond seeing while others are not; any other failure is that of the look.
            self.failed = seen != _CANNOT_BE_FORWARDED
            return
        is_recent, is_the_same = _is_recent(seen, self.since), _is_the_same(seen, self.content, len(self.found))
        # Of pictures only the kind can be compared: without letters a stranger's is as good as ours.
        if is_recent and is_the_same and letters(self.content.text):
            self.found.append(message_id)
        elif is_recent or is_the_same:
            self.doubt = self.doubt or f"message {message_id} is not accounted for"

    def probe(self, looked_from: int, looked_to: int) -> Probe:
        """The look as evidence."""
        sight = Sight.BLIND if self.doubt else Sight.ABSENT
        if self.found:
            sight = Sight.FOUND if len(self.found) == self.content.messages else Sight.PARTLY
        return Probe(
            sight=sight, source="forward", message_ids=tuple(self.found), looked_from=looked_from,
            looked_to=looked_to, detail="" if sight is Sight.FOUND else self.doubt,
        )  # fmt: skip


def _is_recent(copy: Mapping[str, Any], since: datetime | None) -> bool:
    """Whether the original of a copy may have come after ``since``, by clocks that may disagree a little."""
    origin = copy.get("forward_origin")
    date = origin.get("date") if isinstance(origin, Mapping) else None
    return since is None or not isinstance(date, int) or date >= (since - _CLOCKS_APART).timestamp()


def _is_the_same(message: Mapping[str, Any], content: Rendered, place: int) -> bool:
    """Whether a message is what the content looks like; of an album the item at ``place``.

    Formatting does not count: Telegram moves, merges and drops entities and rewrites the addresses of links.
    """
    if not content.media:
        return letters(message.get("text")) == letters(content.text)
    kind = content.media[min(place, len(content.media) - 1)].type
    return kind in message and letters(message.get("caption")) == letters(content.text if place == 0 else "")


def letters(text: Any) -> str:
    """What is left of a text without spaces and invisible characters, which Telegram cleans up in ways of its own."""
    normal = unicodedata.normalize("NFC", str(text or ""))
    return "".join(one for one in normal if unicodedata.category(one)[0] not in "CZ")
