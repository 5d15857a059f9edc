"""The app's table in ``pyproject.toml``: what a run-config starts from, and the command that leads to one."""

import json
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedcmi_flwr.config.sections import ConfigError
from fedcmi_flwr.types import Scalar


def project_directory() -> Path:
    """Return the directory with the app's ``pyproject.toml``: this checkout.

    Returns
    -------
    Absolute path.

    Raises
    ------
    ConfigError
        The package was installed without it.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / "pyproject.toml").is_file():
        raise ConfigError(f"{root}: no pyproject.toml; install from a checkout (pip install -e .) to run the app.")
    return root


def default_run_config() -> dict[str, Scalar]:
    """Return ``[tool.flwr.app.config]`` of ``pyproject.toml``."""
    config: dict[str, Scalar] = _app_table()["config"]
    return config


def client_app_reference() -> str:
    """Return where ``pyproject.toml`` says the ClientApp is: "client_app.app:app"."""
    return str(_app_table()["components"]["clientapp"])


def _app_table() -> dict[str, Any]:
    text = (project_directory() / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)["tool"]["flwr"]["app"]
    return table


def run_command(config: Mapping[str, Scalar], num_nodes: int, engine: str) -> str:
    """Return the ``fedcmi run`` command of a simulation.

    Parameters
    ----------
    config
        The run-config.
    num_nodes
        Simulated nodes.
    engine
        Where they run.

    Returns
    -------
    What a shell understands; it names the keys that differ from the defaults, and no directory to write to.
    """
    defaults, places = default_run_config(), ("run-dir", "node-memory", "resume")
    keys = [key for key in config if key not in places and config[key] != defaults[key]]
    chosen = [part for key in keys for part in ("--set", f"{key}={json.dumps(config[key])}")]
    return shlex.join(["fedcmi", "run", "--engine", engine, "--num-nodes", str(num_nodes), *chosen])
