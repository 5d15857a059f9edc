"""Tensors of a model as the arrays that travel, and back."""

from collections.abc import Mapping

import numpy as np
import torch

from fedcmi_flwr.types import AnyArray


def to_arrays(state_dict: Mapping[str, torch.Tensor]) -> dict[str, AnyArray]:
    """Return copies of a state_dict's tensors as NumPy arrays, so that later training does not
    change them.
    """
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in state_dict.items()}


def to_state_dict(arrays: Mapping[str, AnyArray]) -> dict[str, torch.Tensor]:
    """Return arrays as a state_dict of their own memory."""
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def as_arrays(values: Mapping[str, AnyArray | torch.Tensor]) -> dict[str, AnyArray]:
    """Return arrays as they are and tensors as :func:`to_arrays` does.

    TypeError names what is neither.
    """
    found: dict[str, AnyArray] = {}
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            found |= to_arrays({name: value})
        elif isinstance(value, np.ndarray | np.generic):
            found[name] = value
        else:
            raise TypeError(
                f"arrays: {name!r} is a {type(value).__name__}, need a NumPy array or a tensor."
            )

    return found
