"""Text to tokens without a vocabulary.

Each word and n-gram of characters by its hash, the same on every machine.

Nothing is learned of texts and nothing is fetched, so no vocabulary leaves or enters a node.
"""

import hashlib
import re
import unicodedata
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import PrepError

PREFIX = "hashed:"
"""Begins the name of a hashed tokenizer; its number of buckets follows."""
FEWEST, MOST = 16, 2**30
"""Buckets."""
WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Characters of Thai, Lao, Burmese, Khmer, Japanese and Chinese, whose words have no spaces
between them."""


def is_hashed(tokenizer: str) -> bool:
    """Return whether a tokenizer's name, or what describes one, is that of a hashed one."""
    return tokenizer.startswith(PREFIX)


def buckets_of(tokenizer: str) -> int:
    """Return the number of buckets in "hashed:BUCKETS".

    PrepError unless it is a whole number in range.
    """
    number = tokenizer.removeprefix(PREFIX)
    if not (number.isascii() and number.isdecimal() and FEWEST <= int(number) <= MOST):
        raise PrepError(
            f"tokenizer {tokenizer!r}: must be {PREFIX}BUCKETS with {FEWEST} to {MOST} buckets, "
            f"such as {PREFIX}4096, which the encoders bag-of-words and text-cnn have rows for."
        )

    return int(number)


def pieces(text: str) -> list[str]:
    """Return what of a text is hashed: its words in order, then their n-grams.

    A character of a language without spaces is a word, and so is one of punctuation. N-grams are
    three neighbouring characters of a word with "<" before and ">" behind it, or two of a run of
    characters without spaces.

    Parameters
    ----------
    text
        Anything; case and Unicode's ways to write the same are made one.

    Returns
    -------
    Words and n-grams, which never look the same.

    Examples
    --------
    >>> pieces("Go, 洪水!")
    ['go', ',', '洪', '水', '!', '<go', 'go>', '洪水']
    """
    words, grams = list[str](), list[str]()
    for kind, run in groupby(unicodedata.normalize("NFKC", text).casefold(), _kind):
        characters = list(run)
        if kind == "alone":
            words += characters
        elif kind == "without spaces":
            words += characters
            grams += [first + second for first, second in pairwise(characters)]
        elif kind == "word":
            word = "".join(characters)
            words.append(word)
            marked = f"<{word}>"
            grams += [marked[place : place + 3] for place in range(len(marked) - 2)]

    return words + grams


def hash_text(text: str, buckets: int, tokens: int) -> NDArray[np.int32]:
    """Return the tokens of a text.

    Parameters
    ----------
    text
        May be empty.
    buckets
        How many tokens there are.
    tokens
        Length of the result; words come first, and n-grams fill what room they leave.

    Returns
    -------
    [tokens]: numbers from 1 to ``buckets``, then 0 for padding.
    """
    found = [_bucket(piece, buckets) for piece in pieces(text)[:tokens]]
    return np.array(found + [0] * (tokens - len(found)), dtype=np.int32)


def _bucket(piece: str, buckets: int) -> int:
    """Return a number from 1 to ``buckets``; Python's own hash differs from process to process."""
    digest = hashlib.blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % buckets + 1


def _kind(character: str) -> str:
    """Return what a character is part of."""
    if character.isspace():
        return "space"

    category = unicodedata.category(character)[0]
    if category not in "LMN":  # letters, marks on them, and digits
        return "alone"

    return "without spaces" if WITHOUT_SPACES.match(character) else "word"
