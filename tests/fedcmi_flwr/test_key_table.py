"""Every key of a run is in the table once, with what the configuration itself says of it."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.node import read_node_config
from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.key_table import Key, find_keys, key_sections
from fedcmi_flwr.methods import METHODS, hyperparameters
from fedcmi_flwr.models.building import model_spec
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.run_config import RUN_KEYS, read_run_config

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
DEFAULTS: dict[str, Any] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["flwr"][
    "app"
]["config"]
SECTIONS = key_sections(DEFAULTS)
KEYS = [key for section in SECTIONS if section.name != "node-config" for key in section.keys]
NODE_KEYS = SECTIONS[-1].keys
INPUTS = [ModalitySpec(name, "image", (1, 8, 8), "float32") for name in ("a", "b")]


def test_every_key_of_pyproject_is_there_with_its_default() -> None:
    assert {key.name: key.default for key in KEYS} == DEFAULTS


@pytest.mark.parametrize("key", [*KEYS, *NODE_KEYS], ids=lambda key: key.name)
def test_no_key_goes_without_range_meaning_and_method(key: Key) -> None:
    assert key.allowed
    assert re.fullmatch(r".{20,}\.", key.meaning)
    assert set(key.methods) <= set(METHODS)
    assert key.methods


def test_only_hyperparameters_stand_more_than_once() -> None:
    names = [key.name for key in KEYS if not key.method_defaults]
    assert len(names) == len(set(names))
    assert {key.name for key in KEYS if key.method_defaults} == {
        name for method in METHODS.values() for name in hyperparameters(method)
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_the_hyperparameters_and_defaults_of_the_table(method: str) -> None:
    of_table = {
        key.name: key.method_defaults[method] for key in KEYS if method in key.method_defaults
    }
    assert of_table == hyperparameters(METHODS[method])


def test_a_weight_means_what_its_method_says() -> None:
    meanings = {key.methods: key.meaning for key in find_keys(SECTIONS, "weight")}
    assert set(meanings) == {("fedogm",), ("moddrop",), ("fedpmr", "fedproto", "moon")}
    assert meanings["moddrop",].startswith("Share of the samples")


def test_a_docstring_names_other_fields_as_keys() -> None:
    (lr,) = find_keys(SECTIONS, "lr")
    assert "``lr-decay-start``" in lr.meaning


@pytest.mark.parametrize(
    "key", [key for key in KEYS if key.name not in RUN_KEYS], ids=lambda k: k.name
)
def test_the_range_is_what_the_configuration_checks(key: Key) -> None:
    wrong = 7 if "str" in key.allowed else "wrong"
    with pytest.raises(
        ConfigError, match=rf"{key.name} = {wrong!r}: must be {re.escape(key.allowed)}"
    ):
        read_run_config({**DEFAULTS, "method": key.methods[-1], key.name: wrong})


@pytest.mark.parametrize(("name", "others"), [("projector", "mlp"), ("fusion", "gated")])
def test_a_key_is_used_by_the_methods_whose_model_it_changes(name: str, others: str) -> None:
    model = read_run_config(DEFAULTS).model
    users = []
    for method_name, method in METHODS.items():
        built = [
            MultimodalModel(replace(model_spec(model, method, ("a", "b"), 3), **chosen), INPUTS)
            for chosen in ({}, {name: others})
        ]
        first, second = ([value.shape for value in one.state_dict().values()] for one in built)
        if first != second:
            users.append(method_name)
    (key,) = find_keys(SECTIONS, name)
    assert key.methods == tuple(users)


def test_every_key_of_a_node_is_there() -> None:
    with pytest.raises(ConfigError) as refused:
        read_node_config({"unknown": 1})
    assert str(refused.value).endswith(f"known are {', '.join(key.name for key in NODE_KEYS)}.")


def test_a_name_of_both_configurations_is_found_in_both() -> None:
    of_run, of_node = find_keys(SECTIONS, "device")
    assert (of_run.default, of_node.default) == ("auto", None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fussion", " Did you mean 'fusion'"),
        ("weights", " Did you mean 'weight' or"),
        ("qqqq", "$"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"no key '{name}'; `fedcmi keys` shows all.{words}"):
        find_keys(SECTIONS, name)
