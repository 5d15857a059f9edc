"""Makes a Ray simulation run this bundle's code, whatever directory Flower was started in.

The managed SuperLink keeps the working directory of the first ``flwr run``, and Ray puts it
before the bundle on the workers' ``sys.path``: with modules called ``client_app``,
``server_app`` or ``task``, clients could run the code of another project. The package does this
when it is imported, so that an app of anybody's that uses it is safe.
"""

import os
import sys
from pathlib import Path


def enter_bundle() -> None:
    """Change to the bundle's root inside Flower's simulation process; do nothing anywhere else."""
    if Path(sys.argv[0]).name != "flwr-simulation":
        return

    roots = [entry for entry in sys.path if (Path(entry) / "pyproject.toml").is_file()]
    if roots:  # Flower puts the bundle first before it imports the app
        os.chdir(roots[0])

    # Without it, Ray hides the GPUs from actors that ask for none, and a GPU box would silently
    # train on its CPU.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
