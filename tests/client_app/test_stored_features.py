"""Features of frozen trunks: computed once a sample, and the weights stay the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import federated
import kinds
import numpy as np
import pytest
import torch

from client_app import stored_features
from fedcmi_flwr.models.encoders.text import Bert

METHODS = [
    {"method": "fedavg"},
    {"method": "moon"},
    {"method": "scaffold"},
    {"method": "fedproto"},
    {"method": "fedcmi-plus", "warmup": 0},
    {"method": "fedcmi", "warmup": 0, "dominance": "batch"},
]
Make = Callable[..., federated.Federated]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a maker of federations with a frozen BERT and missing modalities."""
    monkeypatch.setenv("FEDCMI_CACHE", str(tmp_path / "cache"))
    posts = kinds.prepare(
        tmp_path / "posts", kinds.IMAGE, kinds.TOKENS, absent={2: "text", 5: "image"}
    )
    bert = kinds.weights(tmp_path / "bert", "bert", kinds.TOKENS)

    def federate(name: str, **changes: Any) -> federated.Federated:
        options = {"encoder": "image=small-cnn text=bert", "pretrained": f"text={bert}", "freeze": "text",
                   "local-epochs": 2, **changes}  # fmt: skip
        return federated.federate(
            tmp_path / name, posts, ["image+text", "text", "image"], **options
        )

    return federate


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the number of texts of each call of BERT, which is filled from now on."""
    counts: list[int] = []
    read = Bert.read

    def counted(self: Bert, x: torch.Tensor) -> torch.Tensor:
        counts.append(len(x))
        return read(self, x)

    monkeypatch.setattr(Bert, "read", counted)
    return counts


def _files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / stored_features.DIRECTORY).glob("*"))


def _rounds(run: federated.Federated, rounds: int = 2) -> dict[str, np.ndarray]:
    for server_round in range(1, rounds + 1):
        run.round(server_round)
        assert run.strategy.report.refused == []
    return run.arrays


@pytest.mark.parametrize(
    "settings", METHODS, ids=lambda settings: "-".join(map(str, settings.values()))
)
def test_weights_are_those_of_a_run_that_keeps_nothing(
    tmp_path: Path, make: Make, settings: dict[str, Any]
) -> None:
    """Within float32's rounding: a product of more rows may add in another order."""
    kept = _rounds(make("kept", **settings))
    assert len(_files(tmp_path)) == 2  # of the two nodes with text
    plain = _rounds(make("plain", **settings, **{"features-cache": "off"}))
    assert kept.keys() == plain.keys()
    for name, value in plain.items():
        assert np.allclose(kept[name], value, rtol=1e-4, atol=1e-5), name


def test_the_trunk_runs_once_a_sample(tmp_path: Path, make: Make, seen: list[int]) -> None:
    run = make("run", method="fedcmi-plus", warmup=0)
    seen.clear()  # of the server's evaluation
    train = run.federation.strategy.why_unusable
    run.federation.strategy.why_unusable = lambda arrays: ""  # which looks at samples of the server
    _rounds(run, 3)
    run.federation.strategy.why_unusable = train
    texts = sum(
        run.grid.contexts[1001 + part].node_config["modalities"] != "image" for part in range(3)
    )
    assert texts == 2
    assert len(seen) == 2
    sizes = [len(np.load(file)) for file in _files(tmp_path)]
    assert sorted(seen) == sorted(sizes)
    again = make("again", method="fedcmi-plus", warmup=0)
    seen.clear()
    again.federation.strategy.why_unusable = lambda arrays: ""
    _rounds(again, 1)
    assert seen == []  # another run on the same samples


def test_other_weights_samples_or_views_are_other_features(tmp_path: Path, make: Make) -> None:
    _rounds(make("one"), 1)
    assert len(_files(tmp_path)) == 2
    _rounds(make("seed", seed=3), 1)  # deals other samples
    assert len(_files(tmp_path)) == 4
    other = kinds.weights(tmp_path / "other", "bert", kinds.TOKENS, seed=1)
    _rounds(make("weights", pretrained=f"text={other}"), 1)
    assert len(_files(tmp_path)) == 6


def test_what_changes_from_epoch_to_epoch_is_not_kept(tmp_path: Path, make: Make) -> None:
    small = kinds.weights(tmp_path / "cnn", "small-cnn", kinds.IMAGE)
    options = {"encoder": "small-cnn", "modalities": "image", "pretrained": f"image={small}", "freeze": "image",
               "method": "fedavg", "normalization": "batch"}  # fmt: skip
    run = make("augmented", **options, augment="image")
    run.round(1)
    assert run.strategy.report.refused == []
    assert _files(tmp_path) == []
    make("plain", **options).round(1)
    assert len(_files(tmp_path)) == 2


def test_damaged_files_are_made_again(
    tmp_path: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    first = _rounds(make("one", method="fedavg"), 1)
    short, broken = _files(tmp_path)
    good = short.read_bytes()
    np.save(short, np.zeros((1, 2), np.float32))
    broken.write_bytes(b"no array")
    second = _rounds(make("two", method="fedavg"), 1)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert short.read_bytes() == good
    assert "not the features of this node's samples" in caplog.text
    assert "cannot be read" in caplog.text


def test_without_room_the_run_goes_on(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = _rounds(make("one", method="fedavg"), 1)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDCMI_CACHE", str(tmp_path / "file"))
    second = _rounds(make("two", method="fedavg"), 1)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert "features cannot be kept" in caplog.text


def test_files_that_nobody_uses_are_removed(tmp_path: Path, make: Make) -> None:
    import os

    old = tmp_path / "cache" / stored_features.DIRECTORY / "old.npy"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    _rounds(make("one"), 1)
    assert not old.exists()
    assert len(_files(tmp_path)) == 2


def test_a_node_evaluates_and_personalises_on_its_samples(tmp_path: Path, make: Make) -> None:
    """A model that trained on features takes samples again."""
    options = {"method": "fedavg", "fraction-evaluate": 1.0, "personal-epochs": 1}
    runs = [make(mode, **options, **{"features-cache": mode}) for mode in ("auto", "off")]
    found = []
    for run in runs:
        run.round(1)
        messages = list(
            run.strategy.configure_evaluate(
                1, federated._record(run.arrays), _config(run), run.grid
            )
        )
        replies = list(run.grid.send_and_receive(messages))
        assert not [reply.error for reply in replies if reply.has_error()]
        found.append(dict(run.strategy.aggregate_evaluate(1, replies) or {}))
    assert found[0] == pytest.approx(found[1])


def _config(run: federated.Federated) -> Any:
    from flwr.app import ConfigRecord

    return ConfigRecord(run.federation.task_config())
