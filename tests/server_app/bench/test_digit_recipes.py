"""The settings and rows of the digit tasks.

Each differs from its neighbour in what its name says and no more.
"""

import kinds
import pytest

from fedcmi_flwr.methods import METHODS, hyperparameters
from fedcmi_flwr.models.building import encoder_names
from fedcmi_flwr.models.encoders import ENCODERS
from server_app.bench.configs import (
    bench_configs,
    find_rows,
    find_settings,
    read_tuned,
    values_by_setting,
)
from server_app.launch.recipes import RECIPES
from server_app.launch.start import read_recipe

DIRICHLET = {"dirichlet-alpha": 0.3}
HALF = {"multimodal-ratio": 0.5}
DIFFERENCES = {
    ("avmnist", "avmnist-skewed"): DIRICHLET,
    ("avmnist", "avmnist-half"): HALF,
    ("avmnist", "avmnist-half-skewed"): DIRICHLET | HALF,
    ("avmnist", "avmnist-missing"): {"missing-share": 0.3},
    ("avmnist", "avmnist3"): {"encoder": "audio=small-cnn visual=small-cnn contour=cnn-1d"},
    ("avmnist3", "avmnist3-random"): {"ownership": "random-subsets"},
}
SWITCHES = {"averaging", "prior-adjustment", "max-gradient-norm", "normalization"}


@pytest.mark.parametrize(("one", "other"), DIFFERENCES, ids=lambda name: name)
def test_settings_differ_in_what_they_are_called_by(one: str, other: str) -> None:
    rows = bench_configs(
        values_by_setting(find_settings([one, other])), find_rows(["fedcmi-plus"]), {}, {}, []
    )
    (before,), (after,) = (rows[name].values() for name in (one, other))
    assert {key: value for key, value in after.items() if before[key] != value} == DIFFERENCES[
        one, other
    ]


def test_the_encoders_read_the_three_modalities() -> None:
    stored = {"audio": kinds.SPECTROGRAM, "visual": kinds.IMAGE, "contour": kinds.SERIES}
    encoders = encoder_names(str(read_recipe(RECIPES / "avmnist3.toml")["encoder"]), tuple(stored))
    assert all(stored[name].kind in ENCODERS[encoder].kinds for name, encoder in encoders.items())


@pytest.mark.parametrize("name", ["audio-alone", "visual-alone", "fedavg", "late-fusion"])
def test_with_switches_is_the_same_row_with_the_switches_of_fedcmi_plus(name: str) -> None:
    plain, switched, plus = (
        bench_configs(values_by_setting(find_settings(["avmnist"])), [path], {}, {}, [])["avmnist"][
            path.stem
        ]
        for path in find_rows([name, f"{name}-with-switches", "fedcmi-plus"])
    )
    assert {key for key in plain if plain[key] != switched[key]} == SWITCHES
    defaults = hyperparameters(METHODS[str(plus["method"])])
    assert all(switched[key] == defaults[key] for key in SWITCHES)


def test_every_row_that_the_readme_compares_was_tuned() -> None:
    named = {path.stem for path in find_rows(["methods", "alone"])}
    # They are compared in the suite
    rows = {name for name in named if not name.endswith("-and-proximal")}
    assert set(read_tuned(RECIPES / "tuned" / "avmnist.toml")) == rows
    three = {"fedavg", "fedavg-with-switches", "late-fusion", "late-fusion-with-switches", "fedcmi"}
    assert set(read_tuned(RECIPES / "tuned" / "avmnist3.toml")) == three
