"""Settings: what a field may hold is checked wherever the settings come from."""

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcmi_flwr.aggregation.optimizers import ServerOptimizer
from fedcmi_flwr.aggregation.privacy import Privacy
from fedcmi_flwr.aggregation.robust import RobustAggregation
from fedcmi_flwr.config.fields import (
    ConfigError,
    Settings,
    choice,
    flag,
    key_fields,
    key_of,
    number,
    text,
)
from fedcmi_flwr.config.sections import keys_of, read_section, section_items
from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.strategy.guards import Guards
from fedcmi_flwr.strategy.sampling import Sampling
from fedcmi_flwr.strategy.tolerance import Tolerance

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
DEFAULTS: dict[str, Any] = tomllib.loads(PYPROJECT.read_text("utf-8"))["tool"]["flwr"]["app"][
    "config"
]


@dataclass(frozen=True)
class Kitchen(Settings):
    """One field of each kind."""

    heat: float = number(0, 1, above=True, below=True)
    cooks: int = number(1, zero="nobody", default=0)
    stove_kind: str = choice("gas", "wood", default="gas")
    is_open: bool = flag(key="open", default=True)
    dish: str = text("a dish", default="soup")
    taste: object = None
    """Has no key."""


def test_keys_are_names_with_hyphens_unless_a_field_has_its_own() -> None:
    assert keys_of(Kitchen) == ["heat", "cooks", "stove-kind", "open", "dish"]


def test_values_are_read_by_key_and_an_integer_stands_for_a_float() -> None:
    raw = {"heat": 0.5, "cooks": 2, "stove-kind": "wood", "open": False, "dish": "stew", "other": 1}
    kitchen = read_section(Kitchen, raw)
    assert kitchen == Kitchen(0.5, 2, "wood", False, "stew")
    assert section_items(kitchen) == {key: raw[key] for key in keys_of(Kitchen)}
    assert type(Guards(max_update_norm=3).max_update_norm) is float
    assert Guards(max_update_norm=np.float64(3)) == Guards(max_update_norm=3.0)


def test_a_run_config_must_have_every_key_and_a_direct_construction_need_not() -> None:
    assert Kitchen(0.5).dish == "soup"
    with pytest.raises(ConfigError, match="key 'cooks' is missing"):
        read_section(Kitchen, {"heat": 0.5})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heat": 0.0}, r"heat = 0.0: must be a number above 0 to below 1 \(float\)"),
        ({"heat": 1}, "heat = 1.0: must be a number above 0 to below 1"),
        ({"heat": float("nan")}, "heat = nan"),
        ({"heat": "warm"}, "heat = 'warm'"),
        ({"cooks": -1}, r"cooks = -1: must be a number from 1, or 0 \(nobody\) \(int\)"),
        ({"cooks": 1.0}, "cooks = 1.0"),
        ({"cooks": True}, "cooks = True"),
        ({"stove_kind": "oil"}, "stove-kind = 'oil': must be one of gas, wood"),
        ({"is_open": 1}, r"open = 1: must be true or false \(bool\)"),
        ({"dish": 3}, r"dish = 3: must be a dish \(str\)"),
    ],
)
def test_a_wrong_value_is_refused_in_both_ways(changes: dict[str, Any], words: str) -> None:
    good = Kitchen(0.5, 2)
    raw = section_items(good) | {
        key_of(i): changes[i.name] for i in key_fields(Kitchen) if i.name in changes
    }
    with pytest.raises(ConfigError, match=words):
        replace(good, **changes)
    with pytest.raises(ConfigError, match=words):
        read_section(Kitchen, raw)


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("sampling", Sampling),
        ("tolerance", Tolerance),
        ("guards", Guards),
        ("aggregation", RobustAggregation),
        ("server_optimizer", ServerOptimizer),
        ("privacy", Privacy),
    ],
)
def test_settings_of_the_strategy_come_straight_from_the_run_config(
    part: str, kind: type[Settings]
) -> None:
    read = getattr(read_run_config(DEFAULTS), part)
    assert type(read) is kind
    assert section_items(read) == {key: DEFAULTS[key] for key in keys_of(kind)}
    for item in key_fields(kind):
        with pytest.raises(ConfigError, match=f"{key_of(item)} = None"):
            replace(read, **{item.name: None})
