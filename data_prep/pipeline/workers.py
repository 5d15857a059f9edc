"""Processes that decode: bounded work in flight, ended with who started them."""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from data_prep.errors import PrepError
from fedcmi_flwr.machine.workers import worker_context

Task = TypeVar("Task")
Result = TypeVar("Result")
PRELOADED = f"{__package__.rpartition('.')[0]}.media.preloaded"
"""Module that the server imports before workers are forked from it."""
IN_FLIGHT = 3
"""Tasks for each worker that are handed out at a time."""


def run_tasks(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Iterator[Result]:
    """Do every task, and yield the results as they come.

    Parameters
    ----------
    work
        Pickles, by name or as a partial; called in this process when there is one worker.
    tasks
        Taken as workers become free, so that neither tasks nor results pile up.
    workers
        Processes, 1 or more.

    Yields
    ------
    One result for each task, in any order.

    Raises
    ------
    PrepError
        A worker died; what ``work`` raises is raised as it is.
    """
    if workers == 1:
        with one_torch_thread():
            yield from map(work, tasks)

        return

    context = worker_context([PRELOADED])
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(work,)) as pool:
        try:
            yield from _results(pool, tasks, IN_FLIGHT * workers)
        except BrokenProcessPool as error:
            raise PrepError(
                "a worker process died, perhaps for lack of memory; call again with fewer "
                "workers: it goes on where it stopped."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Keep torch to one thread as in a worker.

    Sums over several threads would differ in their last bits.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _results(pool: ProcessPoolExecutor, tasks: Iterable[Task], most: int) -> Iterator[Any]:
    waiting: set[Future[Any]] = set()
    for task in tasks:
        waiting.add(pool.submit(_do, task))
        if len(waiting) >= most:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)

    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in done)


_work: Callable[[Any], Any]


def _begin(work: Callable[[Any], Any]) -> None:
    """Make a worker ready: one thread for torch, and an end when its parent ends."""
    import torch

    global _work
    _work = work
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(task: Any) -> Any:  # noqa: ANN401
    return _work(task)
