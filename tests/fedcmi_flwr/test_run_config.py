"""Configuration: what is allowed comes through, everything else is refused by key, value and what
is allowed.
"""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcmi_flwr import run_config as config
from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.sections import TrainingConfig, keys_of, read_section, section_items
from fedcmi_flwr.machine.cache import cache_directory
from fedcmi_flwr.methods import METHODS, CrossModalInfiltration, FedAvg, Method
from fedcmi_flwr.models.building import chosen_modalities, encoder_names, model_spec
from fedcmi_flwr.models.placement import choose_device
from fedcmi_flwr.models.pretrained import read_locations
from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.types import Scalar

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
DEFAULTS: dict[str, Any] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["flwr"][
    "app"
]["config"]


def test_the_defaults_of_pyproject_are_a_configuration() -> None:
    run = read_run_config(DEFAULTS)
    assert run.method == METHODS["fedcmi-plus"]
    assert (run.data.data, run.data.partition, run.data.multimodal_ratio) == (
        "av-digits",
        "dirichlet",
        1.0,
    )
    assert (run.training.lr, run.training.batch_size, run.sampling.fraction_train) == (
        0.05,
        32,
        0.5,
    )
    assert run.raw == DEFAULTS


@pytest.mark.parametrize("method", METHODS)
def test_default_hyperparameters_are_the_methods(method: str) -> None:
    assert read_run_config({**DEFAULTS, "method": method}).method == METHODS[method]


def test_overrides_reach_the_method_and_integers_stand_for_floats() -> None:
    run = read_run_config(
        {
            **DEFAULTS,
            "method": "fedcmi",
            "lambda": 2,
            "dominance": "batch",
            "lr": 1,
            "wait-timeout": 5,
        }
    )
    assert isinstance(run.method, CrossModalInfiltration)
    assert (run.method.lambda_, run.method.dominance, run.method.mu) == (2.0, "batch", 1.0)
    assert (run.training.lr, run.sampling.wait_timeout) == (1.0, 5.0)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("partition", "shards", "one of iid, dirichlet, natural"),
        ("partition", 3, "one of iid"),
        ("dirichlet-alpha", 0.0, "a number above 0"),
        ("dirichlet-alpha", -1, "a number above 0"),
        ("dirichlet-alpha", "1", "a number above 0 .float."),
        ("min-partition-size", 1, "a number from 2"),
        ("min-partition-size", 2.5, "a number from 2 .int."),
        ("multimodal-ratio", 1.1, "a number from 0 to 1"),
        ("multimodal-ratio", -0.1, "a number from 0 to 1"),
        ("multimodal-ratio", float("nan"), "a number from 0 to 1"),
        ("multimodal-ratio", True, "a number from 0 to 1"),
        ("validation-share", 0.6, "a number from 0 to 0.5"),
        ("validation-share", -0.1, "a number from 0 to 0.5"),
        ("calibration-share", 0.6, "a number from 0 to 0.5"),
        ("data", 7, "data set or the path"),
        ("encoder", 7, "encoder's name"),
        ("embedding-dim", 0, "a number from 1"),
        ("projector", "conv", "one of linear, mlp"),
        ("fusion", "mean", r"not one of \['concat', 'film', 'gated', 'sum'\]"),
        ("initialization", "zeros", "one of torch, xavier-kaiming"),
        ("pretrained", 3, "modality=DIR"),
        ("freeze", 3, "names of modalities"),
        ("augment", 3, "names of image and frames modalities"),
        ("view-size", -1, "a number from 0"),
        ("view-frames", 1.5, "a number from 0 .int."),
        ("num-server-rounds", 0, "a number from 1"),
        ("num-server-rounds", True, "a number from 1 .int."),
        ("fraction-train", 0.0, "a number above 0 to 1"),
        ("fraction-train", 1.01, "a number above 0 to 1"),
        ("min-train-nodes", 0, "a number from 1"),
        ("fraction-evaluate", -0.5, "a number from 0 to 1"),
        ("evaluate-from", 0, "a number from 1"),
        ("node-test", "own", "one of shared, own-distribution"),
        ("personal-epochs", -1, "a number from 0"),
        ("min-available-nodes", 0, "a number from 1"),
        ("wait-timeout", 0, "a number above 0"),
        ("modalities", 3, "stored modalities joined by"),
        ("server-lr", -0.5, "a number from 0"),
        ("max-update-norm", -1.0, "a number from 0"),
        ("update-norm-action", "ignore", "one of clip, refuse"),
        ("max-example-ratio", 0.5, "a number from 1, or 0 .off."),
        ("aggregation", "mode", "one of mean, median, trimmed-mean, krum"),
        ("trim-share", 0.5, "a number above 0 to below 0.5"),
        ("malicious-nodes", -1, "a number from 0"),
        ("server-momentum", 1.0, "a number from 0 to below 1"),
        ("server-momentum", -0.1, "a number from 0 to below 1"),
        ("round-timeout", -1.0, "a number above 0"),
        ("seed", -1, "a number from 0"),
        ("seed", 1.0, "a number from 0 .int."),
        ("local-epochs", 0, "a number from 1"),
        ("batch-size", 1, "a number from 2"),
        ("lr", 0, "a number above 0"),
        ("lr", float("nan"), "a number above 0"),
        ("lr-min", -0.1, "a number from 0"),
        ("lr-min", 0.06, "must not exceed lr = 0.05"),
        ("lr-decay-start", -2, "a number from -1"),
        ("momentum", 1.5, "a number from 0 to 1"),
        ("weight-decay", -1e-4, "a number from 0"),
        ("device", "tpu", "one of auto, cpu, cuda"),
        ("precision", "fp16", "one of fp32, bf16, auto"),
        ("torch-threads", 0, "a number from 1"),
        ("checkpoint-every", -1, "a number from 0"),
        ("checkpoint-keep", 0, "a number from 1"),
        ("node-memory", "disk", "one of context, run-dir"),
        ("node-memory", "run-dir", "needs the run's directory"),
        ("resume", "yes", "true or false .bool."),
        ("resume", True, "needs the run's directory"),
        ("method", "fedsgd", "fedavg.*fedcmi-plus"),
        ("gamma", -1.0, "a number from 0"),
        ("gamma", "high", "float"),
        ("warmup", 0.5, "int"),
        ("kd-temperature-scaling", "yes", "bool"),
        ("dominance", "server", "global.*client.*batch"),
        ("run-dir", 7, "run-dir"),
    ],
)
def test_a_bad_value_is_refused_by_key_value_and_what_is_allowed(
    key: str, value: object, allowed: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?s){key} = {value!r}.*{allowed}"):
        read_run_config({**DEFAULTS, "method": "fedcmi", key: value})


def test_memory_in_files_needs_checkpoints() -> None:
    with pytest.raises(
        ConfigError, match="node-memory = 'run-dir': serves checkpoints only; set checkpoint-every"
    ):
        read_run_config(
            {**DEFAULTS, "run-dir": "/run", "node-memory": "run-dir", "checkpoint-every": 0}
        )


@pytest.mark.parametrize(
    "key", ["lr", "wait-timeout", "weight-decay", "dirichlet-alpha", "gamma", "mu"]
)
def test_infinity_is_no_number(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} = inf"):
        read_run_config({**DEFAULTS, key: float("inf")})


def test_a_method_has_no_foreign_hyperparameter() -> None:
    known = r"\['averaging', 'max-gradient-norm', 'mu', 'normalization', 'prior-adjustment'\]"
    with pytest.raises(
        ConfigError, match=rf"gamma = 1.0: method 'fedavg' has no such hyperparameter, only {known}"
    ):
        read_run_config({**DEFAULTS, "method": "fedavg", "gamma": 1.0})


def test_unknown_and_missing_keys_are_named() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown key 'learning-rate' in the run-config; known are .*lr-min"
    ):
        read_run_config({**DEFAULTS, "learning-rate": 0.1})
    without = {key: value for key, value in DEFAULTS.items() if key not in ("lr", "seed")}
    with pytest.raises(
        ConfigError, match=r"key 'lr' is missing in the run-config \(in all: lr, seed\)"
    ):
        read_run_config(without)
    with pytest.raises(ConfigError, match=r"key 'seed' is missing"):
        read_section(TrainingConfig, without)


def test_a_section_reads_back() -> None:
    training = read_run_config(DEFAULTS).training
    assert read_section(TrainingConfig, {**section_items(training), "other": 1}) == training
    assert section_items(training)["lr-decay-start"] == -1


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        pytest.param(-1, [0.8, 0.8, 0.8, 0.8, 0.8, 0.8], id="no decay"),
        pytest.param(
            2,
            [0.8, 0.8, 0.6, 0.4, 0.2, 0.2],
            id="continuous at its start, then linear to lr-min, then flat",
        ),
        pytest.param(0, [0.68, 0.56, 0.44, 0.32, 0.2, 0.2], id="from the first round"),
        pytest.param(4, [0.8, 0.8, 0.8, 0.8, 0.2, 0.2], id="in the last round only"),
        pytest.param(5, [0.8] * 6, id="too late to decay"),
    ],
)
def test_learning_rate_schedule_by_hand(start: int, expected: list[float]) -> None:
    """Five rounds from 0.8 to 0.2; the sixth is beyond the end."""
    schedule = TrainingConfig(0, 5, 1, 32, 0.8, 0.2, start, 0.9, 0.0)
    assert [schedule.learning_rate(t) for t in range(1, 7)] == pytest.approx(expected)


def test_cosine_and_warm_up_are_torchs() -> None:
    """Warm-up at 1/4, 2/4 and 3/4 of the rate, then the cosine over the five rounds after
    round 5.
    """
    schedule = TrainingConfig(
        0, 10, 1, 32, 0.8, 0.2, 5, 0.9, 0.0, lr_warmup_rounds=3, lr_schedule="cosine",
    )  # fmt: skip
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5, eta_min=0.2)
    expected = [0.2, 0.4, 0.6, 0.8, 0.8]
    for _ in range(5):
        optimizer.step()
        cosine.step()
        expected.append(cosine.get_last_lr()[0])
    assert [schedule.learning_rate(t) for t in range(1, 11)] == pytest.approx(expected)
    assert schedule.learning_rate(11) == pytest.approx(0.2)
    assert replace(schedule, lr_schedule="linear").learning_rate(7) == pytest.approx(0.56)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (
            {"lr-schedule": "cosine"},
            "nothing decays while lr-decay-start is -1; set it to .*0: right after warm-up",
        ),
        (
            {"lr-warmup-rounds": 3, "lr-decay-start": 2},
            "rises until round 3 .*start the decay there or later",
        ),
        ({"optimizer": "adam"}, "must be one of sgd, adamw"),
        ({"accumulate-batches": 0}, "a number from 1"),
        (
            {"method": "scaffold", "optimizer": "adamw"},
            "length of SGD's steps; set optimizer to 'sgd'",
        ),
        (
            {"method": "fedogm", "optimizer": "adamw"},
            "AdamW scales back to one size; set optimizer to 'sgd'",
        ),
        (
            {"method": "fedogm", "accumulate-batches": 2},
            "that batch's own coefficients; set it to 1",
        ),
    ],
)
def test_optimisers_and_schedules_that_do_not_go_together_say_what_to_do(
    keys: dict[str, Scalar], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        read_run_config({**DEFAULTS, **keys})


def test_fedogm_that_modulates_nothing_takes_any_optimiser() -> None:
    run = read_run_config({**DEFAULTS, "method": "fedogm", "weight": 0.0, "optimizer": "adamw"})
    assert (run.training.optimizer, run.method.needs_sgd) == ("adamw", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resnet18", {"audio": "resnet18", "visual": "resnet18"}),
        ("visual=small-cnn audio=resnet18", {"audio": "resnet18", "visual": "small-cnn"}),
    ],
)
def test_encoders_by_modality(text: str, expected: dict[str, str]) -> None:
    assert list(encoder_names(text, ("audio", "visual")).items()) == list(expected.items())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "need one of .*small-cnn.*for each modality"),
        ("a b", "need one of .*small-cnn.*for each modality"),
        ("vgg", "not one of .*resnet18.*small-cnn"),
        ("audio=resnet18 visual=vgg", "encoder = 'vgg': not one of .*resnet18.*small-cnn"),
        ("audio=resnet18", "'visual' has no encoder; need one of .*for each of .*audio.*visual"),
        (
            "audio=resnet18 visual=resnet18 touch=resnet18",
            "'touch' is not one of the modalities; .*audio.*visual",
        ),
    ],
)
def test_bad_encoders_are_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"encoder = {text!r}: .*{words}"):
        encoder_names(text, ("audio", "visual"))


@pytest.mark.parametrize(
    ("method", "structure"),
    [
        (METHODS["fedavg"], "fusion"),
        (METHODS["fedprox"], "fusion"),
        (METHODS["fedcmi"], "two-projectors"),
        (CrossModalInfiltration(infiltration=False), "one-projector"),
        (METHODS["late-fusion"], "unimodal"),
    ],
)
def test_the_method_decides_what_the_model_consists_of(method: Method, structure: str) -> None:
    spec = model_spec(read_run_config(DEFAULTS).model, method, ("audio", "visual"), 10)
    assert (spec.structure, spec.num_classes, spec.embedding_dim, spec.fusion) == (
        structure,
        10,
        64,
        "concat",
    )
    assert spec.normalization == "batch"


def test_the_method_decides_the_normalization() -> None:
    grouped = model_spec(
        read_run_config(DEFAULTS).model, FedAvg(normalization="group"), ("audio", "visual"), 10
    )
    assert grouped.normalization == "group"


@pytest.mark.parametrize(
    ("text", "names"),
    [("", ("audio", "visual")), ("visual", ("visual",)), ("visual+audio", ("audio", "visual"))],
)
def test_modalities_are_chosen_in_their_stored_order(text: str, names: tuple[str, ...]) -> None:
    assert chosen_modalities(text, ("audio", "visual")) == names


@pytest.mark.parametrize(
    ("text", "culprit"),
    [("touch", "'touch'"), ("audio+", "''"), ("audio visual", "'audio visual'")],
)
def test_modalities_that_are_not_stored_are_refused(text: str, culprit: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"modalities = .*{culprit} is not stored, only \['audio', 'visual'\]"
    ):
        chosen_modalities(text, ("audio", "visual"))


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match=r"device = 'cuda'.*no GPU"):
        choose_device("cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [choose_device(kind).type for kind in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"FEDCMI_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, Path("/a/b")),
        ({"FEDCMI_CACHE": "", "XDG_CACHE_HOME": "/c"}, Path("/c/fedcmi")),
        (
            {"FEDCMI_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/home/me"},
            Path("/home/me/.cache/fedcmi"),
        ),
    ],
)
def test_cache_directory(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: Path
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert cache_directory() == expected


def test_every_key_is_documented_once() -> None:
    """The keys of pyproject.toml are those of the sections, the methods' hyperparameters, and two
    more.
    """
    keys = [key for kind in config.SECTIONS.values() for key in keys_of(kind)]
    assert set(DEFAULTS) == set(keys) | {
        "run-dir", "method", "method-options", "gamma", "lambda", "mu", "kappa", "warmup", "dominance", "surrogate",
        "kd-temperature-scaling", "unimodal-auxiliary", "averaging", "self-head-votes",
        "infiltration-votes", "weight", "infiltration", "identity-projectors", "temperature",
        "prior-adjustment", "max-gradient-norm", "normalization",
    }  # fmt: skip
    # The schedule's end is its own
    assert [key for key in set(keys) if keys.count(key) > 1] == ["num-server-rounds"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 10**26), ("lr", 1e300), ("lr", 10**400), ("num-server-rounds", 2**63)],
)
def test_what_no_message_can_hold_is_refused_by_its_key(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} = .*must be .*, at most"):
        read_run_config({**DEFAULTS, key: value})


def test_more_threads_than_a_machine_has_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="torch-threads = 100000: must be a number from 1 to 1024"
    ):
        read_run_config({**DEFAULTS, "torch-threads": 100_000})


def test_an_open_quotation_is_named_with_its_key() -> None:
    with pytest.raises(ConfigError, match=r"pretrained = .*No closing quotation"):
        read_locations("audio='x")
