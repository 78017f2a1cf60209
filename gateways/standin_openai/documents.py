"""Documents that fit a schema: what the stand-in says instead of thinking.

``write_document`` is a function of its arguments alone; the same request gets the same answer, in any order and
under any concurrency.
"""

import json
import math
import random
import re
import string
from collections.abc import Callable
from re import _constants as _sre  # type: ignore[attr-defined]  # the only parser of patterns Python has
from re import _parser as _sre_parser  # type: ignore[attr-defined]
from typing import Any, Final

from gateways.standin_openai.courses import course_document, sentence

_MAX_DEPTH: Final = 8


class UnsupportedSchema(ValueError):
    """The schema asks for something this generator cannot write; the server answers 400, as the real one would."""


def write_document(schema: dict[str, Any], *, prompt: str, seed: str) -> str:
    """Return a JSON document that fits ``schema``. Our own course schemas get documents that fit the full models.

    For an outline, ``prompt`` may tell the numbers in lines such as ``Modules: 3`` and ``Lessons per module: 4``,
    and the sections to spread over the lessons in lines that begin with ``[s12]``; for slides and questions it carries
    the lesson between ``<sources>`` and ``</sources>``. Raises UnsupportedSchema.
    """
    rng = random.Random(seed)  # noqa: S311
    members = set(schema.get("properties", {}))
    ours = course_document(members, prompt, rng)
    if ours is not None:
        return ours.model_dump_json()
    return json.dumps(_Generator(schema, rng).value(schema, 0), ensure_ascii=False)


# --- any document -----------------------------------------------------------------------------------


class _Generator:
    """Writes values for a JSON Schema of the kind strict mode takes, and a little beyond."""

    def __init__(self, root: dict[str, Any], rng: random.Random) -> None:
        self._root = root
        self._rng = rng
        self._by_type: dict[str, Callable[[dict[str, Any], int], Any]] = {
            "object": self._object,
            "array": self._array,
            "string": lambda schema, _: _string(schema, self._rng),
            "integer": lambda schema, _: _integer(schema, self._rng),
            "number": lambda schema, _: _real(schema, self._rng),
            "boolean": lambda *_: self._rng.random() < 0.5,  # noqa: PLR2004
            "null": lambda *_: None,
        }

    def value(self, schema: Any, depth: int) -> Any:
        """Return a value that fits ``schema``; from a certain depth on, the smallest one."""
        if schema is True or schema == {}:
            return sentence(self._rng)
        if not isinstance(schema, dict) or depth > 4 * _MAX_DEPTH:
            raise UnsupportedSchema("no finite document fits the schema")
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._rng.choice(schema["enum"])
        onward = self._onward(schema, depth)
        return self._typed(schema, depth) if onward is None else self.value(onward, depth + 1)

    def _onward(self, schema: dict[str, Any], depth: int) -> Any:
        """The schema that stands behind a reference, a union or an intersection; None where this is no such thing."""
        if "$ref" in schema:
            return self._resolve(str(schema["$ref"]))
        if "allOf" in schema:
            return self._merged(schema)
        branches = schema.get("anyOf", schema.get("oneOf"))
        return None if branches is None else self._branch(branches, depth)

    def _typed(self, schema: dict[str, Any], depth: int) -> Any:
        kinds = schema.get("type", "object" if "properties" in schema else "array" if "items" in schema else "string")
        if isinstance(kinds, list):
            kinds = "null" if depth > _MAX_DEPTH and "null" in kinds else self._rng.choice(kinds)
        if kinds not in self._by_type:
            raise UnsupportedSchema(f"unknown type {kinds!r}")
        return self._by_type[kinds](schema, depth)

    def _resolve(self, reference: str) -> Any:
        if not reference.startswith("#"):
            raise UnsupportedSchema("only references inside the document are followed")
        here: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(here, dict) or name not in here:
                raise UnsupportedSchema(f"the reference {reference!r} leads nowhere")
            here = here[name]
        return here

    def _merged(self, schema: dict[str, Any]) -> dict[str, Any]:
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            whole = self._resolve(part["$ref"]) if "$ref" in part else part
            properties = {**merged.get("properties", {}), **whole.get("properties", {})}
            required = [*merged.get("required", ()), *whole.get("required", ())]
            merged = {**merged, **whole}
            if properties:
                merged |= {"properties": properties, "required": required}
        return merged

    def _branch(self, branches: list[Any], depth: int) -> Any:
        if depth > _MAX_DEPTH:  # lists and trees that refer to themselves have to end
            return min(branches, key=_weight)
        return self._rng.choice(branches)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        required = set(schema.get("required", ()))
        return {
            name: self.value(value, depth + 1)
            for name, value in schema.get("properties", {}).items()
            if name in required or depth <= _MAX_DEPTH
        }

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        fixed = [self.value(item, depth + 1) for item in schema.get("prefixItems", ())]
        least = schema.get("minItems", 0)
        most = schema.get("maxItems", max(least, 3))
        wanted = least if depth > _MAX_DEPTH else self._rng.randint(max(least, min(1, most)), min(most, least + 3))
        if schema.get("items") is False:
            return fixed
        rest = [self.value(schema.get("items", True), depth + 1) for _ in range(wanted - len(fixed))]
        return self._distinct(fixed + rest, schema, depth) if schema.get("uniqueItems") else fixed + rest

    def _distinct(self, items: list[Any], schema: dict[str, Any], depth: int) -> list[Any]:
        kept = {json.dumps(item, sort_keys=True): item for item in items}
        for _ in range(100):
            if len(kept) >= schema.get("minItems", 0):
                return list(kept.values())
            item = self.value(schema.get("items", True), depth + 1)
            kept[json.dumps(item, sort_keys=True)] = item
        raise UnsupportedSchema("cannot find enough distinct items")


def _weight(schema: Any) -> int:
    """How much a branch is likely to grow: nothing, a leaf, or something that may contain itself."""
    if not isinstance(schema, dict) or schema.get("type") == "null":
        return 0
    return 2 if schema.keys() & {"$ref", "properties", "items", "anyOf", "allOf", "oneOf"} else 1


_FORMATS: Final = {
    "date-time": "2026-01-15T09:30:00Z",
    "date": "2026-01-15",
    "time": "09:30:00Z",
    "duration": "PT1H30M",
    "email": "reader@example.org",
    "hostname": "example.org",
    "ipv4": "192.0.2.7",
    "ipv6": "2001:db8::7",
    "uuid": "6f2b4c1e-8a57-4d3b-9c65-0e1f2a3b4c5d",
    "uri": "https://example.org/a",
    "binary": "text",
}


def _string(schema: dict[str, Any], rng: random.Random) -> str:
    if "pattern" in schema:
        return _from_pattern(str(schema["pattern"]), rng)
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
    text = sentence(rng)
    while len(text) < least:
        text += " " + sentence(rng)
    if len(text) > most:
        text = text[: int(most)]
    # Padded, since a cut may end in a space that a model would strip.
    return text[:-1] + "." if text.endswith(" ") else text


def _integer(schema: dict[str, Any], rng: random.Random) -> int:
    step = schema.get("multipleOf", 1)
    lowest = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf) + 1)
    highest = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf) - 1)
    if lowest == -math.inf:
        lowest = 0 if highest >= 0 else highest - 100 * step
    if highest == math.inf:
        highest = lowest + 100 * step
    first, last = math.ceil(lowest / step), math.floor(highest / step)
    if first > last:
        raise UnsupportedSchema("no integer fits the bounds")
    return int(rng.randint(first, last) * step)


def _real(schema: dict[str, Any], rng: random.Random) -> float:
    if "multipleOf" in schema:
        step = schema["multipleOf"]
        scaled = {key: value / step for key, value in schema.items() if key in _BOUNDS}
        return float(_integer(scaled, rng) * step)
    lowest = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf))
    highest = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
    if lowest == -math.inf:
        lowest = 0.0 if highest > 0 else highest - 100.0
    if highest == math.inf:
        highest = lowest + 100.0
    if lowest > highest:
        raise UnsupportedSchema("no number fits the bounds")
    return float(lowest + (highest - lowest) * rng.uniform(0.25, 0.75))  # inside, so exclusive bounds hold as well


_BOUNDS: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})


# --- strings for a pattern --------------------------------------------------------------------------

_MAX_REPEATS: Final = 4
_CLASSES: Final = {
    _sre.CATEGORY_DIGIT: string.digits,
    _sre.CATEGORY_WORD: string.ascii_letters + string.digits + "_",
    _sre.CATEGORY_SPACE: " ",
    _sre.CATEGORY_NOT_DIGIT: string.ascii_letters,
    _sre.CATEGORY_NOT_WORD: "-.",
    _sre.CATEGORY_NOT_SPACE: string.ascii_letters,
}
_ANY: Final = string.ascii_letters + string.digits + " .-_"


def _from_pattern(pattern: str, rng: random.Random) -> str:
    try:
        text = _sequence(_sre_parser.parse(pattern), rng)
    except re.error as exc:
        raise UnsupportedSchema(f"the pattern {pattern!r} is not valid") from exc
    if not re.search(pattern, text):  # look-arounds and the like
        raise UnsupportedSchema(f"cannot write a text for the pattern {pattern!r}")
    return text


def _sequence(tokens: Any, rng: random.Random) -> str:
    return "".join(_token(kind, value, rng) for kind, value in tokens)


def _token(kind: Any, value: Any, rng: random.Random) -> str:
    if kind not in _WRITERS:
        raise UnsupportedSchema(f"patterns with {str(kind).lower()} are not supported")
    return _WRITERS[kind](value, rng)


def _repeated(value: Any, rng: random.Random) -> str:
    least, most, inner = value
    times = rng.randint(least, min(int(most), least + _MAX_REPEATS))
    return "".join(_sequence(inner, rng) for _ in range(times))


_WRITERS: Final[dict[Any, Callable[[Any, random.Random], str]]] = {
    _sre.LITERAL: lambda value, _: chr(value),
    _sre.NOT_LITERAL: lambda value, rng: rng.choice(_choices([(_sre.NEGATE, None), (_sre.LITERAL, value)])),
    _sre.ANY: lambda _, rng: rng.choice(_ANY),
    _sre.IN: lambda value, rng: rng.choice(_choices(value)),
    _sre.MAX_REPEAT: _repeated,
    _sre.MIN_REPEAT: _repeated,
    _sre.POSSESSIVE_REPEAT: _repeated,
    _sre.SUBPATTERN: lambda value, rng: _sequence(value[-1], rng),
    _sre.BRANCH: lambda value, rng: _sequence(rng.choice(value[1]), rng),
    _sre.AT: lambda *_: "",
}


def _choices(items: Any) -> str:
    negated, chars = False, set[str]()
    for kind, value in items:
        if kind is _sre.NEGATE:
            negated = True
        elif kind is _sre.LITERAL:
            chars.add(chr(value))
        elif kind is _sre.RANGE:
            chars.update(chr(code) for code in range(value[0], min(value[1], value[0] + 500) + 1))
        elif kind is _sre.CATEGORY:
            chars.update(_CLASSES.get(value, ""))
    allowed = set(_ANY) - chars if negated else chars
    if not allowed:
        raise UnsupportedSchema("a class of characters is empty")
    return "".join(sorted(allowed))
