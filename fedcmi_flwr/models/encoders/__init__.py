"""Encoders E_m: one sample of a modality -> z_m in R^D, by the name a run configuration gives.

One from outside is found by its entry point or import path (``lookup.py``) and gets the same
arguments.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fedcmi_flwr.data.schema import AXES, ModalitySpec
from fedcmi_flwr.lookup import Kind, find
from fedcmi_flwr.models.encoders.auto import AUTO, Auto
from fedcmi_flwr.models.encoders.base import NORMALIZATIONS, Encoder
from fedcmi_flwr.models.encoders.sequence import GRU, Transformer1d
from fedcmi_flwr.models.encoders.series import CNN1d
from fedcmi_flwr.models.encoders.text import Bert
from fedcmi_flwr.models.encoders.vector import MLP, Linear
from fedcmi_flwr.models.encoders.vision import DenseNet121, ResNet18, SmallCNN
from fedcmi_flwr.models.encoders.words import BagOfWords, TextCNN

__all__ = ["ENCODER", "ENCODERS", "NORMALIZATIONS", "Encoder", "build_encoder"]

ENCODERS: dict[str, type[Encoder]] = {
    "small-cnn": SmallCNN,
    "resnet18": ResNet18,
    "densenet121": DenseNet121,
    "bert": Bert,
    "bag-of-words": BagOfWords,
    "text-cnn": TextCNN,
    "cnn-1d": CNN1d,
    "gru": GRU,
    "transformer-1d": Transformer1d,
    "mlp": MLP,
    "linear": Linear,
    AUTO: Auto,
}
"""Name -> class; its ``kinds`` say what it reads."""


def _accept(found: Any) -> type[Encoder]:  # noqa: ANN401
    """Return a class of encoders that says what it reads."""
    if not (isinstance(found, type) and issubclass(found, Encoder)):
        raise TypeError("an encoder is a class derived from fedcmi_flwr.Encoder.")
    if not found.kinds or not set(found.kinds) <= set(AXES):
        raise TypeError(
            f"its kinds are {found.kinds!r}, and must say what it reads: one or more of "
            f"{list(AXES)}."
        )

    return found


ENCODER = Kind("encoder", "fedcmi.encoders", ENCODERS, _accept)


def build_encoder(
    name: str,
    modality: ModalitySpec,
    embedding_dim: int,
    normalization: str = "batch",
    options: Mapping[str, Any] | None = None,
    frozen: bool = False,
) -> Encoder:
    """Build the encoder of one modality.

    Parameters
    ----------
    name
        One of ENCODERS, an entry point of an installed package, or "package.module:Name".
    modality
        What it reads.
    embedding_dim
        D, the size of z.
    normalization
        One of NORMALIZATIONS.
    options
        What differs from the named architecture: the arguments of its class, from the
        ``config.json`` beside pretrained weights.
    frozen
        Whether the trunk is frozen; the output layer is linear then, so that something of the
        branch is trained.

    Returns
    -------
    A module [batch, *shape] -> [batch, D].

    Raises
    ------
    ValueError
        Unknown name, normalization or options, an encoder that cannot read this kind of
        modality, or one whose package is missing.
    """
    found = find(ENCODER, name)
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization {normalization!r}: not one of {sorted(NORMALIZATIONS)}.")

    if modality.kind not in found.kinds or len(modality.shape) != len(AXES[modality.kind]):
        shapes = " or ".join(f"{kind} [{', '.join(AXES[kind])}]" for kind in found.kinds)
        raise ValueError(
            f"encoder {name!r} reads samples of {shapes}; modality {modality.name!r} is "
            f"{modality.kind} of shape {list(modality.shape)}."
        )

    build: Callable[..., Encoder] = found
    try:
        encoder = build(modality, embedding_dim, normalization, dict(options or {}), frozen)
    except TypeError as error:
        raise ValueError(
            f"encoder {name!r} of modality {modality.name!r}: options {options}: {error}."
        ) from error

    if frozen:
        encoder.freeze()

    return encoder
