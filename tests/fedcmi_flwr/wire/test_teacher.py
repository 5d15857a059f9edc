"""The model that teaches comes through, in either form; what is not like the model is refused."""

from collections.abc import Mapping

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message
from messages import GROUPS, MODALITIES, SENT

from fedcmi_flwr import wire
from fedcmi_flwr.methods.dominance import NOBODY
from fedcmi_flwr.wire.packing import WireError
from fedcmi_flwr.wire.teacher import PLAIN_TEACHER, TEACHER, TEACHER_LAYOUT

EAR = {"ear.w": np.array([[0.25, 70000.0]], np.float32), "ear.steps": np.array(2)}
OWNED = {"audio": GROUPS["audio"]}


def task(teacher: Mapping[str, np.ndarray], plain: bool = False, dtype: str = "float32") -> Message:
    """Return a task whose teacher is ``teacher``."""
    sent = (wire.pack_plain(SENT, GROUPS), GROUPS) if plain else wire.pack(SENT, GROUPS, dtype)
    packed = wire.pack_teacher(teacher, OWNED, dtype, plain)
    return wire.task_message(
        7, "train", sent, {"server-round": 3}, MODALITIES, NOBODY, None, dtype, packed
    )


@pytest.mark.parametrize("plain", [False, True])
def test_the_teacher_reads_back(plain: bool) -> None:
    read = wire.read_task(task(EAR, plain))
    assert {name: value.tolist() for name, value in read.teacher.items()} == {
        name: value.tolist() for name, value in EAR.items()
    }
    assert {name: str(value.dtype) for name, value in read.teacher.items()} == {
        "ear.w": "float32",
        "ear.steps": "int64",
    }
    assert PLAIN_TEACHER not in read.config
    assert read.arrays["ear.w"].tolist() == [[1.0, 2.0]]


def test_it_travels_as_the_weights_do() -> None:
    narrow = {**EAR, "ear.w": np.array([[0.1, 2.0]], np.float32)}
    found = wire.read_task(task(narrow, dtype="float16")).teacher["ear.w"]
    assert found.dtype == np.float32
    assert found.tolist() == np.float32(np.float16([[0.1, 2.0]])).tolist()

    with pytest.raises(WireError, match=r"ear\.w.*float16"):
        task(EAR, dtype="float16")


def test_to_a_plain_node_it_adds_no_record() -> None:
    """Flower's mods want one ArrayRecord and one ConfigRecord."""
    content = task(EAR, plain=True).content
    assert sorted(content) == ["arrays", "config"]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("ear.w", np.zeros((1, 3), np.float32)),
        ("ear.w", np.zeros((1, 2), np.float64)),
        ("ear.steps", np.zeros(1, np.int64)),
    ],
)
def test_arrays_unlike_those_of_the_model_are_refused(
    name: str, array: np.ndarray, plain: bool
) -> None:
    message = task({**EAR, name: array}, plain)
    with pytest.raises(WireError, match=rf"teacher: '{name}'.*same version"):
        wire.read_task(message)


@pytest.mark.parametrize("lost", [TEACHER, TEACHER_LAYOUT])
def test_one_record_without_the_other_is_refused(lost: str) -> None:
    message = task(EAR)
    del message.content[lost]
    with pytest.raises(WireError, match=repr(lost)):
        wire.read_task(message)


@pytest.mark.parametrize("value", [b"no safetensors", "text", 3])
def test_other_bytes_are_refused(value: bytes | str | int) -> None:
    message = task(EAR, plain=True)
    config = message.content["config"]
    assert isinstance(config, ConfigRecord)
    config[PLAIN_TEACHER] = value
    with pytest.raises(WireError, match=PLAIN_TEACHER):
        wire.read_task(message)
