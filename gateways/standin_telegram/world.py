"""What the stand-in knows: bots, chats and their messages, rights, pins; ids with gaps; rules as Telegram has them."""

import random
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from domain.publishing.content import MOST_ALBUM_ITEMS, MOST_CAPTION_UNITS, MOST_TEXT_UNITS, utf16_units

_TOKEN: Final = re.compile(r"([0-9]{3,12}):[A-Za-z0-9_-]{5,}")
_DELETION_SECONDS: Final = 48 * 3_600
_RIGHTS: Final = ("can_post_messages", "can_edit_messages", "can_delete_messages")
_FEWEST_ALBUM_ITEMS: Final = 2
Json = Mapping[str, Any]


class ApiError(Exception):
    """A refusal in the words of the Bot API."""

    def __init__(self, status: int, description: str, **parameters: Any) -> None:
        super().__init__(description)
        self.status = status
        self.description = description
        self.parameters = parameters


@dataclass
class Message:
    """One message as its channel shows it."""

    id: int
    chat: "Chat"
    date: int
    sender: int
    text: str = ""
    entities: list[dict[str, Any]] = field(default_factory=list)
    media: str | None = None
    group: str | None = None
    markup: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None
    views: int = 0

    def document(self) -> dict[str, Any]:
        """As the Bot API shows it."""
        shown: dict[str, Any] = {"message_id": self.id, "date": self.date, "chat": self.chat.brief()}
        named = ("caption", "caption_entities") if self.media else ("text", "entities")
        if self.text or not self.media:
            shown |= {named[0]: self.text}
        if self.entities:
            shown |= {named[1]: self.entities}
        if self.media:
            shown |= {self.media: _FILES[self.media]}
        more = {"media_group_id": self.group, "reply_markup": self.markup, "forward_origin": self.origin}
        return shown | {name: value for name, value in more.items() if value is not None}


_FILE: Final = {"file_id": "f", "file_unique_id": "u"}
_FILES: Final[dict[str, Any]] = {
    "photo": [{**_FILE, "width": 90, "height": 90}],
    "video": {**_FILE, "width": 90, "height": 90, "duration": 1},
    "document": _FILE,
}


@dataclass
class Chat:
    """A channel, a group or a person. ``posted`` keeps every message that ever was, also those deleted since.

    ``notices`` are ids of service messages, and nothing of a ``protected`` chat can be forwarded.
    """

    id: int
    type: str = "channel"
    title: str = ""
    username: str | None = None
    messages: dict[int, Message] = field(default_factory=dict)
    posted: list[Message] = field(default_factory=list)
    pinned: list[int] = field(default_factory=list)
    rights: dict[int, set[str]] = field(default_factory=dict)
    notices: set[int] = field(default_factory=set)
    protected: bool = False
    migrated_to: int | None = None
    next_id: int = 1

    def brief(self) -> dict[str, Any]:
        """The chat as it stands in a message."""
        name = {"username": self.username} if self.username else {}
        return {"id": self.id, "type": self.type, "title": self.title, **name}


class World:
    """Everything there is. ``clock`` can be put forward; ids skip numbers at random, seeded."""

    def __init__(self, *, seed: int = 0, gaps: float = 0.3) -> None:
        self.chats: dict[int, Chat] = {}
        self.updates: dict[int, list[dict[str, Any]]] = {}
        self.ahead_seconds = 0.0
        self._gaps = gaps
        self._random = random.Random(seed)  # noqa: S311 - gaps in ids, not secrets
        self._next_update = 1_000
        self._methods: dict[str, Callable[[int, Json], Any]] = {
            "getMe": self._get_me,
            "getChat": self._get_chat,
            "getChatMember": self._get_chat_member,
            "sendMessage": self._send_message,
            "sendPhoto": self._send_media,
            "sendVideo": self._send_media,
            "sendDocument": self._send_media,
            "sendMediaGroup": self._send_media_group,
            "forwardMessage": self._forward_message,
            "forwardMessages": self._forward_messages,
            "copyMessage": self._copy_message,
            "editMessageText": self._edit_text,
            "editMessageCaption": self._edit_text,
            "deleteMessage": self._delete_message,
            "pinChatMessage": self._pin,
            "unpinChatMessage": self._unpin,
            "getUpdates": self._get_updates,
        }

    # --- from outside the Bot API -------------------------------------------------------------------

    def add_chat(
        self, chat_id: int, *, title: str = "", username: str | None = None, kind: str = "channel", admins: Any = (),
        protected: bool = False,
    ) -> Chat:  # fmt: skip
        """A chat in which the bots behind the tokens ``admins`` may do everything."""
        chat = Chat(id=chat_id, title=title or f"Channel {chat_id}", username=username, type=kind, protected=protected)
        chat.next_id = self._random.randint(5, 500)
        for token in admins:
            chat.rights[bot_id_of(token)] = set(_RIGHTS)
        self.chats[chat_id] = chat
        return chat

    def migrate(self, chat_id: int, new_id: int) -> Chat:
        """The chat goes on under another id, as groups do that become supergroups."""
        old = self.chats[chat_id]
        chat = self.add_chat(new_id, title=old.title, username=old.username, kind=old.type)
        chat.rights = {bot: set(rights) for bot, rights in old.rights.items()}
        old.migrated_to = new_id
        return chat

    def write(self, chat_id: int, text: str, *, seconds_ago: int = 0, media: str | None = None) -> Message:
        """An administrator writes into a channel by hand; with ``media`` the text is a caption, and may be empty."""
        message = self._add(self.chats[chat_id], _ADMINISTRATOR_ID, text=text, entities=(), markup={}, media=media)
        message.date -= seconds_ago
        return message

    def say(self, token: str, *, chat_id: int, sender: int, text: str) -> dict[str, Any]:
        """A person writes to a bot; the update that the bot receives."""
        chat = self.chats.get(chat_id) or self.add_chat(chat_id, kind="private")
        message = Message(id=self._take_id(chat), chat=chat, date=self.now(), sender=sender, text=text)
        chat.messages[message.id] = message
        who = {"id": sender, "is_bot": False, "first_name": "Person"}
        self._next_update += 1
        update = {"update_id": self._next_update, "message": {**message.document(), "from": who}}
        self.updates.setdefault(bot_id_of(token), []).append(update)
        return update

    def preview(self, username: str, message_id: int) -> str:
        """The page that everybody may see of a message in a channel with a name."""
        chat = next((one for one in self.chats.values() if one.username == username), None)
        message = chat.messages.get(message_id) if chat is not None else None
        if message is None:
            return '<div class="tgme_widget_message_error">Post not found</div>'
        text = escape(message.text).replace("\n", "<br/>")
        views = f"{message.views / 1000:.1f}K" if message.views >= 1000 else str(message.views)  # noqa: PLR2004
        moment = datetime.fromtimestamp(message.date, UTC).isoformat()
        return (
            f'<div class="tgme_widget_message_text js-message_text" dir="auto">{text}</div>'
            f'<span class="tgme_widget_message_views">{views}</span><time datetime="{moment}" class="time">now</time>'
        )

    def now(self) -> int:
        """Seconds since 1970, with what the clock was put forward."""
        return int(time.time() + self.ahead_seconds)

    # --- the Bot API --------------------------------------------------------------------------------

    def call(self, token: str, method: str, arguments: Json) -> Any:
        """Do what a call asks for. Raises ApiError."""
        if _TOKEN.fullmatch(token) is None:
            raise ApiError(401, "Unauthorized")
        done = self._methods.get(method)
        if done is None:
            raise ApiError(404, "Not Found: method not found")
        return done(bot_id_of(token), arguments)

    def _get_me(self, bot: int, _arguments: Json) -> Any:
        name = f"bot{bot}"
        return {"id": bot, "is_bot": True, "first_name": name, "username": f"{name}_bot"}

    def _get_chat(self, _bot: int, arguments: Json) -> Any:
        chat = self._chat(arguments)
        more = {"has_protected_content": True} if chat.protected else {}
        return {**chat.brief(), **more, "accent_color_id": 0, "max_reaction_count": 11, "accepted_gift_types": _GIFTS}

    def _get_chat_member(self, _bot: int, arguments: Json) -> Any:
        user = int(arguments["user_id"])
        granted = self._chat(arguments).rights.get(user)
        who = {"user": {"id": user, "is_bot": True, "first_name": f"bot{user}"}}
        if granted is None:
            return {**who, "status": "left"}
        return {**who, "status": "administrator", **_ADMINISTRATOR, **{right: right in granted for right in _RIGHTS}}

    def _send_message(self, bot: int, arguments: Json) -> Any:
        chat = self._writable(bot, arguments)
        text = str(arguments.get("text", ""))
        _check_text(text, MOST_TEXT_UNITS, arguments.get("entities") or [])
        return self._add(chat, bot, text=text, entities=arguments.get("entities"), markup=arguments).document()

    def _send_media(self, bot: int, arguments: Json) -> Any:
        chat = self._writable(bot, arguments)
        kind = next((kind for kind in _FILES if kind in arguments), None)
        if kind is None:
            raise ApiError(400, "Bad Request: there is no media in the request")
        return self._add_media(chat, bot, kind, arguments).document()

    def _add_media(self, chat: Chat, bot: int, kind: str, item: Json, group: str | None = None) -> Message:
        caption, entities = str(item.get("caption") or ""), item.get("caption_entities") or []
        _check_text(caption, MOST_CAPTION_UNITS, entities, empty=True)
        return self._add(chat, bot, text=caption, entities=entities, media=kind, group=group, markup=item)

    def _send_media_group(self, bot: int, arguments: Json) -> Any:
        chat = self._writable(bot, arguments)
        items = arguments.get("media") or []
        if not _FEWEST_ALBUM_ITEMS <= len(items) <= MOST_ALBUM_ITEMS:
            raise ApiError(400, "Bad Request: media album must include 2-10 items")
        group = str(self._random.randrange(10**12))
        most = arguments.get("_most_items", len(items))
        sent = [self._add_media(chat, bot, item["type"], item, group).document() for item in items[:most]]
        if len(sent) < len(items):
            said = "Too Many Requests: retry after 8"
            raise ApiError(400, f'Bad Request: failed to send message #{len(sent) + 1} with the error message "{said}"')
        return sent

    def _forward_message(self, bot: int, arguments: Json) -> Any:
        target = self._writable(bot, arguments)
        source = self._chat(arguments, "from_chat_id")
        wanted = int(arguments["message_id"])
        message = source.messages.get(wanted)
        if wanted in source.notices or (message is not None and source.protected):
            raise ApiError(400, "Bad Request: the message can't be forwarded")
        if message is None:
            raise ApiError(400, "Bad Request: message to forward not found")
        origin = {"type": "channel", "chat": source.brief(), "message_id": message.id, "date": message.date}
        copy = self._add(
            target, bot, text=message.text, entities=message.entities, media=message.media, origin=origin, markup={}
        )
        return copy.document()

    def _forward_messages(self, bot: int, arguments: Json) -> Any:
        source = self._chat(arguments, "from_chat_id")
        there = [one for one in arguments["message_ids"] if int(one) in source.messages and not source.protected]
        return [
            {"message_id": self._forward_message(bot, {**arguments, "message_id": one})["message_id"]} for one in there
        ]

    def _copy_message(self, bot: int, arguments: Json) -> Any:
        return {"message_id": self._forward_message(bot, arguments)["message_id"]}

    def _edit_text(self, bot: int, arguments: Json) -> Any:
        chat = self._chat(arguments)
        message = self._message(chat, arguments, "edit")
        self._need(chat, bot, "can_edit_messages", "Bad Request: message can't be edited")
        text = str(arguments.get("text", arguments.get("caption", "")))
        if text == message.text and not message.entities:
            raise ApiError(400, "Bad Request: message is not modified")
        message.text, message.entities = text, list(arguments.get("entities") or [])
        return message.document()

    def _delete_message(self, bot: int, arguments: Json) -> Any:
        chat = self._chat(arguments)
        message = self._message(chat, arguments, "delete")
        if self.now() - message.date > _DELETION_SECONDS:
            raise ApiError(400, "Bad Request: message can't be deleted for everyone")
        if message.sender != bot:
            self._need(chat, bot, "can_delete_messages", "Bad Request: message can't be deleted")
        self._need(chat, bot, "can_post_messages", "Bad Request: message can't be deleted")
        del chat.messages[message.id]
        chat.pinned = [pinned for pinned in chat.pinned if pinned != message.id]
        return True

    def _pin(self, bot: int, arguments: Json) -> Any:
        chat = self._chat(arguments)
        message = self._message(chat, arguments, "pin")
        self._need(chat, bot, "can_edit_messages", "Bad Request: not enough rights to manage pinned messages")
        if message.id not in chat.pinned:
            chat.pinned.append(message.id)
            chat.notices.add(self._take_id(chat))  # a service message tells of it
        return True

    def _unpin(self, bot: int, arguments: Json) -> Any:
        chat = self._chat(arguments)
        message = self._message(chat, arguments, "unpin")
        self._need(chat, bot, "can_edit_messages", "Bad Request: not enough rights to manage pinned messages")
        if message.id not in chat.pinned:
            raise ApiError(400, "Bad Request: message to unpin not found")
        chat.pinned.remove(message.id)
        return True

    def _get_updates(self, bot: int, arguments: Json) -> Any:
        offset = int(arguments.get("offset") or 0)
        waiting = [update for update in self.updates.get(bot, []) if update["update_id"] >= offset]
        self.updates[bot] = waiting
        return waiting[:100]

    # --- parts --------------------------------------------------------------------------------------

    def _chat(self, arguments: Json, name: str = "chat_id") -> Chat:
        wanted = str(arguments.get(name, ""))
        for chat in self.chats.values():
            if wanted in {str(chat.id), f"@{chat.username}"}:
                if chat.migrated_to is not None:
                    said = "Bad Request: group chat was upgraded to a supergroup chat"
                    raise ApiError(400, said, migrate_to_chat_id=chat.migrated_to)
                return chat
        raise ApiError(400, "Bad Request: chat not found")

    def _writable(self, bot: int, arguments: Json) -> Chat:
        chat = self._chat(arguments)
        if chat.type == "channel":
            if bot not in chat.rights:
                raise ApiError(403, "Forbidden: bot is not a member of the channel chat")
            said = "Bad Request: need administrator rights in the channel chat"
            self._need(chat, bot, "can_post_messages", said)
        return chat

    def _need(self, chat: Chat, bot: int, right: str, said: str) -> None:
        if chat.type == "channel" and right not in chat.rights.get(bot, ()):
            raise ApiError(400, said)

    def _message(self, chat: Chat, arguments: Json, verb: str) -> Message:
        message = chat.messages.get(int(arguments.get("message_id") or 0))
        if message is None:
            raise ApiError(400, f"Bad Request: message to {verb} not found")
        return message

    def _add(
        self, chat: Chat, bot: int, *, text: str, entities: Any, markup: Json, media: str | None = None,
        group: str | None = None, origin: dict[str, Any] | None = None,
    ) -> Message:  # fmt: skip
        message = Message(
            id=self._take_id(chat), chat=chat, date=self.now(), sender=bot, text=text.strip(),
            entities=_cleaned(text, entities or ()), media=media, group=group, markup=markup.get("reply_markup"),
            origin=origin,
        )  # fmt: skip
        chat.messages[message.id] = message
        chat.posted.append(message)
        return message

    def _take_id(self, chat: Chat) -> int:
        while self._random.random() < self._gaps:
            chat.next_id += 1
        taken = chat.next_id
        chat.next_id += 1
        return taken


_ADMINISTRATOR_ID: Final = 777
_GIFTS: Final = dict.fromkeys(
    ("unlimited_gifts", "limited_gifts", "unique_gifts", "premium_subscription", "gifts_from_channels"), False
)
_ADMINISTRATOR: Final = dict.fromkeys(
    (
        "can_be_edited", "is_anonymous", "can_manage_chat", "can_manage_video_chats", "can_restrict_members",
        "can_promote_members", "can_change_info", "can_invite_users", "can_post_stories", "can_edit_stories",
        "can_delete_stories",
    ),
    False,
)  # fmt: skip


def bot_id_of(token: str) -> int:
    """The bot that a token belongs to."""
    return int(token.partition(":")[0])


def _check_text(text: str, most: int, entities: Any, *, empty: bool = False) -> None:
    if not text.strip() and not empty:
        raise ApiError(400, "Bad Request: message text is empty")
    units = utf16_units(text)
    if units > most:
        raise ApiError(400, "Bad Request: message is too long" if not empty else "Bad Request: caption is too long")
    for entity in entities:
        if int(entity["offset"]) + int(entity["length"]) > units:
            raise ApiError(400, "Bad Request: can't parse entities: entity beyond the end of the text")


def _cleaned(text: str, entities: Iterable[Json]) -> list[dict[str, Any]]:
    """Entities as Telegram keeps them: moved along where the text is trimmed, links with a path at the least."""
    before, units = utf16_units(text) - utf16_units(text.lstrip()), utf16_units(text.strip())
    kept = []
    for entity in entities:
        start = min(max(int(entity["offset"]) - before, 0), units)
        end = min(max(int(entity["offset"]) + int(entity["length"]) - before, 0), units)
        url = {"url": _with_path(entity["url"])} if "url" in entity else {}
        if end > start:
            kept.append({**entity, "offset": start, "length": end - start, **url})
    return kept


def _with_path(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.lower(), path=parts.path or "/"))
