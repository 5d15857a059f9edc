"""What a run takes of published models beside weights: architecture and processors.

For the encoder ``auto`` that is ``config.json`` and what decides the input of
``preprocessor_config.json``, or of the tokenizer; for the other encoders see ``pretrained.py``.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.sections import ModelConfig
from fedcmi_flwr.data.schema import ModalitySpec, Recipe
from fedcmi_flwr.machine.extras import needs
from fedcmi_flwr.models.adapters import adapters_of
from fedcmi_flwr.models.building import auto_locations, encoder_names, split_names
from fedcmi_flwr.models.encoders.auto import AUTO
from fedcmi_flwr.models.pretrained import (
    OPTIONS,
    PretrainedError,
    directory_of,
    read_locations,
    read_options,
)
from fedcmi_flwr.types import Modality

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Files that may say how images and sound become input."""
PARTS = ("image_processor", "feature_extractor")
"""Of the second of them."""
INPUT_FIELDS = {
    "image": ("do_resize", "size", "resample", "do_center_crop", "crop_size", "crop_pct", "do_rescale",
              "rescale_factor", "do_normalize", "image_mean", "image_std"),
    "series": ("do_normalize", "sampling_rate", "feature_size", "n_fft", "hop_length"),
}  # fmt: skip
"""Kind -> what of a processor decides the input."""
TOKENIZERS = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""Files of which one is there where a directory has a tokenizer."""
LEFT_OUT = {
    "id2label", "label2id", "_name_or_path", "auto_map", "dtype", "torch_dtype", "transformers_version",
}  # fmt: skip
"""Fields of ``config.json`` that say nothing of the architecture, or name code that is not run
here."""


def locations_of(config: ModelConfig, modalities: Sequence[Modality]) -> dict[Modality, str]:
    """Return where the trunks of modalities come from: by ``pretrained`` and ``encoder``.

    Parameters
    ----------
    config
        The run's.
    modalities
        All modalities of the federation.

    Returns
    -------
    Modality -> directory, or name of a repository of the Hugging Face hub.

    Raises
    ------
    ConfigError
        A modality in both keys, or one of ``auto`` in neither.
    """
    named, given = auto_locations(config.encoder, modalities), read_locations(config.pretrained)
    both = sorted(named.keys() & given.keys())
    if both:
        raise ConfigError(
            f"modality {both[0]!r}: encoder names {named[both[0]]!r} and pretrained "
            f"{given[both[0]]!r}; keep one of them."
        )

    return {**named, **given}


def read_architectures(
    config: ModelConfig, inputs: Sequence[ModalitySpec], locations: Mapping[Modality, str]
) -> dict[Modality, dict[str, Any]]:
    """Return what differs from the named encoders' architectures, where there is a location.

    Parameters
    ----------
    config
        The run's.
    inputs
        All modalities of the federation.
    locations
        From :func:`locations_of`, of these modalities.

    Returns
    -------
    Modality -> options of its encoder.

    Raises
    ------
    PretrainedError
        Files that are missing or broken.
    """
    encoders = encoder_names(config.encoder, tuple(each.name for each in inputs))
    found = {}
    adapters = adapters_of(config.adapter, encoders, AUTO, split_names(config.freeze))
    for modality in inputs:
        name = modality.name
        if name not in locations:
            continue

        if encoders[name] == AUTO:
            adapter = {"adapter": adapters[name]} if name in adapters else {}
            found[name] = {**_auto_options(modality, locations[name]), **adapter}
        else:
            found[name] = read_options(name, locations[name])

    return found


def _auto_options(modality: ModalitySpec, location: str) -> dict[str, Any]:
    fields = read_options(modality.name, location)
    directory = directory_of(modality.name, location)
    if "model_type" not in fields:
        raise PretrainedError(
            f"{directory / OPTIONS}: missing, or without model_type; an encoder 'auto' needs what "
            "save_pretrained writes."
        )
    if "quantization_config" in fields:
        raise PretrainedError(
            f"{directory / OPTIONS}: quantised weights cannot be trained here; take the original "
            "ones."
        )

    config = {name: value for name, value in fields.items() if name not in LEFT_OUT}

    return {"config": config, "processor": read_processor(directory, modality.kind)}


def read_processor(directory: Path, kind: str) -> dict[str, Any]:
    """Return what of a model's processor, or tokenizer, decides its input.

    Parameters
    ----------
    directory
        Of the model.
    kind
        Of the modality.

    Returns
    -------
    Field -> value; none where the directory has no such file.

    Raises
    ------
    PretrainedError
        A file that is broken.
    """
    if kind == "tokens":
        return _tokenizer(directory)

    names = INPUT_FIELDS["image" if kind == "frames" else kind]
    for path in (directory / name for name in PROCESSORS):
        if not path.is_file():
            continue

        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise PretrainedError(f"{path}: not JSON ({error}).") from error

        parts = (
            [fields[part] for part in PARTS if part in fields] if isinstance(fields, dict) else []
        )
        found = {name: part[name] for part in [fields, *parts] for name in names if name in part}
        if found:
            return found

    return {}


def _tokenizer(directory: Path) -> dict[str, Any]:
    if not any((directory / name).is_file() for name in TOKENIZERS):
        return {}

    with needs("text"):
        from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    except Exception as error:  # of many kinds: whatever a broken file leads to
        raise PretrainedError(f"{directory}: its tokenizer cannot be loaded ({error}).") from error

    return {} if tokenizer.pad_token_id is None else {"pad_token_id": int(tokenizer.pad_token_id)}


def check_recipes(
    options: Mapping[Modality, Mapping[str, Any]], recipes: Mapping[Modality, Recipe]
) -> None:
    """Raise ConfigError where sound was stored at another rate than the model's processor wants.

    Parameters
    ----------
    options
        From :func:`read_architectures`.
    recipes
        How the server's samples were made.
    """
    for name, chosen in options.items():
        wanted = chosen.get("processor", {}).get("sampling_rate")
        stored = recipes.get(name, {}).get("rate_hz")
        if wanted and stored and wanted != stored:
            raise ConfigError(
                f"modality {name!r}: stored at {stored} Hz, but the model of its encoder hears "
                f"{wanted} Hz; take a model of {stored} Hz."
            )
