"""The reader against honest bytes, and against every dishonest header we could think of."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from learning.weights import (
    Refusal,
    TensorSpec,
    WeightsRefused,
    check,
    decode,
    encode,
    read_header,
    read_metadata,
)
from tests.support.federated import near, random_weights


def forged(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, shape: list[Any] | None = None, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


class TestEncode:
    def test_safetensors_reads_what_we_write(self) -> None:
        weights = random_weights(1) | {"count": np.arange(3), "half": np.ones((2, 0, 3), np.float16)}
        theirs = load(encode(weights, {"round": "3"}))
        assert theirs.keys() == weights.keys()
        for name, value in weights.items():
            assert theirs[name].dtype == value.dtype
            np.testing.assert_array_equal(theirs[name], value)

    def test_we_read_what_safetensors_writes(self) -> None:
        weights = random_weights(1)
        data = save(weights, {"round": "3"})
        ours = decode(data)
        assert read_metadata(data) == {"round": "3"}
        assert all(np.array_equal(ours[name], value) for name, value in weights.items())

    def test_bytes_do_not_depend_on_the_order_of_tensors_or_metadata(self) -> None:
        weights = random_weights(1)
        backwards = dict(reversed(weights.items()))
        assert encode(weights, {"a": "1", "b": "2"}) == encode(backwards, {"b": "2", "a": "1"})

    def test_memory_layout_and_byte_order_do_not_matter(self) -> None:
        table = np.arange(12, dtype=np.float32).reshape(3, 4)
        wanted = encode({"table": table})
        assert encode({"table": np.asfortranarray(table)}) == wanted
        assert encode({"table": table.astype(">f4")}) == wanted

    def test_a_type_that_cannot_be_averaged_is_refused(self) -> None:
        with pytest.raises(WeightsRefused) as refusal:
            encode({"flag": np.array([True])})
        assert refusal.value.reason is Refusal.DTYPE


class TestReadHeader:
    def test_it_tells_types_and_shapes_of_bytes_and_files(self, tmp_path: Path) -> None:
        data = encode(random_weights(1))
        path = tmp_path / "weights"
        path.write_bytes(data)
        wanted = {"hidden.weight": TensorSpec("F32", (13, 7)), "hidden.bias": TensorSpec("F32", (7,))}
        wanted["scale"] = TensorSpec("F32", ())
        assert read_header(data) == read_header(path) == wanted

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", Refusal.LENGTH),
            (b"\x10", Refusal.LENGTH),
            ((2**63).to_bytes(8, "little"), Refusal.HEADER),
            ((2_000_000).to_bytes(8, "little") + b"{}", Refusal.HEADER),
            ((100).to_bytes(8, "little") + b"{}", Refusal.LENGTH),
            (forged(b"not json"), Refusal.HEADER),
            (forged(b"\xff\xfe{}"), Refusal.HEADER),
            (forged(b"[" * 200_000), Refusal.HEADER),
            (forged([1]), Refusal.HEADER),
            (forged(b'{"a": 1, "a": 2}'), Refusal.HEADER),
            (forged({"__metadata__": {"a": 1}}), Refusal.HEADER),
            (forged({"__metadata__": []}), Refusal.HEADER),
            (forged({"a": 7}), Refusal.HEADER),
            (forged({"a": {"dtype": "F32", "shape": [1]}}), Refusal.HEADER),
            (forged({"a": entry(0, 4) | {"more": 1}}, bytes(4)), Refusal.HEADER),
            (forged({"a" * 600: entry(0, 4)}, bytes(4)), Refusal.HEADER),
            (forged({"a": entry(0, 4, dtype="BF16")}, bytes(4)), Refusal.DTYPE),
            (forged({"a": entry(0, 4, dtype="BOOL")}, bytes(4)), Refusal.DTYPE),
            (forged({"a": entry(0, 4, dtype=[])}, bytes(4)), Refusal.DTYPE),
            (forged({"a": entry(0, 4, shape=[-1])}, bytes(4)), Refusal.SHAPE),
            (forged({"a": entry(0, 4, shape=[True])}, bytes(4)), Refusal.SHAPE),
            (forged({"a": entry(0, 4, shape=[1.0])}, bytes(4)), Refusal.SHAPE),
            (forged({"a": entry(0, 4, shape=[1] * 99)}, bytes(4)), Refusal.SHAPE),
            (forged({"a": entry(0, 4, shape=[2**62, 2**62])}, bytes(4)), Refusal.HEADER),
            (forged({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)), Refusal.HEADER),
            (forged({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, bytes(4)), Refusal.HEADER),
            (forged({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), Refusal.HEADER),
            (forged({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), Refusal.HEADER),
            (forged({"a": entry(4, 8)}, bytes(8)), Refusal.HEADER),
            (forged({"a": entry(0, 4)}, bytes(8)), Refusal.LENGTH),
            (forged({"a": entry(0, 8)}, bytes(4)), Refusal.LENGTH),
        ],
    )
    def test_a_dishonest_header_is_refused_with_its_reason(self, data: bytes, reason: Refusal) -> None:
        with pytest.raises(WeightsRefused) as refusal:
            read_header(data)
        assert refusal.value.reason is reason

    def test_a_claim_of_terabytes_allocates_nothing(self) -> None:
        data = forged({"a": entry(0, 2**42)})
        tracemalloc.start()
        with pytest.raises(WeightsRefused):
            check(data)
        assert tracemalloc.get_traced_memory()[1] < 200_000
        tracemalloc.stop()

    def test_a_thousand_names_are_more_than_a_small_limit_allows(self) -> None:
        data = encode({f"t{number}": np.zeros(1, np.float32) for number in range(1_000)})
        assert len(read_header(data)) == 1_000
        with pytest.raises(WeightsRefused, match="header"):
            read_header(data, max_header_bytes=10_000)

    @given(st.binary(max_size=200))
    def test_noise_is_refused_and_nothing_else_happens(self, noise: bytes) -> None:
        with pytest.raises(WeightsRefused):
            read_header(noise + b"\xff")

    @given(st.integers(0, 200), st.integers(0, 255))
    def test_a_changed_byte_is_refused_or_still_describes_all_bytes(self, place: int, value: int) -> None:
        data = bytearray(encode(random_weights(1)))
        data[place] = value
        try:
            specs = read_header(bytes(data))
        except WeightsRefused:
            return
        assert sum(spec.size_bytes for spec in specs.values()) < len(data)


class TestCheck:
    def test_it_measures_the_difference_to_the_parent(self) -> None:
        parent = random_weights(1)
        moved = {name: value + np.float32(0.5) for name, value in parent.items()}
        found = check(encode(moved), parent=encode(parent))
        assert found.values == 13 * 7 + 7 + 1
        assert found.norm == pytest.approx(0.5 * found.values**0.5, rel=1e-6)

    def test_many_blocks_are_one_norm(self) -> None:
        weights = {"long": np.full(200_000, 2.0, np.float32)}
        assert check(encode(weights)).norm == pytest.approx(2.0 * 200_000**0.5)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_a_value_that_is_not_finite_is_refused_wherever_it_is(self, value: float) -> None:
        weights = {"long": np.zeros(200_000, np.float32)}
        weights["long"][199_999] = value
        with pytest.raises(WeightsRefused) as refusal:
            check(encode(weights))
        assert refusal.value.reason is Refusal.NOT_FINITE

    def test_a_huge_norm_is_refused(self) -> None:
        parent = random_weights(1)
        with pytest.raises(WeightsRefused) as refusal:
            check(encode(near(parent, 2, spread=1e6)), parent=encode(parent), max_norm=10.0)
        assert refusal.value.reason is Refusal.NORM

    def test_values_too_large_to_square_are_refused_without_a_warning(self) -> None:
        with pytest.raises(WeightsRefused) as refusal:
            check(encode({"a": np.array([1e200])}))
        assert refusal.value.reason is Refusal.NOT_FINITE

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"scale": None}, Refusal.NAMES),
            ({"more": np.zeros(1, np.float32)}, Refusal.NAMES),
            ({"scale": np.zeros((1,), np.float32)}, Refusal.SHAPE),
            ({"hidden.weight": np.zeros((7, 13), np.float32)}, Refusal.SHAPE),
            ({"scale": np.zeros((), np.float64)}, Refusal.DTYPE),
        ],
    )
    def test_another_schema_is_refused(self, change: dict[str, Any], reason: Refusal) -> None:
        parent = random_weights(1)
        changed = {name: value for name, value in (parent | change).items() if value is not None}
        with pytest.raises(WeightsRefused) as refusal:
            check(encode(changed), parent=encode(parent))
        assert refusal.value.reason is reason

    def test_a_file_cut_short_after_its_header_was_read_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "cut"
        path.write_bytes(encode(random_weights(1))[:-1])
        with pytest.raises(WeightsRefused) as refusal:
            check(path)
        assert refusal.value.reason is Refusal.LENGTH
