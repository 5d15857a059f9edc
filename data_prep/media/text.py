"""Text from string to stored tokens: clean a tweet, cut it into WordPieces.

The tokenizer is BERT's, from the optional package transformers, and loaded once a process;
"auto:NAME_OR_DIR", that of any Hugging Face model (``own_tokenizer.py``); or "hashed:BUCKETS",
which needs neither package nor vocabulary (``hashed.py``).
"""

import functools
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import PrepError
from data_prep.media.hashed import PREFIX, buckets_of, hash_text, is_hashed
from data_prep.media.own_tokenizer import is_own, load_own, shift_of
from data_prep.pipeline.notes import note
from data_prep.pipeline.plan import Stream, tool_versions
from fedcmi_flwr.machine.extras import needs
from fedcmi_flwr.types import Modality

TOKENS = 40
"""Tokens of a text at most, [CLS] and [SEP] included."""
DEFAULT_TOKENIZER = "google-bert/bert-base-uncased"
"""On the hub."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_URL = re.compile(r"(?:https?://|www\.)\S*")
_USER = re.compile(r"(?<!\w)@\w+")
_RETWEET = re.compile(r"\brt\b")


def clean_tweet(tweet: str) -> str:
    """Lower-case a tweet and take out its URLs, user names and the word "rt".

    The words between them stay.

    What HTML writes as ``&amp;`` is read as the character that it means.

    Parameters
    ----------
    tweet
        As it was written.

    Returns
    -------
    Words and punctuation with one space between them; empty where there is no word.

    Examples
    --------
    >>> clean_tweet("RT @RedCross: Flood in #Houston https://t.co/aB1 Please help")
    ': flood in #houston please help'
    """
    text = html.unescape(tweet).lower()
    for pattern in (_URL, _USER, _RETWEET):
        text = pattern.sub(" ", text)

    return " ".join(text.split()) if any(map(str.isalnum, text)) else ""


@functools.lru_cache(maxsize=2)
def load_tokenizer(source: str, local_only: bool = False) -> Any:  # noqa: ANN401 (transformers is optional)
    """Return BERT's tokenizer.

    Parameters
    ----------
    source
        A directory with ``vocab.txt`` or ``tokenizer.json``, or a name on the hub, which is
        downloaded unless it is in the hub's cache.
    local_only
        Whether nothing is to be downloaded.

    Returns
    -------
    A ``transformers.BertTokenizer`` whose padding is token 0.

    Raises
    ------
    PrepError
        There is no such tokenizer, or its padding is not token 0.
    MissingExtraError
        transformers is not installed.
    """
    if is_hashed(source):
        raise PrepError(f"tokenizer {source!r}: has no words that its tokens could become again.")
    if is_own(source):
        return load_own(source, local_only)

    with needs("text"):
        from transformers import BertTokenizerFast

    advice = (
        "give a directory with vocab.txt or tokenizer.json, such as a copy of bert-base-uncased."
    )
    directory = Path(source).expanduser()
    if directory.is_dir() and not any(
        (directory / name).is_file() for name in ("vocab.txt", "tokenizer.json")
    ):
        raise PrepError(
            f"tokenizer {source!r}: a directory without vocab.txt and tokenizer.json; {advice}"
        )

    try:
        name = str(directory) if directory.is_dir() else source
        tokenizer = BertTokenizerFast.from_pretrained(name, local_files_only=local_only)
    except Exception as error:  # the hub, the network, or a broken file: many kinds
        raise PrepError(f"tokenizer {source!r}: cannot be loaded ({error}); {advice}") from error

    if len(tokenizer) <= len(SPECIAL):  # what transformers makes of a name without a vocabulary
        raise PrepError(f"tokenizer {source!r}: has no words; {advice}")

    missing = [token for token in SPECIAL[:4] if token not in tokenizer.get_vocab()]
    if missing or tokenizer.pad_token_id != 0:
        found = (
            f"lacks {missing[0]}"
            if missing
            else f"pads with token {tokenizer.pad_token_id}, must be 0"
        )
        raise PrepError(f"tokenizer {source!r}: {found}; {advice}")

    return tokenizer


def encode_text(text: str, tokenizer: str, tokens: int) -> NDArray[np.int32]:
    """Return the WordPieces of a text, or the hashes of its words and n-grams.

    Parameters
    ----------
    text
        May be empty, which leaves [CLS] and [SEP].
    tokenizer
        As for :func:`load_tokenizer`, or "hashed:BUCKETS".
    tokens
        Length of the result; a longer text loses its end, but not [SEP].

    Returns
    -------
    [tokens]: [CLS], pieces, [SEP], and 0 for padding; without the marks where they are hashes.
    """
    return cut_text(text, described(tokenizer), tokens)


def cut_text(text: str, described: str, tokens: int) -> NDArray[np.int32]:
    """Return what :func:`encode_text` does, with a tokenizer that :func:`described` has
    described.
    """
    if is_hashed(described):
        return hash_text(text, buckets_of(described), tokens)

    cutter, shift = _cutter(described, tokens)
    found = cutter.encode(text)
    if found.overflowing:
        note(f"longer than {tokens} tokens, and cut")

    stored = (np.array(found.ids) + shift) * np.array(found.attention_mask) if shift else found.ids

    return np.array(stored, dtype=np.int32)


@functools.lru_cache(maxsize=2)
def described(tokenizer: str) -> str:
    """Describe a tokenizer in full, vocabulary included, as JSON of tokenizers or "hashed:N"."""
    if is_hashed(tokenizer):
        return f"{PREFIX}{buckets_of(tokenizer)}"

    loaded = load_tokenizer(tokenizer)
    backend = loaded.backend_tokenizer
    copy = type(backend).from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    if is_own(tokenizer):  # what it pads with is not the same for all
        copy.enable_padding(pad_id=loaded.pad_token_id, pad_token=loaded.pad_token)

    return str(copy.to_str())


@functools.lru_cache(maxsize=2)
def _cutter(described: str, tokens: int) -> tuple[Any, int]:
    """Return what cuts texts, and what is to be added to its numbers."""
    with needs("text"):
        from tokenizers import Tokenizer

    cutter = Tokenizer.from_str(described)
    padding = (cutter.padding or {}).get("pad_id", 0)
    cutter.enable_truncation(tokens)
    cutter.enable_padding(length=tokens, pad_id=padding)

    return cutter, shift_of(padding)


def decode_text(stored: NDArray[np.integer[Any]], tokenizer: str) -> str:
    """Return stored tokens as words, without [CLS], [SEP] and padding.

    PrepError where the tokenizer is not at hand.
    """
    loaded = load_tokenizer(tokenizer, local_only=True)
    shift = shift_of(loaded.pad_token_id)
    numbers = [int(number) - shift for number in stored if number > 0 or not shift]

    return str(loaded.decode(numbers, skip_special_tokens=True))


def text_stream(
    name: Modality, tokenizer: str, tokens: int = TOKENS, *, tweets: bool = False
) -> Stream:
    """Return the stream of a text modality; its jobs are texts.

    Parameters
    ----------
    name
        Of the modality.
    tokenizer
        As for :func:`encode_text`.
    tokens
        Stored tokens of each text, 3 or more.
    tweets
        Whether :func:`clean_tweet` has made the texts, which it is to do with others then.

    Returns
    -------
    Tokens, int32, not normalised.

    Raises
    ------
    PrepError
        Too few tokens.
    """
    if tokens < 3:
        raise PrepError(f"tokens = {tokens}: must be 3 or more, for [CLS], a word and [SEP].")

    decode = functools.partial(encode_text, tokenizer=tokenizer, tokens=tokens)
    recipe = {
        "maker": "tokens",
        "tokens": tokens,
        "tweets": tweets,
        "tokenizer": described(tokenizer),
    }

    return Stream(name, "tokens", (tokens,), "int32", decode, recipe)


def described_text_stream(name: Modality, described: str, tokens: int) -> Stream:
    """Return :func:`text_stream` with a described tokenizer, which need not be installed here."""
    decode = functools.partial(cut_text, described=described, tokens=tokens)
    recipe = {"maker": "tokens", "tokens": tokens, "tweets": False, "tokenizer": described}
    return Stream(name, "tokens", (tokens,), "int32", decode, recipe)


def vocabulary(tokenizer: str) -> Mapping[str, Any]:
    """Return what determines a tokenizer's tokens, for a preparation's settings.

    Its location is not part of them.
    """
    if is_hashed(tokenizer):
        return {"hashed": buckets_of(tokenizer)}

    loaded = load_tokenizer(tokenizer)
    words = json.dumps(loaded.get_vocab(), sort_keys=True)
    normalizer = json.loads(loaded.backend_tokenizer.to_str())["normalizer"]
    found = {
        "words": len(loaded),
        "sha256": hashlib.sha256(words.encode()).hexdigest(),
        "normalizer": normalizer,
    }
    if is_own(tokenizer):  # other kinds than BERT's cut by more than words
        found["described_sha256"] = hashlib.sha256(described(tokenizer).encode()).hexdigest()

    return found


def text_tools(tokenizer: str) -> dict[str, str]:
    """Return the versions of the tokenizing packages, and where the tokenizer was found."""
    if is_hashed(tokenizer):
        return {"tokenizer": tokenizer}
    return {**tool_versions("transformers", "tokenizers"), "tokenizer": tokenizer}
