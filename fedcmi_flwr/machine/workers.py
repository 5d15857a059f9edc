"""How many processes this machine has room for, and how they are started, on every system that
Python runs on.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext


def usable_cores() -> int:
    """Return how many cores this process may use.

    All of them where the system does not say, as on macOS.
    """
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def worker_context(preload: Sequence[str]) -> "ForkServerContext | SpawnContext":
    """Return what starts worker processes: forked from a server that has imported everything.

    On Windows anew.

    Ctrl-C in a terminal reaches all processes that were started there. Workers do not hear it:
    whoever started them hears it, and ends them.

    Parameters
    ----------
    preload
        Modules that every worker needs.

    Returns
    -------
    The context.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    if threading.current_thread() is not threading.main_thread():
        # Only that one may change what signals do
        return context

    from multiprocessing import forkserver  # Windows has none

    # The server takes this over, and workers from it
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)

    return context
