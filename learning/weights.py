"""Weights as bytes: safetensors, written canonically and read without trust.

The format (https://huggingface.co/docs/safetensors): eight bytes with the length of the header, little-endian, then
the header as JSON ``{name: {"dtype", "shape", "data_offsets"}}``, then the values of all tensors without gaps.
Readers here never allocate what a header merely claims, and hold one block of one tensor at a time.
"""

import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[Any]]
"""Tensors by name."""

Schema = Mapping[str, "TensorSpec"]
"""What tensors there must be."""

Source = bytes | bytearray | memoryview | Path
"""Where encoded weights are: in memory or in a file."""

MAX_HEADER_BYTES: Final = 1_048_576
"""By default no header may be longer: room for some ten thousand tensors."""
BLOCK_VALUES: Final = 32_768
"""How many values are worked on at once: a quarter of a megabyte as float64, which stays in a processor's cache."""

_LENGTH_BYTES: Final = 8
_MAX_TENSORS: Final = 100_000
_MAX_DIMENSIONS: Final = 16
_MAX_NAME_CHARS: Final = 512
_METADATA: Final = "__metadata__"
_FIELDS: Final = {"dtype", "shape", "data_offsets"}

DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    name: np.dtype(code)
    for name, code in {
        "F64": "<f8", "F32": "<f4", "F16": "<f2",
        "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
        "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
    }.items()
}  # fmt: skip
"""The types of values that can be averaged, by their names in the format. bfloat16 is not one: numpy has none."""

_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


class Refusal(StrEnum):
    """Why weights are refused; short and stable, fit for a metric's label."""

    HEADER = "header"
    LENGTH = "length"
    NAMES = "names"
    DTYPE = "dtype"
    SHAPE = "shape"
    NOT_FINITE = "not_finite"
    NORM = "norm"


class WeightsRefused(Exception):
    """Weights are not acceptable; ``reason`` is for programs, ``detail`` for people."""

    def __init__(self, reason: Refusal, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Type and shape of one tensor; ``dtype`` as the format names it (``F32``)."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The type of the values in memory."""
        return DTYPES[self.dtype]

    @property
    def size_bytes(self) -> int:
        """Length of the values."""
        return self.size * self.numpy_dtype.itemsize


@dataclass(frozen=True, slots=True)
class Layout:
    """What a header says, once it has been checked against the length of the whole."""

    specs: Mapping[str, TensorSpec]
    begins: Mapping[str, int]
    """Position of the first byte of each tensor, from the start of the source."""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckedWeights:
    """What a check found."""

    norm: float
    """L2 norm of the difference to the parent; of the weights themselves where there is none."""
    values: int
    """Number of values over all tensors."""


# --- writing ------------------------------------------------------------------------------------------


def spec_of(array: NDArray[Any]) -> TensorSpec:
    """Type and shape of an array. Raises :class:`WeightsRefused` for a type that is not among :data:`DTYPES`."""
    name = _NAMES.get(array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype)
    if name is None:
        raise WeightsRefused(Refusal.DTYPE, f"values of type {array.dtype} cannot be averaged")
    return TensorSpec(name, array.shape)


def schema_of(weights: Weights) -> dict[str, TensorSpec]:
    """The schema that these weights have."""
    return {name: spec_of(array) for name, array in weights.items()}


def storage_order(schema: Schema) -> list[str]:
    """The order of tensors in the bytes: wide types first, so that each is aligned, then by name."""
    return sorted(schema, key=lambda name: (-schema[name].numpy_dtype.itemsize, name))


def encode_header(schema: Schema, metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes before the values; a function of its input alone, whatever the order of the mappings."""
    header: dict[str, Any] = {}
    end = 0
    for name in storage_order(schema):
        spec = schema[name]
        begin, end = end, end + spec.size_bytes
        header[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [begin, end]}
    if metadata:
        header[_METADATA] = dict(metadata)
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def encode(weights: Weights, metadata: Mapping[str, str] | None = None) -> bytes:
    """Weights as safetensors. Equal weights give equal bytes, whatever the order in which the tensors come.

    Raises :class:`WeightsRefused` for types of values that the format has and we do not average.
    """
    schema = schema_of(weights)
    values = (np.ascontiguousarray(weights[name], schema[name].numpy_dtype) for name in storage_order(schema))
    return b"".join([encode_header(schema, metadata), *(array.tobytes() for array in values)])


# --- reading ------------------------------------------------------------------------------------------


class Reader(Protocol):
    """Random access to encoded weights."""

    length: int

    def read_into(self, begin: int, target: memoryview) -> None:
        """Fill ``target`` from position ``begin``. Raises :class:`WeightsRefused` where there is less."""


class _MemoryReader:
    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data).cast("B")
        self.length = len(self._data)

    def read_into(self, begin: int, target: memoryview) -> None:
        part = self._data[begin : begin + len(target)]
        if len(part) < len(target):
            raise WeightsRefused(Refusal.LENGTH, "the data ends too early")
        target[:] = part


class _FileReader:
    # Read, not mapped: pages of a mapping would count as our memory, and a file that shrinks would kill us.
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.length = os.fstat(descriptor).st_size

    def read_into(self, begin: int, target: memoryview) -> None:
        filled = 0
        while filled < len(target):
            count = os.preadv(self._descriptor, [target[filled:]], begin + filled)
            if count == 0:
                raise WeightsRefused(Refusal.LENGTH, "the file ends too early")
            filled += count


@contextmanager
def opened(source: Source) -> Iterator[Reader]:
    """Random access to ``source`` inside the block."""
    if not isinstance(source, Path):
        yield _MemoryReader(source)
        return
    descriptor = os.open(source, os.O_RDONLY)
    try:
        yield _FileReader(descriptor)
    finally:
        os.close(descriptor)


def read_layout(source: Source, *, max_header_bytes: int = MAX_HEADER_BYTES) -> Layout:
    """What is where in ``source``, every claim checked; reads the header and nothing else.

    Raises:
        WeightsRefused: the header is longer than ``max_header_bytes``, is not what the format asks for, names a type
            that is not among :data:`DTYPES`, or does not describe exactly the bytes there are.
    """
    with opened(source) as reader:
        return _read_layout(reader, max_header_bytes)


def read_header(source: Source, *, max_header_bytes: int = MAX_HEADER_BYTES) -> dict[str, TensorSpec]:
    """The tensors in ``source``; see :func:`read_layout` for what is checked and raised."""
    return dict(read_layout(source, max_header_bytes=max_header_bytes).specs)


def _read_layout(reader: Reader, max_header_bytes: int) -> Layout:
    length = int.from_bytes(_read(reader, 0, _LENGTH_BYTES), "little")
    if length > max_header_bytes:
        raise WeightsRefused(Refusal.HEADER, f"the header has {length} bytes, more than {max_header_bytes}")
    header = _parse(_read(reader, _LENGTH_BYTES, length))
    metadata = _metadata(header.pop(_METADATA, {}))
    if len(header) > _MAX_TENSORS:
        raise WeightsRefused(Refusal.HEADER, f"more than {_MAX_TENSORS} tensors")
    start = _LENGTH_BYTES + length
    tensors = {name: _tensor(name, entry) for name, entry in header.items()}
    _check_offsets([offsets for _, offsets in tensors.values()], reader.length - start)
    return Layout(
        specs={name: spec for name, (spec, _) in tensors.items()},
        begins={name: start + begin for name, (_, (begin, _)) in tensors.items()},
        metadata=metadata,
    )


def _read(reader: Reader, begin: int, length: int) -> bytes:
    if begin + length > reader.length:
        raise WeightsRefused(Refusal.LENGTH, "the data ends inside its header")
    target = bytearray(length)
    reader.read_into(begin, memoryview(target))
    return bytes(target)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) != len(dict(pairs)):
        raise WeightsRefused(Refusal.HEADER, "a name occurs twice in the header")
    return dict(pairs)


def _parse(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as fault:
        raise WeightsRefused(Refusal.HEADER, "the header is not JSON") from fault
    if not isinstance(header, dict):
        raise WeightsRefused(Refusal.HEADER, "the header is not an object")
    return header


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise WeightsRefused(Refusal.HEADER, f"{_METADATA} is not an object of strings")
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _tensor(name: str, entry: Any) -> tuple[TensorSpec, tuple[int, int]]:
    """Type, shape and offsets of one entry, consistent among themselves."""
    shown = name[:60]
    if len(name) > _MAX_NAME_CHARS or not isinstance(entry, dict) or set(entry) != _FIELDS:
        raise WeightsRefused(Refusal.HEADER, f"the entry of {shown!r} is malformed")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WeightsRefused(Refusal.DTYPE, f"{shown!r} has a type of values that is not supported")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS or not all(map(_is_count, shape)):
        raise WeightsRefused(Refusal.SHAPE, f"the shape of {shown!r} is malformed")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):  # noqa: PLR2004 - a pair
        raise WeightsRefused(Refusal.HEADER, f"the offsets of {shown!r} are malformed")
    spec = TensorSpec(dtype, tuple(shape))
    if offsets[1] - offsets[0] != spec.size_bytes:
        raise WeightsRefused(Refusal.HEADER, f"the offsets of {shown!r} do not fit its shape")
    return spec, (offsets[0], offsets[1])


def _check_offsets(offsets: list[tuple[int, int]], length: int) -> None:
    """Tensors follow each other without gap or overlap and fill the data to its last byte."""
    ends = [(0, 0), *sorted(offsets)]
    if any(before[1] != after[0] for before, after in pairwise(ends)):
        raise WeightsRefused(Refusal.HEADER, "tensors overlap or leave gaps")
    if ends[-1][1] != length:
        raise WeightsRefused(Refusal.LENGTH, f"the tensors need {ends[-1][1]} bytes and there are {length}")


def decode(source: Source, *, max_header_bytes: int = MAX_HEADER_BYTES) -> dict[str, NDArray[Any]]:
    """All tensors, as arrays of their own. Raises :class:`WeightsRefused` as :func:`read_layout` does."""
    with opened(source) as reader:
        layout = _read_layout(reader, max_header_bytes)
        return {name: _read_tensor(reader, layout, name) for name in sorted(layout.specs)}


def _read_tensor(reader: Reader, layout: Layout, name: str) -> NDArray[Any]:
    spec = layout.specs[name]
    array = np.empty(spec.shape, spec.numpy_dtype)
    reader.read_into(layout.begins[name], array.reshape(-1).view(np.uint8).data)
    return array


def read_metadata(source: Source, *, max_header_bytes: int = MAX_HEADER_BYTES) -> dict[str, str]:
    """The texts that were encoded along. Raises :class:`WeightsRefused` as :func:`read_layout` does."""
    return dict(read_layout(source, max_header_bytes=max_header_bytes).metadata)


# --- reading in blocks --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of one tensor, its values counted as if it were flat."""

    name: str
    begin: int
    end: int


def blocks(schema: Schema, block_values: int = BLOCK_VALUES) -> Iterator[Block]:
    """All values in storage order, in stretches of at most ``block_values``."""
    for name in storage_order(schema):
        size = schema[name].size
        for begin in range(0, size, block_values):
            yield Block(name, begin, min(begin + block_values, size))


class BlockReader:
    """Reads blocks of one source into buffers that are used again and again."""

    def __init__(self, reader: Reader, layout: Layout) -> None:
        self._reader = reader
        self._layout = layout

    @property
    def layout(self) -> Layout:
        """What is where in the source."""
        return self._layout

    def read(self, block: Block, buffer: bytearray) -> NDArray[Any]:
        """The values of ``block``, a view of ``buffer``, which must have eight bytes for each."""
        dtype = self._layout.specs[block.name].numpy_dtype
        part = memoryview(buffer)[: (block.end - block.begin) * dtype.itemsize]
        self._reader.read_into(self._layout.begins[block.name] + block.begin * dtype.itemsize, part)
        return np.frombuffer(part, dtype)


@contextmanager
def block_reader(source: Source, *, max_header_bytes: int = MAX_HEADER_BYTES) -> Iterator[BlockReader]:
    """A reader of blocks, open inside the block. Raises :class:`WeightsRefused` as :func:`read_layout` does."""
    with opened(source) as reader:
        yield BlockReader(reader, _read_layout(reader, max_header_bytes))


class BlockWriter:
    """Canonical bytes, written block by block into memory taken once."""

    def __init__(self, schema: Schema, metadata: Mapping[str, str] | None = None) -> None:
        header = encode_header(schema, metadata)
        self._schema = schema
        self._begins: dict[str, int] = {}
        end = len(header)
        for name in storage_order(schema):
            self._begins[name] = end
            end += schema[name].size_bytes
        # A BytesIO hands out what it holds without a copy, so that a model is in memory once and not twice.
        self._file = io.BytesIO(bytes(end))
        self._data = self._file.getbuffer()
        self._data[: len(header)] = header

    def view(self, block: Block) -> NDArray[Any]:
        """The values of ``block`` as an array to write into."""
        spec = self._schema[block.name]
        begin = self._begins[block.name] + block.begin * spec.numpy_dtype.itemsize
        return np.frombuffer(self._data, spec.numpy_dtype, block.end - block.begin, begin)

    def finish(self) -> bytes:
        """The bytes; nothing may be written any more."""
        return self._file.getvalue()


# --- checking -----------------------------------------------------------------------------------------


def check_schema(found: Schema, expected: Schema) -> None:
    """Pass where both have the same names, types and shapes. Raises :class:`WeightsRefused` naming what differs."""
    if found.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        shown = [name[:60] for name in (missing + extra)[:5]]
        raise WeightsRefused(Refusal.NAMES, f"{len(missing)} tensors are missing, {len(extra)} are unknown: {shown}")
    for name, spec in expected.items():
        if found[name].dtype != spec.dtype:
            raise WeightsRefused(Refusal.DTYPE, f"{name!r} is {found[name].dtype} and should be {spec.dtype}")
        if found[name].shape != spec.shape:
            raise WeightsRefused(Refusal.SHAPE, f"{name!r} is {found[name].shape} and should be {spec.shape}")


def check(
    source: Source,
    *,
    schema: Schema | None = None,
    parent: Source | None = None,
    max_norm: float | None = None,
    max_header_bytes: int = MAX_HEADER_BYTES,
) -> CheckedWeights:
    """Check encoded weights completely, in the memory of one block.

    Args:
        source: What to check; never trusted.
        schema: What tensors there must be; those of ``parent`` where left out.
        parent: The trusted weights from which the difference is taken.
        max_norm: How long the difference may be (L2); of any length where left out.
        max_header_bytes: How long the header may be.

    Raises:
        WeightsRefused: the bytes are malformed, the schema differs, a value is not finite, or the norm is too large.
    """
    with block_reader(source, max_header_bytes=max_header_bytes) as update:
        if parent is None:
            return _check(update, None, schema, max_norm)
        with block_reader(parent) as base:
            return _check(update, base, base.layout.specs if schema is None else schema, max_norm)


def _check(
    update: BlockReader, parent: BlockReader | None, schema: Schema | None, max_norm: float | None
) -> CheckedWeights:
    specs = update.layout.specs
    if schema is not None:
        check_schema(specs, schema)
    if parent is not None:
        check_schema(specs, parent.layout.specs)
    norm = delta_norm(update, parent)
    if max_norm is not None and norm > max_norm:
        raise WeightsRefused(Refusal.NORM, f"the update moves the model by {norm:.6g}, more than {max_norm:.6g}")
    return CheckedWeights(norm=norm, values=sum(spec.size for spec in specs.values()))


def delta_norm(update: BlockReader, parent: BlockReader | None) -> float:
    """L2 norm of ``update`` minus ``parent``, which has the same schema.

    Raises :class:`WeightsRefused` where a value is not finite, or too large for its square to be.
    """
    ours, theirs = bytearray(BLOCK_VALUES * 8), bytearray(BLOCK_VALUES * 8)
    total = 0.0
    for block in blocks(update.layout.specs):
        delta = update.read(block, ours).astype(np.float64)
        if parent is not None:
            delta -= parent.read(block, theirs)
        squares = sum_of_squares(delta)
        if not math.isfinite(squares):
            raise WeightsRefused(Refusal.NOT_FINITE, f"{block.name!r} has values that are not finite")
        total += squares
    return math.sqrt(total)


def sum_of_squares(values: NDArray[np.float64]) -> float:
    """Sum of squares, overwriting ``values``; not finite exactly where a value, or its square, is not.

    numpy's pairwise sum, unlike a product of vectors, depends on no number of threads.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.add.reduce(np.square(values, out=values)))
