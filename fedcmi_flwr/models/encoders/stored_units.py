"""Samples in stored units again: the federation's normalisation, undone."""

import torch
from torch import Tensor, nn

from fedcmi_flwr.data.schema import ModalitySpec


class Stored(nn.Module):
    """Undoes the federation's normalisation.

    Parameters
    ----------
    modality
        The samples.
    """

    stored_mean: Tensor
    stored_std: Tensor

    def __init__(self, modality: ModalitySpec) -> None:
        super().__init__()
        for name, value in (("mean", modality.mean), ("std", modality.std)):
            along = torch.tensor(value, dtype=torch.float32).reshape(
                -1, *[1] * modality.axes_behind
            )
            self.register_buffer(f"stored_{name}", along, persistent=False)

    def stored(self, x: Tensor) -> Tensor:
        """Return samples in stored units."""
        return x * self.stored_std + self.stored_mean
