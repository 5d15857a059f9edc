"""From a run's configuration to the model's description."""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.sections import ModelConfig
from fedcmi_flwr.lookup import UnknownNameError, find
from fedcmi_flwr.models.encoders import ENCODER
from fedcmi_flwr.models.encoders.auto import AUTO, PREFIX
from fedcmi_flwr.models.multimodal import ModelSpec
from fedcmi_flwr.suggestions import did_you_mean
from fedcmi_flwr.types import Modality


@runtime_checkable
class DecidesStructure(Protocol):
    """What a model's description needs of a method."""

    @property
    def structure(self) -> str:
        """One of ``multimodal.STRUCTURES``."""

    @property
    def normalization(self) -> str:
        """One of ``encoders.NORMALIZATIONS``."""


def model_spec(
    config: ModelConfig,
    method: DecidesStructure,
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
    """Raise ConfigError when a key names a modality that is not stored.

    One that this run leaves out is no error.
    """
    for name in names:
        if name not in stored:
            raise ConfigError(
                f"{key}: {name!r} is not stored, only {list(stored)}.{did_you_mean(name, stored)}"
            )


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
    check_stored(f"modalities = {text!r}", names, stored)
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
    named = {modality: _without_location(name) for modality, name in _read_encoders(text).items()}
    found = dict.fromkeys(modalities, named[""]) if "" in named else named
    for modality in {**found, **dict.fromkeys(modalities)}:
        if modality not in modalities or modality not in found:
            problem = "is not one of the modalities" if modality in found else "has no encoder"
            advice = _needed(f"of {list(modalities)}") + did_you_mean(modality, modalities)
            raise ConfigError(f"encoder = {text!r}: {modality!r} {problem}; {advice}")

    for name in found.values():
        _check_encoder(text, name)

    return {modality: found[modality] for modality in modalities}


def named_encoders(text: str) -> list[str]:
    """Return the encoders that the ``encoder`` key names, whatever the modalities.

    ConfigError for an unknown one.
    """
    names = sorted({_without_location(name) for name in _read_encoders(text).values()})
    for name in names:
        _check_encoder(text, name)

    return names


def auto_locations(text: str, modalities: Sequence[Modality]) -> dict[Modality, str]:
    """Return what the ``encoder`` key says after "auto:".

    Parameters
    ----------
    text
        The key's value.
    modalities
        All modalities of the federation.

    Returns
    -------
    Modality -> directory, or name of a repository of the Hugging Face hub, where there is one.

    Raises
    ------
    ConfigError
        A value of another form, or nothing after "auto:".

    Examples
    --------
    >>> auto_locations("image=auto:/weights/vit sound=small-cnn", ("image", "sound"))
    {'image': '/weights/vit'}
    """
    found = {}
    named = _read_encoders(text)
    for modality in modalities:
        name = named.get(modality, named.get("", ""))
        if name.startswith(PREFIX):
            found[modality] = name.removeprefix(PREFIX)
            if not found[modality]:
                raise ConfigError(
                    f"encoder = {text!r}: name a directory, or a model of the hub, after 'auto:'."
                )

    return found


def absolute_encoders(text: str) -> str:
    """Return the ``encoder`` key with absolute paths, since a simulation's processes work in other
    directories.

    Parameters
    ----------
    text
        The key's value.

    Returns
    -------
    The same where nothing follows "auto:"; relative paths count from the working directory.

    Raises
    ------
    ConfigError
        A value of another form.
    """
    return _with_locations(text, lambda where: f"{PREFIX}{absolute_location(where)}")


def portable_encoders(text: str) -> str:
    """Return the ``encoder`` key without the paths of this machine; names of the hub stay."""
    return _with_locations(
        text, lambda where: AUTO if Path(where).is_absolute() else f"{PREFIX}{where}"
    )


def absolute_location(location: str) -> str:
    """Return the absolute path of a directory.

    What is none here, and does not begin like a path, stays as it is.
    """
    path = Path(location).expanduser()
    is_path = location.startswith((".", "~")) or path.is_dir()
    return str(path.absolute()) if is_path else location


def _with_locations(text: str, change: Callable[[str], str]) -> str:
    if PREFIX not in text:
        return text

    words = []
    for modality, name in _read_encoders(text).items():
        changed = change(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else name
        words.append(f"{modality}={changed}" if modality else changed)

    return shlex.join(words)


def _without_location(name: str) -> str:
    return AUTO if name.startswith(PREFIX) else name


def _read_encoders(text: str) -> dict[Modality, str]:
    """Return modality -> name, or "" -> the name for all of them."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"encoder = {text!r}: {error}; close each quotation mark.") from error

    if len(words) == 1 and "=" not in words[0].partition(":")[0]:
        return {"": words[0]}

    pairs = [word.partition("=") for word in words]
    if not pairs or not all(modality and name for modality, _, name in pairs):
        raise ConfigError(f"encoder = {text!r}: {_needed('modality')}")

    return {modality: name for modality, _, name in pairs}


def _check_encoder(text: str, name: str) -> None:
    try:
        find(ENCODER, name)
    except UnknownNameError as error:
        raise ConfigError(
            str(error) if name == text else f"in encoder = {text!r}: {error}"
        ) from error


def _needed(which: str) -> str:
    return f"need one of {ENCODER.names}, or 'modality=name' for each {which}."
