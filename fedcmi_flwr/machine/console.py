"""``fedcmi`` in a checkout, whose packages have names that other Flower projects use too.

Here the checkout's win.
"""

import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The directory that ``fedcmi_flwr`` is imported from."""
COMMANDS = "server_app.commands.main"


def main() -> None:
    """Run the commands, whatever ``server_app`` there is on the user's path.

    A wheel has none at its top.
    """
    sys.path.insert(0, str(ROOT))
    import_module(COMMANDS).app()
