"""The app's table in ``pyproject.toml``.

What a run-config starts from, and the command that leads to one.
"""

import contextlib
import json
import shlex
import shutil
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fedcmi_flwr
from fedcmi_flwr.types import Scalar

HOME = Path(__file__).resolve().parents[1]
"""The checkout or Flower's copy of it; of an installed wheel its package ``_apps`` (see
``hatch_build.py``)."""
INSTALLED = HOME / "app.toml"
"""What a wheel has instead of ``pyproject.toml``, a name that Flower would not let into its
copy."""


@contextlib.contextmanager
def flower_app() -> Iterator[Path]:
    """Lend a directory with the app, as ``flwr run`` takes it.

    Yields
    ------
    The checkout; of a wheel a temporary directory with a copy of its sources.
    """
    if not INSTALLED.is_file():
        yield HOME
        return

    with tempfile.TemporaryDirectory(prefix="fedcmi-app-") as name:
        app = Path(name) / "fedcmi-flwr"  # Flower checks the name
        package = Path(fedcmi_flwr.__file__).parent
        shutil.copytree(package, app / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(INSTALLED, app / "pyproject.toml")
        yield app


def default_run_config() -> dict[str, Scalar]:
    """Return ``[tool.flwr.app.config]`` of ``pyproject.toml``."""
    config: dict[str, Scalar] = _app_table()["config"]
    return config


def client_app_reference() -> str:
    """Return where ``pyproject.toml`` says the ClientApp is: "client_app.app:app"."""
    return str(_app_table()["components"]["clientapp"])


def _app_table() -> dict[str, Any]:
    path = INSTALLED if INSTALLED.is_file() else HOME / "pyproject.toml"
    table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["tool"]["flwr"]["app"]
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
    What a shell understands; it names the keys that differ from the defaults, and no directory
    to write to.
    """
    defaults, places = default_run_config(), ("run-dir", "node-memory", "resume")
    keys = [key for key in config if key not in places and config[key] != defaults[key]]
    chosen = [part for key in keys for part in ("--set", f"{key}={json.dumps(config[key])}")]

    return shlex.join(["fedcmi", "run", "--engine", engine, "--num-nodes", str(num_nodes), *chosen])
