"""From a run's configuration to the model's description and the device it runs on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from fedcmi_flwr.encoders import ENCODERS
from fedcmi_flwr.methods import Method
from fedcmi_flwr.model import ModelSpec, MultimodalModel
from fedcmi_flwr.sections import ConfigError, ModelConfig
from fedcmi_flwr.types import Modality


def model_spec(
    config: ModelConfig,
    method: Method,
    modalities: tuple[Modality, ...],
    num_classes: int,
    options: Mapping[Modality, Mapping[str, Any]] | None = None,
) -> ModelSpec:
    """Describe the federation's model.

    Parameters
    ----------
    config
        Encoders, size, projector, fusion, and which trunks are frozen.
    method
        Decides the structure and the encoders' normalization.
    modalities
        All modalities of the federation, in the order of the fusion slots.
    num_classes
        C.
    options
        What differs from the named encoders' architectures, from ``pretrained.read_options``.

    Returns
    -------
    The description, the same on server and nodes.

    Raises
    ------
    ConfigError
        The ``encoder`` key names an unknown encoder or modality, or leaves a modality out.
    """
    encoders = encoder_names(config.encoder, modalities)
    return ModelSpec(
        modalities,
        num_classes,
        config.embedding_dim,
        encoders,
        config.projector,
        config.fusion,
        method.structure,
        method.normalization,
        options or {},
        tuple(name for name in split_names(config.freeze) if name in modalities),
    )


def split_names(text: str) -> tuple[str, ...]:
    """Return names that are joined by "+", none of an empty text."""
    return tuple(text.split("+")) if text else ()


def check_stored(key: str, names: Iterable[Modality], stored: Sequence[Modality]) -> None:
    """Raise ConfigError when a key names a modality that is not stored; one that this run leaves out is no error."""
    unknown = [name for name in names if name not in stored]
    if unknown:
        raise ConfigError(f"{key}: {unknown[0]!r} is not stored, only {list(stored)}.")


def chosen_modalities(text: str, stored: Sequence[Modality]) -> tuple[Modality, ...]:
    """Read the ``modalities`` key: what the federation trains on.

    Parameters
    ----------
    text
        Names joined by "+", or empty for all.
    stored
        Modalities of the prepared directory.

    Returns
    -------
    The chosen ones in their stored order.

    Raises
    ------
    ConfigError
        A name that is not stored.

    Examples
    --------
    >>> chosen_modalities("visual", ("audio", "visual")), chosen_modalities("", ("audio", "visual"))
    (('visual',), ('audio', 'visual'))
    """
    names = split_names(text) or tuple(stored)
    unknown = [name for name in names if name not in stored]
    if unknown:
        raise ConfigError(f"modalities = {text!r}: {unknown[0]!r} is not stored, only {list(stored)}.")
    return tuple(name for name in stored if name in names)


def encoder_names(text: str, modalities: tuple[Modality, ...]) -> dict[Modality, str]:
    """Read the ``encoder`` key: one name for all, or "audio=resnet18 visual=small-cnn".

    Parameters
    ----------
    text
        The key's value.
    modalities
        All modalities of the federation.

    Returns
    -------
    Modality -> encoder name, in the order of the modalities.

    Raises
    ------
    ConfigError
        An unknown encoder, or a modality that is unknown or left out.

    Examples
    --------
    >>> encoder_names("audio=resnet18 visual=small-cnn", ("audio", "visual"))
    {'audio': 'resnet18', 'visual': 'small-cnn'}
    """
    pairs = [item.partition("=") for item in text.split()]
    if len(pairs) == 1 and not pairs[0][1]:
        found = dict.fromkeys(modalities, pairs[0][0])
    else:
        found = {modality: name for modality, _, name in pairs}
    if set(found) != set(modalities) or not set(found.values()) <= set(ENCODERS):
        raise ConfigError(
            f"encoder = {text!r}: need one of {sorted(ENCODERS)}, or 'modality=name' for each of {list(modalities)}."
        )
    return {modality: found[modality] for modality in modalities}


def choose_device(wanted: str) -> torch.device:
    """Return the device that this process trains on.

    Parameters
    ----------
    wanted
        "auto" (a GPU when torch sees one), "cpu" or "cuda".

    Returns
    -------
    The device.

    Raises
    ------
    ConfigError
        "cuda" where torch sees no GPU.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise ConfigError("device = 'cuda': torch sees no GPU in this process; use 'auto' or 'cpu'.")
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16 itself, so that it is faster than float32 there."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


def place(model: MultimodalModel, device: torch.device, precision: str) -> None:
    """Move a model to where a node trains it, and choose what its encoders compute in and the layout of large ones.

    Large encoders have their weights' channels last in memory, which changes no value, but the order of sums.

    Parameters
    ----------
    model
        Changed in place; its weights stay float32.
    device
        From :func:`choose_device`.
    precision
        "fp32", "bf16", or "auto": bfloat16 for large encoders where the device has it.
    """
    model.to(device)
    for name in model.owned:
        encoder = model.branch(name).encoder
        encoder.in_bfloat16 = precision == "bf16" or (precision == "auto" and encoder.large and has_bfloat16(device))
        if encoder.large:
            encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # left out of torch's types
