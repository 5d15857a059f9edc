"""Fields of settings: what each may hold is said once, and checked wherever the settings come from.

Settings are frozen dataclasses that are right once they exist, whether ``read_section`` makes
them of a run-config or a user's app constructs them. What a wrong value raises names the key,
the value and what is allowed.
"""

import math
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

LARGEST: dict[type, float] = {int: 2**63 - 1, float: 3.4e38}
"""What a message of Flower's, and single precision, can hold."""


class ConfigError(ValueError):
    """A key of a run or node configuration that is unknown, missing or out of range."""


def number(
    low: float,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
    zero: str = "",
    key: str = "",
    default: Any = MISSING,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Return a field for a finite number.

    Parameters
    ----------
    low
        Smallest value.
    high
        Largest value.
    above
        Whether ``low`` itself is out of range.
    below
        Whether ``high`` itself is out of range.
    zero
        What 0 means, where it is allowed beside the range: "off".
    key
        The field's key; empty: its name with hyphens.
    default
        Where the class is constructed directly; a run-config has every key.

    Returns
    -------
    The field of a dataclass.
    """
    allowed = f"a number {'above' if above else 'from'} {low:g}"
    if high < math.inf:
        allowed += f" to {'below ' if below else ''}{high:g}"

    if zero:
        allowed += f", or 0 ({zero})"

    def check(value: float) -> bool:
        if zero and value == 0:
            return True

        enough = low < value if above else low <= value
        few = value < high if below else value <= high

        return math.isfinite(value) and enough and few

    return _field(check, allowed, key, default)


def choice(*names: str, key: str = "", default: Any = MISSING) -> Any:  # noqa: ANN401
    """Return a field for one of ``names``; ``key`` and ``default`` as for :func:`number`."""
    return _field(lambda value: value in names, f"one of {', '.join(names)}", key, default)


def flag(key: str = "", default: Any = MISSING) -> Any:  # noqa: ANN401
    """Return a field for true or false; ``key`` and ``default`` as for :func:`number`."""
    return _field(lambda _: True, "true or false", key, default)


def text(allowed: str, key: str = "", default: Any = MISSING) -> Any:  # noqa: ANN401
    """Return a field for text that is checked where it is used; ``allowed`` says what it may be."""
    return _field(lambda _: True, allowed, key, default)


def _field(check: Callable[[Any], bool], allowed: str, key: str, default: Any) -> Any:  # noqa: ANN401
    return field(default=default, metadata={"check": check, "allowed": allowed, "key": key})


@dataclass(frozen=True)
class Settings:
    """Base of the dataclasses whose fields come from the functions above.

    What has other fields has no key for them.
    """

    def __post_init__(self) -> None:
        """Check every field; an integer stands for a float."""
        for item in key_fields(type(self)):
            object.__setattr__(self, item.name, checked(item, getattr(self, item.name)))


def key_fields(kind: type) -> list["Field[Any]"]:
    """Return the fields of a settings class that have a key."""
    return [item for item in fields(kind) if "check" in item.metadata]


def key_of(item: "Field[Any]") -> str:
    """Return the configuration key of a field, by default its name with hyphens.

    ``lr_min`` -> "lr-min".
    """
    key: str = item.metadata["key"]
    return key or item.name.replace("_", "-")


def checked(item: "Field[Any]", value: Any) -> Any:  # noqa: ANN401
    """Return the value of a field that has a key.

    Raise ConfigError for a wrong type or one that is not allowed.
    """
    kind: Any = item.type
    largest = LARGEST.get(type(value), math.inf)
    if isinstance(value, int | float) and abs(value) > largest:
        raise ConfigError(
            f"{key_of(item)} = {value!r}: must be {item.metadata['allowed']}, at most {largest:g}."
        )

    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)

    # True is an int to Python
    is_kind = isinstance(value, kind) and isinstance(value, bool) is (kind is bool)
    if not is_kind or not item.metadata["check"](value):
        raise ConfigError(
            f"{key_of(item)} = {value!r}: must be {item.metadata['allowed']} ({kind.__name__})."
        )

    return value
