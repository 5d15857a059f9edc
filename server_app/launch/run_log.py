"""What Flower's processes print, kept beside the run, and the sentence in it that says why a run
failed.
"""

import contextlib
import shutil
from pathlib import Path

FLOWER_LOG = "flower.log"
"""In the directory of a run that failed outside of its ServerApp."""
TRACEBACK = "Traceback (most recent call last)"


def tail(log: Path, lines: int = 25) -> str:
    """Return the end of a log."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return f"({log} is not there)"

    return "\n".join(text.splitlines()[-lines:])


def first_exception(text: str) -> str:
    """Return what the first traceback of a log ends with.

    Of chained exceptions the first is the cause of the others.

    Parameters
    ----------
    text
        The log.

    Returns
    -------
    "OSError: AF_UNIX path too long"; empty where there is no traceback.

    Examples
    --------
    >>> lines = ["Traceback (most recent call last):", "  File x", "OSError: no space", "RuntimeError: crashed"]
    >>> first_exception(chr(10).join(lines))
    'OSError: no space'
    """
    # Brings torch along, which most commands on devices need not load
    from fedcmi_flwr.wire.text import (
        one_line,
    )

    _, found, after = text.partition(TRACEBACK)
    lines = after.splitlines()[1:] if found else []

    return next((one_line(line) for line in lines if line.strip() and not line[0].isspace()), "")


def keep_log(log: Path, run_dir: Path) -> Path:
    """Keep a log in the directory of its run.

    Parameters
    ----------
    log
        In a directory that will be removed.
    run_dir
        The run's.

    Returns
    -------
    Where it is now; ``log`` itself where it could not be copied, since the reason of a failure
    must not hide behind another one.
    """
    kept = run_dir / FLOWER_LOG
    with contextlib.suppress(OSError):
        run_dir.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, kept)
        return kept

    return log
