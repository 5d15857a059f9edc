"""The tokenizer of a Hugging Face model, "auto:NAME_OR_DIR", for the encoder ``auto``.

Where its padding is token 0, tokens are stored with its own numbers. Others are stored one higher,
so that 0 is padding in every prepared directory; the encoder ``auto`` takes the one off again.
"""

from pathlib import Path
from typing import Any

from data_prep.errors import PrepError
from fedcmi_flwr.machine.extras import needs

PREFIX = "auto:"
"""Begins the name of such a tokenizer."""


def is_own(tokenizer: str) -> bool:
    """Return whether a tokenizer's name is that of one that comes with a model."""
    return tokenizer.startswith(PREFIX)


def load_own(tokenizer: str, local_only: bool = False) -> Any:  # noqa: ANN401 (transformers is optional)
    """Return the tokenizer of a model.

    Parameters
    ----------
    tokenizer
        "auto:" and a directory as ``save_pretrained`` writes it, or a name on the hub.
    local_only
        Whether nothing is to be downloaded.

    Returns
    -------
    One with padding, of the package tokenizers.

    Raises
    ------
    PrepError
        There is no such tokenizer, or it does not pad, or is of Python code.
    MissingExtraError
        transformers is not installed.
    """
    with needs("text"):
        from transformers import AutoTokenizer

    source = Path(tokenizer.removeprefix(PREFIX)).expanduser()
    name = str(source) if source.is_dir() else tokenizer.removeprefix(PREFIX)
    try:
        loaded = AutoTokenizer.from_pretrained(name, local_files_only=local_only or source.is_dir())
    except Exception as error:  # the hub, the network, or a broken file: many kinds
        raise PrepError(
            f"tokenizer {tokenizer!r}: cannot be loaded ({error}); give the directory of a model "
            "with its tokenizer."
        ) from error

    if not loaded.is_fast or loaded.pad_token_id is None:
        lacks = "a token for padding" if loaded.is_fast else "a tokenizer.json"
        raise PrepError(
            f"tokenizer {tokenizer!r}: has not {lacks}; save it again with one, or take another "
            "model."
        )

    return loaded


def shift_of(padding: int) -> int:
    """Return what is added to a tokenizer's numbers before they are stored."""
    return 0 if padding == 0 else 1
