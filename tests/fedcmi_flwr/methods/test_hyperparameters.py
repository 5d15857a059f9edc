"""Methods by name: their defaults, what may be overridden, and what is refused."""

from dataclasses import replace

import pytest

from fedcmi_flwr.methods import METHODS, hyperparameters, make_method


@pytest.mark.parametrize("name", METHODS)
def test_hyperparameters_make_the_same_method_again(name: str) -> None:
    assert make_method(name, {}) == METHODS[name]
    assert make_method(name, hyperparameters(METHODS[name])) == METHODS[name]


def test_recipes_differ_as_the_specification_says() -> None:
    assert hyperparameters(METHODS["fedcmi"]) == {
        "gamma": 2.0, "lambda": 1.0, "mu": 1.0, "kappa": 2.0, "warmup": 1, "dominance": "global",
        "surrogate": 0.0, "kd-temperature-scaling": False, "unimodal-auxiliary": False,
        "averaging": 0.0, "self-head-votes": 0.0, "infiltration-votes": 0.0,
        "prior-adjustment": 0.0, "max-gradient-norm": 0.0, "normalization": "batch",
        "infiltration": True,
    }  # fmt: skip
    assert hyperparameters(METHODS["fedcmi-plus"]) == {
        "gamma": 1.0, "surrogate": 0.5, "lambda": 1.0, "temperature": 2.0, "warmup": 1, "mu": 0.1,
            "self-head-votes": 0.5, "identity-projectors": True,
        "averaging": 0.7, "prior-adjustment": 0.5, "max-gradient-norm": 10.0, "normalization": "group",
    }  # fmt: skip
    shared = {
        "mu": 0.0, "averaging": 0.0, "prior-adjustment": 0.0, "max-gradient-norm": 0.0, "normalization": "batch",
    }  # fmt: skip
    assert hyperparameters(METHODS["fedavg"]) == shared
    weights = {"fedogm": 0.5, "moddrop": 0.5, "fedpmr": 1.0, "fedproto": 1.0, "moon": 1.0}
    assert {name: hyperparameters(METHODS[name]) for name in weights} == {
        name: {**shared, "weight": weight} for name, weight in weights.items()
    }
    assert hyperparameters(METHODS["scaffold"]) == hyperparameters(METHODS["late-fusion"]) == shared
    assert [METHODS[name].measures for name in ("fedavg", "fedavg-heads", "fedcmi")] == [
        False,
        False,
        True,
    ]


def test_overrides_replace_and_integers_stand_for_floats() -> None:
    method = make_method("fedcmi", {"lambda": 2, "kd-temperature-scaling": True})
    assert method == replace(METHODS["fedcmi"], lambda_=2.0, kd_temperature_scaling=True)
    assert type(hyperparameters(method)["lambda"]) is float


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("fedsgd", {}, "'fedsgd'.*fedavg.*fedcmi-plus"),
        ("fedavg", {"averaging": 1.0}, "averaging = 1.0: must be a number from 0 to below 1"),
        ("fedcmi", {"averaging": -0.1}, "averaging = -0.1: must be a number from 0 to below 1"),
        ("fedcmi", {"self-head-votes": -1.0}, "self-head-votes = -1.0: must be a number from 0"),
        (
            "fedavg",
            {"gamma": 1.0},
            r"gamma = 1.0.*'fedavg'.*\['averaging', 'max-gradient-norm', 'mu', 'normalization', 'prior-adjustment'\]",
        ),
        ("fedcmi", {"gamma": -1.0}, "gamma = -1.0.*a number from 0"),
        ("fedcmi", {"lambda": float("nan")}, "lambda = nan.*a number from 0"),
        ("fedcmi", {"warmup": -1}, "warmup = -1.*a number from 0"),
        ("fedcmi", {"warmup": 1.5}, "warmup = 1.5.*int"),
        ("fedcmi", {"mu": "high"}, "mu = 'high'.*float"),
        ("fedcmi", {"mu": True}, "mu = True.*float"),
        ("fedcmi", {"kd-temperature-scaling": 1}, "kd-temperature-scaling = 1.*bool"),
        ("fedcmi", {"dominance": "local"}, "dominance = 'local'.*global.*client.*batch"),
        ("fedavg", {"prior-adjustment": -1.0}, "prior-adjustment = -1.0.*a number from 0"),
        ("fedavg", {"max-gradient-norm": -1.0}, "max-gradient-norm = -1.0.*a number from 0"),
        ("fedavg", {"normalization": "layer"}, "normalization = 'layer'.*batch.*group"),
        ("fedcmi", {"infiltration": 0}, "infiltration = 0.*bool"),
        ("scaffold", {"weight": 1.0}, "weight = 1.0.*'scaffold'"),
        *(
            (name, {"weight": value}, f"weight = {value}.*a number from 0")
            for name in ("fedogm", "fedpmr", "fedproto", "moon")
            for value in (-1.0, float("inf"))
        ),
        ("fedprox", {"mu": -0.1}, "mu = -0.1.*a number from 0"),
        ("fedprox", {"mu": float("nan")}, "mu = nan.*a number from 0"),
    ],
)
def test_bad_hyperparameters_are_refused(name: str, overrides: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_method(name, overrides)
