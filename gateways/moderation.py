"""OpenAI's moderation, and every server that speaks the same protocol."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import httpx
from pydantic import Field, SecretStr

from domain.errors import Outcome, ProviderError
from domain.guarding import Judgement
from gateways.openai_wire import PROTOCOL, REJECTED, OpenAIWire, Wire, fault, read_as

MOST_TEXTS: Final = 32
"""In one call; how many the vendor takes is not documented, and it has refused lists of hundreds."""

_PATH: Final = "/moderations"
_NO_MODERATION: Final = "E.OPENAI.NO_MODERATION"
_NOT_HERE: Final = ("HTTP 404", "HTTP 405")


class OpenAIModerator:
    """A ``Moderator`` over ``POST /moderations``. It costs nothing, and judging twice changes nothing."""

    provider = "openai"

    def __init__(self, *, client: httpx.AsyncClient, base_url: str, api_key: SecretStr | str, model: str) -> None:
        self._wire = OpenAIWire(client=client, base_url=base_url, api_key=api_key)
        self.model = model

    async def moderate(self, *, texts: Sequence[str]) -> tuple[Judgement, ...]:
        """One judgement for each text, in order. Raises ProviderError."""
        judged: list[Judgement] = []
        for start in range(0, len(texts), MOST_TEXTS):
            judged += await self._moderate(texts[start : start + MOST_TEXTS])
        return tuple(judged)

    async def _moderate(self, texts: Sequence[str]) -> Sequence[Judgement]:
        try:
            reply = await self._wire.send("POST", _PATH, body={"model": self.model, "input": list(texts)})
        except ProviderError as error:
            if error.code == REJECTED and error.detail.startswith(_NOT_HERE):
                raise fault(
                    f"no moderation by the model {self.model} at this address; LONGHAUL_OPENAI_MODERATION turns it off",
                    code=_NO_MODERATION, outcome=Outcome.REJECTED,
                ) from None  # fmt: skip
            raise
        answer = read_as(_Answer, reply.data)
        if answer is None or len(answer.results) != len(texts):
            raise fault("the answer is no moderation", code=PROTOCOL, outcome=Outcome.UNKNOWN, may_retry=True)
        return [_judgement(result) for result in answer.results]


class _Result(Wire):
    """Some categories are null for models that do not know them."""

    flagged: bool
    categories: dict[str, bool | None]
    category_scores: dict[str, Annotated[float, Field(ge=0)] | None]


class _Answer(Wire):
    results: list[_Result]


def _judgement(result: _Result) -> Judgement:
    scores: dict[str, Any] = result.category_scores
    flagged = [category for category, is_flagged in result.categories.items() if is_flagged]
    if result.flagged and not flagged:
        flagged = ["unspecified"]  # an objection is an objection, also without a reason
    return Judgement(categories={category: min(scores.get(category) or 0.0, 1.0) for category in flagged})
