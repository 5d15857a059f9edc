"""A method's hyperparameters.

The fields of its dataclass, under the keys that a run-config has for them.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

from fedcmi_flwr.config.fields import checked
from fedcmi_flwr.suggestions import did_you_mean
from fedcmi_flwr.types import Scalar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    MethodLike = TypeVar("MethodLike", bound=DataclassInstance)


def key_of(field_name: str) -> str:
    """Return the configuration key of a hyperparameter: ``lambda_`` -> "lambda"."""
    return field_name.rstrip("_").replace("_", "-")


def hyperparameters(method: "DataclassInstance") -> dict[str, Scalar]:
    """Return a method's hyperparameters under their configuration keys.

    Parameters
    ----------
    method
        Any method.

    Returns
    -------
    Key ("lambda", "kd-temperature-scaling", ...) -> value.

    Examples
    --------
    >>> from fedcmi_flwr.methods.base import Method
    >>> hyperparameters(Method(mu=1.0))
    {'mu': 1.0, 'averaging': 0.0, 'prior-adjustment': 0.0, 'max-gradient-norm': 0.0, 'normalization': 'batch'}
    """
    return {key_of(item.name): getattr(method, item.name) for item in fields(method)}


def with_hyperparameters(
    method: "MethodLike", name: str, values: Mapping[str, Scalar]
) -> "MethodLike":
    """Return a method with some of its hyperparameters replaced.

    Parameters
    ----------
    method
        Gives the others, and the types.
    name
        What it is called, for errors.
    values
        Configuration key -> value.

    Returns
    -------
    The method.

    Raises
    ------
    ValueError
        A hyperparameter that the method does not have; a value of the wrong type or out of range.
    """
    items = {key_of(item.name): item for item in fields(method)}
    chosen: dict[str, Scalar] = {}
    for key, value in values.items():
        if key not in items:
            raise ValueError(
                f"{key} = {value!r}: method {name!r} has no such hyperparameter, only "
                f"{sorted(items)}.{did_you_mean(key, items)}"
            )

        item = items[key]
        has_range = "check" in item.metadata
        chosen[item.name] = (
            checked(item, value) if has_range else _coerced(key, value, getattr(method, item.name))
        )

    return replace(method, **chosen)


def _coerced(key: str, value: Scalar, example: Scalar) -> Scalar:
    """Return ``value`` as the type of ``example``.

    An integer may stand for a float, nothing else for anything.
    """
    if isinstance(example, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)

    if type(value) is not type(example):
        raise ValueError(f"{key} = {value!r}: must be of type {type(example).__name__}.")

    return value
