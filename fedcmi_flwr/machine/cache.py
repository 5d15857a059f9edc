"""Where what can be made again is kept on this machine."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """Return where built-in data, deals and unnamed runs go.

    $FEDCMI_CACHE, else the user's cache directory.
    """
    chosen = os.environ.get("FEDCMI_CACHE")
    if chosen:
        return Path(chosen).absolute()

    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedcmi"
