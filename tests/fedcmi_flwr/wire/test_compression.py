"""Compressed updates: what comes back, how many bytes travel, and what is refused."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st

from fedcmi_flwr.wire.compression import compress, compressible, decompress
from fedcmi_flwr.wire.packing import WireError

SENT = {
    "w": np.zeros((3, 4), np.float32),
    "conv": np.zeros((2, 3, 2), np.float32),
    "bias": np.zeros(3, np.float32),
    "steps": np.zeros((2, 2), np.int64),
    "none": np.zeros((0, 4), np.float32),
}
WIDE = ("conv", "w")


def update(seed: int = 0, size: float = 1.0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        name: (size * generator.standard_normal(SENT[name].shape)).astype(np.float32)
        for name in WIDE
    }


def test_only_wide_single_precision_is_compressed() -> None:
    assert compressible(SENT) == WIDE


@given(st.integers(0, 50), st.sampled_from([1e-20, 1e-3, 1.0, 1e6]))
def test_int8_is_off_by_half_a_step_of_its_channel_at_most(seed: int, size: float) -> None:
    original = update(seed, size)
    original["w"][1] = 0  # a channel that did not change
    found = decompress(compress(original, "int8", 1).record, SENT)
    for name in WIDE:
        rows, read = (
            original[name].reshape(len(original[name]), -1),
            found[name].reshape(len(original[name]), -1),
        )
        step = np.abs(rows).max(axis=1, keepdims=True) / 127
        assert (np.abs(rows - read) <= 0.5001 * step).all()
    assert not found["w"][1].any()


@pytest.mark.parametrize(("share", "kept"), [(0.01, 1), (0.25, 6), (1.0, 24)])
def test_top_k_keeps_the_largest_of_all_arrays_together(share: float, kept: int) -> None:
    original = update()
    found = decompress(compress(original, "top-k", share).record, SENT)
    flat, read = (
        np.concatenate([each[name].ravel() for name in WIDE]) for each in (original, found)
    )
    largest = np.sort(np.argsort(-np.abs(flat))[:kept])
    assert np.flatnonzero(read).tolist() == largest.tolist()
    assert (read[largest] == flat[largest]).all()


def test_what_the_node_thinks_is_read_is_read() -> None:
    for how in ("int8", "top-k"):
        compressed = compress(update(), how, 0.3)
        read = decompress(compressed.record, SENT)
        assert all((compressed.update[name] == read[name]).all() for name in WIDE)


@pytest.mark.parametrize("how", ["int4", "none"])
def test_another_way_is_refused(how: str) -> None:
    with pytest.raises(ValueError, match="choose int8 or top-k"):
        compress(update(), how, 0.5)


CODES, SCALES = np.zeros(24, np.int8), np.ones(5, np.float32)
INDICES, VALUES = np.array([0, 23]), np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"codes": CODES}, "holds .'codes'., need codes and scales"),
        ({"codes": CODES, "scales": SCALES, "more": SCALES}, "need codes and scales"),
        ({"codes": CODES[:-1], "scales": SCALES}, r"codes is int8 \[23\], need int8 \[24\]"),
        ({"codes": CODES.astype(np.int16), "scales": SCALES}, "codes is int16"),
        ({"codes": CODES, "scales": SCALES[:-1]}, r"scales is float32 \[4\], need float32 \[5\]"),
        ({"codes": CODES, "scales": -SCALES}, "a scale is below 0, NaN or Inf"),
        ({"codes": CODES, "scales": SCALES * np.nan}, "a scale is below 0, NaN or Inf"),
        ({"codes": CODES, "scales": SCALES * np.inf}, "a scale is below 0, NaN or Inf"),
        ({"indices": INDICES, "values": VALUES * np.nan}, "a value is NaN or Inf"),
        ({"indices": INDICES + 1, "values": VALUES}, "indices must grow from 0 to below 24"),
        ({"indices": INDICES - 1, "values": VALUES}, "indices must grow"),
        ({"indices": INDICES * 0, "values": VALUES}, "indices must grow"),
        ({"indices": INDICES[::-1].copy(), "values": VALUES}, "indices must grow"),
        ({"indices": INDICES.astype(np.int32), "values": VALUES}, "indices is int32"),
        ({"indices": INDICES, "values": VALUES[:1]}, r"values is float32 \[1\], need float32 \[2\]"),
        ({"indices": INDICES[None], "values": VALUES}, "indices is int64"),
    ],
)  # fmt: skip
def test_what_does_not_fit_what_was_sent_is_refused(arrays: dict[str, Any], words: str) -> None:
    record = ArrayRecord({key: Array(value) for key, value in arrays.items()})
    with pytest.raises(WireError, match=words):
        decompress(record, SENT)


def test_bytes_that_are_no_array_are_refused() -> None:
    record = compress(update(), "int8", 1).record
    broken = Array(dtype="int8", shape=(24,), stype="numpy.ndarray", data=b"no array")
    with pytest.raises(WireError, match="compressed/codes"):
        decompress(ArrayRecord({"codes": broken, "scales": record["scales"]}), SENT)
