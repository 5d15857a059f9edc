"""Where a model computes.

The device, the number format of its encoders and their layout in memory.
"""

import torch

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.models.multimodal import MultimodalModel


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
        raise ConfigError(
            "device = 'cuda': torch sees no GPU in this process; use 'auto' or 'cpu'."
        )

    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16 itself, so that it is faster than
    float32 there.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))

    found = torch.cpu.get_capabilities()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


def place(model: MultimodalModel, device: torch.device, precision: str) -> None:
    """Move a model to where a node trains it, and choose what its encoders compute in and the
    layout of large ones.

    Large encoders have their weights' channels last in memory, which changes no value, but the
    order of sums.

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
        encoder.in_bfloat16 = precision == "bf16" or (
            precision == "auto" and encoder.large and has_bfloat16(device)
        )
        if encoder.large:
            encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # left out of torch's types
