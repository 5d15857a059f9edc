"""A run on a Ray cluster that is there already.

Head and worker by ``ray start``, on two addresses of loopback.

With free ports and directories of their own, and each in the foreground, these are the README's
commands::

    ray start --head --port=6379 --disable-usage-stats
    ray start --address=192.0.2.1:6379
    RAY_ADDRESS=192.0.2.1:6379 fedcmi run --data data/avmnist --num-nodes 20
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from client_app.app import app as client_app
from server_app.launch.flower_cli import free_port, program
from server_app.launch.start import resolve, run_in_process

ROOT = Path(__file__).parents[3]
READY = "Ray runtime started"
DEADLINE = 120.0


@contextmanager
def ray_start(environment: dict[str, str], log: Path, *arguments: str) -> Iterator[None]:
    """Start one machine of a cluster with one core, and end it by its process id."""
    command = [program("ray"), "start", *arguments, "--num-cpus=1", "--block"]
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + DEADLINE
            while READY not in log.read_text(encoding="utf-8"):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text(
                    encoding="utf-8"
                )
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


def test_nodes_train_on_all_machines_of_a_cluster(av_digits_dir: Path, tmp_path: Path) -> None:
    """Each machine has a core, so one actor, whose log is in the cluster's directory.

    The weights are as always.
    """
    keys = {
        "data": str(av_digits_dir),
        "num-server-rounds": 1,
        "local-epochs": 1,
        "fraction-train": 1.0,
    }
    with ExitStack() as open_:
        short = open_.enter_context(
            tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        )
        environment, address = {**os.environ, "RAY_TMPDIR": short}, f"127.0.0.1:{free_port()}"
        head = (
            "--head",
            f"--port={address.partition(':')[2]}",
            "--disable-usage-stats",
            "--include-dashboard=false",
        )
        open_.enter_context(ray_start(environment, tmp_path / "head.log", *head))
        worker = (f"--address={address}", "--node-ip-address=127.0.0.2")
        open_.enter_context(ray_start(environment, tmp_path / "worker.log", *worker))
        settings = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
        command = [
            sys.executable,
            "-m",
            "server_app.commands.main",
            "run",
            "--num-nodes",
            "4",
            "--run-dir",
            str(tmp_path / "ray"),
        ]
        done = subprocess.run(
            [*command, *settings], cwd=ROOT, env={**environment, "RAY_ADDRESS": address}, capture_output=True,
            text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        # Of the cluster's first job
        actors = list(Path(short).glob("ray/session_2*/logs/worker-*-01000000-*.out"))
    assert f"of the Ray cluster {address}" in done.stdout
    assert len(actors) == 2
    raw = resolve(None, keys, [f"run-dir={tmp_path / 'local'}"])
    run_in_process(raw, 4, client_app, lambda line: None, plots=False)
    found, expected = (
        load_file(tmp_path / name / "model.safetensors") for name in ("ray", "local")
    )
    assert {name for name in expected if not np.array_equal(found[name], expected[name])} == set()
