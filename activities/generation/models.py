"""The language models of this worker, by name."""

from collections.abc import Iterable

from domain.errors import ContentError
from domain.generation import CourseInput, LanguageModel


class Models:
    """The providers that this worker has credentials for."""

    def __init__(self, models: Iterable[LanguageModel]) -> None:
        self._models = {model.name: model for model in models}

    def chosen(self, wanted: CourseInput) -> tuple[LanguageModel, str]:
        """The provider that the input names, and the model asked for or its default.

        Raises ContentError where there are no credentials for it, and PriceUnknown, before anything is spent.
        """
        model = self._models.get(wanted.provider)
        if model is None:
            raise ContentError(
                f"this worker has no credentials for the provider {wanted.provider}", code="E.OPENAI.NOT_CONFIGURED"
            )
        name = wanted.model or model.default_model
        model.price(name)
        return model, name
