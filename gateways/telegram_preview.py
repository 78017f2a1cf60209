"""The public preview of a channel: what Telegram shows everybody, without an account and without a bot.

It knows how often a post was seen, and it can show that a post is out. That a post is not out it cannot show: the
preview of a channel may be switched off, and a page may come late.
"""

import re
from datetime import datetime, timedelta
from typing import Final

import httpx
from lxml import html  # type: ignore[import-untyped]

from domain.publishing.channels import Probe, Sight, ViewCount
from domain.publishing.content import Rendered
from gateways.telegram import letters

_VIEWS: Final = re.compile(r'class="tgme_widget_message_views"[^>]*>\s*([0-9][0-9.,]*)\s*([KM]?)')
_FACTORS: Final = {"": 1, "K": 1_000, "M": 1_000_000}
_LOOK_AHEAD: Final = 12
_CLOCKS_APART: Final = timedelta(seconds=60)


class TelegramPreview:
    """Reads ``https://t.me/<channel>/<id>?embed=1``. Numbers above a thousand are rounded there, and so are these."""

    name = "telegram_preview"

    def __init__(self, *, client: httpx.AsyncClient, base_url: str) -> None:
        self._client = client
        self._base_url = base_url.rstrip("/")

    async def count(self, username: str, message_id: int) -> ViewCount | None:
        """The number that the page shows; None where there is no page or no number."""
        try:
            found = _VIEWS.search(await self._page(username, message_id))
        except httpx.HTTPError:
            return None
        if found is None:
            return None
        return ViewCount(views=round(float(found[1].replace(",", "")) * _FACTORS[found[2]]), source=self.name)

    async def find(
        self, username: str, content: Rendered, *, after: int, known: frozenset[int], since: datetime | None
    ) -> Probe:
        """Look for a text behind ``after`` that came after ``since``: FOUND, and else BLIND, never ABSENT.

        Of an album the pages of its items do not show that it is whole, so none is looked for.
        """
        if after <= 0 or content.messages != 1 or not letters(content.text):
            return self._blind(after, after, "no single text, or no place to begin at")
        last = after + _LOOK_AHEAD
        for message_id in (one for one in range(after + 1, last + 1) if one not in known):
            try:
                page = await self._page(username, message_id)
            except httpx.HTTPError:
                return self._blind(after, message_id, "the public preview cannot be reached")
            if _shows(page, content, since):
                return Probe(
                    sight=Sight.FOUND, source=self.name, message_ids=(message_id,),
                    looked_from=after + 1, looked_to=message_id,
                )  # fmt: skip
        return self._blind(after, last, "the public preview does not show it, which proves nothing")

    def _blind(self, after: int, last: int, why: str) -> Probe:
        return Probe(sight=Sight.BLIND, source=self.name, looked_from=after + 1, looked_to=last, detail=why)

    async def _page(self, username: str, message_id: int) -> str:
        """The page of a message; empty where there is none. Raises httpx.HTTPError."""
        answer = await self._client.get(f"{self._base_url}/{username}/{message_id}", params={"embed": "1"})
        return answer.text if answer.status_code == httpx.codes.OK else ""


def _shows(page: str, content: Rendered, since: datetime | None) -> bool:
    """Whether the page is that of the post: the same letters, and no older than the sending."""
    if not page.strip():
        return False
    document = html.document_fromstring(page)
    texts = document.find_class("tgme_widget_message_text")
    moments = [one.get("datetime") for one in document.iter("time") if one.get("datetime")]
    if not texts or letters(texts[-1].text_content()) != letters(content.text):
        return False
    return since is None or any(_is_recent(one, since) for one in moments)


def _is_recent(moment: str, since: datetime) -> bool:
    """Whether a moment as the page writes it is no older than the sending; one that cannot be read proves nothing."""
    try:
        return datetime.fromisoformat(moment) >= since - _CLOCKS_APART
    except (ValueError, TypeError):  # not a date; or one without a zone
        return False
