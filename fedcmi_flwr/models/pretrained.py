"""Pretrained trunks.

A directory with ``model.safetensors`` and, optionally, ``config.json``, for each modality.

``config.json`` holds what differs from the named architecture: for BERT its usual file, for
torchvision's classes their arguments. The server initialises the trunks from these weights and
sends them out with the first round, unless they are frozen: then every node has the directory
itself, and a checksum tells whether it is the server's.
"""

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.machine.extras import needs
from fedcmi_flwr.models.building import absolute_location
from fedcmi_flwr.models.encoders import Encoder
from fedcmi_flwr.models.encoders.auto import Auto
from fedcmi_flwr.models.encoders.towers import tower_state
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Modality

Renaming = Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]
WEIGHTS, OPTIONS = "model.safetensors", "config.json"
FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
"""What is fetched of a hub's repository: architecture, weights without pickles, processor,
tokenizer."""


class PretrainedError(ValueError):
    """Pretrained weights that are missing, broken, or of another architecture."""


def read_locations(text: str) -> dict[Modality, str]:
    """Read the ``pretrained`` key.

    Parameters
    ----------
    text
        "text=DIR visual=DIR", or empty; quote a DIR with spaces.

    Returns
    -------
    Modality -> the absolute path of a directory, or the name of a repository of the Hugging Face
    hub.

    Raises
    ------
    ConfigError
        Another form.

    Examples
    --------
    >>> read_locations("text=/weights/bert 'visual=/my weights/resnet'")
    {'text': '/weights/bert', 'visual': '/my weights/resnet'}
    """
    try:
        pairs = [item.partition("=") for item in shlex.split(text)]
    except ValueError as error:
        raise ConfigError(f"pretrained = {text!r}: {error}; close each quotation mark.") from error

    found = {modality: location for modality, _, location in pairs}
    if len(found) < len(pairs) or not all(modality and location for modality, _, location in pairs):
        raise ConfigError(
            f"pretrained = {text!r}: must be 'modality=DIR modality=DIR', each modality once."
        )

    return found


def absolute_locations(text: str) -> str:
    """Return the ``pretrained`` key with absolute paths, since a simulation's processes work in
    other directories.

    Parameters
    ----------
    text
        As for :func:`read_locations`.

    Returns
    -------
    The same; relative paths count from the working directory. What is no directory here, and
    does not begin like a path, is the name of a hub's repository and stays.

    Raises
    ------
    ConfigError
        As for :func:`read_locations`.
    """
    pairs = [
        f"{name}={absolute_location(location)}" for name, location in read_locations(text).items()
    ]
    return shlex.join(pairs)


def check_frozen(locations: Mapping[Modality, str], frozen: Sequence[Modality]) -> None:
    """Raise ConfigError for a frozen trunk without weights.

    Parameters
    ----------
    locations
        From :func:`read_locations`.
    frozen
        Modalities with a frozen trunk.
    """
    for name in frozen:
        if name not in locations:
            raise ConfigError(
                f"freeze = {name!r}: a frozen trunk needs weights; give its directory as "
                f"pretrained = '{name}=DIR' in the run-config or the node-config."
            )


def directory_of(modality: Modality, location: str) -> Path:
    """Return the directory of a modality's weights, after fetching them where ``location`` names a
    hub's repository.

    Parameters
    ----------
    modality
        Whose weights.
    location
        From :func:`read_locations`.

    Returns
    -------
    A directory.

    Raises
    ------
    PretrainedError
        There is no such directory, and no such repository that can be reached.
    """
    path = Path(location).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute():
        raise PretrainedError(f"pretrained {modality}={location}: no such directory.")

    with needs("vision"):
        from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(location, allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:
        raise PretrainedError(
            f"pretrained {modality}={location}: neither a directory nor a repository of the "
            f"Hugging Face hub that can be reached ({error}); give the absolute path of a "
            f"directory with {WEIGHTS}."
        ) from error


def read_options(modality: Modality, location: str) -> dict[str, Any]:
    """Return the architecture's options from ``config.json``, none where there is no such file.

    Parameters
    ----------
    modality
        Whose weights.
    location
        From :func:`read_locations`.

    Returns
    -------
    Argument -> value.

    Raises
    ------
    PretrainedError
        No directory, or a file that is not a JSON object.
    """
    path = directory_of(modality, location) / OPTIONS
    if not path.is_file():
        return {}

    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PretrainedError(f"{path}: not JSON ({error}).") from error

    if not isinstance(options, dict):
        raise PretrainedError(f"{path}: must hold a JSON object, found {type(options).__name__}.")

    return options


def load_trunks(model: MultimodalModel, locations: Mapping[Modality, str]) -> dict[Modality, str]:
    """Load pretrained weights into the trunks of a model.

    Parameters
    ----------
    model
        Its branches of these modalities are changed in place.
    locations
        Modalities of the model and where their weights are.

    Returns
    -------
    Modality -> SHA-256 of its trunk's names, shapes and values.

    Raises
    ------
    PretrainedError
        A directory or file that is missing or broken, or weights that do not fit, named by file
        and key.
    """
    return {
        name: _load_trunk(model.branch(name).encoder, name, where)
        for name, where in locations.items()
    }


def _load_trunk(encoder: Encoder, modality: Modality, location: str) -> str:
    directory = directory_of(modality, location)
    if isinstance(encoder, Auto):
        files = sorted(directory.glob("*.safetensors"))
        if not files:
            raise PretrainedError(
                f"{directory}: no .safetensors; the trunk of modality {modality!r} is to be "
                "loaded from it."
            )

        written = max(file.stat().st_mtime_ns for file in files)
        state, checksum = _read_tower(directory, written, encoder.source, encoder.modality)
        encoder.load_published(state)

        return checksum

    path = directory / WEIGHTS
    if not path.is_file():
        raise PretrainedError(
            f"{path}: missing; the trunk of modality {modality!r} is to be loaded from it."
        )

    state, checksum = _read(path, path.stat().st_mtime_ns, encoder.trunk_state)
    needed = encoder.trunk.state_dict()

    for names, what in (
        (sorted(needed.keys() - state), "lacks"),
        (sorted(state.keys() - needed), "has unknown"),
    ):
        if names:
            statistics = (
                any(name.endswith("running_mean") for name in names) and what == "has unknown"
            )
            hint = (
                " It was made with batch norm: set normalization to 'batch'." if statistics else ""
            )
            raise PretrainedError(
                f"{path}: {what} {names[0]!r} ({len(names)} in all) for the trunk of modality "
                f"{modality!r}.{hint}"
            )

    for name, value in needed.items():
        if state[name].shape != value.shape:
            raise PretrainedError(
                f"{path}: {name!r} has shape {list(state[name].shape)}, the trunk of modality "
                f"{modality!r} needs {list(value.shape)}."
            )

    encoder.trunk.load_state_dict(state)

    return checksum


@lru_cache(maxsize=4)
def _read(path: Path, written: int, rename: Renaming) -> tuple[dict[str, torch.Tensor], str]:
    """Read a trunk and its checksum.

    Cached until it is written again, since simulated nodes share directories.
    """
    try:
        state = rename(load_file(path))
    except (SafetensorError, OSError) as error:
        raise PretrainedError(f"{path}: not a safetensors file ({error}).") from error

    return state, _checksum(state)


@lru_cache(maxsize=4)
def _read_tower(
    directory: Path, written: int, source: str, modality: ModalitySpec
) -> tuple[dict[str, torch.Tensor], str]:
    """Read a tower of a Hugging Face model and its checksum; cached as :func:`_read` is."""
    try:
        state = tower_state(directory, json.loads(source), modality)
    except ValueError as error:
        raise PretrainedError(f"{error}") from error

    return state, _checksum(state)


def _checksum(state: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)

    return digest.hexdigest()


def check_same(modality: Modality, own: Sequence[str], servers: Sequence[str]) -> None:
    """Raise PretrainedError unless a node's frozen trunk is the server's.

    Parameters
    ----------
    modality
        Whose trunk.
    own
        The node's checksum and location.
    servers
        The server's checksum and location.
    """
    if own[0] != servers[0]:
        raise PretrainedError(
            f"modality {modality!r}: the frozen trunks differ: {own[1]} on this node has checksum "
            f"{own[0]}, {servers[1]} on the server {servers[0]}. Copy the server's {WEIGHTS} to "
            "the node."
        )
