"""Encoders of feature vectors.

Rows of a table with their masks, questionnaires, descriptors that somebody computed.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import nn

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.models.encoders.base import Encoder, no_options

LAYERS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "group": nn.LayerNorm}
"""Normalization -> constructor taking the width. A vector has no positions that groups of
channels could share, so its group norm is that of one group, which is layer norm."""
WIDTHS = (128, 128)
"""Of the hidden layers of an MLP, unless its options say otherwise."""


class MLP(Encoder):
    """Hidden layers, each linear, normalised and ReLU; then linear to D.

    Parameters
    ----------
    modality
        What it reads, [features].
    embedding_dim
        D, the size of z.
    normalization
        One of NORMALIZATIONS.
    options
        ``widths``: those of the hidden layers; WIDTHS where not given.
    frozen
        Whether the trunk will be frozen; the output layer is linear either way.
    """

    kinds: ClassVar[tuple[str, ...]] = ("vector",)

    def __init__(
        self,
        modality: ModalitySpec,
        embedding_dim: int,
        normalization: str,
        options: Mapping[str, Any],
        frozen: bool,
    ) -> None:
        no_options("mlp", {key: value for key, value in options.items() if key != "widths"})
        (before,), layers = modality.shape, list[nn.Module]()
        for width in options.get("widths", WIDTHS):
            layers += [nn.Linear(before, width), LAYERS[normalization](width), nn.ReLU()]
            before = width

        super().__init__(nn.Sequential(*layers), nn.Linear(before, embedding_dim))


class Linear(Encoder):
    """One linear layer to D, so that a branch with a linear projector is a linear model of its
    features.

    Parameters
    ----------
    modality
        What it reads, [features].
    embedding_dim
        D, the size of z.
    normalization
        Not looked at: there is no hidden layer to normalise.
    options
        None.
    frozen
        Whether the trunk, which has no weights, will be frozen.
    """

    kinds: ClassVar[tuple[str, ...]] = ("vector",)

    def __init__(
        self,
        modality: ModalitySpec,
        embedding_dim: int,
        normalization: str,
        options: Mapping[str, Any],
        frozen: bool,
    ) -> None:
        no_options("linear", options)
        super().__init__(nn.Identity(), nn.Linear(modality.shape[0], embedding_dim))
