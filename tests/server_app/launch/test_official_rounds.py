"""From the official lists of each archive to two rounds of its recipe, by the commands.

Its files are stubs.
"""

from pathlib import Path

import commands
import kinds
import pytest
from official import needs_archives, stub_ave, stub_cremad, stub_crisismmd
from tabular import write_tokenizer

from fedcmi_flwr.data.schema import ModalitySpec, read_spec
from server_app.run.directory import read_metrics

FEW = ["--max-bad", "8000", "--workers", "1"]
FRAMES = ["--frame-size", "32"]
KEYS = ["lr-decay-start=1", "local-epochs=1", "batch-size=16", "min-partition-size=2", "embedding-dim=8",
        "fraction-train=1.0", "torch-threads=1"]  # fmt: skip


def two_rounds(folder: Path, name: str, *keys: str) -> None:
    """Train the recipe of a prepared archive for two rounds.

    Every node takes part, and every test sample counts.
    """
    sets = [part for key in (*KEYS, *keys) for part in ("--set", key)]
    given = [
        "--recipe",
        name,
        "--data",
        folder / "out",
        "--run-dir",
        folder / "run",
        "--rounds",
        "2",
    ]
    done = commands.fedcmi("run", *given, "--num-nodes", "2", "--engine", "in-process", *sets)
    assert done.exit_code == 0, done.output
    records = read_metrics(folder / "run")
    assert [record["refused"] for record in records[1:]] == [[], []]
    assert sum(records[2]["counts"]["fused"]["count"]) == read_spec(folder / "out").splits["test"]


def prepare(folder: Path, name: str, *options: str) -> str:
    """Prepare an archive; return what is said of it."""
    done = commands.fedcmi(
        "prep", name, "--raw", folder / "raw", "--out", folder / "out", *FEW, *options
    )
    assert done.exit_code == 0, done.output
    return done.stdout


@needs_archives
def test_ave(tmp_path: Path) -> None:
    stub_ave(tmp_path / "raw", 60)
    said = prepare(tmp_path, "ave", *FRAMES)
    assert "not found; complete the raw archive." in said
    assert len([line for line in said.splitlines() if line.startswith("excluded: ")]) < 12
    two_rounds(tmp_path, "ave", "view-size=16", "encoder=small-cnn")


@needs_archives
def test_cremad(tmp_path: Path) -> None:
    stub_cremad(tmp_path / "raw", 60, seen=True)
    said = prepare(tmp_path, "cremad", "--split", "paper", *FRAMES)
    assert "listed, but not in the archive" in said
    two_rounds(tmp_path, "cremad", "view-size=16", "encoder=small-cnn")


@needs_archives
@pytest.mark.parametrize("task", ["informative", "humanitarian"])
def test_crisismmd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    monkeypatch.setitem(kinds.TINY, "bert", {**kinds.TINY["bert"], "max_position_embeddings": 40})
    stub_crisismmd(tmp_path / "raw")
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    prepare(tmp_path, "crisismmd", "--task", task, "--tokenizer", str(tokenizer))
    text = ModalitySpec("text", "tokens", read_spec(tmp_path / "out").modalities[1].shape, "int32")
    bert = kinds.weights(tmp_path / "bert", "bert", text)
    two_rounds(tmp_path, "crisismmd", "encoder=image=small-cnn text=bert", f"pretrained=text={bert}",
               "initialization=torch", "normalization=batch", "view-size=32")  # fmt: skip
