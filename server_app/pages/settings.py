"""Tables of settings and environment, from the config.json of runs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedcmi_flwr.run_config import HYPERPARAMETER_KEYS, section_keys
from server_app.pages import html

Config = Mapping[str, Any]
_ELSEWHERE = ("dataset", "server")


def settings_tables(config: Config) -> list[str]:
    """Return the settings of one run, or what several have in common, grouped as the configuration
    is.

    Parameters
    ----------
    config
        Keys and values.

    Returns
    -------
    HTML.
    """
    groups = {"method": ("method", "method-options", *HYPERPARAMETER_KEYS), **section_keys()}
    placed: set[str] = set(_ELSEWHERE)
    tables = []
    for name, keys in groups.items():
        own = [key for key in keys if key in config and key not in placed]
        placed.update(own)
        tables.append(_key_table(name, {key: config[key] for key in own}))

    tables.append(
        _key_table("other", {key: config[key] for key in sorted(config) if key not in placed})
    )
    tables.append(_key_table("data set", _flat(config.get("dataset", {}))))

    return [html.side_by_side(tables)]


def environment_table(configs: Iterable[Config]) -> str:
    """Return what the runs ran on; where they differ, every value that occurs."""
    found: dict[str, dict[str, None]] = {}
    for config in configs:
        for key, value in _flat(config.get("server", {})).items():
            found.setdefault(key, {})[as_text(value)] = None

    rows = [[key.removeprefix("versions."), " | ".join(values)] for key, values in found.items()]

    return html.heading("Environment") + html.table("server", [], rows, texts=True)


def _key_table(name: str, values: Config) -> str:
    return (
        html.table(name, [], [[key, as_text(value)] for key, value in values.items()], texts=True)
        if values
        else ""
    )


def _flat(values: Config, prefix: str = "") -> dict[str, Any]:
    """Return nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{key}": value}
        )

    return flat


def as_text(value: Any) -> str:  # noqa: ANN401
    """Return a value of a configuration for people."""
    if isinstance(value, str):
        return value
    return ", ".join(map(as_text, value)) if isinstance(value, list) else json.dumps(value)


def shared_and_different(configs: Sequence[Config]) -> tuple[dict[str, Any], list[str]]:
    """Tell the keys that all configurations agree on from the others.

    Parameters
    ----------
    configs
        At least one.

    Returns
    -------
    The common keys with their values, and the names of the others.

    Examples
    --------
    >>> shared_and_different([{"lr": 0.1, "mu": 0}, {"lr": 0.1, "mu": 1}])
    ({'lr': 0.1}, ['mu'])
    """
    keys = list(dict.fromkeys(key for config in configs for key in config))
    agreed = [
        key
        for key in keys
        if all(config.get(key, ...) == configs[0].get(key, ...) for config in configs)
    ]
    return {key: configs[0][key] for key in agreed}, [key for key in keys if key not in agreed]
