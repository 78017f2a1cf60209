"""Moderation as the stand-in does it: a text is objectionable where it holds a phrase from a short list."""

import json
import random
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateways.standin_openai.wire import invalid, not_found

PHRASES: Final[dict[str, str]] = {
    "[harassment]": "harassment",
    "[harassment/threatening]": "harassment/threatening",
    "[hate]": "hate",
    "[hate/threatening]": "hate/threatening",
    "[illicit]": "illicit",
    "[illicit/violent]": "illicit/violent",
    "[self-harm]": "self-harm",
    "[self-harm/instructions]": "self-harm/instructions",
    "[self-harm/intent]": "self-harm/intent",
    "[sexual]": "sexual",
    "[sexual/minors]": "sexual/minors",
    "[violence]": "violence",
    "[violence/graphic]": "violence/graphic",
}
"""What to write into a text so that it is flagged, by category."""
MODERATION_MODELS: Final = ("omni-moderation-latest", "omni-moderation-2024-09-26")


_SURE: Final = (0.7, 0.999)
_UNSURE: Final = (0.0, 0.01)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: Annotated[str, Field(pattern="^text$")]
    text: str


class ModerationRequest(BaseModel):
    """What a request may say; the stand-in looks at texts only."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    input: str | list[str] | list[_Part]
    model: str = MODERATION_MODELS[0]

    @property
    def texts(self) -> list[str]:
        """The texts to judge; parts are judged together, as the vendor does it."""
        if isinstance(self.input, str):
            return [self.input]
        texts = [one for one in self.input if isinstance(one, str)]
        return texts or ["\n".join(one.text for one in self.input if isinstance(one, _Part))]


def read_moderation(body: bytes) -> ModerationRequest:
    """Read and check a request. Raises ApiError 400 or 404."""
    try:
        request = ModerationRequest.model_validate(json.loads(body))
    except (ValueError, ValidationError, RecursionError):
        raise invalid("Invalid 'input' or 'model'.", param="input") from None
    if not request.input:
        raise invalid("'input' must not be empty.", param="input")
    if request.model not in MODERATION_MODELS:
        raise not_found(f"The model '{request.model}' does not exist.", code="model_not_found")
    return request


def moderation(request: ModerationRequest, *, identifier: str, seed: int) -> dict[str, Any]:
    """Return the moderation object, one result for each text in order."""
    results = [_result(text, seed=seed) for text in request.texts]
    return {"id": identifier, "model": MODERATION_MODELS[1], "results": results}


def _result(text: str, *, seed: int) -> dict[str, Any]:
    dice = random.Random(f"{seed}:{text}:moderation")  # noqa: S311
    categories = {category: phrase in text for phrase, category in PHRASES.items()}
    scores = {category: dice.uniform(*(_SURE if hit else _UNSURE)) for category, hit in categories.items()}
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": {category: ["text"] for category in categories},
    }
