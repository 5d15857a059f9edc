"""From a Hugging Face model's config.json or directory to the tower that reads a modality."""

import contextlib
import inspect
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.machine.extras import needs

INPUTS = {"image": "pixel_values", "frames": "pixel_values", "tokens": "input_ids"}
"""Kind of modality -> what its models call their input."""
SOUND = ("input_values", "input_features")
"""What models of sound call theirs: a waveform, or a spectrogram that is made of one."""
TOWERS = {
    "image": "vision_config",
    "frames": "vision_config",
    "tokens": "text_config",
    "series": "audio_config",
}
"""Kind of modality -> part of the configuration of a model of more than one modality."""
OFF: Mapping[str, Any] = {"apply_spec_augment": False, "layerdrop": 0.0, "encoder_layerdrop": 0.0}
"""Fields of models of sound, of which parts would stay without gradients, or be drawn by NumPy's
global generator."""


def build_tower(fields: Mapping[str, Any], modality: ModalitySpec) -> nn.Module:
    """Return a tower with random weights.

    Parameters
    ----------
    fields
        Of ``config.json``.
    modality
        What it is to read.

    Returns
    -------
    The model, or its encoder, or one of its towers.

    Raises
    ------
    ValueError
        A configuration that transformers does not know, or a model of another input.
    MissingExtraError
        transformers is not installed.
    """
    config = _config(fields, modality)
    maker, arguments = _maker(config)
    # Of a factory, or of the class itself
    make = getattr(maker, "from_config", None) or maker._from_config
    model = make(config, dtype=torch.float32, **arguments)

    return _reading(model, config, modality)


def tower_state(
    directory: Path, fields: Mapping[str, Any], modality: ModalitySpec
) -> dict[str, Tensor]:
    """Return the published weights of what :func:`build_tower` builds.

    Parameters
    ----------
    directory
        With ``config.json`` and weights in safetensors, in one file or several; nothing is
        unpickled.
    fields
        As for :func:`build_tower`.
    modality
        As for :func:`build_tower`.

    Returns
    -------
    The tower's state_dict in float32.

    Raises
    ------
    ValueError
        Weights that are missing, broken, or of another architecture.
    """
    config = _config(fields, modality)
    maker, arguments = _maker(config)
    with _quiet():
        try:
            model, report = maker.from_pretrained(
                str(directory),
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **arguments,
            )
        except Exception as error:  # of many kinds: files, shapes, names
            raise ValueError(f"{directory}: its weights cannot be loaded ({error}).") from error

    tower = _reading(model, config, modality)
    own = {id(value) for value in tower.state_dict(keep_vars=True).values()}
    names = model.state_dict(keep_vars=True)
    lacking = sorted(
        name for name in report["missing_keys"] if name in names and id(names[name]) in own
    )
    if lacking:
        raise ValueError(f"{directory}: its weights lack {lacking[0]!r} ({len(lacking)} in all).")

    return {name: value.detach().contiguous() for name, value in tower.state_dict().items()}


def width_of(tower: nn.Module) -> int:
    """Return how many numbers a tower makes of a sample."""
    channels = getattr(tower, "channels", None)
    if channels is not None:  # of a backbone, the last of the feature maps that it gives
        return int(channels[-1])

    config: Any = tower.config
    sizes = getattr(config, "hidden_sizes", None)

    return int(sizes[-1] if sizes else config.hidden_size)


def _config(fields: Mapping[str, Any], modality: ModalitySpec) -> Any:  # noqa: ANN401 (transformers is optional)
    """Return the configuration of the tower that reads a modality."""
    with needs("text"):
        from transformers import CONFIG_MAPPING

    kind = fields.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise ValueError(
            f"encoder 'auto' of modality {modality.name!r}: its config.json has model_type "
            f"{kind!r}, which the installed transformers does not know; code that comes with a "
            "model is not run here."
        )

    config = CONFIG_MAPPING[kind].from_dict(dict(fields))
    tower = getattr(config, TOWERS[modality.kind], None)
    config = config if tower is None else tower
    for name, value in OFF.items():
        if hasattr(config, name):
            setattr(config, name, value)

    return config


def _maker(config: Any) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401
    """Return the class of a configuration's model, and the arguments that leave a pooler out."""
    from transformers import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING, AutoModel

    architecture, kind = (config.architectures or [""])[0], type(config)
    if kind in MODEL_FOR_BACKBONE_MAPPING and (
        kind not in MODEL_MAPPING or architecture.endswith("Backbone")
    ):
        return MODEL_FOR_BACKBONE_MAPPING[kind], {}
    if kind not in MODEL_MAPPING:
        raise ValueError(
            f"encoder 'auto': there is no model of {config.model_type!r} that only encodes."
        )

    taken = inspect.signature(MODEL_MAPPING[type(config)]).parameters

    return AutoModel, {"add_pooling_layer": False} if "add_pooling_layer" in taken else {}


def _reading(model: Any, config: Any, modality: ModalitySpec) -> nn.Module:  # noqa: ANN401
    """Return the part of a model that reads the modality; ValueError where none does."""
    tower: nn.Module = model.get_encoder() if config.is_encoder_decoder else model
    takes = str(getattr(tower, "main_input_name", ""))
    fits = takes in SOUND if modality.kind == "series" else takes == INPUTS[modality.kind]
    if not fits:
        raise ValueError(
            f"encoder 'auto': {type(tower).__name__} reads {takes}; modality {modality.name!r} is "
            f"{modality.kind}, which is "
            f"{' or '.join(SOUND) if modality.kind == 'series' else INPUTS[modality.kind]}."
        )

    return tower


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bar and the remarks of transformers: what is missing is said here."""
    from transformers.utils import logging as own

    shown, before = own.is_progress_bar_enabled(), own.get_verbosity()
    own.disable_progress_bar()
    own.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        own.set_verbosity(before)
        if shown:
            own.enable_progress_bar()
