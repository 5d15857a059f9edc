"""The methods side by side, one file each; a file joins by being here and naming its methods in ``METHODS``.

``base.py`` says what a method is asked. Whatever is in this directory is imported, so that a new method costs one
file, one recipe and one test.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from importlib import import_module
from pkgutil import iter_modules

from fedcmi_flwr.methods.base import Kept, LocalRound, LocalSteps, Method, hyperparameters, key_of
from fedcmi_flwr.methods.fedavg import FedAvg
from fedcmi_flwr.methods.fedcmi import CrossModalInfiltration
from fedcmi_flwr.types import Scalar

__all__ = [
    "METHODS",
    "CrossModalInfiltration",
    "FedAvg",
    "Kept",
    "LocalRound",
    "LocalSteps",
    "Method",
    "Scalar",
    "hyperparameters",
    "make_method",
]


def _all_methods() -> dict[str, Method]:
    found: dict[str, Method] = {}
    for name in sorted(module.name for module in iter_modules(__path__)):
        named: dict[str, Method] = getattr(import_module(f"{__name__}.{name}"), "METHODS", {})
        taken = sorted(set(found) & set(named))
        if taken:
            raise ValueError(f"methods/{name}.py: method {taken[0]!r} is named in another file too.")
        found |= named
    return found


METHODS: dict[str, Method] = _all_methods()
"""Name -> method with its defaults."""


def make_method(name: str, overrides: Mapping[str, Scalar]) -> Method:
    """Return the method called ``name`` with some of its hyperparameters replaced.

    Parameters
    ----------
    name
        One of METHODS.
    overrides
        Configuration key ("lambda", "kd-temperature-scaling", ...) -> value.

    Returns
    -------
    The method.

    Raises
    ------
    ValueError
        Unknown name; a hyperparameter that the method does not have; a value of the wrong type or out of range.
    """
    if name not in METHODS:
        raise ValueError(f"method = {name!r}: not one of {sorted(METHODS)}.")
    method = METHODS[name]
    names = {key_of(item.name): item.name for item in fields(method)}
    values: dict[str, Scalar] = {}
    for key, value in overrides.items():
        if key not in names:
            raise ValueError(f"{key} = {value!r}: method {name!r} has no such hyperparameter, only {sorted(names)}.")
        values[names[key]] = _coerced(key, value, getattr(method, names[key]))
    return replace(method, **values)  # type: ignore[arg-type]  # checked against the fields' types above


def _coerced(key: str, value: Scalar, example: Scalar) -> Scalar:
    """Return ``value`` as the type of ``example``; an integer may stand for a float, nothing else for anything."""
    if isinstance(example, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(example):
        raise ValueError(f"{key} = {value!r}: must be of type {type(example).__name__}.")
    return value
