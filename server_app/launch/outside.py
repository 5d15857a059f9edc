"""What a run uses from outside this project, and where Flower's processes will find it.

What is installed is found by every process of this Python environment. What only the launching
process can import, because PYTHONPATH or the working directory of ``python -m`` has it, is
handed on to them.
"""

import sys
import sysconfig
from pathlib import Path
from typing import Any

from data_prep.builtin import PREPARATION, is_preparation
from fedcmi_flwr.aggregation.optimizers import SERVER_OPTIMIZER
from fedcmi_flwr.config.sections import split_trackers
from fedcmi_flwr.lookup import Kind, find, import_path
from fedcmi_flwr.methods import METHOD
from fedcmi_flwr.models.building import named_encoders
from fedcmi_flwr.models.encoders import ENCODER
from fedcmi_flwr.models.fusion import FUSION
from fedcmi_flwr.run_config import RunConfig
from server_app.run.trackers import TRACKER


def from_outside(config: RunConfig) -> list[tuple[Kind[Any], str]]:
    """Return what a run-config names that is not built in.

    Parameters
    ----------
    config
        The checked run-config.

    Returns
    -------
    Kind and name of each.

    Raises
    ------
    UnknownNameError
        There is no such server optimiser here; nodes, which need none, do not look for it.
    """
    named: list[tuple[Kind[Any], str]] = [
        (METHOD, config.method_name),
        (FUSION, config.model.fusion),
    ]
    named += [(ENCODER, name) for name in named_encoders(config.model.encoder)]
    if is_preparation(config.data.data):
        named.append((PREPARATION, config.data.data))

    if config.server_optimizer.name != "none":
        find(SERVER_OPTIMIZER, config.server_optimizer.name)
        named.append((SERVER_OPTIMIZER, config.server_optimizer.name))

    for name in split_trackers(config.tracking.track):
        find(TRACKER, name)
        named.append((TRACKER, name))

    return [(kind, name) for kind, name in named if name not in kind.built_in]


def import_roots(config: RunConfig) -> list[str]:
    """Return the directories that packages from outside are imported from, without those of what is
    installed.

    Parameters
    ----------
    config
        The checked run-config.

    Returns
    -------
    Absolute paths, for PYTHONPATH.

    Raises
    ------
    UnknownNameError
        Something cannot be found here.
    """
    roots: set[str] = set()
    for kind, name in from_outside(config):
        find(kind, name)
        module = import_path(kind, name).partition(":")[0].partition(".")[0]
        roots |= {str(Path(place).parent) for place in _places(module)}

    return sorted(roots - {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def _places(module: str) -> list[str]:
    """Return the directories of an imported package, or the file of a module."""
    imported = sys.modules[module]
    return list(getattr(imported, "__path__", [])) or [str(imported.__file__)]
