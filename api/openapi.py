"""The OpenAPI document, put right where FastAPI cannot know better."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.errors import MEDIA_TYPE

_FIRST_ERROR: Final = 400


def describe(app: FastAPI) -> None:
    """Let ``app`` describe itself with problems under their own media type."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            for operation in _operations(document):
                _mark_problems(operation)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def _mark_problems(operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        content = response.get("content", {})
        if status.isdigit() and int(status) >= _FIRST_ERROR and "application/json" in content:
            response["content"] = {MEDIA_TYPE: content["application/json"]}
