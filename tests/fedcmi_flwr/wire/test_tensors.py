"""Tensors of a model as arrays, and back: neither shares memory with the other."""

import numpy as np
import torch

from fedcmi_flwr.wire.tensors import to_arrays, to_state_dict


def test_arrays_are_copies_of_the_models_tensors() -> None:
    layer = torch.nn.BatchNorm1d(2)
    arrays = to_arrays(layer.state_dict())
    assert isinstance(arrays["num_batches_tracked"], np.ndarray)
    layer(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    assert arrays["num_batches_tracked"] == 0
    assert arrays["running_mean"].tolist() == [0.0, 0.0]
    state = to_state_dict(arrays)
    arrays["running_mean"][0] = 5.0
    layer.load_state_dict(state)
    assert layer.running_mean is not None
    assert layer.running_mean.tolist() == [0.0, 0.0]
    assert state["num_batches_tracked"].dtype == torch.int64
