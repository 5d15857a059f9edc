"""data_prep.media.text: tweets are cleaned, and cut into the WordPieces of a tiny vocabulary made
on the spot.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tabular import WORDS, write_tokenizer

from data_prep.errors import PrepError
from data_prep.media.text import clean_tweet, decode_text, encode_text, text_stream, vocabulary


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    return str(write_tokenizer(tmp_path / "tokenizer"))


@pytest.mark.parametrize(
    ("tweet", "clean"),
    [
        ("Flood https://t.co/aB1 in Houston", "flood in houston"),
        ("see HTTP://x.y/z?a=1&b=2 and www.example.org now", "see and now"),
        ("cut off https://t.c…", "cut off"),
        ("cut off https…", "cut off https…"),  # no address any more
        ("@RedCross thanks @a_1!", "thanks !"),
        ("mail me@example.org", "mail me@example.org"),
        ("RT @who: rt art party Rt", ": art party"),
        ("two\u2028lines\tand  spaces", "two lines and spaces"),
        ("https://t.co/only @one RT", ""),
        ("RT @who: https://t.co/only \u2026!", ""),
        ("rock &amp; roll &lt;3 &#39;n", "rock & roll <3 'n"),
    ],
)
def test_cleaning_takes_out_urls_users_and_rt_only(tweet: str, clean: str) -> None:
    assert clean_tweet(tweet) == clean


def ids(*words: str) -> list[int]:
    return [WORDS.index(word) for word in words]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("helping people", ["help", "##ing", "people"]),
        ("Houston!", ["hous", "##ton", "!"]),
        ("zebra flood", ["[UNK]", "flood"]),
        ("", []),
        ("flood " * 7, ["flood"] * 6),
    ],
)
def test_tokens_are_padded_with_0_and_cut_before_the_last_one(
    tokenizer: str, text: str, words: list[str]
) -> None:
    tokens = encode_text(text, tokenizer, 8)
    expected = ids("[CLS]", *words, "[SEP]")
    assert tokens.dtype == np.int32
    assert tokens.tolist() == expected + [0] * (8 - len(expected))


def test_tokens_are_words_again(tokenizer: str) -> None:
    assert (
        decode_text(encode_text("helping people in houston", tokenizer, 10), tokenizer)
        == "helping people in houston"
    )


def test_a_tokenizer_json_gives_the_same_tokens_and_vocabulary(
    tokenizer: str, tmp_path: Path
) -> None:
    from transformers import BertTokenizerFast

    BertTokenizerFast.from_pretrained(tokenizer).save_pretrained(tmp_path / "json")
    assert not (tmp_path / "json" / "vocab.txt").exists()
    assert vocabulary(str(tmp_path / "json")) == vocabulary(tokenizer)
    assert json.dumps(vocabulary(tokenizer))
    text = "helping people!"
    assert (
        encode_text(text, str(tmp_path / "json"), 9).tolist()
        == encode_text(text, tokenizer, 9).tolist()
    )


def test_another_vocabulary_is_another_setting(tokenizer: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "vocab.txt").write_text("\n".join([*WORDS[:-1], "storm"]))
    assert vocabulary(str(other)) != vocabulary(tokenizer)


def test_a_tokenizer_that_cannot_be_used_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, moved, small = (tmp_path / name for name in ("empty", "moved", "small"))
    for directory in (empty, moved, small):
        directory.mkdir()
    with pytest.raises(
        PrepError, match=r"a directory without vocab\.txt and tokenizer\.json; give a directory"
    ):
        encode_text("flood", str(empty), 8)
    (moved / "vocab.txt").write_text("\n".join([WORDS[1], WORDS[0], *WORDS[2:]]))
    with pytest.raises(PrepError, match="pads with token 1, must be 0"):
        encode_text("flood", str(moved), 8)
    (small / "vocab.txt").write_text("")
    with pytest.raises(PrepError, match=r"tokenizer '.*small': has no words"):
        encode_text("flood", str(small), 8)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PrepError, match=r"tokenizer '.*nowhere': (has no words|cannot be loaded)"):
        encode_text("flood", str(tmp_path / "nowhere"), 8)


def test_without_transformers_the_extra_is_named(
    tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fedcmi-flwr\[text\]'"):
        encode_text("flood", tokenizer + "/", 8)  # with a slash: not in the cache


def test_too_few_tokens_are_refused(tokenizer: str) -> None:
    with pytest.raises(PrepError, match="tokens = 2: must be 3 or more"):
        text_stream("text", tokenizer, 2)
