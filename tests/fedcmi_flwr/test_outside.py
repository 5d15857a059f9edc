"""Methods and encoders of an installed package: hyperparameters, models and files.

And what they must be.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kinds
import outside
import pytest
import saved
import torch

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.inference import Predictor
from fedcmi_flwr.inference.export import export_model
from fedcmi_flwr.lookup import find
from fedcmi_flwr.methods import METHOD, FedAvg, hyperparameters, method_from
from fedcmi_flwr.models.encoders import ENCODER, Encoder, build_encoder
from fedcmi_flwr.models.file import CheckpointError, load_model
from fedcmi_flwr.models.fusion import FUSION
from fedcmi_flwr.run_config import read_run_config
from server_app.bench.tuning import own_weight
from server_app.pyproject import default_run_config

FOCAL, PATCHES = "my_package.focal:Focal", "my_package.patches:PatchEncoder"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where my_package is installed."""
    return outside.install(tmp_path_factory.mktemp("package"))


@pytest.fixture
def installed(built: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Have my_package importable in one test."""
    monkeypatch.syspath_prepend(built)
    yield built
    outside.forget()


def _read(**changes: Any) -> Any:
    return read_run_config(
        {**default_run_config(), **{k.replace("_", "-"): v for k, v in changes.items()}}
    )


@pytest.mark.parametrize("name", ["focal", FOCAL])
@pytest.mark.parametrize("options", ["focusing=1 mu=0.5", "{focusing = 1.0, mu = 0.5}"])
def test_hyperparameters_travel_in_one_key(installed: Path, name: str, options: str) -> None:
    run = _read(method=name, method_options=options, encoder=f"audio={PATCHES} visual=small-cnn")
    assert (type(run.method).__name__, run.method.focusing, run.method.mu) == ("Focal", 1.0, 0.5)
    assert type(run.method.focusing) is float
    message = {"method": name, "lr": 0.1, **hyperparameters(run.method)}
    assert method_from(message) == run.method


def test_keys_of_the_run_config_and_options_go_together(installed: Path) -> None:
    run = _read(method="focal", mu=0.5, method_options="focusing=3")
    assert (run.method.mu, run.method.focusing) == (0.5, 3.0)
    with pytest.raises(
        ConfigError, match=r"in method-options = 'mu=1': mu has a value already, 0.5"
    ):
        _read(method="focal", mu=0.5, method_options="mu=1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "focussing=1",
            r"'focussing=1': focussing = 1: method 'focal' has no such .*Did you mean 'focusing'\?",
        ),
        ("focusing=high", "focusing = 'high': must be a number from 0"),
        ("focusing=-1", "focusing = -1.0: must be a number from 0"),
        ("focusing", "at 'focusing': must be key=value"),
    ],
)
def test_options_are_checked_against_the_dataclass(
    installed: Path, options: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=f"in method-options = .*{words}"):
        _read(method="focal", method_options=options)


def test_a_method_with_its_own_fusions_takes_none_from_outside(installed: Path) -> None:
    assert _read(fusion="torch.nn:Linear", method="fedavg").model.fusion == "torch.nn:Linear"
    with pytest.raises(
        ConfigError, match=r"fusion = 'torch.nn:Linear': method 'fedogm' needs concat"
    ):
        _read(fusion="torch.nn:Linear", method="fedogm")


def test_tuning_tries_other_values_in_the_same_key(installed: Path) -> None:
    config = {**default_run_config(), "method": "focal", "method-options": "mu=0.5"}
    expected = (
        "method-options",
        "mu=0.5 focusing=2.0",
        ("mu=0.5 focusing=0.5", "mu=0.5 focusing=1.0"),
    )
    assert own_weight(config) == expected
    assert _read(method="focal", method_options=expected[1]).method.focusing == 2.0


class Undecorated(FedAvg):
    """Forgot the decorator."""

    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Named(FedAvg):
    """Has the name of a key of every run."""

    lr: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Listing(FedAvg):
    """Has a hyperparameter that cannot travel."""

    weights: tuple[float, ...] = (1.0, 2.0)


@dataclass(frozen=True, kw_only=True)
class Demanding(FedAvg):
    """Has no default."""

    strength: float


@dataclass(frozen=True, kw_only=True)
class Own(FedAvg):
    """Has everything."""

    strength: float = 1.0


class Blind(Encoder):
    """Does not say what it reads."""


class Odd(Encoder):
    """Has another signature."""

    kinds = ("series",)


PREPARED = replace(Own(), strength=2.0)


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        (METHOD, "Undecorated", r"without @dataclass.*\['strength'\] are no hyperparameters"),
        (METHOD, "Listing", r"weights = \(1.0, 2.0\): a hyperparameter is a number"),
        (METHOD, "Demanding", "missing 1 required keyword-only argument: 'strength'"),
        (
            METHOD,
            "Blind",
            "is the class Blind; a method is a dataclass derived from fedcmi_flwr.Method",
        ),
        (
            ENCODER,
            "Own",
            "is the class Own; an encoder is a class derived from fedcmi_flwr.Encoder",
        ),
        (
            ENCODER,
            "Blind",
            r"its kinds are \(\), and must say what it reads: one or more of .*spectrogram",
        ),
        (FUSION, "Own", "is the class Own; a fusion head is a class derived from torch.nn.Module"),
    ],
)
def test_what_is_found_must_be_of_its_kind(
    kind: Any, name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
    with pytest.raises(ValueError, match=words):
        find(kind, f"mine:{name}")


def test_an_object_is_a_method_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
    assert find(METHOD, "mine:PREPARED") == PREPARED
    with pytest.raises(
        ConfigError,
        match="method = 'mine:Named': its hyperparameter 'lr' has the name of another key",
    ):
        _read(method="mine:Named")
    with pytest.raises(
        ValueError, match=r"encoder 'mine:Odd' of modality 'motion'.*positional arguments"
    ):
        build_encoder("mine:Odd", kinds.SERIES, 8)


def test_an_encoder_from_outside_is_frozen_and_reads_what_it_says(installed: Path) -> None:
    encoder = build_encoder("patches", kinds.SPECTROGRAM, 8, frozen=True)
    samples = torch.randn(3, *kinds.SPECTROGRAM.shape)
    assert encoder.train()(samples).shape == (3, 8)
    assert not encoder.trunk.training
    assert [name for name, weight in encoder.named_parameters() if weight.requires_grad] == [
        "output.weight",
        "output.bias",
    ]
    with pytest.raises(
        ValueError, match=r"encoder 'patches' reads samples of spectrogram .*'motion' is series"
    ):
        build_encoder("patches", kinds.SERIES, 8)


def test_a_model_file_says_which_package_it_needs(
    installed: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    encoders = {kinds.SPECTROGRAM.name: PATCHES, kinds.IMAGE.name: "patches"}
    inputs = (kinds.SPECTROGRAM, kinds.IMAGE)
    path = saved.save(tmp_path / "model.safetensors", inputs, encoders=encoders, options={})
    assert load_model(path)[1]["packages"] == ["my-package 0.1.0"]
    predictor = Predictor.load(path, "cpu")
    samples = torch.randn(2, *kinds.SPECTROGRAM.shape).half().numpy()
    assert predictor.predict_proba({kinds.SPECTROGRAM.name: samples}).shape == (2, 2)
    graph, _ = export_model(path, tmp_path / "graphs", "torch", [(kinds.SPECTROGRAM.name,)])
    assert graph.is_file()
    outside.forget()
    monkeypatch.undo()
    with pytest.raises(
        CheckpointError, match=r"trained with my-package 0.1.0; install that here. .*'my_package'"
    ):
        load_model(path)
