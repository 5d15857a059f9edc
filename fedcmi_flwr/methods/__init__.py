"""The methods side by side, one file each.

A file joins by being here and naming its methods in ``METHODS``.

``base.py`` says what a method is asked. Whatever is in this directory is imported, so that a new
method costs one file, one recipe and one test. A method from outside is found by its entry point
or import path (``lookup.py``).
"""

from collections.abc import Mapping
from importlib import import_module
from inspect import get_annotations
from pkgutil import iter_modules
from typing import Any

from fedcmi_flwr.lookup import Kind, find
from fedcmi_flwr.methods.base import Method
from fedcmi_flwr.methods.fedavg import FedAvg
from fedcmi_flwr.methods.fedcmi import CrossModalInfiltration
from fedcmi_flwr.methods.fedcmi_plus import FedCMIPlus
from fedcmi_flwr.methods.hyperparameters import hyperparameters, with_hyperparameters
from fedcmi_flwr.methods.local import Kept, LocalRound, LocalSteps
from fedcmi_flwr.types import Scalar

__all__ = [
    "LOSS_TERMS",
    "METHOD",
    "METHODS",
    "CrossModalInfiltration",
    "FedAvg",
    "FedCMIPlus",
    "Kept",
    "LocalRound",
    "LocalSteps",
    "Method",
    "Scalar",
    "hyperparameters",
    "make_method",
    "method_from",
]


LOSS_TERMS = frozenset({"fused", "self", "kd", "surrogate", "prototype", "contrast"})
"""Names of the loss terms of all methods here."""


def _all_methods() -> dict[str, Method]:
    found: dict[str, Method] = {}
    for name in sorted(module.name for module in iter_modules(__path__)):
        named: dict[str, Method] = getattr(import_module(f"{__name__}.{name}"), "METHODS", {})
        taken = sorted(set(found) & set(named))
        if taken:
            raise ValueError(
                f"methods/{name}.py: method {taken[0]!r} is named in another file too."
            )

        found |= named

    return found


def _accept(found: Any) -> Method:  # noqa: ANN401
    """Return a method, or that of a class with its defaults."""
    if isinstance(found, type) and issubclass(found, Method):
        found = found()  # a TypeError names the arguments without a default

    if not isinstance(found, Method):
        raise TypeError(
            "a method is a dataclass derived from fedcmi_flwr.Method, or an object of one."
        )

    undeclared = list(get_annotations(type(found)))
    if undeclared and "__dataclass_fields__" not in vars(type(found)):
        raise TypeError(
            f"without @dataclass(frozen=True, kw_only=True) {undeclared} are no hyperparameters; "
            "add it."
        )

    for key, value in hyperparameters(found).items():
        if not isinstance(value, bool | int | float | str):
            raise TypeError(
                f"{key} = {value!r}: a hyperparameter is a number, a truth value or a text."
            )

    return found


METHODS: dict[str, Method] = _all_methods()
"""Name -> method with its defaults."""
METHOD = Kind("method", "fedcmi.methods", METHODS, _accept)


def method_from(config: Mapping[str, Any]) -> Method:
    """Return the method that a message names under "method", with the hyperparameters that it
    holds.
    """
    keys = hyperparameters(find(METHOD, config["method"]))
    return make_method(config["method"], {key: config[key] for key in keys if key in config})


def make_method(name: str, overrides: Mapping[str, Scalar]) -> Method:
    """Return the method called ``name`` with some of its hyperparameters replaced.

    Parameters
    ----------
    name
        One of METHODS, an entry point of an installed package, or "package.module:Name".
    overrides
        Configuration key ("lambda", "kd-temperature-scaling", ...) -> value.

    Returns
    -------
    The method.

    Raises
    ------
    ValueError
        Unknown name; a hyperparameter that the method does not have; a value of the wrong type
        or out of range.
    """
    return with_hyperparameters(find(METHOD, name), name, overrides)
