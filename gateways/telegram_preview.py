"""View counts from the public preview of a channel, the one place where Telegram shows them without an account."""

import re
from typing import Final

import httpx

from domain.publishing.channels import ViewCount

_VIEWS: Final = re.compile(r'class="tgme_widget_message_views"[^>]*>\s*([0-9][0-9.,]*)\s*([KM]?)')
_FACTORS: Final = {"": 1, "K": 1_000, "M": 1_000_000}


class TelegramPreview:
    """Reads ``https://t.me/<channel>/<id>?embed=1``. Numbers above a thousand are rounded there, and so are these."""

    name = "telegram_preview"

    def __init__(self, *, client: httpx.AsyncClient, base_url: str) -> None:
        self._client = client
        self._base_url = base_url.rstrip("/")

    async def count(self, username: str, message_id: int) -> ViewCount | None:
        """The number that the page shows; None where there is no page or no number."""
        try:
            answer = await self._client.get(f"{self._base_url}/{username}/{message_id}", params={"embed": "1"})
        except httpx.HTTPError:
            return None
        found = _VIEWS.search(answer.text) if answer.status_code == httpx.codes.OK else None
        if found is None:
            return None
        return ViewCount(views=round(float(found[1].replace(",", "")) * _FACTORS[found[2]]), source=self.name)
