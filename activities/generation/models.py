"""Which model a job gets, of those that this worker has credentials for."""

from collections.abc import Mapping

from domain.errors import ContentError
from domain.generation import LanguageModel


def pick_model(models: Mapping[str, LanguageModel], provider: str, model: str | None) -> tuple[LanguageModel, str]:
    """The provider, and the name of its model; None: its default.

    Raises ContentError where there are no credentials, and PriceUnknown, both before anything is spent.
    """
    found = models.get(provider)
    if found is None:
        raise ContentError(
            f"this worker has no credentials for the provider {provider}", code="E.OPENAI.NOT_CONFIGURED"
        )
    name = model or found.default_model
    found.price(name)
    return found, name
