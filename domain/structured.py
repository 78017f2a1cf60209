"""Structured answers: the schema a model is given, and the judgement of what it sends back.

The wire schema is the small subset that every vendor's strict mode takes; it says less than our models do. So an
answer is judged twice: by the vendor against the wire schema, and here against the full model.
"""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from domain.model import Frozen
from domain.text import storable

ModelT = TypeVar("ModelT", bound=BaseModel)

_KEPT: Final = frozenset({"type", "enum", "const", "description"})
_DROPPED: Final = frozenset({
    "title", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator", "format",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "minLength", "maxLength", "pattern", "minItems", "maxItems", "uniqueItems",
    "contentEncoding", "contentMediaType", "contentSchema",
})  # fmt: skip
_STRUCTURAL: Final = frozenset({
    "$ref", "$defs", "properties", "required", "additionalProperties", "items", "anyOf", "oneOf",
})  # fmt: skip
_MAX_FAULTS: Final = 50
_MAX_NAME: Final = 100


# --- the wire schema --------------------------------------------------------------------------------


def strict_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of ``model`` in the subset that strict mode takes.

    Every object is closed and requires all its properties; constraints, defaults and titles are left out.
    Raises TypeError, with the place, for what the subset cannot say: free-form mappings, fixed-length tuples, Any.
    """
    source = model.model_json_schema(mode="validation")
    definitions: dict[str, Any] = source.get("$defs", {})
    root = source
    if "$ref" in source:  # pydantic's form of a model that contains itself; the vendors want an object on top
        root = definitions[str(source["$ref"]).removeprefix("#/$defs/")]
    if root.get("type") != "object":
        raise TypeError(f"{model.__name__}: the root of a strict schema is an object")
    wire = _strict(root, "")
    if definitions:
        wire["$defs"] = {name: _strict(schema, f"/$defs/{name}") for name, schema in definitions.items()}
    return wire


def _strict(schema: Any, at: str) -> dict[str, Any]:
    if not isinstance(schema, dict) or not schema.keys() & (_KEPT | _STRUCTURAL) - {"description"}:
        raise TypeError(f"{at or '/'}: strict mode has no schema for anything at all")
    unknown = schema.keys() - _KEPT - _DROPPED - _STRUCTURAL
    if unknown:
        raise TypeError(f"{at or '/'}: strict mode does not know {', '.join(sorted(unknown))}")
    if "$ref" in schema:
        return {"$ref": schema["$ref"]}  # strict mode refuses siblings of a reference
    wire = {key: value for key, value in schema.items() if key in _KEPT}
    branches = schema.get("anyOf", schema.get("oneOf"))
    if branches is not None:
        wire["anyOf"] = [_strict(branch, f"{at}/anyOf/{index}") for index, branch in enumerate(branches)]
    if schema.get("type") == "object":
        wire |= _strict_object(schema, at)
    if schema.get("type") == "array":
        wire["items"] = _strict(schema.get("items"), f"{at}/items")
    return wire


def _strict_object(schema: dict[str, Any], at: str) -> dict[str, Any]:
    # A mapping has a schema, or True, for the names it does not list. A model without fields is fine; a bare dict,
    # which pydantic marks with True, is not.
    if schema.get("additionalProperties", False) is not False:
        raise TypeError(f"{at or '/'}: strict mode knows no free-form mappings")
    properties = schema.get("properties", {})
    return {
        "properties": {name: _strict(value, f"{at}/properties/{name}") for name, value in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }


# --- judging an answer ------------------------------------------------------------------------------


class AnswerFault(Frozen):
    """Why an answer is not acceptable: a JSON pointer (RFC 6901) and a sentence for each fault, at least one."""

    errors: tuple[tuple[str, str], ...]


def validate_answer(model: type[ModelT], raw_text: str) -> ModelT | AnswerFault:
    """Read ``raw_text`` as one JSON document and check it against ``model``, without any coercion of types.

    A code fence around the document is forgiven. Never raises for the contents of the text, and never repeats
    them in a message beyond names of members.
    """
    document = unfenced(raw_text)
    try:
        data = parse_document(document)
        faults = tuple(text_faults(data, ""))
    except RecursionError:
        return AnswerFault(errors=(("", "the document is nested too deeply"),))
    except ValueError as exc:
        return AnswerFault(errors=(("", str(exc)),))
    if faults:
        return AnswerFault(errors=faults[:_MAX_FAULTS])
    try:
        # From the text once more: only JSON mode lets strict models take an array for a tuple.
        return model.model_validate_json(document, strict=True)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_context=False, include_input=False)
        return AnswerFault(errors=tuple((pointer(e["loc"], data), e["msg"]) for e in errors[:_MAX_FAULTS]))


def unfenced(text: str) -> str:
    """Return ``text`` without the code fence around it, if there is one."""
    stripped = text.strip()
    opening, line_break, rest = stripped.partition("\n")
    if opening.rstrip().lower() in {"```", "```json"} and line_break and rest.endswith("```"):
        return rest.removesuffix("```")
    return text


def parse_document(document: str) -> Any:
    """Read one JSON document; raises ValueError for names that repeat, and for numbers that JSON does not have."""
    try:
        return json.loads(
            document,
            object_pairs_hook=_unique_members,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except json.JSONDecodeError as exc:
        raise ValueError(f"is not a JSON document: {exc.msg} (line {exc.lineno}, column {exc.colno})") from None


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"holds the member {json.dumps(name[:_MAX_NAME])} twice in one object")
        members[name] = value
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def text_faults(value: Any, at: str) -> Iterator[tuple[str, str]]:
    """Yield every string, names included, that neither PostgreSQL nor UTF-8 can hold."""
    if isinstance(value, str):
        yield from _fault_of(storable, value, at)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from text_faults(item, f"{at}/{index}")
    elif isinstance(value, dict):
        for name, item in value.items():
            bad_name = tuple(_fault_of(storable, name, at))
            yield from bad_name
            if not bad_name:
                yield from text_faults(item, f"{at}/{escaped(name)}")


def _fault_of(check: Callable[[str], str], text: str, at: str) -> Iterator[tuple[str, str]]:
    try:
        check(text)
    except ValueError as exc:
        yield at, str(exc)


def escaped(name: str) -> str:
    """Return ``name`` as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def pointer(location: tuple[int | str, ...], data: Any) -> str:
    """Turn pydantic's location into a JSON pointer, leaving out what is no place in ``data``, such as union tags."""
    pointer, here = "", data
    for position, step in enumerate(location):
        inside = isinstance(here, list) and isinstance(step, int) and step < len(here)
        if inside or (isinstance(here, dict) and step in here):
            here = here[step]
        elif position + 1 < len(location) or not isinstance(here, dict):
            continue
        pointer += f"/{escaped(str(step))}"
    return pointer
