"""Weighted means against the oracle, and what must not be averaged."""

import numpy as np
import oracle
import pytest

from fedcmi_flwr.aggregation.mean import aggregate_groups, weighted_mean


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
@pytest.mark.parametrize("seed", range(2))
def test_weighted_mean_is_the_oracles(seed: int, shape: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(rng.normal(size=shape), dtype=dtype) for _ in range(4)]
    weights = rng.integers(1, 50, size=4).astype(float).tolist()
    found = weighted_mean(arrays, weights)
    expected = oracle.weighted_mean([array.astype(np.float64) for array in arrays], weights)
    assert isinstance(found, np.ndarray)
    assert found.dtype == dtype
    assert found.shape == shape
    assert found.astype(np.float64) == pytest.approx(
        expected, rel=float(np.finfo(dtype).eps) * 2, abs=1e-7
    )


def test_equal_arrays_stay_the_same_bits() -> None:
    array = np.random.default_rng(0).normal(size=100).astype(np.float32)
    assert (weighted_mean([array] * 3, [1, 10, 7]) == array).all()


def test_half_precision_sums_in_double() -> None:
    """60000 + 60000 overflows float16, whose largest number is 65504; the mean does not."""
    arrays = [np.array([60000], np.float16)] * 2
    assert weighted_mean(arrays, [500.0, 500.0]).tolist() == [float(np.float16(60000))]


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([7, 9, 8], "int64", 9),
        ([-3, -5], "int32", -3),
        ([False, True], "bool", True),
        ([2**53 + 1, 5], "int64", 2**53 + 1),
    ],
)
@pytest.mark.parametrize("shape", [(), (2,)])
def test_counters_take_the_maximum_and_keep_their_dtype(
    shape: tuple[int, ...], values: list, dtype: str, expected: int | bool
) -> None:
    found = weighted_mean(
        [np.full(shape, value, dtype=dtype) for value in values], [1.0] * len(values)
    )
    assert isinstance(found, np.ndarray)
    assert (found.dtype, found.shape) == (np.dtype(dtype), shape)
    assert (found == np.full(shape, expected, dtype=dtype)).all()


def test_groups_are_averaged_over_their_owners_only() -> None:
    """The ear: (1 * 1 + 3 * 5) / 4 = 4; the eye: node 2's alone.

    The head: (1 * 0 + 3 * 4 + 4 * 8) / 8 = 5.5.
    """
    current = {
        "ear": np.array([9.0]),
        "eye": np.array([9.0]),
        "nose": np.array([9.0]),
        "head": np.array([9.0]),
    }
    updates = [
        ({"ear": np.array([1.0]), "head": np.array([0.0])}, {"ear": 1.0, "head": 1.0}),
        ({"head": np.array([4.0]), "ear": np.array([5.0])}, {"ear": 3.0, "head": 3.0}),
        ({"eye": np.array([2.0]), "head": np.array([8.0])}, {"eye": 4.0, "head": 4.0}),
    ]
    found = aggregate_groups(current, updates)
    assert list(found) == list(current)
    assert {name: value.tolist() for name, value in found.items()} == {
        "ear": [4.0], "eye": [2.0], "nose": [9.0], "head": [5.5],
    }  # fmt: skip


def test_nobodys_update_changes_nothing() -> None:
    current = {"w": np.array([1.5], np.float32), "steps": np.array(3)}
    found = aggregate_groups(current, [])
    assert {name: value.tolist() for name, value in found.items()} == {"w": [1.5], "steps": 3}
