"""Workers on systems that lack what Linux has."""

import multiprocessing
import os
import signal

import pytest

from fedcmi_flwr.machine.workers import usable_cores, worker_context


def test_all_cores_count_where_the_system_does_not_say_which_may_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable_cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def test_workers_are_started_anew_where_nothing_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert worker_context(["json"]).get_start_method() == "spawn"


def test_workers_do_not_hear_what_the_terminal_sends_to_all() -> None:
    before = signal.getsignal(signal.SIGINT)
    context = worker_context(["json"])
    with context.Pool(1) as pool:
        assert pool.apply(signal.getsignal, (signal.SIGINT,)) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) == before
