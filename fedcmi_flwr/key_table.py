"""Every key of a run-config and a node-config.

Default, what is allowed, meaning, and the methods that use it.

Nothing is said here a second time: ranges are those that the configuration checks, meanings the
docstrings under the fields, and the methods' defaults the methods' own.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from typing import Any

from fedcmi_flwr.aggregation.optimizers import SERVER_OPTIMIZER
from fedcmi_flwr.config import fields as settings
from fedcmi_flwr.config.docstrings import field_docstrings
from fedcmi_flwr.config.node import NodeConfig
from fedcmi_flwr.methods import METHODS, hyperparameters
from fedcmi_flwr.methods.hyperparameters import key_of
from fedcmi_flwr.models.encoders import ENCODER
from fedcmi_flwr.models.fusion import FUSION
from fedcmi_flwr.run_config import METHOD_DEFAULT, RUN_KEYS, SECTIONS
from fedcmi_flwr.suggestions import did_you_mean
from fedcmi_flwr.types import Scalar

_STRUCTURES = {
    "fusion": ("fusion", "one-projector", "two-projectors"),
    "projector": ("one-projector", "two-projectors"),
}
"""Keys that only some models have a use for, and the structures of these."""
_BUILT_IN = {kind.key: tuple(kind.built_in) for kind in (ENCODER, FUSION, SERVER_OPTIMIZER)}
"""Keys whose value may come from outside, and the names that are here."""


@dataclass(frozen=True)
class Key:
    """One key; a hyperparameter that means something else to some methods is several."""

    name: str
    default: Scalar | None
    """What the configuration starts from; None: nothing."""
    allowed: str
    """Range and type, as an error message says them."""
    meaning: str
    methods: tuple[str, ...]
    """Who uses it."""
    method_defaults: Mapping[str, Scalar]
    """Of a hyperparameter: method -> its value where the key says "default"; empty for other
    keys."""

    @property
    def for_all(self) -> bool:
        """True when every method uses the key."""
        return len(self.methods) == len(METHODS)


@dataclass(frozen=True)
class KeySection:
    """Keys about one subject."""

    name: str
    meaning: str
    keys: Sequence[Key]


def key_sections(defaults: Mapping[str, Scalar]) -> list[KeySection]:
    """Return all keys by subject, those of the node-config last.

    Parameters
    ----------
    defaults
        The run-config that a run starts from: ``[tool.flwr.app.config]`` of ``pyproject.toml``.

    Returns
    -------
    Sections; a key of two of them stands in the first only.
    """
    placed: set[str] = set()
    sections = [_run_section(defaults), _hyperparameters(defaults)]
    for name, kind in SECTIONS.items():
        meanings = _meanings(kind)
        items = {settings.key_of(item): item for item in settings.key_fields(kind)}
        keys = [
            _key(key, item, meanings[item.name], defaults)
            for key, item in items.items()
            if key not in placed
        ]
        placed |= set(items)
        sections.append(KeySection(name.replace("_", "-"), _first_line(kind), keys))

    return [*sections, _node_section()]


def find_keys(sections: Iterable[KeySection], name: str) -> list[Key]:
    """Return what is called ``name``: one key, or several that share the name.

    Parameters
    ----------
    sections
        All keys.
    name
        "lr", "lambda", ...

    Returns
    -------
    At least one key.

    Raises
    ------
    ValueError
        There is none; the nearest names are given.
    """
    every = [key for section in sections for key in section.keys]
    found = [key for key in every if key.name == name]
    if not found:
        names = [key.name for key in every]
        raise ValueError(f"no key {name!r}; `fedcmi keys` shows all.{did_you_mean(name, names)}")

    return found


def _run_section(defaults: Mapping[str, Scalar]) -> KeySection:
    allowed = {
        "run-dir": "an absolute path, or empty (str)",
        "method": f"one of {', '.join(METHODS)}, an entry point, or package.module:Name (str)",
        "method-options": "key=value key=value, or a TOML inline table; empty for none (str)",
    }
    keys = [
        Key(key, defaults[key], allowed[key], meaning, _ALL, {})
        for key, meaning in RUN_KEYS.items()
    ]
    return KeySection("run", "What is run, and where its results go.", keys)


def _hyperparameters(defaults: Mapping[str, Scalar]) -> KeySection:
    """Return the methods' hyperparameters, one key for each meaning and range that a name has."""
    found: dict[tuple[str, str, str], dict[str, Scalar]] = {}
    for method_name, method in METHODS.items():
        meanings, values = _meanings(type(method)), hyperparameters(method)
        for item in fields(method):
            name = key_of(item.name)
            variant = (name, _allowed(item), meanings[item.name])
            found.setdefault(variant, {})[method_name] = values[name]

    keys = [
        Key(name, defaults[name], allowed, meaning, tuple(values), values)
        for (name, allowed, meaning), values in sorted(found.items())
    ]

    return KeySection(
        "method",
        f'Hyperparameters; "{METHOD_DEFAULT}": the value that stands behind the method.',
        keys,
    )


def _node_section() -> KeySection:
    meanings = _meanings(NodeConfig)
    keys = [_key(key_of(item.name), item, meanings[item.name], {}) for item in fields(NodeConfig)]
    return KeySection("node-config", _first_line(NodeConfig), keys)


def _key(name: str, item: "Field[Any]", meaning: str, defaults: Mapping[str, Scalar]) -> Key:
    if name in _BUILT_IN:
        meaning = f"{meaning} Built in: {', '.join(_BUILT_IN[name])}."

    structures = _STRUCTURES.get(name)
    users = [
        user
        for user, method in METHODS.items()
        if structures is None or method.structure in structures
    ]

    return Key(name, defaults.get(name), _allowed(item), meaning, tuple(users), {})


_ALL = tuple(METHODS)


def _allowed(item: "Field[Any]") -> str:
    """Return range and type.

    A hyperparameter may have a type only, and a node's key may be left out.
    """
    allowed: str | None = item.metadata.get("allowed")
    kind = item.type.__name__ if isinstance(item.type, type) else None
    if allowed is None:
        return f"of type {kind}"

    return allowed if kind is None else f"{allowed} ({kind})"


def _meanings(kind: type) -> dict[str, str]:
    return {name: _with_keys(text) for name, text in field_docstrings(kind).items()}


def _first_line(kind: type) -> str:
    return _with_keys((kind.__doc__ or "").partition("\n")[0])


def _with_keys(text: str) -> str:
    """Return a docstring with the fields that it names as keys: ``lr_min`` -> ``lr-min``."""
    return re.sub(r"``([a-z_]+)``", lambda match: f"``{key_of(match[1])}``", text)
