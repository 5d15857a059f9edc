"""From one's own files to predictions with Hugging Face models, by one manifest."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import commands
import families
import numpy as np
import pytest
import soundfile
import torch
from federated import Federated, federate
from tabular import write_photo

from data_prep.errors import PrepError
from data_prep.files.makers import Source, make_sample
from data_prep.media.text import decode_text, encode_text
from data_prep.sets import manifest
from data_prep.sets.manifest_kinds import Sizes
from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.data.schema import read_recipes, read_spec
from fedcmi_flwr.inference.export import export_model
from fedcmi_flwr.inference.predictor import Predictor
from fedcmi_flwr.models.file import load_model

ROOT = Path(__file__).parents[2]
KINDS = {"photo": "image", "voice": "waveform", "words": "text"}
TEXTS = ("flood river rises water", "fire smoke burns")
COMBINATIONS = [
    ("vit", "wav2vec2", "roberta"),
    ("dinov2", "hubert", "clip-text"),
    ("clip-image", "whisper", "roberta"),
]
State = dict[str, torch.Tensor]
NODES = ["photo+voice+words", "photo+voice+words", "voice+words"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return files and their manifest: 40 samples of two classes, of which some lack one."""
    place = tmp_path_factory.mktemp("raw")
    rows = []
    for number in range(40):
        label, name = number % 2, f"{number:02}"
        cells = {"photo": f"{name}.png", "voice": f"{name}.wav", "words": TEXTS[label]}
        cells |= {{3: "photo", 5: "words"}.get(number % 10, "nothing"): ""}
        cells.pop("nothing", None)
        write_photo(
            place / f"{name}.png", ((200, 90, 30), (30, 90, 200))[label], (40, 30), seed=number
        )
        tone = 0.4 * np.sin(2 * np.pi * (880, 330)[label] * np.arange(3000 + 50 * number) / 16000)
        soundfile.write(place / f"{name}.wav", tone, 16000, subtype="PCM_16")
        split = ("train", "train", "test")[number // 2 % 3]
        rows.append(
            {
                "id": f"s{name}",
                "label": ("flood", "fire")[label],
                "split": split,
                "group": name,
                **cells,
            }
        )
    with (place / "samples.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return place


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory of tiny models, of which two have a tokenizer."""
    place = tmp_path_factory.mktemp("models")
    for name in families.FAMILIES:
        families.save(place / name, name)
    families.save_tokenizer(place / "roberta", padding=7)
    families.save_tokenizer(place / "bert")
    return place


@pytest.fixture(scope="module")
def prepared(raw: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the prepared directory."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    sizes = Sizes(image_size=36, seconds=0.25, tokens=8, tokenizer=f"auto:{models / 'roberta'}")
    return manifest.prepare(raw / "samples.csv", raw, out, KINDS, sizes=sizes)


def _run(
    directory: Path,
    prepared: Path,
    models: Path,
    names: tuple[str, str, str],
    **changes: Any,
) -> tuple[Federated, State]:
    """Return a federation of three nodes after two rounds, and its trunks before."""
    encoder = " ".join(
        f"{modality}=auto:{models / name}" for modality, name in zip(KINDS, names, strict=True)
    )
    options = {
        "encoder": encoder,
        "method": "fedcmi-plus",
        "warmup": 0,
        "lr": 0.05,
        "num-server-rounds": 2,
        **changes,
    }
    run = federate(directory, prepared, NODES, **options)
    before = _trunks(run)
    for server_round in (1, 2):
        run.round(server_round)
        assert run.strategy.report.refused == []
    assert all(np.isfinite(array).all() for array in run.arrays.values())
    return run, before


def _trunks(run: Federated) -> State:
    state = run.federation.model.state_dict()
    return {name: value.clone() for name, value in state.items() if ".encoder.trunk." in name}


def _moved(run: Federated, before: State) -> set[str]:
    """Return the modalities whose trunks are not what they were."""
    after = _trunks(run)
    return {name.split(".")[1] for name in after if not torch.equal(before[name], after[name])}


def test_waveforms_and_tokens_are_made_again_of_files(
    prepared: Path, raw: Path, models: Path
) -> None:
    spec, recipes = read_spec(prepared), read_recipes(prepared)
    assert {each.name: (each.kind, each.shape) for each in spec.modalities} == {
        "photo": ("image", (3, 36, 36)), "voice": ("series", (1, 4000)), "words": ("tokens", (8,))
    }  # fmt: skip
    stored = load_split(prepared, "train", spec.modality_names)
    wave, rate = soundfile.read(raw / "00.wav", dtype="float32")
    assert (rate, len(wave)) == (16000, 3000)
    assert np.allclose(stored.arrays["voice"][0, 0, :3000], wave, atol=1e-6)
    assert not stored.arrays["voice"][0, 0, 3000:].any()

    by_name = {each.name: each for each in spec.modalities}
    again = make_sample(Source(raw / "00.wav"), by_name["voice"], recipes["voice"])
    assert np.array_equal(again, stored.arrays["voice"][0])
    (raw / "00.txt").write_text(TEXTS[0], encoding="utf-8")
    again = make_sample(Source(raw / "00.txt"), by_name["words"], recipes["words"])
    assert np.array_equal(again, stored.arrays["words"][0])

    words = list(families.WORDS)
    words[0], words[7] = words[7], words[0]
    # One higher: padding is 7
    named = [words[number - 1] for number in stored.arrays["words"][0] if number]
    assert named == ["[CLS]", *TEXTS[0].split(), "[SEP]"]
    assert decode_text(stored.arrays["words"][0], f"auto:{models / 'roberta'}") == TEXTS[0]


def test_tokens_of_a_tokenizer_with_padding_0_are_its_own(models: Path, tmp_path: Path) -> None:
    found = encode_text("fire smoke", f"auto:{models / 'bert'}", 6)
    assert found.tolist() == [
        2,
        families.WORDS.index("fire"),
        families.WORDS.index("smoke"),
        3,
        0,
        0,
    ]
    assert decode_text(found, f"auto:{models / 'bert'}") == "fire smoke"
    with pytest.raises(PrepError, match="cannot be loaded"):
        encode_text("fire", f"auto:{tmp_path}", 6)
    settings = json.loads((models / "bert" / "tokenizer_config.json").read_text())
    unpadded = families.save_tokenizer(tmp_path / "unpadded")
    settings.pop("pad_token")
    (unpadded / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(PrepError, match="has not a token for padding"):
        encode_text("fire", f"auto:{unpadded}", 6)


@pytest.mark.parametrize("names", COMBINATIONS, ids="-".join)
def test_two_rounds_trained_fully(
    tmp_path: Path, prepared: Path, models: Path, names: tuple[str, str, str]
) -> None:
    """What the run leaves predicts alike in this process, from its file and as ONNX graphs."""
    run, before = _run(tmp_path / "run", prepared, models, names)
    run.evaluate(2)
    assert _moved(run, before) == set(KINDS)

    model_file = run.federation.directory.model_path
    assert str(models).encode() not in model_file.read_bytes()
    predictor = Predictor.load(model_file, "cpu")
    test = load_split(prepared, "test", tuple(KINDS))
    rows = test.rows[test.has[test.rows].all(axis=1)]
    batch = test.batch(np.flatnonzero(test.has[test.rows].all(axis=1)), tuple(KINDS))
    with torch.inference_mode():
        expected = run.federation.model.eval()(batch).fused_logits
        loaded, _ = load_model(model_file)
        assert torch.equal(loaded(batch).fused_logits, expected)
    found = predictor.predict_proba({name: test.arrays[name][rows] for name in KINDS})
    assert found.shape == (len(rows), 2)
    # Compares them itself
    written = export_model(model_file, tmp_path / "onnx", "onnx", [list(KINDS), ["voice"]])
    assert [path.suffix for path in written] == [".onnx", ".onnx", ".json"]


@pytest.mark.parametrize("names", COMBINATIONS, ids="-".join)
def test_two_rounds_frozen_and_by_lora(
    tmp_path: Path, prepared: Path, models: Path, names: tuple[str, str, str]
) -> None:
    """Published weights of frozen and of adapted trunks stay bit for bit and do not travel.

    The rest is trained.
    """
    frozen, before = _run(tmp_path / "frozen", prepared, models, names, freeze="photo+voice+words")
    frozen.evaluate(2)
    assert _moved(frozen, before) == set()
    assert not [name for name in frozen.arrays if ".encoder.trunk." in name]
    assert {name.split(".")[1] for name in frozen.arrays if ".encoder.output." in name} == set(
        KINDS
    )

    adapted, before = _run(tmp_path / "lora", prepared, models, names, adapter="lora:r=2")
    adapted.evaluate(2)
    after = _trunks(adapted)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert {name.split(".")[1] for name in moved} == set(KINDS)
    assert all(".lora_" in name for name in moved)
    assert {name for name in adapted.arrays if ".encoder.trunk." in name} == {
        name for name in after if ".lora_" in name
    }


def test_one_trunk_is_frozen_and_another_is_not(
    tmp_path: Path, prepared: Path, models: Path
) -> None:
    names = ("vit", "wav2vec2", "roberta")
    run, before = _run(tmp_path / "run", prepared, models, names, freeze="photo+voice")
    run.evaluate(2)
    assert _moved(run, before) == {"words"}
    assert {name.split(".")[1] for name in run.arrays if ".encoder.trunk." in name} == {"words"}
    assert any(name.startswith("branches.photo.encoder.output.") for name in run.arrays)


def test_the_commands_of_the_models_readme(
    raw: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With smaller samples, two nodes and one round."""
    text = (ROOT / "fedcmi_flwr" / "models" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    (block,) = (block for block in blocks if "auto:MODELS" in block)
    (tmp_path / "OWN").symlink_to(raw)
    (tmp_path / "MODELS").symlink_to(models)
    monkeypatch.chdir(tmp_path)

    small = {
        "prep": "--image-size 36 --seconds 0.25 --tokens 8 --workers 1",
        "run": "--engine in-process --rounds 1 --num-nodes 2 --set local-epochs=1 "
        "--set min-partition-size=2 --run-dir runs/auto",
    }
    for line in block.replace("\\\n", " ").splitlines():
        commands.line(f"{line} {small[line.split()[1]]}")

    model, _ = load_model(tmp_path / "runs" / "auto" / "model.safetensors")
    adapted = {name.split(".")[1] for name in model.state_dict() if "lora_" in name}
    assert adapted == set(KINDS)
