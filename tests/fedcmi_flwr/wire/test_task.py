"""Tasks: what the server sends is what the node reads, and what is no task is refused by name."""

import numpy as np
import pytest
import torch
from messages import GROUPS, MODALITIES, SENT, TEMPERATURES, asked

from fedcmi_flwr import wire
from fedcmi_flwr.methods.dominance import NOBODY, Dominance
from fedcmi_flwr.wire.packing import WireError


def test_a_task_reads_back_with_the_groups_that_were_meant() -> None:
    decided = Dominance("visual", {}, TEMPERATURES)
    message = asked(decided, epochs=3)
    task = wire.read_task(message)
    assert (message.metadata.dst_node_id, message.metadata.message_type) == (7, "train")
    assert {name: value.tolist() for name, value in task.arrays.items()} == {
        "ear.w": [[1.0, 2.0]], "ear.steps": 3, "head": [0.5],
    }  # fmt: skip
    assert task.groups == GROUPS
    assert (task.server_round, task.modalities, task.dominance.dominant) == (
        2,
        MODALITIES,
        "visual",
    )
    assert task.config == {"gamma": 2.0, "method": "fedcmi", "epochs": 3}
    assert {name: value.tolist() for name, value in task.dominance.temperature.items()} == {
        "audio": [1.0, 0.25]
    }
    assert task.state_dict["ear.steps"].dtype == torch.int64


def test_a_task_to_evaluate_is_one_to_train_but_for_its_type() -> None:
    message = asked(message_type="evaluate")
    assert message.metadata.message_type == "evaluate"
    assert wire.read_task(message).config == wire.read_task(asked()).config


def test_what_the_method_has_for_a_node_reads_back() -> None:
    """It is never narrowed: 1e6 is beyond float16."""
    control = {"ear.w": np.array([[1e-9, 1e6]], np.float32)}
    packed = wire.pack(SENT, GROUPS, "float16")
    settings = {"server-round": 1}
    message = wire.task_message(
        7, "train", packed, settings, MODALITIES, NOBODY, control, wire_dtype="float16"
    )
    task = wire.read_task(message)
    assert task.from_method["ear.w"].tolist() == control["ear.w"].tolist()
    assert wire.read_task(asked()).from_method == {}


def test_nobody_teaches_reads_back_as_none() -> None:
    assert wire.read_task(asked()).dominance.dominant is None


@pytest.mark.parametrize("key", ["modalities", "server-round", "dominant"])
def test_a_task_without_a_key_is_refused(key: str) -> None:
    message = asked()
    del message.content["config"][key]
    with pytest.raises(WireError, match=f"'{key}' is missing.*FedCMI strategy"):
        wire.read_task(message)


@pytest.mark.parametrize("record", ["arrays", "layout", "config"])
def test_a_task_without_a_record_is_refused(record: str) -> None:
    message = asked()
    del message.content[record]
    with pytest.raises(WireError, match=f"record '{record}' is NoneType"):
        wire.read_task(message)
