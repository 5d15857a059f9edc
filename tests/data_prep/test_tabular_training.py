"""From tables to trained rounds.

CrisisMMD with the paper's encoders in tiny, and three modalities of one's own.
"""

from pathlib import Path

import kinds
import numpy as np
import pytest
from federated import Federated, federate
from tabular import MANIFEST_MODALITIES, write_crisismmd, write_manifest, write_tokenizer

from data_prep.sets import crisismmd, manifest
from data_prep.sets.manifest_kinds import Sizes
from fedcmi_flwr.data.schema import read_spec


def train(run: Federated, rounds: int) -> set[str]:
    """Run rounds; return which arrays of the global model they moved."""
    start = dict(run.arrays)
    for server_round in range(1, rounds + 1):
        run.round(server_round)
        assert run.strategy.report.refused == []
    assert all(np.isfinite(array).all() for array in run.arrays.values())
    return {name for name in start if not np.array_equal(start[name], run.arrays[name])}


@pytest.mark.parametrize("freeze", ["", "text"])
def test_crisismmd_with_densenet_and_bert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, freeze: str
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_crisismmd(raw)
    crisismmd.prepare(raw, out, tokenizer=str(write_tokenizer(tmp_path / "tokenizer")))
    image, text = read_spec(out).modalities
    monkeypatch.setitem(kinds.TINY, "bert", kinds.TINY["bert"] | {"max_position_embeddings": 40})
    densenet = kinds.weights(tmp_path / "densenet", "densenet121", image, normalization="group")
    bert = kinds.weights(tmp_path / "bert", "bert", text)
    options = {"encoder": "image=densenet121 text=bert", "pretrained": f"image={densenet} text={bert}",
               "freeze": freeze, "normalization": "group", "method": "fedcmi-plus", "warmup": 0}  # fmt: skip
    run = federate(tmp_path / "run", out, ["image+text", "image+text", "text", "image"], **options)
    moved = train(run, 2)
    assert any(name.startswith("branches.image.encoder.trunk.features.conv0") for name in moved)
    assert any("branches.text.encoder.trunk." in name for name in moved) == (not freeze)
    assert any(name.startswith("branches.text.") for name in moved)
    assert {"accuracy.fused", "accuracy.image only", "accuracy.text only"} <= run.evaluate(2).keys()


@pytest.mark.parametrize("method", ["fedcmi-plus", "late-fusion"])
def test_three_modalities_of_a_manifest(tmp_path: Path, method: str) -> None:
    """Each modality tells the classes apart.

    Late fusion, which trains them apart, must see it in every one.
    """
    path = write_manifest(tmp_path / "raw")
    sizes = Sizes(image_size=24, seconds=0.5, points=64)
    out = manifest.prepare(path, path.parent, tmp_path / "out", MANIFEST_MODALITIES, sizes=sizes)
    encoders = "photo=small-cnn motion=cnn-1d voice=small-cnn"
    nodes = ["photo+motion+voice", "photo+motion+voice", "motion+voice"]
    options = {"encoder": encoders, "method": method, "local-epochs": 4, "num-server-rounds": 6}
    run = federate(tmp_path / "run", out, nodes, **options)
    moved = train(run, 6)
    for name in MANIFEST_MODALITIES:
        assert any(array.startswith(f"branches.{name}.encoder.") for array in moved)
    accuracies = run.evaluate(6)
    assert accuracies["accuracy.fused"] > 0.75
    if method == "late-fusion":
        for name in MANIFEST_MODALITIES:
            assert accuracies[f"accuracy.{name} only"] > 0.75
