"""The end of a run.

Decisions chosen on samples of their own, the accuracy matrix and the model card.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch

from client_app.app import app as client_app
from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.sections import DataConfig, read_section
from fedcmi_flwr.data.prepared import load_split
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.data.schema import read_spec, write_spec
from fedcmi_flwr.evaluation.calibration import calibrate
from fedcmi_flwr.evaluation.decision import Decision, Decisions
from fedcmi_flwr.methods import METHODS, hyperparameters
from fedcmi_flwr.models.file import load_model
from fedcmi_flwr.simulation.parts import training_parts
from fedcmi_flwr.types import Votes
from server_app.launch.start import resolve, run_in_process
from server_app.run.directory import read_metrics
from server_app.run.held_out import calibration_samples, reported_samples
from server_app.run.matrix import read_matrix
from server_app.run.model_card import model_card

TWO = ("audio", "visual")
LIGHT = {"num-server-rounds": 1, "local-epochs": 1, "batch-size": 64}


def _raw(data: Path, **changes: Any) -> dict[str, Any]:
    return resolve(None, {**LIGHT, "data": str(data), **changes}, [])


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory, av_digits_dir: Path) -> Path:
    """Return a run with a calibration part."""
    raw = {
        **_raw(av_digits_dir, **{"calibration-share": 0.2}),
        "run-dir": str(tmp_path_factory.mktemp("runs") / "run"),
    }
    return run_in_process(raw, 4, client_app, lambda line: None)


def _part(directory: Path, data: Path) -> Samples:
    config = read_section(DataConfig, json.loads((directory / "config.json").read_text()))
    train = load_split(data, "train", TWO)
    return train.select(training_parts(train, config, seed=0).calibration)


def test_decisions_are_chosen_on_the_calibration_part(
    calibrated: Path, av_digits_dir: Path
) -> None:
    model, metadata = load_model(calibrated / "model.safetensors")
    found = Decisions.from_notes(metadata["notes"], TWO)
    part = _part(calibrated, av_digits_dir)
    expected, reasons = calibrate(model, part.evaluation_batches(TWO), Votes(0.5, 0.0))
    assert reasons == {}
    assert found.default == Decision(Votes(0.5, 0.0), 1.0, calibrated=False)
    assert found.chosen.keys() == {("audio",), ("visual",), TWO}
    for subset, decision in expected.chosen.items():
        assert found.of(subset).votes == decision.votes
        assert found.of(subset).temperature == pytest.approx(decision.temperature, rel=1e-4)


def test_the_matrix_is_of_the_test_split_and_the_model_file(
    calibrated: Path, av_digits_dir: Path
) -> None:
    """Sample by sample.

    What the file's decisions predict from both modalities, and how sure they are.
    """
    model, metadata = load_model(calibrated / "model.safetensors")
    decisions = Decisions.from_notes(metadata["notes"], TWO)
    test = load_split(av_digits_dir, "test", TWO)
    whole = test.batch(np.arange(len(test)), TWO)
    with torch.no_grad():
        chances = decisions.log_probabilities(model, model(whole), whole.present).exp()
    rows = {"+".join(row["modalities"]): row for row in read_matrix(calibrated / "matrix.json")}
    assert list(rows) == ["audio", "visual", "audio+visual"]
    row, right = rows["audio+visual"], chances.argmax(dim=1) == whole.labels
    assert row["accuracy"] == pytest.approx(float(right.double().mean()), abs=0.005)
    assert sum(row["count"]) == len(test)
    assert (row["rule"], row["calibrated"]) == (decisions.of(TWO).rule, True)
    gap = float(chances.max(dim=1).values.mean() - right.double().mean())
    assert row["calibration_error"] >= abs(gap) - 0.005  # by the triangle inequality over bins


def test_before_is_what_the_last_round_measured(calibrated: Path) -> None:
    """Every test sample of this set has both modalities, so "fused" and the whole subset are the
    same.
    """
    last = read_metrics(calibrated)[-1]
    for row, name in zip(
        read_matrix(calibrated / "matrix.json"), ("audio only", "visual only", "fused"), strict=True
    ):
        assert row["by_votes"]["accuracy"] == last["accuracy"][name]
        assert row["by_votes"]["calibration_error"] == pytest.approx(
            last["calibration_error"][name]
        )


def test_the_card_says_what_the_files_say(calibrated: Path) -> None:
    card = (calibrated / "MODEL_CARD.md").read_text()
    matrix = read_matrix(calibrated / "matrix.json")
    row = matrix[-1]
    shares = np.array(row["correct"]) / np.array(row["count"])
    worst = int(shares.argmin())
    for text in (
        "# Model card: fedcmi-plus on av-digits, seed 0",
        "| lr | 0.05 |",
        "- nodes by the modalities they own: audio+visual 4",
        "without the parts cut off by calibration-share 0.2",
        "| modalities | decided by | temperature | accuracy | macro | worst class | ECE | before "
        "| samples |",
        f"| audio+visual | {row['rule']} | {row['temperature']:.2f} | {row['accuracy']:.1%} |",
        f"From audio and visual: who depends on class {worst} is served worst: "
        f"{shares[worst]:.1%} of it",
        f"| {worst} | ",
        "- modalities of simulated nodes: ownership by multimodal-ratio 1; missing-share 0",
        "a missing modality's slot filled with the mean of what the infiltration projectors make",
        "with `averaging` above 0, the moving average of the global weights",
        "- differential privacy of nodes: none",
        "Trained without differential privacy",
    ):
        assert text in card
    assert "Not calibrated" not in card


def test_without_validation_data_nothing_is_calibrated_and_all_say_so(
    tmp_path: Path, av_digits_dir: Path
) -> None:
    raw = {**_raw(av_digits_dir, method="fedavg"), "run-dir": str(tmp_path / "run")}
    directory = run_in_process(raw, 4, client_app, lambda line: None)
    _, metadata = load_model(directory / "model.safetensors")
    assert metadata["notes"]["decisions"] == {}
    assert [row["calibrated"] for row in read_matrix(directory / "matrix.json")] == [False] * 3
    card = (directory / "MODEL_CARD.md").read_text()
    assert "Not calibrated, so no confidence to rely on: audio, visual, audio+visual." in card
    assert "chosen on: nothing; there was no validation data" in card
    assert "| modalities | decided by | accuracy | macro | worst class | ECE | samples |" in card


def _toy(directory: Path, val: int = 0) -> Path:
    """Write a tiny prepared directory; ``val``: the size of its validation split, none at 0."""
    masks = {size: dict.fromkeys(TWO, np.ones(size, dtype=bool)) for size in (30, 9)}
    oracle.prepare(directory, masks[30], masks[9])
    if val:
        other = oracle.prepare(
            directory.with_name("other"), dict.fromkeys(TWO, np.ones(val, dtype=bool))
        )
        shutil.copytree(other / "train", directory / "val")
        spec = read_spec(directory)
        write_spec(directory, replace(spec, splits={**spec.splits, "val": val}))
    return directory


def _data(**shares: float) -> DataConfig:
    return read_section(
        DataConfig, resolve(None, {key.replace("_", "-"): v for key, v in shares.items()}, [])
    )


def test_a_validation_split_is_calibrated_on_and_the_test_split_never(tmp_path: Path) -> None:
    data = _toy(tmp_path / "data", val=12)
    found = calibration_samples(data, TWO, _data(), 0)
    assert found is not None
    assert len(found) == 12
    assert found.labels.tolist() == np.load(data / "val" / "labels.npy").tolist()
    with pytest.raises(
        ConfigError, match=r"calibration-share = 0\.1: .* has a split 'val' for that"
    ):
        calibration_samples(data, TWO, _data(calibration_share=0.1), 0)


def test_samples_that_are_reported_on_are_never_calibrated_on(tmp_path: Path) -> None:
    """30 samples of three classes.

    2 of 10 are validated on, then 4 of the other 8 calibrated on.
    """
    data, config = _toy(tmp_path / "data"), _data(validation_share=0.2, calibration_share=0.5)
    reported, calibration = (
        reported_samples(data, TWO, config, 0),
        calibration_samples(data, TWO, config, 0),
    )
    assert calibration is not None
    assert (len(reported), len(calibration)) == (6, 12)
    assert not set(reported.rows) & set(calibration.rows)
    assert calibration_samples(data, TWO, _data(validation_share=0.2), 0) is None
    assert len(reported_samples(data, TWO, _data(calibration_share=0.5), 0)) == 9


def _card(
    method: str = "fedcmi-plus", spent: dict[str, float] | None = None, **changes: Any
) -> str:
    """Return the card of a toy run."""
    config = {
        **resolve(None, {"method": method, **changes}, []),
        **hyperparameters(METHODS[method]),
        "dataset": {
            "name": "toy", "splits": {"train": 30, "test": 9}, "settings": {}, "classes": ["a", "b"],
            "modalities": ["audio", "visual"],
        },
        "server": {"versions": {"torch": "2"}},
    }  # fmt: skip
    record = {
        "round": 1, "known_nodes": {"0": ["audio"], "1": ["visual"]}, "failed": "", "refused": [], "privacy": spent,
        "owners": {"audio": [0], "visual": []},
    }  # fmt: skip
    row = {
        "rule": "fused", "temperature": 1.0, "calibrated": False, "accuracy": 0.5, "macro": 0.5, "worst_class": 0.0,
        "calibration_error": 0.25, "correct": [2, 0], "count": [2, 2],
        "by_votes": {"accuracy": 0.5, "calibration_error": 0.25},
    }  # fmt: skip
    subsets = (["audio"], ["visual"], ["audio", "visual"])
    return model_card(config, [record], [{"modalities": subset, **row} for subset in subsets], None)


@pytest.mark.parametrize("noise", [0.0, 1.0], ids=["open", "private"])
def test_a_card_tells_no_count_that_privacy_hides(noise: float) -> None:
    """The card is a function of files that hold none; with privacy it says what was spent."""
    card = _card(spent={"epsilon": 3.0, "delta": 1e-5} if noise else None)
    assert ("epsilon 3 at delta 1e-05" in card) == bool(noise)
    assert ("Trained without differential privacy" in card) == (not noise)
    assert "- nodes by the modalities they own: audio 1, visual 1" in card
    assert "- Never trained, since no node with it took part: visual." in card
    assert (
        "who depends on class b is served worst: 0.0% of it is recognised, against 50.0% of all "
        "samples" in card
    )
    assert "fedcmi run" not in card


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (
            "fedavg",
            "fused: the fusion head, a missing modality's slot filled with zeros. The model has "
            "no other head.",
        ),
        (
            "late-fusion",
            "fused: the sum of the log-probabilities of the heads of the modalities that are "
            "there.",
        ),
        ("fedcmi", "what the infiltration projectors make of those that are there. self-heads:"),
    ],
)
def test_a_card_says_what_the_models_structure_does(method: str, told: str) -> None:
    assert told in _card(method)
    assert ("infiltration projectors" in _card(method)) == (method == "fedcmi")


def test_a_card_says_who_had_what() -> None:
    card = _card(**{"ownership": "random-subsets", "missing-share": 0.25})
    assert "- modalities of simulated nodes: ownership random-subsets; missing-share 0.25" in card
    assert "ownership by multimodal-ratio 0.5;" in _card(**{"multimodal-ratio": 0.5})
