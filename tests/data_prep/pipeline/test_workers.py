"""data_prep.pipeline.workers: processes that do tasks, and end with who started them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_archive import write_archive

from data_prep.pipeline.workers import run_tasks

SCRIPT = Path(__file__).parents[2] / "helpers" / "toy_archive.py"
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_archive(tmp_path / "raw", 50)
    return tmp_path / "raw"


def test_workers_end_with_the_process_that_started_them(raw: Path, tmp_path: Path) -> None:
    (raw / "000.sound").unlink()
    os.mkfifo(raw / "000.sound")  # a worker that reads it waits for ever
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(SCRIPT), str(raw), str(tmp_path / "out"), "2", "0"]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    writer = os.open(raw / "000.sound", os.O_WRONLY)  # returns once a worker has the other end open
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.write(writer, b"")
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    os.close(writer)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_one_worker_is_this_process_with_one_thread_of_torch() -> None:
    before = torch.get_num_threads()
    done = list(run_tasks(lambda task: (task, os.getpid(), torch.get_num_threads()), range(3), 1))
    assert done == [(task, os.getpid(), 1) for task in range(3)]
    assert torch.get_num_threads() == before
