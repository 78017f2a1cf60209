"""Channels that are folders: each post a file, for demonstrations and for whoever publishes through a folder."""

import asyncio
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from domain.errors import Outcome, ProviderError
from domain.publishing.channels import Change, ChannelFacts, Probe, SendReport, Sight, Target
from domain.publishing.content import Rendered

_NAME: Final = "{:08}.json"
_REMOVED: Final = ".removed"


class FileGateway:
    """Posts are JSON files, numbered from one, in ``root / tenant / channel``; writing one is atomic."""

    name = "file"
    deletes_within_48_hours = False

    def __init__(self, root: Path) -> None:
        self._root = root

    async def look_at(self, secret: str, target: Target) -> ChannelFacts:
        """The folder, made where it is missing. Raises ProviderError."""
        del secret
        try:
            last = await asyncio.to_thread(self._last_id, target)
        except (OSError, ValueError) as fault:
            raise ProviderError(
                f"the folder cannot be used: {type(fault).__name__}", code="E.CHANNEL.RIGHTS",
                outcome=Outcome.REJECTED, retryable=False,
            ) from None  # fmt: skip
        return ChannelFacts(
            chat_id=target.chat_id, title=target.chat_id, can_post=True, can_edit=True, can_delete=True, can_pin=True,
            last_message_id=last,
        )  # fmt: skip

    async def post(self, secret: str, target: Target, content: Rendered) -> SendReport:
        """Write a file that nobody sees half."""
        del secret
        return await asyncio.to_thread(self._write, target, content.model_dump(mode="json"))

    async def tell(self, secret: str, target: Target, text: str) -> SendReport:
        """Write a message into a folder."""
        del secret
        return await asyncio.to_thread(self._write, target, {"text": text})

    async def find(
        self, secret: str, target: Target, content: Rendered, *, after: int, known: frozenset[int],
        since: datetime | None = None,
    ) -> Probe:  # fmt: skip
        """Compare the files behind ``after``: a folder shows all there is, byte by byte."""
        del secret, since
        posts = await asyncio.to_thread(self._read, target)
        wanted = content.model_dump(mode="json")
        found = [
            one for one, post in sorted(posts.items()) if one > after and one not in known and _content(post) == wanted
        ]
        sight = Sight.ABSENT if not found else Sight.FOUND if len(found) == 1 else Sight.PARTLY
        return Probe(
            sight=sight, source="folder", message_ids=tuple(found), looked_from=after + 1,
            looked_to=max(posts, default=after),
        )  # fmt: skip

    async def pin(self, secret: str, target: Target, message_id: int) -> Change:
        """Mark as pinned."""
        del secret
        return await asyncio.to_thread(self._edit, target, message_id, {"pinned": True})

    async def unpin(self, secret: str, target: Target, message_id: int) -> Change:
        """Take the mark away."""
        del secret
        return await asyncio.to_thread(self._edit, target, message_id, {"pinned": False})

    async def remove(self, secret: str, target: Target, message_id: int) -> Change:
        """Delete the file."""
        del secret
        return await asyncio.to_thread(self._remove, target, message_id)

    async def replace(self, secret: str, target: Target, message_id: int, text: str, *, caption: bool) -> Change:
        """Overwrite the text."""
        del secret, caption
        return await asyncio.to_thread(self._edit, target, message_id, {"text": text, "entities": []})

    async def is_there(self, secret: str, target: Target, message_id: int) -> bool | None:
        """Whether the file is there."""
        del secret
        return await asyncio.to_thread((self._folder(target) / _NAME.format(message_id)).exists)

    # --- files --------------------------------------------------------------------------------------

    def _folder(self, target: Target) -> Path:
        # Names are free to choose, so each tenant has a folder of its own: the same name is never the same channel.
        root = self._root.resolve() / str(target.tenant_id)
        folder = (root / target.chat_id).resolve()
        if folder.parent != root:
            raise ValueError("the name of a folder channel is one plain name")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _last_id(self, target: Target) -> int:
        """The highest number that was ever given: one that came twice could not be told from the first."""
        return max((int(path.stem) for path in self._folder(target).glob("[0-9]*.*")), default=0)

    def _remove(self, target: Target, message_id: int) -> Change:
        path = self._folder(target) / _NAME.format(message_id)
        if not path.exists():
            return Change.GONE
        path.with_suffix(_REMOVED).touch()
        path.unlink(missing_ok=True)
        return Change.DONE

    def _read(self, target: Target) -> dict[int, dict[str, Any]]:
        return {int(path.stem): json.loads(path.read_text()) for path in self._folder(target).glob("*.json")}

    def _write(self, target: Target, post: dict[str, Any]) -> SendReport:
        folder = self._folder(target)
        draft = folder / f".draft-{os.getpid()}-{id(post)}"
        draft.write_text(json.dumps({**post, "pinned": False}, indent=1, ensure_ascii=False))
        number = self._last_id(target)
        while True:
            number += 1
            try:
                os.link(draft, folder / _NAME.format(number))
            except FileExistsError:
                continue
            draft.unlink()
            return SendReport(outcome=Outcome.DONE, message_ids=(number,))

    def _edit(self, target: Target, message_id: int, changes: dict[str, Any]) -> Change:
        path = self._folder(target) / _NAME.format(message_id)
        if not path.exists():
            return Change.GONE
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=1, ensure_ascii=False))
        draft.replace(path)
        return Change.DONE


def _content(post: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in post.items() if name != "pinned"}
