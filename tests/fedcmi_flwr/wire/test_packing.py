"""Parameter groups as flat arrays: what goes in comes out, and nonsense is refused."""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord

from fedcmi_flwr.wire.packing import WireError, pack, unpack

ARRAYS = {
    "ear.w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "ear.half": np.array([0.5, -2.0], dtype=np.float16),
    "ear.steps": np.array(7, dtype=np.int64),
    "ear.b": np.array([1e-300, np.pi]),
    "head.w": np.ones((1, 2, 2), dtype=np.float32),
    "head.empty": np.zeros((0, 3), dtype=np.float32),
    "head.on": np.array([True, False]),
    "head.scale": np.array(1.5, dtype=np.float32),
}
GROUPS = {
    "ear": ("ear.w", "ear.half", "ear.steps", "ear.b"),
    "none": (),
    "head": tuple(list(ARRAYS)[4:]),
}


def test_every_dtype_and_shape_survives() -> None:
    packed, layout = pack(ARRAYS, GROUPS)
    arrays, groups = unpack(packed, layout)
    assert groups == GROUPS
    assert list(arrays) == list(ARRAYS)
    for name, value in ARRAYS.items():
        found = arrays[name]
        assert isinstance(found, np.ndarray)
        assert (found.dtype, found.shape, found.tobytes()) == (
            value.dtype,
            value.shape,
            value.tobytes(),
        ), name


def test_one_flat_array_per_group_and_dtype() -> None:
    packed, layout = pack(ARRAYS, GROUPS)
    assert {key: array.shape for key, array in packed.items()} == {
        "ear/float16": (2,), "ear/float32": (6,), "ear/float64": (2,), "ear/int64": (1,),
        "head/bool": (2,), "head/float32": (5,),
    }  # fmt: skip
    assert json.loads(layout["ear"])[0] == ["ear.w", "float32", [2, 3]]


def test_a_group_of_several_arrays_without_values_survives() -> None:
    arrays = {"a": np.zeros((0,), np.float32), "b": np.zeros((2, 0), np.float32)}
    found, _ = unpack(*pack(arrays, {"g": ("a", "b")}))
    assert {name: value.shape for name, value in found.items()} == {"a": (0,), "b": (2, 0)}


def test_fortran_order_and_views_do_not_matter() -> None:
    value = np.arange(12.0).reshape(3, 4).T[::2]
    found, _ = unpack(*pack({"w": value}, {"g": ("w",)}))
    assert (found["w"] == value).all()


def test_a_name_that_is_not_there_is_an_error() -> None:
    with pytest.raises(
        WireError, match=r"group 'ear': array 'ear\.x' is missing \(2 missing in all\)"
    ):
        pack(ARRAYS, {"ear": ("ear.w", "ear.x", "ear.y")})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "5",
        '["ear.w"]',
        '[["ear.w", "float32"]]',
        '[["ear.w", "float32", 6]]',
        '[["ear.w", "float32", ["six"]]]',
        '[["ear.w", "float32", [null]]]',
        '[["ear.w", "float32", [Infinity]]]',
        '[["a", "float32", [-1]], ["b", "float32", [7]]]',
        '[["ear.w", "float32", [-2, -3]]]',
        '[["a", "float32", [-1, -1]], ["b", "float32", [5]]]',
        '[["ear.w", "float32", [4294967296, 4294967296, 6]]]',
        "[" * 10000,
        7,
        True,
        ["a", "b"],
        b"\xff",
    ],
)
def test_a_layout_of_nonsense_is_refused(text: object) -> None:
    packed = ArrayRecord({"ear/float32": Array(np.zeros(6, np.float32))})
    with pytest.raises(WireError, match="ear"):
        unpack(packed, ConfigRecord({"ear": text}))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("ear/float32", np.zeros(5, np.float32), r"'ear/float32' is float32 of shape \[5\].*\[6\]"),
        ("ear/float32", np.zeros(7, np.float32), r"\[7\].*\[6\]"),
        ("ear/float32", np.zeros((2, 3), np.float32), r"\[2, 3\].*\[6\]"),
        ("ear/float32", np.zeros(6), r"'ear/float32' is float64"),
        ("nose/float32", np.zeros(6, np.float32), r"unexpected \['nose/float32'\]"),
    ],
)
def test_flat_arrays_that_do_not_fit_the_layout_are_refused(
    key: str, value: np.ndarray, words: str
) -> None:
    packed, layout = pack(ARRAYS, {"ear": ("ear.w",)})
    packed[key] = Array(value)
    with pytest.raises(WireError, match=words):
        unpack(packed, layout)


def test_a_missing_flat_array_is_refused() -> None:
    packed, layout = pack(ARRAYS, GROUPS)
    del packed["ear/int64"]
    with pytest.raises(WireError, match="'ear/int64' is missing"):
        unpack(packed, layout)


@pytest.mark.parametrize(
    ("stype", "data"), [("numpy.ndarray", b"garbage"), ("numpy.ndarray", b""), ("pickle", b"")]
)
def test_an_array_whose_bytes_are_no_array_is_refused(stype: str, data: bytes) -> None:
    packed, layout = pack(ARRAYS, {"ear": ("ear.w",)})
    packed["ear/float32"] = Array(dtype="float32", shape=(6,), stype=stype, data=data)
    with pytest.raises(WireError, match="ear/float32"):
        unpack(packed, layout)


@pytest.mark.parametrize("shape", [[0, 10**20], [0, 2**40, 2**40], [0] * 100])
def test_a_shape_that_no_array_can_have_is_refused(shape: list[int]) -> None:
    """Such an array has no numbers, so that it fits the flat array."""
    packed = ArrayRecord({"ear/float32": Array(np.zeros(6, np.float32))})
    layout = ConfigRecord(
        {"ear": json.dumps([["ear.w", "float32", [6]], ["ear.none", "float32", shape]])}
    )
    with pytest.raises(WireError, match="ear/float32"):
        unpack(packed, layout)
