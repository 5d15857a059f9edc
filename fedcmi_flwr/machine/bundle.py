"""Makes a Ray simulation run this bundle's code, whatever directory Flower was started in.

The managed SuperLink keeps the working directory of the first ``flwr run``, and Ray puts it before the bundle on the
workers' ``sys.path``: with top-level packages called ``client_app`` and ``server_app``, clients could run the code of
another project. Both apps import this module first.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The directory that ``fedcmi_flwr`` is imported from."""


def enter_bundle() -> None:
    """Change to the bundle's root inside Flower's simulation process; do nothing anywhere else."""
    if Path(sys.argv[0]).name != "flwr-simulation":
        return
    os.chdir(ROOT)
    # Without it, Ray hides the GPUs from actors that ask for none, and a GPU box would silently train on its CPU.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
