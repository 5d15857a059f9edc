"""data_prep.media.hashed: tokens without a vocabulary, and two languages learned from them with
nothing fetched.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from federated import federate
from tabular import write_crisismmd, write_photo

from data_prep.errors import PrepError
from data_prep.media.hashed import hash_text, pieces
from data_prep.media.text import (
    described,
    described_text_stream,
    encode_text,
    text_stream,
    vocabulary,
)
from data_prep.sets import crisismmd, manifest
from data_prep.sets.manifest_kinds import Sizes
from fedcmi_flwr.client.adamw import AdamW
from fedcmi_flwr.data.schema import ModalitySpec, read_spec
from fedcmi_flwr.models.encoders import build_encoder

ENGLISH: tuple[Sequence[str], ...] = (
    ("flooded", "bridge", "rescue", "water", "storm", "damage", "victims", "shelter"),
    ("concert", "guitar", "song", "dancing", "album", "singer", "stage", "melody"),
)
CHINESE: tuple[Sequence[str], ...] = (
    ("洪水", "救援", "桥梁", "暴雨", "灾民", "受损", "地震", "避难"),
    ("音乐", "歌手", "吉他", "舞台", "专辑", "跳舞", "演唱", "旋律"),
)
FILLERS = {
    " ": ("the", "we", "today", "in", "town", "people"),
    "": ("的", "我们", "今天", "在", "城市", "人们"),
}


def corpus(
    words: Sequence[Sequence[str]], gap: str, count: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens of texts of four fillers and two words of their class, in any order, and the
    classes.
    """
    rng, labels = np.random.default_rng(seed), np.arange(count) % 2
    texts = []
    for label in labels:
        chosen = [*rng.choice(FILLERS[gap], 4), *rng.choice(words[label], 2)]
        texts.append(gap.join(rng.permutation(chosen)))
    rows = np.stack([encode_text(text, "hashed:4096", 40) for text in texts])
    return torch.from_numpy(rows), torch.from_numpy(labels)


@pytest.mark.parametrize("encoder", ["bag-of-words", "text-cnn"])
@pytest.mark.parametrize(
    ("words", "gap"), [(ENGLISH, " "), (CHINESE, "")], ids=["English", "Chinese"]
)
def test_classes_of_two_languages_are_learned(
    encoder: str, words: Sequence[Sequence[str]], gap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above 90 % of unseen texts; neither transformers nor a connection is there to be used."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(socket.socket, "connect", None)
    torch.manual_seed(0)
    model = build_encoder(encoder, ModalitySpec("text", "tokens", (40,), "int32"), 2)
    x, labels = corpus(words, gap, 200, 1)
    optimizer = AdamW(model.train().parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    unseen, expected = corpus(words, gap, 200, 2)
    assert float((model.eval()(unseen).argmax(1) == expected).float().mean()) > 0.9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Cat", ["cat", "<ca", "cat", "at>"]),
        ("\uff23\uff21\uff34!", ["cat", "!", "<ca", "cat", "at>"]),
        ("洪水来了", ["洪", "水", "来", "了", "洪水", "水来", "来了"]),
        ("हिंदी", ["हिंदी", "<हि", "हिं", "िंद", "ंदी", "दी>"]),
        ("ไป 7日", ["ไ", "ป", "7", "日", "ไป", "<7>"]),
        ("  ", []),
    ],
)
def test_words_then_n_grams(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


def test_words_come_first_where_room_is_short() -> None:
    """One word and the comma fit into two tokens, all five pieces into six."""
    short, long = hash_text("go, on", 1000, 2), hash_text("go, on", 1000, 9)
    assert short.dtype == np.int32
    assert short.tolist() == long[:2].tolist()
    assert np.count_nonzero(long) == 7
    assert 1 <= long[:7].min() <= long.max() <= 1000
    assert not hash_text("", 1000, 4).any()


def test_every_process_hashes_alike() -> None:
    code = (
        "from data_prep.media.hashed import hash_text; print(hash_text('flood 洪水', 4096, "
        "9).tolist())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(found) == hash_text("flood 洪水", 4096, 9).tolist()


@pytest.mark.parametrize(
    "tokenizer", ["hashed:", "hashed:x", "hashed:15", "hashed:-4", "hashed:٤٠٩٦"]
)
def test_a_number_of_buckets_is_needed(tokenizer: str) -> None:
    with pytest.raises(
        PrepError,
        match=r"must be hashed:BUCKETS with 16 to 1073741824 buckets, such as hashed:4096",
    ):
        text_stream("text", tokenizer)


def test_what_is_recorded_is_its_name() -> None:
    assert described("hashed:0512") == "hashed:512"
    assert vocabulary("hashed:512") == {"hashed": 512}


def test_crisismmd_trains_on_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_crisismmd(tmp_path / "raw")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "transformers", None)
        out = crisismmd.prepare(
            tmp_path / "raw", tmp_path / "out", tokenizer="hashed:512", image_size=16
        )
    assert "transformers" not in read_spec(out).tools
    assert read_spec(out).tools["tokenizer"] == "hashed:512"

    run = federate(tmp_path / "run", out, ["image+text", "text"], encoder="image=small-cnn text=text-cnn",
                   optimizer="adamw", lr=0.01)  # fmt: skip
    before = dict(run.arrays)
    run.round(1)
    table = "branches.text.encoder.trunk.table.weight"
    assert run.strategy.report.refused == []
    assert not np.array_equal(before[table], run.arrays[table])


def test_a_chinese_manifest_is_prepared_and_read_again_without_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the same text gives the stored tokens by the recipe, as a device's
    inference does.
    """
    monkeypatch.setitem(sys.modules, "transformers", None)
    path = _chinese_manifest(tmp_path / "own")
    sizes = Sizes(image_size=16, tokens=12, tokenizer="hashed:512")
    own = manifest.prepare(
        path, path.parent, tmp_path / "out", {"photo": "image", "note": "text"}, sizes=sizes
    )
    expected = hash_text("洪水救援", 512, 12)
    assert np.load(own / "train" / "note.npy")[0].tolist() == expected.tolist()
    assert "transformers" not in read_spec(own).tools

    recipe = json.loads((own / "recipes.json").read_text(encoding="utf-8"))["note"]
    assert recipe == {"maker": "tokens", "tokens": 12, "tweets": False, "tokenizer": "hashed:512"}
    assert (
        described_text_stream("note", recipe["tokenizer"], 12).decode("洪水救援").tolist()
        == expected.tolist()
    )


def _chinese_manifest(directory: Path) -> Path:
    """Write a manifest of photographs and Chinese notes in its cells."""
    lines = ["id,label,split,group,photo,note"]
    for number in range(8):
        write_photo(directory / f"{number}.png", (20, 20 * number, 90), seed=number)
        note = "洪水救援" if number % 2 == 0 else "音乐舞台"
        split = "train" if number < 4 else "test"
        lines.append(f"s{number},{'ab'[number % 2]},{split},g{number},{number}.png,{note}")
    path = directory / "manifest.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
